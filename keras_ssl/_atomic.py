"""Atomic writes of files and folders, and checks that a folder can be written to."""

import contextlib
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows, which keeps files that are open from being deleted
    fcntl = None  # type: ignore[assignment]


_ALIVE = "alive"


@contextlib.contextmanager
def explained(trouble: str, advice: str) -> Iterator[None]:
    """Say what the system's error inside means: that of a full disk names neither a file nor a way out.

    >>> with explained("`cache_dir` must be writable.", "Name another folder."):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
        ...
    OSError: [Errno 28] `cache_dir` must be writable. Received: [Errno 28] No space left on device. Name \
another folder.
    """
    try:
        yield
    except OSError as error:
        said = f"{trouble} Received: {error}. {advice}"
        # With the number it stays of its kind, such as `PermissionError`.
        raise OSError(said) if error.errno is None else OSError(error.errno, said) from error


def ready_folder(path: str | os.PathLike[str], argument: str, size: int = 4096) -> Path:
    """Make a folder where it is missing, and see that `size` bytes can be written to it.

    Raises:
        OSError: they cannot; the message names `argument`.

    >>> ready_folder(tempfile.mkdtemp(), "output_dir").is_dir()
    True
    """
    folder = Path(path)
    trouble = f"`{argument}` must be a folder that takes {size / 1e6:.2f} MB, {folder} does not."
    with explained(trouble, "Free space there, allow writing, or name another folder."):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
            probe.flush()
            reserve(probe.fileno(), size)
    return folder


def reserve(file: int, size: int) -> None:
    """Take room on the disk for an open file, where the system can: what a full disk does is told here.

    Raises:
        OSError: there is too little.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            # Some file systems cannot.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


def sync(path: Path) -> None:
    """Wait until a file is on the disk: some file systems tell only then that it is full."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def write_aside(file: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill another file, then rename it: a kill or a full disk leaves the whole file or none.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    advice = "What it held before is kept. Free space there, allow writing, or name another folder."
    with explained(f"{file} could not be written.", advice):
        file.parent.mkdir(parents=True, exist_ok=True)
        with folder_aside(file) as folder:
            partial = folder / file.name
            write(partial)
            sync(partial)
            partial.replace(file)


@contextlib.contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """A folder beside `target` to make it in, which goes at the end; so do those that killed processes left.

    A folder of its own: two processes may be making the same, and nobody must take it for `target`. What is
    made in it has the permissions that it would have elsewhere; it itself is closed to others.
    """
    prefix = f".partial-{target.name}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        with open(folder / f"{_ALIVE}.new", "wb") as file:
            # Some file systems have no locks; there, what killed processes left stays.
            with contextlib.suppress(OSError):
                _lock(file, wait=True)
            # Locked before anybody looks for it.
            (folder / f"{_ALIVE}.new").rename(folder / _ALIVE)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for leftover in target.parent.glob(f"{glob.escape(prefix)}*"):
        if _is_dead(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_dead(folder: Path) -> bool:
    if fcntl is None:
        return False
    try:
        with open(folder / _ALIVE, "r+b") as file:
            _lock(file, wait=False)
    # Locked, or made this moment.
    except OSError:
        return False
    return True


def _lock(file: IO[bytes], wait: bool) -> None:
    """Lock a file until it is closed or its process has ended, however it ends."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
