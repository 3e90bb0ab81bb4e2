"""Tables of a study, as Markdown; the HTML page uses the same tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from keras_ssl._types import Record
from keras_ssl.evaluation.records import arm_label, arm_names, starting_arms
from keras_ssl.evaluation.statistics import summarize
from keras_ssl.reports.figures import percent, runs_by_arm
from keras_ssl.reports.summary import gains, reached, savings, verdict


class Table(NamedTuple):
    """Table of text; each column has a name and the group it belongs to, which may be empty."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def groups(self) -> list[tuple[str, list[str]]]:
        """Groups of adjacent columns, each with the names of its columns."""
        return [
            (group, [name for _, name in columns])
            for group, columns in groupby(self.columns, key=lambda column: column[0])
        ]

    def markdown(self) -> str:
        """Return the table as Markdown, with group and name in one heading."""
        names = tuple(f"{group}: {name}" if group else name for group, name in self.columns)
        rule = ("---",) * len(names)
        # A bar or an end of line would end the cell.
        lines = (
            " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in row)
            for row in (names, rule, *self.rows)
        )
        return "\n".join(f"| {line} |" for line in lines)


def plain_columns(*names: str) -> tuple[tuple[str, str], ...]:
    """Return columns without groups."""
    return tuple(("", name) for name in names)


def leakage_note(records: Sequence[Record]) -> str:
    """Return a note on the arms whose pretraining included test images; empty if there are none.

    >>> leakage_note([{"arm": "frozen", "pretrained_on": "all"}, {"arm": "random"}]).strip()
    'Pretrained on all images, including test images: pretrained, frozen.'
    """
    arms = arms_pretrained_on(records, "all")
    return f"\n\nPretrained on all images, including test images: {arms}." if arms else ""


def arms_pretrained_on(records: Sequence[Record], source: str) -> str:
    """Return the names of the arms with this value of `pretrained_on`, separated by semicolons.

    Arms that continue from given weights are also `"given"`.
    """
    named, started = zip(records, arm_names(records), strict=True), starting_arms(records)
    arms = dict.fromkeys(
        name
        for record, name in named
        if str(record.get("pretrained_on")) == source or (source == "given" and name in started)
    )
    return "; ".join(map(arm_label, arms))


def format_table(records: Iterable[Record], metric: str = "qw_kappa") -> str:
    """Format `keras_ssl.evaluation.summarize` as a Markdown table, with the same arguments and errors.

    >>> print(format_table([{"arm": "random", "fraction": 0.1, "labels": 20, "qw_kappa": 0.25}]))
    | labels | arm | runs | min | mean | max | std |
    | --- | --- | --- | --- | --- | --- | --- |
    | 10 % (20) | from scratch | 1 | 0.250 | 0.250 | 0.250 |  |
    """
    records = list(records)
    return summary_table(records, metric).markdown() + leakage_note(records)


def summary_table(records: Iterable[Record], metric: str = "qw_kappa") -> Table:
    """Return one row per fraction of labels and arm."""
    rows = []
    for row in summarize(records, metric):
        validation = f" + {row['validation_labels']:.0f} validation" if row["validation_labels"] else ""
        labels = f"{percent(row['fraction'])} ({row['labels']:.0f}{validation})"
        numbers = (_number(row[name], ".3f") for name in ("min", "mean", "max", "std"))
        rows.append((labels, arm_label(row["arm"]), str(row["runs"]), *numbers))
    return Table(plain_columns("labels", "arm", "runs", "min", "mean", "max", "std"), tuple(rows))


def format_thesis_table(records: Iterable[Record], metric: str = "qw_kappa", as_percent: bool = False) -> str:
    """Format records as a Markdown table with a row per fraction and min, mean and max of each arm.

    Args:
        records: as in `keras_ssl.evaluation.summarize`.
        metric: metric to show.
        as_percent: whether to show 100 times the value, with one decimal.

    Raises:
        ValueError: no run completed.

    >>> runs = [{"arm": "random", "fraction": 0.1, "labels": 20, "qw_kappa": value} for value in (0.2, 0.4)]
    >>> print(format_thesis_table(runs))
    | labels | from scratch: min | from scratch: mean | from scratch: max |
    | --- | --- | --- | --- |
    | 10 % | 0.200 | 0.300 | 0.400 |
    """
    records = list(records)
    return thesis_table(records, metric, as_percent).markdown() + leakage_note(records)


def thesis_table(records: Iterable[Record], metric: str = "qw_kappa", as_percent: bool = False) -> Table:
    """Return one row per fraction of the labels, with min, mean and max of each arm."""
    records = list(records)
    rows = summarize(records, metric)
    arms = [name for name in runs_by_arm(records) if any(row["arm"] == name for row in rows)]
    statistics = ("min", "mean", "max")
    values = {
        (row["fraction"], row["arm"], name): f"{100 * row[name]:.1f}" if as_percent else f"{row[name]:.3f}"
        for row in rows
        for name in statistics
    }
    fractions = sorted({row["fraction"] for row in rows})
    columns = (("", "labels"), *((arm_label(arm), name) for arm in arms for name in statistics))
    return Table(
        columns,
        tuple(
            (
                percent(fraction),
                *(values.get((fraction, arm, name), "") for arm in arms for name in statistics),
            )
            for fraction in fractions
        ),
    )


def format_differences(records: Iterable[Record], metric: str = "qw_kappa", baseline: str = "random") -> str:
    """Format the paired differences of each arm to the baseline as a Markdown table.

    Arguments and errors as in `keras_ssl.evaluation.paired_differences`; errors, of which lower is better,
    are negated, so that a gain above 0 is always better. `result` is "better" or "worse" if the 95 %
    interval excludes 0, otherwise "not significant"; "too few runs" if there is no interval.

    >>> runs = [
    ...     {"arm": arm, "fraction": 0.1, "repetition": repetition, "qw_kappa": kappa + repetition / 100}
    ...     for arm, kappa in (("initialized", 0.6), ("random", 0.5))
    ...     for repetition in range(3)
    ... ]
    >>> print(format_differences(runs))
    | labels | arm | pairs | left out | gain | from | to | wins | result |
    | --- | --- | --- | --- | --- | --- | --- | --- | --- |
    | 10 % | pretrained, fine-tuned | 3 | 0 | +0.100 | +0.100 | +0.100 | 3 | better |
    """
    records = list(records)
    return differences_table(records, metric, baseline).markdown() + leakage_note(records)


def differences_table(records: Iterable[Record], metric: str = "qw_kappa", baseline: str = "random") -> Table:
    """Return one row per fraction of the labels and arm other than the baseline."""
    return gains_table(gains(records, metric, baseline))


def gains_table(gains_of_arms: Iterable[Mapping[str, Any]]) -> Table:
    """Return one row per row of `gains`."""
    rows = tuple(
        (
            percent(row["fraction"]),
            arm_label(row["arm"]),
            str(row["pairs"]),
            str(row["left_out"]),
            *(_number(row[name], "+.3f") for name in ("mean", "low", "high")),
            str(row["wins"]),
            verdict(row),
        )
        for row in gains_of_arms
    )
    names = ("labels", "arm", "pairs", "left out", "gain", "from", "to", "wins", "result")
    return Table(plain_columns(*names), rows)


def format_labels_saved(records: Iterable[Record], metric: str = "qw_kappa", baseline: str = "random") -> str:
    """Format the labels that the baseline needs to reach each arm as a Markdown table.

    Arguments and errors as in `keras_ssl.evaluation.labels_saved`, for every arm except the baseline. `from`
    and `to` are the ends of the 95 % interval, both measured fractions.

    >>> runs = [
    ...     {"arm": arm, "fraction": fraction, "qw_kappa": kappa}
    ...     for arm, fraction, kappa in [
    ...         ("initialized", 0.1, 0.5), ("random", 0.1, 0.25), ("random", 0.4, 0.5), ("random", 1.0, 0.5)
    ...     ]
    ... ]
    >>> print(format_labels_saved(runs))
    | arm | labels | pairs | value | labels (from scratch) | factor | from | to |
    | --- | --- | --- | --- | --- | --- | --- | --- |
    | pretrained, fine-tuned | 10 % | 1 | 0.500 | 40 % | 4.0 |  |  |
    """
    records = list(records)
    return labels_saved_table(records, metric, baseline).markdown() + leakage_note(records)


def labels_saved_table(
    records: Iterable[Record], metric: str = "qw_kappa", baseline: str = "random"
) -> Table:
    """Return one row per arm other than the baseline, and fraction of the labels."""
    rows = tuple(
        (
            arm_label(row["arm"]),
            percent(row["fraction"]),
            str(row["pairs"]),
            _number(row["value"], ".3f"),
            f"{reached(row['reached_at'])}{' or less' if row['beyond'] == 'below' else ''}",
            "" if math.isinf(row["factor"]) else f"{row['factor']:.1f}",
            *("" if row[end] is None else reached(row[end]) for end in ("low", "high")),
        )
        for row in savings(records, metric, baseline)
    )
    names = ("arm", "labels", "pairs", "value", f"labels ({arm_label(baseline)})", "factor", "from", "to")
    return Table(plain_columns(*names), rows)


def _number(value: float | None, form: str) -> str:
    """Format a number; empty text for none."""
    return "" if value is None or math.isnan(value) else format(value, form)
