"""Many small jobs in threads, without a place in memory for each of them at once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# More than any pool has threads, so that none waits for a slow job before it.
_WAITING = 256


def in_order(
    executor: Executor, function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
    """What `executor.map` gives, of which two kilobytes for every item would wait from the start.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as executor:
    ...     sum(in_order(executor, abs, range(-1000, 0)))
    500500
    """
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        if len(waiting) == _WAITING:
            yield waiting.popleft().result()
        waiting.append(executor.submit(function, item))
    while waiting:
        yield waiting.popleft().result()
