"""Summaries of records: means and spreads of runs, and which arms were still improving."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_ssl.evaluation.records import completed, line_names, sort_records


def summarize(records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa") -> list[dict[str, Any]]:
    """Reduce runs to one row per arm and fraction of labels.

    Args:
        records: one mapping a run, with `arm`, `fraction`, `labels` (how many images were labelled) and
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
