"""What a study found, in plain words: also that nothing was gained, or that runs are too few to tell."""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from keras_ssl.evaluation.records import sort_records
from keras_ssl.evaluation.statistics import summarize
from keras_ssl.reports.canvas import percent
from keras_ssl.reports.comparison import gains, savings


def finding(records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa", baseline: str = "random") -> str:
    """Say in plain words whether pretraining helped, and how many labels it saved.

    An arm is called better, or worse, than the baseline at a fraction of the labels only where the
    interval of their paired difference excludes 0; labels are said to be saved there only.

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
    # Resampled from few runs, an interval of labels is too narrow to show by itself that any were saved.
    better = {(row["arm"], row["fraction"]) for row in rows if verdict(row) == "better"}
    saved = savings(runs, metric, baseline)
    lines += [_saved_line(arm, saved, better, baseline) for arm in dict.fromkeys(row["arm"] for row in saved)]
    failed = sum(run.get("status", "ok") != "ok" for run in runs)
    if len({str(run.get("fold") or 0) for run in runs}) == 1:
        lines.append(
            "All runs share one test part and its pretraining: the intervals do not tell how much another "
            "split would change."
        )
    if failed:
        lines.append(
            f"{failed} of {len(runs)} runs failed; they are listed, but play no part in these numbers."
        )
    return "\n".join(lines)


def verdict(row: Mapping[str, Any]) -> str:
    """Say what a row of `gains` shows: "better", "worse", "not shown" or "too few runs".

    >>> verdict({"pairs": 3, "low": -0.02, "high": 0.05})
    'not shown'
    """
    if row["pairs"] < 2 or math.isnan(row["low"]):
        return "too few runs"
    return "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "not shown"


def _headline(rows: Sequence[Mapping[str, Any]], strict: Sequence[Mapping[str, Any]]) -> str:
    """Count what `rows` show, and what is left with the wider intervals of `strict`."""
    told = [row for row in rows if verdict(row) != "too few runs"]
    if not told:
        return "Too few runs to tell whether self-supervised pretraining helped: every arm needs two or more."
    better, worse = ([row for row in told if verdict(row) == kind] for kind in ("better", "worse"))
    if not better and not worse:
        pairs = max(row["pairs"] for row in told)
        few = f" With {pairs} pairs of runs, only a large difference would." if pairs < 5 else ""
        return (
            "Self-supervised pretraining is not shown to help or to hurt: in none of "
            f"{len(told)} comparisons does the interval of the difference exclude 0.{few}"
        )
    left = sum(verdict(row) in ("better", "worse") for row in strict)
    sure = any(verdict(row) == "better" for row in strict)
    helped = "did not help" if not better else "helped" if sure else "may have helped"
    text = (
        f"Self-supervised pretraining {helped}: of {len(told)} comparisons, it was better in "
        f"{_times(better)}, worse in {_times(worse)}."
    )
    if len(told) > 1:
        text += f" Of these intervals, widened for being {len(told)}, {left or 'none'} still exclude 0."
    return text


def _times(rows: Sequence[Mapping[str, Any]]) -> str:
    shares = _list([percent(share) for share in sorted({row["fraction"] for row in rows})])
    return f"{len(rows)} (at {shares} of the labels)" if rows else "none"


_SAID = {
    "better": "better than {} at {}",
    "worse": "worse than {} at {}",
    "not shown": "not shown to differ from {} at {}",
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
    if verdict(row) == "too few runs":
        return ""
    return f" ({row['mean']:+.3f}, interval {row['low']:+.3f} to {row['high']:+.3f})"


def _saved_line(
    arm: str, rows: Sequence[Mapping[str, Any]], better: Set[tuple[str, float]], baseline: str
) -> str:
    mine = [row for row in rows if row["arm"] == arm]
    if all(math.isnan(row["low"]) for row in mine):
        return f"Labels saved by {arm}: too few runs to tell."
    shown = [row for row in mine if row["low"] > row["fraction"] and (arm, row["fraction"]) in better]
    if not shown:
        return f"Labels saved by {arm}: none are shown."
    said = [
        f"with {percent(row['fraction'])} as good as {baseline} with {reached(row['reached_at'])} "
        f"(interval {reached(row['low'])} to {reached(row['high'])})"
        for row in shown
        if not math.isinf(row["reached_at"])
    ]
    above = [percent(row["fraction"]) for row in shown if math.isinf(row["reached_at"])]
    if above:
        said.append(f"with {_list(above)} better than {baseline} with any share that was measured")
    return f"Labels saved by {arm}: {'; '.join(said)}."


def reached(fraction: float) -> str:
    """Write the fraction of labels at which a value is reached.

    >>> reached(0.1234), reached(float("inf"))
    ('12 %', 'not reached')
    """
    return "not reached" if math.isinf(fraction) else percent(float(f"{fraction:.2g}"))


def _list(parts: Sequence[str]) -> str:
    *front, last = parts or [""]
    return f"{', '.join(front)} and {last}" if front else last
