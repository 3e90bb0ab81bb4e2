"""Records of runs, one dictionary a run, reduced to what a reader compares."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def summarize(records: Iterable[Mapping[str, Any]], metric: str = "qwk") -> list[dict[str, Any]]:
    """Reduce runs to one row per arm and fraction of labels.

    Args:
        records: one mapping a run, with `arm`, `fraction`, `labels` (how many images were labelled) and
            `metric`; values may be text, as a CSV file gives them.
        metric: what is summarized.

    Returns:
        Rows with `arm`, `fraction`, `labels` (mean number), `runs`, `min`, `mean`, `max`, `std`
        (over the runs, 0 for one), by rising fraction, arms in the order in which they come.

    Raises:
        ValueError: there are no records.

    >>> runs = [{"arm": "random", "fraction": 0.1, "labels": 20, "qwk": value} for value in (0.2, 0.4)]
    >>> [(row["arm"], row["min"], round(row["mean"], 3), row["max"]) for row in summarize(runs)]
    [('random', 0.2, 0.3, 0.4)]
    """
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["arm"], float(record["fraction"])), []).append(record)
    if not groups:
        raise ValueError("`records` must hold at least one run. Received none.")
    rows = []
    for (arm, fraction), runs in groups.items():
        values = np.array([float(run[metric]) for run in runs])
        rows.append(
            {
                "arm": arm,
                "fraction": fraction,
                "labels": float(np.mean([float(run["labels"]) for run in runs])),
                "runs": len(runs),
                "min": float(values.min()),
                "mean": float(values.mean()),
                "max": float(values.max()),
                "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
            }
        )
    return sorted(rows, key=lambda row: row["fraction"])


def format_table(records: Iterable[Mapping[str, Any]], metric: str = "qwk") -> str:
    """Format the summary of `records` as a Markdown table; arguments and errors as `summarize`.

    >>> print(format_table([{"arm": "random", "fraction": 0.1, "labels": 20, "qwk": 0.25}]))
    | labels | arm | runs | min | mean | max | std |
    | --- | --- | --- | --- | --- | --- | --- |
    | 10 % (20) | random | 1 | 0.250 | 0.250 | 0.250 | 0.000 |
    """
    lines = [
        "| labels | arm | runs | min | mean | max | std |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in summarize(records, metric):
        labels = f"{100 * row['fraction']:g} % ({row['labels']:.0f})"
        numbers = " | ".join(f"{row[name]:.3f}" for name in ("min", "mean", "max", "std"))
        lines.append(f"| {labels} | {row['arm']} | {row['runs']} | {numbers} |")
    return "\n".join(lines)
