"""Summary of a study in words: comparison with training from scratch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_ssl.evaluation.comparisons import labels_saved, paired_differences
from keras_ssl.evaluation.records import completed, sort_records
from keras_ssl.evaluation.statistics import lower_is_better, summarize, value_of
from keras_ssl.reports.figures import lines_of, percent


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


def finding(records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa", baseline: str = "random") -> str:
    """Summary in words: whether pretraining helped or hurt, and how many labels it saved or cost.

    Gains and losses follow one rule. An arm is called better, or worse, than the baseline at a fraction of
    the labels only where the 95 % interval of their paired difference excludes 0; labels saved, or lost, are
    told there only. Pretraining "helped", or "hurt", where such a difference is still significant after
    Bonferroni correction for the number of comparisons; without that it "may have".

    Args:
        records: as in `keras_ssl.evaluation.paired_differences`.
        metric: what arms are compared by.
        baseline: name of the line without pretraining.

    Returns:
        Sentences, a line for each thought.

    Raises:
        ValueError: there are no records of runs that ended well.

    >>> runs = [
    ...     {"arm": arm, "fraction": 0.1, "labels": 20, "repetition": repetition, "qw_kappa": kappa + wobble}
    ...     for arm, kappa in (("initialized", 0.6), ("random", 0.5))
    ...     for repetition, wobble in enumerate((0.0, 0.01, -0.01))
    ... ]
    >>> print(finding(runs).splitlines()[1])
    initialized: better than random at 10 % (+0.100, interval +0.100 to +0.100) of the labels.
    """
    runs = sort_records(records)
    if not any(row["arm"] == baseline for row in summarize(runs, metric)):
        return (
            f'No run of the arm "{baseline}" ended well, so nothing can be said about what pretraining gains.'
        )
    try:
        rows = gains(runs, metric, baseline)
    except ValueError as error:
        return f"Arms cannot be compared run by run: {error}"
    if not rows:
        return f'There are runs of the arm "{baseline}" only: nothing to compare it with.'
    # A frozen encoder has less to learn with than one trained from scratch: alone it is told on its own.
    several = any(row["arm"].startswith("initialized") for row in rows)
    others = ("imagenet", "frozen") if several else ("imagenet",)
    own = [row for row in rows if not row["arm"].startswith(others)]
    # Bonferroni: of many intervals one excludes 0 by chance, sooner than of one.
    widened = gains(runs, metric, baseline, 1 - 0.05 / max(1, len(own)))
    strict = [row for row in widened if not row["arm"].startswith(others)]
    lines = [_headline(own, strict)] if own else []
    lines += [_arm_line(arm, rows, baseline) for arm in dict.fromkeys(row["arm"] for row in rows)]
    verdicts = {(row["arm"], row["fraction"]): verdict(row) for row in rows}
    saved = savings(runs, metric, baseline)
    for arm in dict.fromkeys(row["arm"] for row in saved):
        lines += _label_lines(arm, [row for row in saved if row["arm"] == arm], verdicts, baseline)
    failed = sum(run.get("status", "ok") != "ok" for run in runs)
    if len({str(run.get("fold") or 0) for run in runs}) == 1:
        lines.append(
            "All runs share one test part and its pretraining: the intervals do not tell how much another "
            "split would change."
        )
    chosen = [row["validation_labels"] or 0 for row in summarize(runs, metric)]
    if any(chosen):
        lines.append(
            f"Percentages are of the training labels. Not counted: up to {max(chosen):.0f} validation labels "
            "that runs used to choose cut points, learning rates or weights."
        )
    if failed:
        lines.append(
            f"{failed} of {len(runs)} runs failed; they are listed, but are left out of these numbers."
        )
    return "\n".join(lines)


def verdict(row: Mapping[str, Any]) -> str:
    """Classify a row of `gains` as "better", "worse", "not significant" or "too few runs".

    >>> verdict({"pairs": 3, "low": -0.1, "high": 0.2})
    'not significant'
    """
    if row["low"] is None:
        return "too few runs"
    return "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "not significant"


def _headline(rows: Sequence[Mapping[str, Any]], strict: Sequence[Mapping[str, Any]]) -> str:
    """Count the significant rows, and those that remain so in `strict`, with wider intervals."""
    told = [row for row in rows if verdict(row) != "too few runs"]
    if not told:
        return "Too few runs to tell whether self-supervised pretraining helped: every arm needs two or more."
    found = {kind: [row for row in told if verdict(row) == kind] for kind in ("better", "worse")}
    if not any(found.values()):
        pairs = max(row["pairs"] for row in told)
        few = f" With {pairs} pairs of runs, only a large difference can be significant." if pairs < 5 else ""
        return (
            "No significant difference found between self-supervised pretraining and training from scratch "
            f"in {_count(len(told))}.{few}"
        )
    sure = [verdict(row) for row in strict]
    words = {"better": "helped", "worse": "hurt"}
    said = [
        words[kind] if kind in sure else f"may have {words[kind]}" for kind, those in found.items() if those
    ]
    text = (
        f"Self-supervised pretraining {' and '.join(said)}: of {_count(len(told))}, it was significantly "
        f"better in {_times(found['better'])}, significantly worse in {_times(found['worse'])}."
    )
    if len(told) > 1:
        left = sum(kind in words for kind in sure)
        text += f" After Bonferroni correction for {_count(len(told))}, {left or 'none'} remain significant."
    return text


def _count(comparisons: int) -> str:
    return f"{comparisons} comparison{'s' if comparisons > 1 else ''}"


def _times(rows: Sequence[Mapping[str, Any]]) -> str:
    shares = _list([percent(share) for share in sorted({row["fraction"] for row in rows})])
    return f"{len(rows)} (at {shares} of the labels)" if rows else "none"


_SAID = {
    "better": "better than {} at {}",
    "worse": "worse than {} at {}",
    "not significant": "no significant difference from {} at {}",
    "too few runs": "too few runs to compare it with {} at {}",
}


def _arm_line(arm: str, rows: Sequence[Mapping[str, Any]], baseline: str) -> str:
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["arm"] == arm:
            found.setdefault(verdict(row), []).append(percent(row["fraction"]) + _difference(row))
    parts = [text.format(baseline, _list(found[kind])) for kind, text in _SAID.items() if kind in found]
    return f"{arm}: {'; '.join(parts)} of the labels."


def _difference(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return ""
    return f" ({row['mean']:+.3f}, interval {row['low']:+.3f} to {row['high']:+.3f})"


def _label_lines(
    arm: str, rows: Sequence[Mapping[str, Any]], verdicts: Mapping[tuple[str, float], str], baseline: str
) -> list[str]:
    """Labels saved, and labels lost, at the fractions with a significant difference."""
    lines = []
    for kind, name in (("better", "saved"), ("worse", "lost")):
        said = [
            _equivalent(row, baseline)
            for row in rows
            if row["low"] is not None and verdicts.get((arm, row["fraction"])) == kind
        ]
        if said:
            lines.append(f"Labels {name} by {arm}: {'; '.join(said)}.")
    if lines:
        return lines
    told = any(row["low"] is not None for row in rows)
    return [
        f"Labels saved by {arm}: {'no significant difference found' if told else 'too few runs to tell'}."
    ]


def _equivalent(row: Mapping[str, Any], baseline: str) -> str:
    if row["low"] == math.inf:
        return f"with {percent(row['fraction'])} better than {baseline} with any fraction that was measured"
    if math.isinf(row["reached_at"]):
        at = f"not reached by {baseline} with any fraction that was measured"
    else:
        less = " or less" if row["beyond"] == "below" else ""
        at = f"as good as {baseline} with {reached(row['reached_at'])}{less}"
    return f"with {percent(row['fraction'])} {at} (interval {reached(row['low'])} to {reached(row['high'])})"


def reached(fraction: float) -> str:
    """Format the fraction of labels at which a value is reached.

    >>> reached(0.1234), reached(float("inf"))
    ('12 %', 'not reached')
    """
    return "not reached" if math.isinf(fraction) else percent(float(f"{fraction:.2g}"))


def _list(parts: Sequence[str]) -> str:
    *front, last = parts or [""]
    return f"{', '.join(front)} and {last}" if front else last
