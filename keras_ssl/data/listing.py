"""How messages name many files at once: the first twenty, and how many there are."""

from collections.abc import Iterable
from pathlib import Path

# Characters of one name: paths and reasons are shorter, and a damaged table may hold far longer ones.
_LONGEST = 400


def listed(names: list[str], separator: str = ", ") -> str:
    """The first twenty names, and of more how many there are; what is overlong is cut.

    >>> listed(["a", "b"])
    'a, b'
    """
    named = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..." for name in names[:20]]
    return separator.join(named) + (f" ... ({len(names)} in all)" if len(names) > 20 else "")


def refuse(rule: str, offenders: list[str]) -> None:
    """Raise, naming the first twenty of those who break the rule, if any do."""
    if offenders:
        raise ValueError(f"{rule}. Received {listed(offenders)}.")


def refuse_missing(paths: Iterable[str]) -> None:
    """Raise `FileNotFoundError`, naming the first twenty, where files or folders of slices are not there."""
    missing = [str(path) for path in paths if not Path(path).exists()]
    if missing:
        raise FileNotFoundError(
            f"`table` must name files that exist. {len(missing)} do not: {', '.join(missing[:20])}."
        )
