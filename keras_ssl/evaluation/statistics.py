"""Statistics of records: mean and spread of runs, bootstrap intervals, convergence."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from keras_ssl._checks import check_grades
from keras_ssl._types import Labels, Record
from keras_ssl.evaluation.records import arm_names, completed, sort_records
from keras_ssl.metrics import quadratic_weighted_kappa


def summarize(records: Iterable[Record], metric: str = "qw_kappa") -> list[dict[str, Any]]:
    """Summarize runs as one row per arm and fraction of the labels.

    Args:
        records: one dictionary per run, with `arm`, `fraction`, `labels` (number of labeled images) and
            `metric`; values may be text, as read from a CSV file. Runs that failed, or in which the metric
            is undefined, are left out and counted.
        metric: the metric to summarize.

    Returns:
        Rows with `arm` (and task, if there are several), `fraction`, `labels` (mean number of training
        labels), `validation_labels` (mean number of validation labels used to choose thresholds, learning
        rates or weights; `None` if records lack it), `runs`, `failed`, `min`, `mean`, `max`, `std` (over
        the runs, `None` for one), by ascending fraction, arms in the order of `sort_records`. `min`, `max`
        and `std` describe these runs; they are not a confidence interval of the mean.

    Raises:
        ValueError: no run completed, or no record holds `metric`.

    >>> runs = [{"arm": "random", "fraction": 0.1, "labels": 20, "qw_kappa": value} for value in (0.2, 0.4)]
    >>> [(row["arm"], row["min"], round(row["mean"], 3), row["max"]) for row in summarize(runs)]
    [('random', 0.2, 0.3, 0.4)]
    """
    records = list(records)
    if records and not any(metric in record for record in records):
        raise ValueError(f"`metric` must be in the records. Received {metric!r}, which is in none.")
    rows = []
    for (name, fraction), group in group_runs(records).items():
        runs = [run for run in completed(group) if not np.isnan(value_of(run, metric))]
        if not runs:
            continue
        values = np.array([value_of(run, metric) for run in runs])
        validation_labels = float(np.mean([value_of(run, "validation_labels") for run in runs]))
        rows.append(
            {
                "arm": name,
                "fraction": fraction,
                "labels": float(np.mean([value_of(run, "labels") for run in runs])),
                "validation_labels": None if math.isnan(validation_labels) else validation_labels,
                "runs": len(runs),
                "failed": len(group) - len(runs),
                "min": float(values.min()),
                "mean": float(values.mean()),
                "max": float(values.max()),
                "std": float(values.std(ddof=1)) if len(values) > 1 else None,
            }
        )
    return rows


# Metrics of which lower is better.
_LOWER_IS_BETTER = ("grade_mae", "calibration_error", "loss")


def lower_is_better(metric: str) -> bool:
    """Return True for metrics of which lower values are better, such as errors."""
    return metric in _LOWER_IS_BETTER


def value_of(record: Record, name: str) -> float:
    """Return a number of a record, which may be text; NaN if there is none.

    >>> value_of({"labels": "20"}, "labels"), value_of({"macro_auc": None}, "macro_auc")
    (20.0, nan)
    """
    value = record.get(name)
    return float("nan") if value is None or value == "" else float(value)


def group_runs(records: Iterable[Record]) -> dict[tuple[str, float], list[Record]]:
    """Group runs, including failed ones, by (arm, fraction), by ascending fraction.

    Raises:
        ValueError: no run completed.
    """
    runs = sort_records(records)
    if not completed(runs):
        raise ValueError("`records` must hold at least one completed run. Received none.")
    groups: dict[tuple[str, float], list[Record]] = {}
    for run, name in zip(runs, arm_names(runs), strict=True):
        groups.setdefault((name, float(run["fraction"])), []).append(run)
    return dict(sorted(groups.items(), key=lambda item: item[0][1]))


def still_rising(
    records: Iterable[Record], curve: str = "curve_qw_kappa", tolerance: float = 0.01
) -> list[dict[str, Any]]:
    """Check whether arms were still improving when training ended, by their validation curves.

    The gain of a run is the mean of the last quarter of its curve minus the mean of the quarter before. An
    arm is rising at a fraction if the mean gain of its runs exceeds `tolerance` and, for two or more runs,
    its standard error. A rising arm was stopped too early to be compared. The reverse does not hold: a
    decaying learning rate flattens the end of a curve by itself.

    Args:
        records: one dictionary per run, with `arm`, `fraction` and the list `curve`. Failed runs and runs
            with fewer than 4 values, or none, as from a CSV file, are left out.
        curve: name of the list; higher values must be better.
        tolerance: gain that counts as rising.

    Returns:
        Rows with `arm` (and task, if there are several), `fraction`, `runs` (with a curve), `gain` (mean),
        `error` (standard error, NaN for one run), `rising`, in the order of `summarize`. No row without
        curves.

    Raises:
        ValueError: no run completed.

    >>> run = {"arm": "random", "fraction": 0.1, "curve_qw_kappa": [0.0, 0.2, 0.4, 0.5]}
    >>> [(round(row["gain"], 3), row["rising"]) for row in still_rising([run])]
    [(0.1, True)]
    """
    rows = []
    for (name, fraction), group in group_runs(records).items():
        curves = [run[curve] for run in completed(group) if isinstance(run.get(curve), list)]
        gains = np.array([_late_gain(values) for values in curves if len(values) >= 4])
        if not len(gains):
            continue
        gain = float(gains.mean())
        error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else np.nan
        rows.append(
            {
                "arm": name,
                "fraction": fraction,
                "runs": len(gains),
                "gain": gain,
                "error": error,
                "rising": gain > tolerance and not gain <= error,
            }
        )
    return rows


def _late_gain(values: list[float]) -> float:
    quarter = len(values) // 4
    return float(np.mean(values[-quarter:]) - np.mean(values[-2 * quarter : -quarter]))


_LISTS = ("test_rows", "test_grades", "test_predictions")


# Intervals of fewer images or groups have too low a coverage; see `benchmarks/coverage.py`.
_MIN_UNITS = 30


class Interval(NamedTuple):
    """Confidence interval; both ends are `None` if no reliable one can be computed."""

    low: float | None
    high: float | None


NO_INTERVAL = Interval(None, None)


def bootstrap_kappa(
    true_grades: Labels,
    predicted_grades: Labels,
    num_grades: int,
    groups: Labels | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap confidence interval of the quadratic weighted kappa over test images.

    It covers the variation between test images; the variation between training runs needs further runs.
    The ends are percentiles of the resampled kappas, further out than the nominal ones, since a bootstrap
    of n images is too narrow by a factor of sqrt((n - 1) / n) and ignores Student's distribution
    (Hesterberg's expanded percentile interval). The interval is shifted by the difference between the kappa
    and the mean of the resampled kappas, to correct the bias of kappas of few images.

    Args:
        true_grades: integers in 0..`num_grades` - 1, shape `(n,)`.
        predicted_grades: likewise.
        num_grades: number of grades.
        groups: group of each image, such as its patient, shape `(n,)`: whole groups are resampled. By
            default, each image is its own group.
        confidence: confidence level, in (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        `low` and `high`; `None` for fewer than 30 images, or groups if given, and if all resampled kappas are
        equal, as when every image is graded correctly. A resample in which kappa is undefined counts as 0,
        as in `quadratic_weighted_kappa`.

    Raises:
        ValueError: an argument is not as described.

    >>> interval = bootstrap_kappa([0, 1, 2, 0, 1, 2] * 20, [0, 1, 2, 0, 1, 1] * 20, num_grades=3)
    >>> bool(interval.low < 0.857 < interval.high)
    True

    References:
        Efron, B. & Tibshirani, R. (1993). An introduction to the bootstrap. Chapman & Hall.
        Hesterberg, T. (2015). What teachers should know about the bootstrap. The American Statistician 69.
    """
    check_resampling(confidence, resamples)
    true = check_grades(true_grades, num_grades, several=False, name="true_grades")
    predicted = check_grades(
        predicted_grades, num_grades, several=False, name="predicted_grades", rows=len(true)
    )
    if groups is None:
        units = np.arange(len(true))
    else:
        ids = np.asarray(groups)
        if ids.shape != true.shape:
            raise ValueError(f"`groups` must have shape {true.shape}. Received shape {ids.shape}.")
        units = np.unique(ids, return_inverse=True)[1]
    confusions = _counts(units, true * num_grades + predicted, (units.max() + 1, num_grades**2))
    sums = _resampled_sums(confusions, resamples, seed)
    kappas = quadratic_weighted_kappa(sums.reshape(-1, num_grades, num_grades))
    kappa = quadratic_weighted_kappa(confusions.sum(axis=0).reshape(num_grades, num_grades))
    return _expanded_interval(kappas, float(kappa), len(confusions), confidence)


def kappa_intervals(
    records: Iterable[Record], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> list[dict[str, Any]]:
    """Compute the mean kappa of each arm and fraction, with a bootstrap interval over test images.

    Images, or whole groups if records hold `test_groups`, are resampled together with all of their
    predictions: an image that several runs tested stays one image. Runs are not resampled.

    Args:
        records: one dictionary per run, with `arm`, `fraction`, `test_rows`, `test_grades` and
            `test_predictions`. Failed runs are left out.
        confidence: as in `bootstrap_kappa`.
        resamples: as in `bootstrap_kappa`.
        seed: as in `bootstrap_kappa`.

    Returns:
        Rows with `arm` (and task, if there are several), `fraction`, `runs`, `images` (distinct ones),
        `mean` kappa, `low`, `high` (`None` as in `bootstrap_kappa`, by the run with the fewest images or
        groups), in the order of `summarize`.

    Raises:
        ValueError: no run completed, or a record lacks its lists.

    >>> lists = {"test_rows": [0, 1, 2], "test_grades": [0, 1, 2], "test_predictions": [0, 1, 2]}
    >>> kappa_intervals([{"arm": "random", "fraction": 0.1, **lists}])[0]["mean"]
    1.0
    """
    check_resampling(confidence, resamples)
    rows = []
    for (arm, fraction), group in group_runs(records).items():
        runs = completed(group)
        if not runs:
            continue
        images, confusions = _confusions_by_unit(runs)
        units = len(confusions)
        grades = confusions.shape[-1]
        sums = _resampled_sums(confusions.reshape(units, -1), resamples, seed)
        kappas = quadratic_weighted_kappa(sums.reshape(resamples, len(runs), grades, grades))
        fewest = int((confusions.sum(axis=(2, 3)) > 0).sum(axis=0).min())
        mean = float(quadratic_weighted_kappa(confusions.sum(axis=0)).mean())
        low, high = _expanded_interval(kappas.mean(axis=1), mean, fewest, confidence)
        rows.append(
            {
                "arm": arm,
                "fraction": fraction,
                "runs": len(runs),
                "images": images,
                "mean": mean,
                "low": low,
                "high": high,
            }
        )
    return rows


def _confusions_by_unit(runs: list[Record]) -> tuple[int, np.ndarray]:
    """Return the number of images, and confusion matrices `(units, runs, grades, grades)`."""
    for run in runs:
        lengths = {len(run[name]) if isinstance(run.get(name), list) else 0 for name in _LISTS}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(
                f"Each of `records` must hold the lists {', '.join(_LISTS)}, of one length above 0, as in "
                "records.jsonl; CSV files lack them. "
                f"Received lengths {sorted(lengths)} in a run of arm {run['arm']!r}."
            )
    # Grades above the highest that occurs do not change kappa.
    grades = max(1, *(max(run[name]) for run in runs for name in _LISTS[1:])) + 1
    row_of = np.concatenate([run["test_rows"] for run in runs])
    unit_of = np.concatenate([run.get("test_groups") or run["test_rows"] for run in runs])
    run_of = np.repeat(np.arange(len(runs)), [len(run["test_rows"]) for run in runs])
    true, predicted = (
        np.concatenate([check_grades(run[name], grades, several=False, name=name) for run in runs])
        for name in _LISTS[1:]
    )
    names, units = np.unique(unit_of, return_inverse=True)
    columns = (run_of * grades + true) * grades + predicted
    confusions = _counts(units, columns, (len(names), len(runs) * grades**2))
    return len(np.unique(row_of)), confusions.reshape(len(names), len(runs), grades, grades)


def _counts(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)


def _resampled_sums(counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sum the rows of `counts` in each bootstrap resample; shape `(resamples, columns)`."""
    # Equal rows are sampled together: thousands of images have 25 kinds of rows.
    kinds, frequencies = np.unique(counts, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    fractions = frequencies / len(counts)
    kinds = kinds.astype("float64")
    return np.stack([generator.multinomial(len(counts), fractions) @ kinds for _ in range(resamples)])


def _expanded_interval(values: np.ndarray, estimate: float, units: int, confidence: float) -> Interval:
    """Compute an expanded, bias-corrected percentile interval of resampled kappas."""
    from scipy import stats

    if units < _MIN_UNITS or np.ptp(values) == 0:
        return NO_INTERVAL
    reach = np.sqrt(units / (units - 1)) * stats.t.ppf((1 + confidence) / 2, units - 1)
    ends = np.quantile(values, stats.norm.cdf([-reach, reach])) + estimate - values.mean()
    low, high = np.clip(ends, -1, 1)
    return Interval(float(low), float(high))


def check_resampling(confidence: float, resamples: int = 1) -> None:
    """Check the range of `confidence` and `resamples`."""
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be in (0, 1). Received {confidence}.")
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1. Received {resamples}.")
