"""Comparison of arms over the same splits: paired differences and labels saved."""

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_ssl._types import Record
from keras_ssl.evaluation.records import completed
from keras_ssl.evaluation.statistics import NO_INTERVAL, Interval, check_resampling, group_runs, value_of

# Repetition and fold.
_Pair = tuple[int, int]
# Completed runs of an arm, by fraction and pair.
_ArmRuns = dict[float, dict[_Pair, Record]]


def paired_differences(
    records: Iterable[Record],
    metric: str = "qw_kappa",
    baseline: str = "random",
    confidence: float = 0.95,
    corrected: bool | None = None,
) -> list[dict[str, Any]]:
    """Paired differences of each arm to the baseline, on the same splits and the same labeled images.

    Runs of the same repetition and fold are a pair. The interval is a Student t interval of the mean of J
    independent differences. Differences of several folds are not independent, since their training sets
    overlap: the plain interval is too narrow. The correction of Nadeau and Bengio replaces the variance
    s² / J of the mean by s² (1 / J + test_images / train_images), with all images of a fold, labeled or not.

    Args:
        records: one dictionary per run, with `arm`, `fraction`, `repetition` and `fold` (0 if absent),
            `metric`, and, for the correction, `test_images` and `train_images`.
        metric: metric to compare; higher values must be better.
        baseline: arm that is subtracted, as named by `arm_names`.
        confidence: confidence level, in (0, 1).
        corrected: whether to correct the variance; `None` does if the pairs of a row are of several folds.
            Without correction, the interval describes runs on one split only.

    Returns:
        Rows with `arm` (and task, if there are several), `fraction`, `pairs` (J), `left_out` (pairs in which
        one of the two failed or is missing), `mean` difference, arm minus baseline (NaN for no pairs),
        `low`, `high` (`None` for fewer than two pairs), `wins` (pairs in which the arm is higher),
        `corrected`.

    Raises:
        ValueError: no run completed, none of the baseline, several for one pair, or records lack the
            counts that the correction needs.

    >>> runs = [
    ...     {"arm": arm, "fraction": 0.1, "repetition": repetition, "qw_kappa": kappa}
    ...     for arm, kappas in {"initialized": (0.5, 0.75), "random": (0.25, 0.25)}.items()
    ...     for repetition, kappa in enumerate(kappas)
    ... ]
    >>> row = paired_differences(runs)[0]
    >>> row["arm"], row["pairs"], row["wins"], row["mean"]
    ('initialized', 2, 2, 0.375)

    References:
        Nadeau, C. & Bengio, Y. (2003). Inference for the generalization error. Machine Learning 52.
        Bouckaert, R. & Frank, E. (2004). Evaluating the replicability of significance tests for comparing
        learning algorithms. PAKDD.
    """
    check_resampling(confidence)
    runs_by_arm, pairs_by_group = _by_arm(records)
    base = _runs_of(runs_by_arm, "baseline", baseline)
    rows = []
    for arm, fraction in pairs_by_group:
        if arm == baseline:
            continue
        ours, theirs = runs_by_arm.get(arm, {}).get(fraction, {}), base.get(fraction, {})
        both = sorted(ours.keys() & theirs.keys())
        by_pair = {pair: value_of(ours[pair], metric) - value_of(theirs[pair], metric) for pair in both}
        # A metric may be undefined for some test sets.
        pairs = [pair for pair in both if not math.isnan(by_pair[pair])]
        differences = np.array([by_pair[pair] for pair in pairs])
        correct = len({fold for _, fold in pairs}) > 1 if corrected is None else corrected
        overlap = _test_train_ratio([ours[pair] for pair in pairs]) if correct else 0.0
        low, high = _student_interval(differences, overlap, confidence)
        rows.append(
            {
                "arm": arm,
                "fraction": fraction,
                "pairs": len(pairs),
                "left_out": len(
                    pairs_by_group[arm, fraction] | pairs_by_group.get((baseline, fraction), set())
                )
                - len(pairs),
                "mean": float(differences.mean()) if pairs else math.nan,
                "low": low,
                "high": high,
                "wins": int((differences > 0).sum()),
                "corrected": correct,
            }
        )
    return rows


def labels_saved(
    records: Iterable[Record],
    metric: str = "qw_kappa",
    arm: str = "initialized",
    baseline: str = "random",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    corrected: bool | None = None,
) -> list[dict[str, Any]]:
    """Fraction of the labels that the baseline needs to reach the metric of an arm.

    The estimate `reached_at` is the fraction at which the monotonic (isotonic) mean curve of the baseline
    reaches the mean of the arm, interpolated linearly over the logarithm of the fraction; the smallest such
    fraction if the curve is flat. Nothing is extrapolated beyond the measured fractions.

    The interval assumes only that the true curve of the baseline is monotonic, with any course between two
    measured fractions. Therefore its ends are measured fractions: `low` is the largest one up to which the
    arm is above the baseline, `high` the smallest one from which the baseline has reached the arm. Both are
    computed from curves of mean paired differences, arm minus baseline at each fraction, sampled from
    Student's distribution around the measured means. `benchmarks/coverage.py` measures the coverage.

    Labels are training labels. Validation labels that were used for a choice are counted in the records, see
    `validation_labels` in `summarize`.

    Args:
        records: as in `paired_differences`; failed runs are left out.
        metric: metric to compare; higher values must be better.
        arm: arm whose labels are counted, as named by `arm_names`.
        baseline: arm to compare with.
        confidence: confidence level, in (0, 1).
        resamples: number of sampled curves of differences.
        seed: seed of the sampling.
        corrected: as in `paired_differences`. With `None`, pairs of several folds whose records lack
            `test_images` or `train_images` give a warning and no interval.

    Returns:
        Rows by ascending fraction of the arm, with `arm`, `fraction`, `value` (mean of the arm), `reached_at`
        (fraction of the baseline), `factor` (`reached_at` / `fraction`: 4 means that a quarter of the labels
        suffices), `beyond`, `pairs` (the fewest at any fraction of the baseline), `low` and `high` (of
        `reached_at`; `None` if no fraction has two pairs). `beyond` is `"above"` if the baseline never
        reaches the arm: `reached_at` and `factor` are inf. It is `"below"` if the baseline reaches the arm
        at its smallest fraction: the true fraction is this one or less. Otherwise it is `""`. Likewise, an
        end of the interval that is inf, or the smallest fraction, lies beyond what was measured.

    Raises:
        ValueError: no run completed, none of one of the two arms, several for one pair, or
            `corrected=True` without the counts that the correction needs.

    >>> runs = [
    ...     {"arm": arm, "fraction": fraction, "qw_kappa": kappa}
    ...     for arm, fraction, kappa in [
    ...         ("initialized", 0.1, 0.5), ("random", 0.1, 0.25), ("random", 0.4, 0.5), ("random", 1.0, 0.5)
    ...     ]
    ... ]
    >>> [(row["reached_at"], round(row["factor"], 3)) for row in labels_saved(runs)]
    [(0.4, 4.0)]
    """
    check_resampling(confidence, resamples)
    runs_by_arm, _ = _by_arm(records)
    ours, theirs = _runs_of(runs_by_arm, "arm", arm), _runs_of(runs_by_arm, "baseline", baseline)
    pairs = sorted({pair for runs in (*ours.values(), *theirs.values()) for pair in runs})
    (own, values), (fractions, measured) = (_metric_table(runs, pairs, metric) for runs in (ours, theirs))
    known, curve = _monotonic_means(fractions, measured)
    overlap = _overlap(ours, pairs, corrected)
    # The same samples for every row.
    generator = np.random.default_rng(seed)
    samples = generator.normal(size=(2, resamples, len(pairs)))
    rows = []
    for fraction, runs in zip(own.tolist(), values.T, strict=True):
        # A metric may be undefined for all test sets.
        defined = runs[~np.isnan(runs)]
        value = float(defined.mean()) if len(defined) else math.nan
        at = _crossing(known, curve, value) if len(defined) and len(known) else math.nan
        differences = runs[:, None] - measured
        ends = (
            NO_INTERVAL
            if overlap is None
            else _measured_ends(differences, fractions, overlap, samples, confidence)
        )
        rows.append(
            {
                "arm": arm,
                "fraction": fraction,
                "value": value,
                "reached_at": at,
                "beyond": "above" if math.isinf(at) else "below" if at == fractions[0] else "",
                "factor": at / fraction,
                "pairs": int((~np.isnan(differences)).sum(axis=0).min()),
                "low": ends.low,
                "high": ends.high,
            }
        )
    return rows


def _by_arm(
    records: Iterable[Record],
) -> tuple[dict[str, _ArmRuns], dict[tuple[str, float], set[_Pair]]]:
    """Return completed runs by arm, and all pairs, also of failed runs, by arm and fraction."""
    runs_by_arm: dict[str, _ArmRuns] = {}
    pairs_by_group: dict[tuple[str, float], set[_Pair]] = {}
    for (name, fraction), group in group_runs(records).items():
        pairs_by_group[name, fraction] = {_pair(run) for run in group}
        runs = completed(group)
        by_pair = {_pair(run): run for run in runs}
        if len(by_pair) < len(runs):
            raise ValueError(
                "`records` must hold one completed run for each arm, fraction, repetition and fold. "
                f"Received {len(runs)} runs of {len(by_pair)} pairs for {name!r} at {fraction}."
            )
        if runs:
            runs_by_arm.setdefault(name, {})[fraction] = by_pair
    return runs_by_arm, pairs_by_group


def _pair(record: Record) -> _Pair:
    repetition, fold = (int(float(record.get(name) or 0)) for name in ("repetition", "fold"))
    return repetition, fold


def _runs_of(runs_by_arm: dict[str, _ArmRuns], argument: str, name: str) -> _ArmRuns:
    if name not in runs_by_arm:
        raise ValueError(f"`{argument}` must be one of {sorted(runs_by_arm)}. Received {name!r}.")
    return runs_by_arm[name]


def _overlap(arm_runs: _ArmRuns, pairs: list[_Pair], corrected: bool | None) -> float | None:
    """Return the term that the correction adds to 1 / J; `None` if records lack the counts."""
    runs = [run for by_pair in arm_runs.values() for run in by_pair.values()]
    if corrected is False or (corrected is None and len({fold for _, fold in pairs}) == 1):
        return 0.0
    if corrected is None and not _have_counts(runs):
        without = sum(not _have_counts([run]) for run in runs)
        warnings.warn(
            "No interval of labels saved is computed: `records` must hold `test_images` and `train_images`, "
            f"since training sets of several folds overlap. Received {without} of {len(runs)} runs without. "
            "`corrected=False` needs neither, but its interval is too narrow for several folds.",
            stacklevel=3,
        )
        return None
    return _test_train_ratio(runs)


def _have_counts(runs: list[Record]) -> bool:
    return all(run.get("test_images") and run.get("train_images") for run in runs)


def _test_train_ratio(runs: list[Record]) -> float:
    if not _have_counts(runs):
        raise ValueError(
            "`records` must hold `test_images` and `train_images` for the corrected interval. Received runs "
            "without. `corrected=False` needs neither, but its interval is too narrow for several folds."
        )
    return float(np.mean([float(run["test_images"]) / float(run["train_images"]) for run in runs] or 0.0))


def _student_interval(differences: np.ndarray, overlap: float, confidence: float) -> Interval:
    from scipy import stats

    count = len(differences)
    if count < 2:
        return NO_INTERVAL
    error = differences.std(ddof=1) * math.sqrt(1 / count + overlap)
    reach = error * stats.t.ppf((1 + confidence) / 2, count - 1)
    return Interval(float(differences.mean() - reach), float(differences.mean() + reach))


def _metric_table(arm_runs: _ArmRuns, pairs: list[_Pair], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return fractions, and values `(pairs, fractions)`, NaN without a run."""
    fractions = sorted(arm_runs)
    values = [
        [
            value_of(arm_runs[fraction][pair], metric) if pair in arm_runs[fraction] else math.nan
            for fraction in fractions
        ]
        for pair in pairs
    ]
    return np.array(fractions), np.array(values)


def _monotonic_means(fractions: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the fractions with runs, and their isotonic means, weighted by the number of runs."""
    from sklearn.isotonic import isotonic_regression

    runs = (~np.isnan(values)).sum(axis=0)
    defined = runs > 0
    means = np.nan_to_num(values).sum(axis=0)[defined] / runs[defined]
    return fractions[defined], isotonic_regression(
        means, sample_weight=runs[defined]
    ) if defined.any() else means


def _crossing(fractions: np.ndarray, curve: np.ndarray, target: float) -> float:
    """Return the smallest fraction at which a monotonic curve reaches `target`; inf if it never does."""
    # Isotonic means of a flat part may differ in their last digits.
    enough = curve >= target - 1e-9
    if not enough.any():
        return math.inf
    after = int(np.argmax(enough))
    if after == 0:
        return float(fractions[0])
    ends = slice(after - 1, after + 1)
    return float(np.exp(np.interp(target, curve[ends], np.log(fractions[ends]))))


def _measured_ends(
    differences: np.ndarray, fractions: np.ndarray, overlap: float, samples: np.ndarray, confidence: float
) -> Interval:
    """Return the measured fractions between which the baseline reaches the arm.

    Args:
        differences: arm minus baseline, shape `(pairs, fractions)`, NaN if a run is missing.
        fractions: fractions of the baseline, ascending.
        overlap: term that the correction for folds adds to 1 / J.
        samples: standard normal numbers, shape `(2, resamples, pairs)`.
        confidence: confidence level.
    """
    counts = (~np.isnan(differences)).sum(axis=0)
    known = counts > 1
    if not known.any():
        return NO_INTERVAL
    counts = np.maximum(counts, 2)
    means = np.nansum(differences, axis=0) / counts
    residuals = np.nan_to_num(differences - means)
    # Dividing by a chi-square variable of J - 1 degrees of freedom gives Student's distribution of each
    # mean; the same normal numbers for all fractions keep their correlation.
    squares = np.cumsum(samples[1] ** 2, axis=1)[:, counts - 2]
    curves = means + samples[0] @ residuals * np.sqrt((1 / counts + overlap) / squares)
    # With too few pairs, a difference is neither above 0 nor not.
    above, reached = (curves > 0) & known, (curves <= 0) & known
    # Number of leading fractions that are all above, and of trailing fractions that are all reached.
    first = np.cumprod(above, axis=1).sum(axis=1)
    last = np.cumprod(reached[:, ::-1], axis=1).sum(axis=1)
    lows = np.array([fractions[0], *fractions[:-1], math.inf])[first]
    highs = np.array([math.inf, *fractions[::-1]])[last]
    # Order statistics, since a number and infinity cannot be interpolated.
    low = np.quantile(lows, (1 - confidence) / 2, method="inverted_cdf")
    high = np.quantile(highs, (1 + confidence) / 2, method="inverted_cdf")
    return Interval(float(low), float(high))
