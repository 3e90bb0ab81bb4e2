"""Summary of a study in words: comparison of pretraining with training from scratch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_ssl._types import Record
from keras_ssl.evaluation.comparisons import labels_saved, paired_differences
from keras_ssl.evaluation.records import arm_label, completed, sort_records, starting_arms
from keras_ssl.evaluation.statistics import lower_is_better, summarize, value_of
from keras_ssl.reports.figures import percent, runs_by_arm


def gains(
    records: Iterable[Record],
    metric: str = "qw_kappa",
    baseline: str = "random",
    confidence: float = 0.95,
) -> list[dict[str, Any]]:
    """Return the rows of `paired_differences`, with errors negated, so that higher is better.

    >>> maes = (("frozen", 0.5), ("random", 0.75))
    >>> runs = [{"arm": arm, "fraction": 1.0, "grade_mae": mae} for arm, mae in maes]
    >>> gains(runs, "grade_mae")[0]["mean"]
    0.25
    """
    return paired_differences(_higher_is_better(records, metric), metric, baseline, confidence)


def gains_of_pretraining(
    records: Iterable[Record], metric: str = "qw_kappa", confidence: float = 0.95
) -> list[dict[str, Any]]:
    """Return the rows of `gains` of each arm that continues from given weights over these weights alone.

    >>> def run(task, kappa):
    ...     return {"arm": "frozen", "task": task, "start": "imagenet", "fraction": 1.0, "qw_kappa": kappa}
    >>> rows = gains_of_pretraining([run("imagenet", 0.5), run("imagenet+rotation", 0.75)])
    >>> [(row["arm"], row["baseline"], row["mean"]) for row in rows]
    [('frozen (imagenet+rotation)', 'frozen (imagenet)', 0.25)]
    """
    records = list(records)
    starts = starting_arms(records)
    known = {name for name, runs in runs_by_arm(records).items() if runs}
    return [
        {**row, "baseline": baseline}
        for baseline in dict.fromkeys(starts.values())
        if baseline in known
        for row in gains(records, metric, baseline, confidence)
        if row["arm"] != baseline and starts.get(row["arm"]) == baseline
    ]


def savings(
    records: Iterable[Record], metric: str = "qw_kappa", baseline: str = "random"
) -> list[dict[str, Any]]:
    """Return the rows of `labels_saved` for every arm but the baseline, for any metric."""
    negated = _higher_is_better(records, metric)
    sign = -1 if lower_is_better(metric) else 1
    arms = [name for name, runs in runs_by_arm(negated).items() if runs and name != baseline]
    return [
        {**row, "value": sign * row["value"]}
        for arm in arms
        for row in labels_saved(negated, metric, arm, baseline)
    ]


def _higher_is_better(records: Iterable[Record], metric: str) -> list[Record]:
    if not lower_is_better(metric):
        return list(records)
    # Failed runs have no value to negate.
    return [
        {**record, metric: -value_of(record, metric)} if completed([record]) else record for record in records
    ]


def summary_text(records: Iterable[Record], metric: str = "qw_kappa", baseline: str = "random") -> str:
    """Summarize in words whether pretraining helped or hurt, and how many labels it saved or cost.

    Gains and losses follow one rule. An arm is called better, or worse, than the baseline at a fraction of
    the labels only if the 95 % interval of their paired difference excludes 0; labels saved, or lost, are
    stated only there. Pretraining "helped", or "hurt", if such a difference remains significant after
    Bonferroni correction for the number of comparisons; otherwise it "may have". An arm that continues from
    given weights, as of ImageNet, is also compared with these weights alone, which is what its pretraining
    gained.

    Args:
        records: as in `keras_ssl.evaluation.paired_differences`.
        metric: metric to compare.
        baseline: arm without pretraining.

    Returns:
        Sentences, one statement per line.

    Raises:
        ValueError: no run completed.

    >>> runs = [
    ...     {"arm": arm, "fraction": 0.1, "labels": 20, "repetition": repetition, "qw_kappa": kappa + noise}
    ...     for arm, kappa in (("initialized", 0.6), ("random", 0.5))
    ...     for repetition, noise in enumerate((0.0, 0.01, -0.01))
    ... ]
    >>> print(summary_text(runs).splitlines()[1][:62])
    pretrained, fine-tuned: better than training from scratch at 1
    """
    runs = sort_records(records)
    summaries = summarize(runs, metric)
    reference = "training from scratch" if baseline == "random" else arm_label(baseline)
    if not any(row["arm"] == baseline for row in summaries):
        return f'No run of the arm "{arm_label(baseline)}" completed, so the gain of pretraining is unknown.'
    try:
        rows = gains(runs, metric, baseline)
    except ValueError as error:
        return f"Paired differences cannot be computed: {error}"
    if not rows:
        return f'All runs are of the arm "{arm_label(baseline)}": there is nothing to compare it with.'
    starts = starting_arms(runs)
    continued = gains_of_pretraining(runs, metric)

    def headline_rows(confidence: float = 0.95) -> list[dict[str, Any]]:
        """Compare each pretrained arm with the same weights without this pretraining."""
        found = [row for row in gains(runs, metric, baseline, confidence) if row["arm"] not in starts]
        found += gains_of_pretraining(runs, metric, confidence)
        # A frozen encoder trains fewer weights than one trained from scratch: it is part of the headline only
        # if there is no fine-tuned one.
        fine_tuned = [row for row in found if not row["arm"].startswith("frozen")]
        return fine_tuned if any(row["arm"].startswith("initialized") for row in found) else found

    own = headline_rows()
    # Bonferroni: among many intervals, one that excludes 0 by chance is likelier than for a single one.
    corrected = headline_rows(1 - 0.05 / max(1, len(own)))
    without = "training without it" if continued else "training from scratch"
    lines = [_headline(own, corrected, without)] if own else []
    lines += [_arm_line(arm, rows, reference) for arm in dict.fromkeys(row["arm"] for row in rows)]
    lines += [
        _arm_line(arm, continued, arm_label(starts[arm]))
        for arm in dict.fromkeys(row["arm"] for row in continued)
    ]
    verdicts = {(row["arm"], row["fraction"]): verdict(row) for row in rows}
    saved = savings(runs, metric, baseline)
    for arm in dict.fromkeys(row["arm"] for row in saved):
        lines += _label_lines(arm, [row for row in saved if row["arm"] == arm], verdicts, reference)
    failed = len(runs) - len(completed(runs))
    if len({str(run.get("fold") or 0) for run in runs}) == 1:
        lines.append(
            "All runs share one test set and its pretraining: the intervals do not include the variation "
            "between splits."
        )
    validation_labels = max(row["validation_labels"] or 0 for row in summaries)
    if validation_labels:
        lines.append(
            f"Percentages are of the training labels. Not counted: up to {validation_labels:.0f} validation "
            "labels that runs used to choose thresholds, learning rates or weights."
        )
    if failed:
        lines.append(f"{failed} of {len(runs)} runs failed; they are listed but not included.")
    return "\n".join(lines)


def verdict(row: Mapping[str, Any]) -> str:
    """Classify a row of `gains` as "better", "worse", "not significant" or "too few runs".

    >>> verdict({"pairs": 3, "low": -0.1, "high": 0.2})
    'not significant'
    """
    if row["low"] is None:
        return "too few runs"
    return "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "not significant"


def _headline(rows: Sequence[Mapping[str, Any]], corrected: Sequence[Mapping[str, Any]], without: str) -> str:
    """Count the significant rows, and those still significant in `corrected`, with wider intervals."""
    compared = [row for row in rows if verdict(row) != "too few runs"]
    if not compared:
        return f"Too few runs to compare pretraining with {without}: every arm needs two or more."
    significant = {kind: [row for row in compared if verdict(row) == kind] for kind in ("better", "worse")}
    if not any(significant.values()):
        pairs = max(row["pairs"] for row in compared)
        few = f" With {pairs} pairs of runs, only a large difference can be significant." if pairs < 5 else ""
        return (
            f"No significant difference found between self-supervised pretraining and {without} in "
            f"{_count(len(compared))}.{few}"
        )
    still_significant = [verdict(row) for row in corrected]
    verbs = {"better": "helped", "worse": "hurt"}
    statements = [
        verbs[kind] if kind in still_significant else f"may have {verbs[kind]}"
        for kind in verbs
        if significant[kind]
    ]
    text = (
        f"Self-supervised pretraining {' and '.join(statements)}: of {_count(len(compared))}, it was "
        f"significantly better in {_times(significant['better'])}, significantly worse in "
        f"{_times(significant['worse'])}."
    )
    if len(compared) > 1:
        left = sum(kind in verbs for kind in still_significant)
        remain = f"{left or 'none'} remain{'s' if left == 1 else ''}"
        text += f" After Bonferroni correction for {_count(len(compared))}, {remain} significant."
    return text


def _count(comparisons: int) -> str:
    return f"{comparisons} comparison{'s' if comparisons > 1 else ''}"


def _times(rows: Sequence[Mapping[str, Any]]) -> str:
    fractions = _list([percent(fraction) for fraction in sorted({row["fraction"] for row in rows})])
    return f"{len(rows)} (at {fractions} of the labels)" if rows else "none"


_VERDICT_PHRASES = {
    "better": "better than {} at {}",
    "worse": "worse than {} at {}",
    "not significant": "no significant difference from {} at {}",
    "too few runs": "too few runs to compare it with {} at {}",
}


def _arm_line(arm: str, rows: Sequence[Mapping[str, Any]], reference: str) -> str:
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["arm"] == arm:
            found.setdefault(verdict(row), []).append(percent(row["fraction"]) + _difference(row))
    parts = [
        text.format(reference, _list(found[kind])) for kind, text in _VERDICT_PHRASES.items() if kind in found
    ]
    return f"{arm_label(arm)}: {'; '.join(parts)} of the labels."


def _difference(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return ""
    return f" ({row['mean']:+.3f}, interval {row['low']:+.3f} to {row['high']:+.3f})"


def _label_lines(
    arm: str, rows: Sequence[Mapping[str, Any]], verdicts: Mapping[tuple[str, float], str], reference: str
) -> list[str]:
    """Labels saved, and labels lost, at the fractions with a significant difference."""
    lines = []
    for kind, name in (("better", "saved"), ("worse", "lost")):
        parts = [
            _equivalent(row, reference)
            for row in rows
            if row["low"] is not None and verdicts.get((arm, row["fraction"])) == kind
        ]
        if parts:
            lines.append(f"Labels {name} by {arm_label(arm)}: {'; '.join(parts)}.")
    if lines:
        return lines
    known = any(row["low"] is not None for row in rows)
    reason = "no significant difference found" if known else "too few runs to compare"
    return [f"Labels saved by {arm_label(arm)}: {reason}."]


def _equivalent(row: Mapping[str, Any], reference: str) -> str:
    if row["low"] == math.inf:
        return f"with {percent(row['fraction'])} better than {reference} with any measured fraction"
    if math.isinf(row["reached_at"]):
        at = f"not reached by {reference} with any measured fraction"
    else:
        less = " or less" if row["beyond"] == "below" else ""
        at = f"as good as {reference} with {reached(row['reached_at'])}{less}"
    return f"with {percent(row['fraction'])} {at} (interval {reached(row['low'])} to {reached(row['high'])})"


def reached(fraction: float) -> str:
    """Format the fraction of the labels at which a value is reached.

    >>> reached(0.1234), reached(float("inf"))
    ('12 %', 'not reached')
    """
    return "not reached" if math.isinf(fraction) else percent(float(f"{fraction:.2g}"))


def _list(parts: Sequence[str]) -> str:
    *front, last = parts or [""]
    return f"{', '.join(front)} and {last}" if front else last
