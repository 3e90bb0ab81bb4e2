"""How messages name many files at once: the first twenty, and how many there are."""

import errno
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


def reason_without_path(error: BaseException, path: str | Path) -> str:
    """What was wrong with a file, to be kept where the names of people's folders have no place.

    >>> reason_without_path(ValueError("/home/ann/a.png is damaged"), "/home/ann/a.png")
    '... is damaged'
    """
    return str(error.__cause__ or error).replace(str(path), "...").replace(str(Path(path)), "...")


def refuse_system_error(error: BaseException | None) -> None:
    """Raise what the system did, such as to lose a disk, and not a file's content: no cache must keep it."""
    # A damaged file may lead its reader to places that no file has, which is an invalid argument.
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise OSError(
            error.errno, f"`table` must name files that can be read to the end. Received: {error}"
        ) from error


def refuse_missing(paths: Iterable[str], argument: str = "table") -> None:
    """Raise `FileNotFoundError`, naming the first twenty, where files or folders of slices are not there."""
    missing = [str(path) for path in paths if not Path(path).exists()]
    if missing:
        raise FileNotFoundError(
            f"`{argument}` must name files that exist. Missing {len(missing)}: {', '.join(missing[:20])}."
        )
