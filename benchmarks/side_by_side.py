"""Interleaved timing and the rows of `speed.py`, shared by the scripts of this folder."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


class Row(NamedTuple):
    """One comparison. `ratio` is how many times as fast ours is; `None` where it could not be measured."""

    what: str
    ours: str
    reference: str
    ratio: float | None
    wanted: float | None


def in_turns(runs, rounds, clock=time.perf_counter, left_out=1):
    """Seconds of each callable in each round; the first rounds compile and are left out."""
    seconds = {name: [] for name in runs}
    for number in range(rounds + left_out):
        for name, run in runs.items():
            start = clock()
            run()
            if number >= left_out:
                seconds[name].append(clock() - start)
    return seconds


def medians(seconds):
    """The median of each arm's seconds."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def times_as_fast(seconds, ours, reference):
    """Median over the rounds of the reference's time divided by ours: what slows a round slows both."""
    return statistics.median(
        theirs / mine for mine, theirs in zip(seconds[ours], seconds[reference], strict=True)
    )


def row(what, seconds, ours, reference, wanted):
    """Compare two arms of `in_turns`."""
    taken = medians(seconds)
    return Row(
        what,
        readable(taken[ours]),
        f"{reference}: {readable(taken[reference])}",
        times_as_fast(seconds, ours, reference),
        wanted,
    )


def not_measured(what, reason):
    """A row that says why there is nothing to compare with."""
    return Row(what, "-", str(reason), None, None)


def readable(seconds):
    """Three digits, in seconds or milliseconds."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
