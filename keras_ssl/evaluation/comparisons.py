"""One arm against another over the same splits: paired differences, and labels saved."""

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_ssl.evaluation.records import completed
from keras_ssl.evaluation.statistics import NO_INTERVAL, Interval, cells, check_resampling, value_of

_Pair = tuple[int, int]


_Curve = dict[float, dict[_Pair, Mapping[str, Any]]]


def paired_differences(
    records: Iterable[Mapping[str, Any]],
    metric: str = "qw_kappa",
    baseline: str = "random",
    confidence: float = 0.95,
    corrected: bool | None = None,
) -> list[dict[str, Any]]:
    """By how much each arm exceeds the baseline, on the same splits and the same labeled images.

    Runs of one (repetition, fold) make a pair. The interval is Student's, of the mean of J differences
    taken as independent. Those of several folds are not: their training sets overlap, and the plain
    interval is too narrow. The correction of Nadeau and Bengio replaces the variance s² / J of the mean by
    s² (1 / J + test_images / train_images), the counts being of the parts of a fold, labeled or not.

    Args:
        records: one mapping a run, with `arm`, `fraction`, `repetition` and `fold` (0 where absent),
            `metric`, and, for the correction, `test_images` and `train_images`.
        metric: what is compared, the higher the better.
        baseline: name of the line that is subtracted, see `line_names`.
        confidence: of the interval, in (0, 1).
        corrected: whether the variance is corrected; `None` does so where the pairs of a row are of more
            than one fold. Without it, the interval speaks of runs on this one split only.

    Returns:
        Rows with `arm` (and task, where there are several), `fraction`, `pairs` (J), `left_out` (pairs in
        which one of the two failed or is missing), `mean` difference (nan for no pairs), `low`, `high`
        (`None` for fewer than two pairs), `wins` (pairs in which the arm is above), `corrected`.

    Raises:
        ValueError: there are no records of runs that ended well, none of the baseline, several for one
            pair, or they lack the counts that the correction needs.

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
    lines, seen = _lines(records)
    base = _line(lines, "baseline", baseline)
    rows = []
    for arm, fraction in seen:
        if arm == baseline:
            continue
        ours, theirs = lines.get(arm, {}).get(fraction, {}), base.get(fraction, {})
        both = sorted(ours.keys() & theirs.keys())
        found = {pair: value_of(ours[pair], metric) - value_of(theirs[pair], metric) for pair in both}
        # A metric need not be defined for every test part.
        pairs = [pair for pair in both if not math.isnan(found[pair])]
        differences = np.array([found[pair] for pair in pairs])
        correct = len({fold for _, fold in pairs}) > 1 if corrected is None else corrected
        overlap = _test_share([ours[pair] for pair in pairs]) if correct else 0.0
        low, high = _student_interval(differences, overlap, confidence)
        rows.append(
            {
                "arm": arm,
                "fraction": fraction,
                "pairs": len(pairs),
                "left_out": len(seen[arm, fraction] | seen.get((baseline, fraction), set())) - len(pairs),
                "mean": float(differences.mean()) if pairs else math.nan,
                "low": low,
                "high": high,
                "wins": int((differences > 0).sum()),
                "corrected": correct,
            }
        )
    return rows


def labels_saved(
    records: Iterable[Mapping[str, Any]],
    metric: str = "qw_kappa",
    arm: str = "initialized",
    baseline: str = "random",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    corrected: bool | None = None,
) -> list[dict[str, Any]]:
    """Fraction of the labels with which the baseline reaches what an arm reaches with fewer.

    The estimate `reached_at` is where the mean curve of the baseline, made monotonic (isotonic), reaches the
    mean of the arm: read linearly along the logarithm of the fraction, at the smallest fraction where the
    curve is flat. Nothing is extrapolated beyond the fractions that were measured.

    The interval assumes only that the true curve of the baseline does not fall; between two measured
    fractions it may run in any way. Therefore its ends are measured fractions: `low` is the largest one up to
    which the arm is above the baseline, `high` the smallest one from which the baseline has reached it. Both
    are read off curves of mean paired differences, arm minus baseline at each fraction, which are drawn
    from Student's distribution around those of the pairs. `benchmarks/coverage.py` measures how often
    the interval contains the truth.

    Labels are those of training. Validation labels that chose anything are counted in the records, see
    `validation_labels` in `summarize`.

    Args:
        records: as in `paired_differences`; failed runs are left out.
        metric: what is compared, the higher the better.
        arm: name of the line whose labels are counted, see `line_names`.
        baseline: name of the line that it is measured against.
        confidence: of the interval, in (0, 1).
        resamples: how many curves of differences are drawn.
        seed: of the drawing.
        corrected: as in `paired_differences`. With `None`, pairs of several folds whose records lack
            `test_images` or `train_images` give a warning and no interval.

    Returns:
        Rows by rising fraction of the arm, with `arm`, `fraction`, `value` (mean of the arm), `reached_at`
        (fraction of the baseline), `factor` (`reached_at` / `fraction`: 4 means that a quarter of the labels
        did as well), `beyond`, `pairs` (the fewest at any fraction of the baseline), `low` and `high` (of
        `reached_at`; `None` where no fraction has two pairs). `beyond` is `"above"` where the baseline
        never gets there: `reached_at` and `factor` are inf. It is `"below"` where the baseline is there
        from its smallest fraction: this is `reached_at`, and the truth is that or less. Else it is `""`. The
        ends of the interval are read in the same way: inf, or the smallest fraction, says that the end
        lies beyond what was measured.

    Raises:
        ValueError: there are no records of runs that ended well, none of one of the lines, several for
            one pair, or `corrected=True` without the counts that the correction needs.

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
    lines, _ = _lines(records)
    ours, theirs = _line(lines, "arm", arm), _line(lines, "baseline", baseline)
    pairs = sorted({pair for line in (ours, theirs) for cell in line.values() for pair in cell})
    (own, values), (fractions, measured) = (_table(line, pairs, metric) for line in (ours, theirs))
    known, curve = _rising(fractions, measured)
    overlap = _overlap(ours, pairs, corrected)
    # The same draws for every row.
    generator = np.random.default_rng(seed)
    drawn = generator.normal(size=(2, resamples, len(pairs)))
    rows = []
    for fraction, runs in zip(own.tolist(), values.T, strict=True):
        # A metric need not be defined for any test part.
        there = runs[~np.isnan(runs)]
        value = float(there.mean()) if len(there) else math.nan
        at = _crossing(known, curve, value) if len(there) and len(known) else math.nan
        differences = runs[:, None] - measured
        ends = NO_INTERVAL if overlap is None else _ends(differences, fractions, overlap, drawn, confidence)
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


def _lines(
    records: Iterable[Mapping[str, Any]],
) -> tuple[dict[str, _Curve], dict[tuple[str, float], set[_Pair]]]:
    """Runs that ended well by line, fraction and pair; and all pairs of each cell, failed ones too."""
    lines: dict[str, _Curve] = {}
    seen: dict[tuple[str, float], set[_Pair]] = {}
    for (name, fraction), cell in cells(records).items():
        seen[name, fraction] = {_pair(run) for run in cell}
        runs = completed(cell)
        by_pair = {_pair(run): run for run in runs}
        if len(by_pair) < len(runs):
            raise ValueError(
                "`records` must hold one run that ended well for each arm, fraction, repetition and fold. "
                f"Received {len(runs)} runs of {len(by_pair)} pairs for {name!r} at {fraction}."
            )
        if runs:
            lines.setdefault(name, {})[fraction] = by_pair
    return lines, seen


def _pair(record: Mapping[str, Any]) -> _Pair:
    repetition, fold = (int(float(record.get(name) or 0)) for name in ("repetition", "fold"))
    return repetition, fold


def _line(lines: dict[str, _Curve], argument: str, name: str) -> _Curve:
    if name not in lines:
        raise ValueError(f"`{argument}` must be one of {sorted(lines)}. Received {name!r}.")
    return lines[name]


def _overlap(line: _Curve, pairs: list[_Pair], corrected: bool | None) -> float | None:
    """Return the term that the correction adds to the variance; `None` if records lack the counts."""
    runs = [run for cell in line.values() for run in cell.values()]
    if corrected is False or (corrected is None and len({fold for _, fold in pairs}) == 1):
        return 0.0
    if corrected is None and not _are_counted(runs):
        lacking = sum(not _are_counted([run]) for run in runs)
        warnings.warn(
            "No interval of labels saved is given: `records` must hold `test_images` and `train_images`, "
            f"since training sets of several folds overlap. Received {lacking} of {len(runs)} runs without. "
            "`corrected=False` needs neither, and gives an interval too narrow for several folds.",
            stacklevel=3,
        )
        return None
    return _test_share(runs)


def _are_counted(runs: list[Mapping[str, Any]]) -> bool:
    return all(run.get("test_images") and run.get("train_images") for run in runs)


def _test_share(runs: list[Mapping[str, Any]]) -> float:
    if not _are_counted(runs):
        raise ValueError(
            "`records` must hold `test_images` and `train_images` for the corrected interval. Received runs "
            "without. `corrected=False` needs neither, and gives an interval too narrow for several folds."
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


def _table(line: _Curve, pairs: list[_Pair], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Fractions, and values `(pairs, fractions)`, nan where there is no run."""
    fractions = sorted(line)
    values = [
        [
            value_of(line[fraction][pair], metric) if pair in line[fraction] else math.nan
            for fraction in fractions
        ]
        for pair in pairs
    ]
    return np.array(fractions), np.array(values)


def _rising(fractions: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fractions with runs, and the means there made monotonic, each run with the same weight."""
    from sklearn.isotonic import isotonic_regression

    runs = (~np.isnan(values)).sum(axis=0)
    there = runs > 0
    means = np.nan_to_num(values).sum(axis=0)[there] / runs[there]
    return fractions[there], isotonic_regression(means, sample_weight=runs[there]) if there.any() else means


def _crossing(fractions: np.ndarray, curve: np.ndarray, wanted: float) -> float:
    """Smallest fraction at which a rising curve is at `wanted`; inf above, the first one below it."""
    # Means of flat stretches differ in their last digits.
    enough = curve >= wanted - 1e-9
    if not enough.any():
        return math.inf
    after = int(np.argmax(enough))
    if after == 0:
        return float(fractions[0])
    ends = slice(after - 1, after + 1)
    return float(np.exp(np.interp(wanted, curve[ends], np.log(fractions[ends]))))


def _ends(
    differences: np.ndarray, fractions: np.ndarray, overlap: float, drawn: np.ndarray, confidence: float
) -> Interval:
    """Measured fractions between which the baseline reaches the arm.

    Args:
        differences: arm minus baseline, shape `(pairs, fractions)`, nan where a run is missing.
        fractions: those of the baseline, ascending.
        overlap: what the correction for folds adds to the variance.
        drawn: standard normal numbers, shape `(2, resamples, pairs)`.
        confidence: of the interval.
    """
    counts = (~np.isnan(differences)).sum(axis=0)
    known = counts > 1
    if not known.any():
        return NO_INTERVAL
    counts = np.maximum(counts, 2)
    means = np.nansum(differences, axis=0) / counts
    residuals = np.nan_to_num(differences - means)
    # A chi-square number of J - 1 degrees below makes Student's distribution of each mean, the same normal
    # numbers for every fraction keep their correlation.
    squares = np.cumsum(drawn[1] ** 2, axis=1)[:, counts - 2]
    curves = means + drawn[0] @ residuals * np.sqrt((1 / counts + overlap) / squares)
    # Where there are too few pairs, a difference is neither above 0 nor not.
    above, reached = (curves > 0) & known, (curves <= 0) & known
    # How many of the first fractions, all of them above, and of the last, all of them reached.
    first = np.cumprod(above, axis=1).sum(axis=1)
    last = np.cumprod(reached[:, ::-1], axis=1).sum(axis=1)
    lows = np.array([fractions[0], *fractions[:-1], math.inf])[first]
    highs = np.array([math.inf, *fractions[::-1]])[last]
    # Order statistics: between a number and infinity nothing can be interpolated.
    low = np.quantile(lows, (1 - confidence) / 2, method="inverted_cdf")
    high = np.quantile(highs, (1 + confidence) / 2, method="inverted_cdf")
    return Interval(float(low), float(high))
