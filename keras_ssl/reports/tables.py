"""What records say, as tables for a reader: Markdown here, HTML in a page."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from keras_ssl.evaluation.records import line_names
from keras_ssl.evaluation.statistics import summarize
from keras_ssl.reports.figures import lines_of, percent
from keras_ssl.reports.summary import gains, reached, savings, verdict


class Table(NamedTuple):
    """Cells as text; a column is named by a group, which may be empty, and a name within it."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Write the table as Markdown, group and name in one heading."""
        names = tuple(f"{group} {name}".strip() for group, name in self.columns)
        rule = ("---",) * len(names)
        return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (names, rule, *self.rows))


def _cell(text: str) -> str:
    # A bar or an end of line would end the cell.
    return text.replace("|", "\\|").replace("\n", " ")


def plain_columns(*names: str) -> tuple[tuple[str, str], ...]:
    """Columns that belong to no group."""
    return tuple(("", name) for name in names)


def leakage_note(records: Sequence[Mapping[str, Any]]) -> str:
    """Name the arms whose pretraining has seen the test images, below a table; nothing where there are none.

    >>> leakage_note([{"arm": "frozen", "pretrained_on": "all"}, {"arm": "random"}]).strip()
    'Pretrained on all images, those of the test among them: frozen.'
    """
    named = zip(records, line_names(records), strict=True)
    seen = dict.fromkeys(name for record, name in named if record.get("pretrained_on") == "all")
    return f"\n\nPretrained on all images, those of the test among them: {', '.join(seen)}." if seen else ""


def format_table(records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa") -> str:
    """Format the summary of `records` as a Markdown table; arguments and errors as `summarize`.

    >>> print(format_table([{"arm": "random", "fraction": 0.1, "labels": 20, "qw_kappa": 0.25}]))
    | labels | arm | runs | min | mean | max | std |
    | --- | --- | --- | --- | --- | --- | --- |
    | 10 % (20) | random | 1 | 0.250 | 0.250 | 0.250 |  |
    """
    records = list(records)
    return summary_table(records, metric).markdown() + leakage_note(records)


def summary_table(records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa") -> Table:
    """Return one row per fraction of labels and arm."""
    rows = []
    for row in summarize(records, metric):
        further = f" + {row['validation_labels']:.0f} validation" if row["validation_labels"] else ""
        labels = f"{percent(row['fraction'])} ({row['labels']:.0f}{further})"
        numbers = (_shown(row[name], ".3f") for name in ("min", "mean", "max", "std"))
        rows.append((labels, row["arm"], str(row["runs"]), *numbers))
    return Table(plain_columns("labels", "arm", "runs", "min", "mean", "max", "std"), tuple(rows))


def format_thesis_table(
    records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa", as_percent: bool = False
) -> str:
    """Format records as a Markdown table in the thesis' form: a row per fraction, min, avg, max per arm.

    Args:
        records: as `summarize` takes them.
        metric: what is shown.
        as_percent: show 100 times the value, with one decimal.

    Raises:
        ValueError: there are no records of runs that ended well.

    >>> runs = [{"arm": "random", "fraction": 0.1, "labels": 20, "qw_kappa": value} for value in (0.2, 0.4)]
    >>> print(format_thesis_table(runs))
    | labels | random min | random avg | random max |
    | --- | --- | --- | --- |
    | 10 % | 0.200 | 0.300 | 0.400 |
    """
    records = list(records)
    return thesis_table(records, metric, as_percent).markdown() + leakage_note(records)


def thesis_table(
    records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa", as_percent: bool = False
) -> Table:
    """Give one row per fraction of labels, and for each arm the worst, the mean and the best run."""
    records = list(records)
    rows = summarize(records, metric)
    arms = [name for name in lines_of(records) if any(row["arm"] == name for row in rows)]
    cells = {(row["fraction"], row["arm"]): row for row in rows}
    table = []
    for fraction in sorted({row["fraction"] for row in rows}):
        line = [percent(fraction)]
        for arm in arms:
            found = cells.get((fraction, arm))
            for name in ("min", "mean", "max"):
                line.append(_number(found[name], as_percent) if found else "")
        table.append(tuple(line))
    columns = (("", "labels"), *((arm, name) for arm in arms for name in ("min", "avg", "max")))
    return Table(columns, tuple(table))


def _number(value: float, as_percent: bool = False) -> str:
    return f"{100 * value:.1f}" if as_percent else f"{value:.3f}"


def format_differences(
    records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa", baseline: str = "random"
) -> str:
    """Format the paired differences of each arm to the baseline as a Markdown table.

    Arguments and errors as `keras_ssl.evaluation.paired_differences`; for an error, of which less is better,
    the sign is reversed, so that above 0 is always better. `result` is "better" or "worse" where the
    95 % interval excludes 0, else "not significant"; "too few runs" where there is no interval.

    >>> runs = [
    ...     {"arm": arm, "fraction": 0.1, "repetition": repetition, "qw_kappa": kappa + repetition / 100}
    ...     for arm, kappa in (("initialized", 0.6), ("random", 0.5))
    ...     for repetition in range(3)
    ... ]
    >>> print(format_differences(runs))
    | labels | arm | pairs | left out | gain | from | to | wins | result |
    | --- | --- | --- | --- | --- | --- | --- | --- | --- |
    | 10 % | initialized | 3 | 0 | +0.100 | +0.100 | +0.100 | 3 | better |
    """
    records = list(records)
    return differences_table(records, metric, baseline).markdown() + leakage_note(records)


def differences_table(
    records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa", baseline: str = "random"
) -> Table:
    """Give one row per fraction of labels and arm but the baseline."""
    rows = tuple(
        (
            percent(row["fraction"]),
            row["arm"],
            str(row["pairs"]),
            str(row["left_out"]),
            *(_shown(row[name], "+.3f") for name in ("mean", "low", "high")),
            str(row["wins"]),
            verdict(row),
        )
        for row in gains(records, metric, baseline)
    )
    names = ("labels", "arm", "pairs", "left out", "gain", "from", "to", "wins", "result")
    return Table(plain_columns(*names), rows)


def format_labels_saved(
    records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa", baseline: str = "random"
) -> str:
    """Format the labels that the baseline needs to reach each arm as a Markdown table.

    Arguments and errors as `keras_ssl.evaluation.labels_saved`, for every arm but the baseline. `from` and
    `to` are the ends of its 95 % interval, both measured fractions.

    >>> runs = [
    ...     {"arm": arm, "fraction": fraction, "qw_kappa": kappa}
    ...     for arm, fraction, kappa in [
    ...         ("initialized", 0.1, 0.5), ("random", 0.1, 0.25), ("random", 0.4, 0.5), ("random", 1.0, 0.5)
    ...     ]
    ... ]
    >>> print(format_labels_saved(runs))
    | arm | labels | pairs | value | random needs | factor | from | to |
    | --- | --- | --- | --- | --- | --- | --- | --- |
    | initialized | 10 % | 1 | 0.500 | 40 % | 4.0 |  |  |
    """
    records = list(records)
    return labels_saved_table(records, metric, baseline).markdown() + leakage_note(records)


def labels_saved_table(
    records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa", baseline: str = "random"
) -> Table:
    """Give one row per arm but the baseline, and fraction of labels."""
    rows = tuple(
        (
            row["arm"],
            percent(row["fraction"]),
            str(row["pairs"]),
            _shown(row["value"], ".3f"),
            f"{reached(row['reached_at'])}{' or less' if row['beyond'] == 'below' else ''}",
            "" if math.isinf(row["factor"]) else f"{row['factor']:.1f}",
            *("" if row[end] is None else reached(row[end]) for end in ("low", "high")),
        )
        for row in savings(records, metric, baseline)
    )
    names = ("arm", "labels", "pairs", "value", f"{baseline} needs", "factor", "from", "to")
    return Table(plain_columns(*names), rows)


def _shown(value: float | None, form: str) -> str:
    """Format a number; a cell is empty where there is none."""
    return "" if value is None or math.isnan(value) else format(value, form)
