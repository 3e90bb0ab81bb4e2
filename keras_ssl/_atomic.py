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
except ImportError:  # Windows, where open files cannot be deleted
    fcntl = None  # type: ignore[assignment]

_ALIVE = "alive"


@contextlib.contextmanager
def explain_os_error(trouble: str, advice: str) -> Iterator[None]:
    """Add context and advice to an `OSError`: that of a full disk names no file.

    >>> with explain_os_error("`cache_dir` must be writable.", "Name another folder."):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
        ...
    OSError: [Errno 28] `cache_dir` must be writable. Received: [Errno 28] No space left on device. Name \
another folder.
    """
    try:
        yield
    except OSError as error:
        message = f"{trouble} Received: {error}. {advice}"
        # With the number it stays of its kind, such as `PermissionError`.
        raise OSError(message) if error.errno is None else OSError(error.errno, message) from error


def ready_folder(path: str | os.PathLike[str], argument: str, size: int = 4096) -> Path:
    """Create a folder if it is missing, and check that `size` bytes can be written to it.

    Raises:
        OSError: they cannot be written; the message names `argument`.

    >>> ready_folder(tempfile.mkdtemp(), "output_dir").is_dir()
    True
    """
    folder = Path(path)
    trouble = f"`{argument}` must be a writable folder with {size / 1e6:.2f} MB free. Received {folder}."
    with explain_os_error(trouble, "Free disk space, set write permission, or use another folder."):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
            probe.flush()
            reserve(probe.fileno(), size)
    return folder


def reserve(file: int, size: int) -> None:
    """Allocate disk space for an open file, where the system supports it, so that a full disk raises here.

    Raises:
        OSError: there is too little space.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            # Not supported by the file system.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


def sync(path: Path) -> None:
    """Flush a file to disk: some file systems report only then that the disk is full."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def atomic_write(file: Path, write: Callable[[Path], Any]) -> None:
    """Atomic write: `write` fills a temporary file that is then renamed to `file`.

    After a kill or with a full disk, `file` is either complete or as it was before.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    advice = "Its previous content is kept. Free disk space, set write permission, or use another folder."
    with explain_os_error(f"{file} could not be written.", advice):
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder_beside(file) as folder:
            partial = folder / file.name
            write(partial)
            sync(partial)
            partial.replace(file)


@contextlib.contextmanager
def temporary_folder_beside(target: Path) -> Iterator[Path]:
    """Create a temporary folder beside `target` in which to write it; delete it and leftovers at the end.

    Leftovers are such folders of killed processes. Every process has a folder of its own, since several may
    write the same target. Files in it have the usual permissions; the folder is closed to other users.
    """
    prefix = f".partial-{target.name}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        with open(folder / f"{_ALIVE}.new", "wb") as file:
            # Some file systems have no locks; there, leftovers of killed processes stay.
            with contextlib.suppress(OSError):
                _lock(file, wait=True)
            # Renamed once it is locked, so that no other process takes this folder for a leftover.
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
    # Locked, or just created.
    except OSError:
        return False
    return True


def _lock(file: IO[bytes], wait: bool) -> None:
    """Lock a file until it is closed or its process ends, however it ends."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
