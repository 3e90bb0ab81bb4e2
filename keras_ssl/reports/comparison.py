"""Comparisons with the arm without pretraining; above 0 is better, whatever the metric."""

from collections.abc import Iterable, Mapping
from typing import Any

from keras_ssl.evaluation.comparisons import labels_saved, paired_differences
from keras_ssl.evaluation.records import completed
from keras_ssl.evaluation.statistics import lower_is_better, value_of
from keras_ssl.reports.canvas import lines_of


def gains(
    records: Iterable[Mapping[str, Any]],
    metric: str = "qw_kappa",
    baseline: str = "random",
    confidence: float = 0.95,
) -> list[dict[str, Any]]:
    """Return the rows of `paired_differences`, with the sign of errors, of which less is better, reversed.

    >>> maes = (("frozen", 0.5), ("random", 0.75))
    >>> runs = [{"arm": arm, "fraction": 1.0, "grade_mae": mae} for arm, mae in maes]
    >>> gains(runs, "grade_mae")[0]["mean"]
    0.25
    """
    return paired_differences(_higher_is_better(records, metric), metric, baseline, confidence)


def savings(
    records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa", baseline: str = "random"
) -> list[dict[str, Any]]:
    """Return the rows of `labels_saved` for every arm but the baseline, for any metric."""
    turned = _higher_is_better(records, metric)
    sign = -1 if lower_is_better(metric) else 1
    arms = [name for name, runs in lines_of(turned).items() if runs and name != baseline]
    return [
        {**row, "value": sign * row["value"]}
        for arm in arms
        for row in labels_saved(turned, metric, arm, baseline)
    ]


def _higher_is_better(records: Iterable[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    if not lower_is_better(metric):
        return list(records)
    # A run that failed has no value to reverse.
    return [
        {**record, metric: -value_of(record, metric)} if completed([record]) else record for record in records
    ]
