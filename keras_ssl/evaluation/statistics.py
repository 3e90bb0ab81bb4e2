"""Statistics of records: means, spreads, bootstrap intervals."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from keras_ssl._checks import check_grades
from keras_ssl.evaluation.records import completed, line_names, sort_records
from keras_ssl.metrics import quadratic_weighted_kappa


def summarize(records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa") -> list[dict[str, Any]]:
    """Reduce runs to one row per arm and fraction of labels.

    Args:
        records: one mapping a run, with `arm`, `fraction`, `labels` (how many images were labeled) and
            `metric`; values may be text, as a CSV file gives them. Runs that failed, or in which the
            metric is not defined, are left out and counted.
        metric: what is summarized.

    Returns:
        Rows with `arm` (and task, where there are several), `fraction`, `labels` (mean number, of training),
        `validation_labels` (mean number of further labels that cut points, learning rates or weights were
        chosen by; `None` where records do not tell), `runs`, `failed`, `min`, `mean`, `max`, `std` (over the
        runs, `None` for one), by rising fraction, arms as `sort_records` puts them. `min`, `max` and `std`
        describe these runs; they are no interval of the mean.

    Raises:
        ValueError: there are no records of runs that ended well, or none holds `metric`.

    >>> runs = [{"arm": "random", "fraction": 0.1, "labels": 20, "qw_kappa": value} for value in (0.2, 0.4)]
    >>> [(row["arm"], row["min"], round(row["mean"], 3), row["max"]) for row in summarize(runs)]
    [('random', 0.2, 0.3, 0.4)]
    """
    records = list(records)
    if records and not any(metric in record for record in records):
        raise ValueError(f"`metric` must be held by the records. Received {metric!r}, held by none.")
    rows = []
    for (name, fraction), cell in cells(records).items():
        runs = [run for run in completed(cell) if not np.isnan(value_of(run, metric))]
        if not runs:
            continue
        values = np.array([value_of(run, metric) for run in runs])
        further = float(np.mean([value_of(run, "validation_labels") for run in runs]))
        rows.append(
            {
                "arm": name,
                "fraction": fraction,
                "labels": float(np.mean([value_of(run, "labels") for run in runs])),
                "validation_labels": None if math.isnan(further) else further,
                "runs": len(runs),
                "failed": len(cell) - len(runs),
                "min": float(values.min()),
                "mean": float(values.mean()),
                "max": float(values.max()),
                "std": float(values.std(ddof=1)) if len(values) > 1 else None,
            }
        )
    return rows


# Errors, of which less is better.
_LOWER_IS_BETTER = ("grade_mae", "calibration_error", "loss")


def lower_is_better(metric: str) -> bool:
    """Return True for metrics of which lower values are better, such as errors."""
    return metric in _LOWER_IS_BETTER


def value_of(record: Mapping[str, Any], name: str) -> float:
    """Read a number that may be text; NaN where the record has none.

    >>> value_of({"labels": "20"}, "labels"), value_of({"macro_auc": None}, "macro_auc")
    (20.0, nan)
    """
    value = record.get(name)
    return float("nan") if value is None or value == "" else float(value)


def cells(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, float], list[Mapping[str, Any]]]:
    """Runs by (name of the line, fraction), by rising fraction, failed ones among them.

    Raises:
        ValueError: there are no records of runs that ended well.
    """
    everything = sort_records(records)
    if not completed(everything):
        raise ValueError("`records` must hold at least one run that ended well. Received none.")
    found: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for record, name in zip(everything, line_names(everything), strict=True):
        found.setdefault((name, float(record["fraction"])), []).append(record)
    return dict(sorted(found.items(), key=lambda item: item[0][1]))


def still_rising(
    records: Iterable[Mapping[str, Any]], curve: str = "curve_qw_kappa", tolerance: float = 0.01
) -> list[dict[str, Any]]:
    """Which arms were still gaining when training ended, by their curves on validation images.

    Per run, the mean over the last quarter of its validations less that over the quarter before it is
    its gain. A cell is rising if the mean gain of its runs exceeds `tolerance`, and exceeds its own standard
    error over the runs where there are two or more. An arm that still rises was stopped too early
    to be compared. The reverse does not hold: a learning rate that decays flattens the end of a
    curve by itself.

    Args:
        records: one mapping a run, with `arm`, `fraction` and the list `curve`. Runs that failed are left
            out, as are those with fewer than 4 values, or none, as from a CSV file.
        curve: name of the list, of what is better the higher.
        tolerance: what a gain must exceed.

    Returns:
        Rows with `arm` (and task, where there are several), `fraction`, `runs` (with a curve), `gain`
        (mean), `error` (standard error, nan for one run), `rising`, in the order of `summarize`. No
        row for a cell without curves.

    Raises:
        ValueError: there are no records of runs that ended well.

    >>> run = {"arm": "random", "fraction": 0.1, "curve_qw_kappa": [0.0, 0.2, 0.4, 0.5]}
    >>> [(round(row["gain"], 3), row["rising"]) for row in still_rising([run])]
    [(0.1, True)]
    """
    rows = []
    for (name, fraction), cell in cells(records).items():
        curves = [run[curve] for run in completed(cell) if isinstance(run.get(curve), list)]
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


# Fewer images, or groups of them, give intervals that contain the truth too rarely; see
# `benchmarks/coverage.py`.
_FEWEST_UNITS = 30


class Interval(NamedTuple):
    """Two ends of an interval; both are `None` where none can be given that holds what it promises."""

    low: float | None
    high: float | None


NO_INTERVAL = Interval(None, None)


def bootstrap_kappa(
    true_grades: npt.ArrayLike,
    predicted_grades: npt.ArrayLike,
    num_grades: int,
    groups: npt.ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of the quadratic weighted kappa over test images.

    It tells what other test images would have changed; what another training run would have changed,
    only further runs tell. The interval lies between two percentiles of the resampled kappas, further out
    than the nominal ones, since a bootstrap of n images is too narrow by a factor of sqrt((n - 1) / n) and
    knows no Student's distribution (Hesterberg's expanded percentile interval). It is shifted by how far the
    mean of the resampled kappas lies from the kappa itself, which is the bias of kappas of few images.

    Args:
        true_grades: whole numbers in 0..`num_grades` - 1, shape `(n,)`.
        predicted_grades: likewise.
        num_grades: how many grades there are.
        groups: what belongs together, such as the patient of each image, shape `(n,)`: whole groups are
            drawn. Each image for itself by default.
        confidence: of the interval, in (0, 1).
        resamples: how often the images are drawn anew.
        seed: of the drawing.

    Returns:
        `low` and `high`; `None` for fewer than 30 images, or groups where they are given, and where all
        resampled kappas are equal, as when no image is graded wrongly: such a test cannot tell. A draw in
        which kappa is undefined counts as 0, as in `quadratic_weighted_kappa`.

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
        found = np.asarray(groups)
        if found.shape != true.shape:
            raise ValueError(f"`groups` must have shape {true.shape}. Received shape {found.shape}.")
        units = np.unique(found, return_inverse=True)[1]
    met = _counts(units, true * num_grades + predicted, (units.max() + 1, num_grades**2))
    drawn = _drawn_sums(met, resamples, seed)
    kappas = quadratic_weighted_kappa(drawn.reshape(-1, num_grades, num_grades))
    kappa = quadratic_weighted_kappa(met.sum(axis=0).reshape(num_grades, num_grades))
    return _expanded_interval(kappas, float(kappa), len(met), confidence)


def kappa_intervals(
    records: Iterable[Mapping[str, Any]], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> list[dict[str, Any]]:
    """Mean kappa of the runs of each arm and fraction, with a bootstrap interval over test images.

    Images are drawn, or whole groups of them where records hold `test_groups`, and with each all of its
    predictions by the runs of the cell: one that several runs tested stays one image, however often it was
    graded. Runs are taken as they are.

    Args:
        records: one mapping a run, with `arm`, `fraction`, `test_rows`, `test_grades` and `test_predictions`.
            Runs that failed are left out.
        confidence: as in `bootstrap_kappa`.
        resamples: as in `bootstrap_kappa`.
        seed: as in `bootstrap_kappa`.

    Returns:
        Rows with `arm` (and task, where there are several), `fraction`, `runs`, `images` (different ones),
        `mean` kappa, `low`, `high` (`None` as in `bootstrap_kappa`, by the run with the fewest images or
        groups), in the order of `summarize`.

    Raises:
        ValueError: there are no records of runs that ended well, or one lacks its lists.

    >>> lists = {"test_rows": [0, 1, 2], "test_grades": [0, 1, 2], "test_predictions": [0, 1, 2]}
    >>> kappa_intervals([{"arm": "random", "fraction": 0.1, **lists}])[0]["mean"]
    1.0
    """
    check_resampling(confidence, resamples)
    rows = []
    for (arm, fraction), cell in cells(records).items():
        runs = completed(cell)
        if not runs:
            continue
        images, met = _cell_counts(runs)
        units = len(met)
        grades = met.shape[-1]
        drawn = _drawn_sums(met.reshape(units, -1), resamples, seed)
        kappas = quadratic_weighted_kappa(drawn.reshape(resamples, len(runs), grades, grades))
        fewest = int((met.sum(axis=(2, 3)) > 0).sum(axis=0).min())
        mean = float(quadratic_weighted_kappa(met.sum(axis=0)).mean())
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


def _cell_counts(runs: list[Mapping[str, Any]]) -> tuple[int, np.ndarray]:
    """Number of images, and how each unit was graded: counts `(units, runs, grades, grades)`."""
    for run in runs:
        lengths = {len(run[name]) if isinstance(run.get(name), list) else 0 for name in _LISTS}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(
                f"Each of `records` must hold the lists {', '.join(_LISTS)}, of one length above 0, as "
                "records.jsonl does and a CSV file does not. "
                f"Received lengths {sorted(lengths)} in a run of arm {run['arm']!r}."
            )
    # Grades above the highest one that occurs would not change a kappa.
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
    met = _counts(units, columns, (len(names), len(runs) * grades**2))
    return len(np.unique(row_of)), met.reshape(len(names), len(runs), grades, grades)


def _counts(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)


def _drawn_sums(counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums `(resamples, columns)` of as many rows of `counts` as there are, drawn with replacement."""
    # Units that are alike are drawn as one kind, by how many they are: thousands of images make 25 kinds.
    kinds, alike = np.unique(counts, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    share = alike / len(counts)
    weighed = kinds.astype("float64")
    return np.stack([generator.multinomial(len(counts), share) @ weighed for _ in range(resamples)])


def _expanded_interval(values: np.ndarray, estimate: float, units: int, confidence: float) -> Interval:
    """Percentiles of resampled kappas, further out the fewer units were drawn, without their bias."""
    from scipy import stats

    if units < _FEWEST_UNITS or np.ptp(values) == 0:
        return NO_INTERVAL
    reach = np.sqrt(units / (units - 1)) * stats.t.ppf((1 + confidence) / 2, units - 1)
    ends = np.quantile(values, stats.norm.cdf([-reach, reach])) + estimate - values.mean()
    low, high = np.clip(ends, -1, 1)
    return Interval(float(low), float(high))


def check_resampling(confidence: float, resamples: int = 1) -> None:
    """Refuse a confidence that is no share, and no resamples."""
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie in (0, 1). Received {confidence}.")
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1. Received {resamples}.")
