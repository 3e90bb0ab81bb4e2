"""A disk that is full, a folder that is read-only, a clock that runs backwards."""

import contextlib
import itertools
import os
import tempfile
from pathlib import Path

import pytest

resource = pytest.importorskip("resource", reason="files cannot be limited here")

_NOBODY = 65534


@contextlib.contextmanager
def full_disk(size):
    """No file can grow beyond `size` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def read_only(prepare=lambda folder: None):
    """A folder, made and filled by `prepare`, that nobody may write to, not even the tests of root."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "folder"
        folder.mkdir()
        prepare(folder)
        Path(name).chmod(0o755)
        folder.chmod(0o555)
        try:
            if user == 0:
                os.seteuid(_NOBODY)
        except PermissionError:
            pytest.skip("root cannot become another user here")
        try:
            yield folder
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


def run_clock_backwards(monkeypatch):
    """An hour back at every look at the clock."""
    hours = itertools.count()
    monkeypatch.setattr("time.time", lambda: 1e9 - 3600 * next(hours))
