"""Arrays that are filled row by row from files, in parallel, once, and kept on disk."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np

Arrays = dict[str, np.ndarray]
Parts = dict[str, tuple[tuple[int, ...], type]]


@dataclasses.dataclass(frozen=True)
class Decoding:
    """What is to be decoded, and how.

    Args:
        rows: how many rows each array has.
        parts: shape of a row and type of each array, by name.
        fill: function `(row, arrays)` that fills its row of the arrays and returns `None`, or what was
            wrong, as JSON can hold it.
        workers: threads; as many as there are processors where `None`.
        verbose: 1 shows a progress bar, 0 does not.
        unit: what the progress bar counts.
    """

    rows: int
    parts: Parts
    fill: Callable[[int, Arrays], Any]
    workers: int | None = None
    verbose: int = 1
    unit: str = "image"

    def in_memory(self) -> tuple[Arrays, dict[int, Any]]:
        """The arrays, without the rows that failed, and what was wrong with those."""
        arrays: Arrays = {
            name: np.empty((self.rows, *shape), dtype) for name, (shape, dtype) in self.parts.items()
        }
        failures = self._run(arrays)
        if failures:
            arrays = {name: array[self._others(failures)] for name, array in arrays.items()}
        return arrays, failures

    def on_disk(self, entry: Path) -> tuple[Arrays, dict[int, Any]]:
        """The same, memory-mapped, from a folder; written there first where it does not exist.

        An entry appears whole or not at all, hence a run that was killed leaves none.

        Raises:
            OSError: the folder cannot be written or has too little space.
        """
        cached = self._open(entry)
        if cached is None:
            self._write(entry)
            cached = self._open(entry)
        if cached is None:
            raise OSError(f"`cache_dir` must keep what is written to it. {entry} could not be read back.")
        return cached

    def _others(self, failures: dict[int, Any]) -> np.ndarray:
        return np.setdiff1d(np.arange(self.rows), list(failures))

    def _run(self, arrays: Arrays) -> dict[int, Any]:
        """Fill all rows; what was wrong with each row that could not be."""
        progress = keras.utils.Progbar(self.rows, verbose=self.verbose, unit_name=self.unit)
        failures = {}
        # Threads: decoding and resizing release the lock. Two gave 20.5 images/s of 12 megapixels on two
        # cores where two processes gave 13.6, and one thread 10.4.
        executor = ThreadPoolExecutor(self.workers or os.cpu_count())
        try:
            rows = executor.map(lambda row: self.fill(row, arrays), range(self.rows))
            for row, reason in enumerate(rows):
                if reason is not None:
                    failures[row] = reason
                progress.update(row + 1)
        finally:
            # Without it an interrupted run would first decode all that is still waiting.
            executor.shutdown(cancel_futures=True)
        return failures

    def _open(self, entry: Path) -> tuple[Arrays, dict[int, Any]] | None:
        """The arrays and failures of an entry; `None` where there is none, or none that is whole."""
        if not entry.is_dir():
            return None
        try:
            reasons = json.loads((entry / "unreadable.json").read_text(encoding="utf-8"))
            failures = {int(row): reason for row, reason in reasons.items()}
            arrays: Arrays = {
                name: np.lib.format.open_memmap(entry / f"{name}.npy", "r") for name in self.parts
            }
            for name, (shape, dtype) in self.parts.items():
                expected = (self.rows - len(failures), *shape), np.dtype(dtype)
                if (arrays[name].shape, arrays[name].dtype) != expected:
                    raise ValueError(f"{name} must be of shape and type {expected}")
        # Whatever the damaged bytes led to, AttributeError of another kind of JSON, say.
        except Exception as error:
            warnings.warn(f"{entry} is damaged and is decoded again: {error}", stacklevel=4)
            shutil.rmtree(entry)
            return None
        return arrays, failures

    def _write(self, entry: Path) -> None:
        """Decode into a folder of its own, and rename it once all is written."""
        entry.parent.mkdir(parents=True, exist_ok=True)
        # A memory-mapped write to a full disk kills the process: ask first.
        free = shutil.disk_usage(entry.parent).free
        row_bytes = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.parts.values())
        if free < (needed := self.rows * row_bytes):
            raise OSError(
                f"`cache_dir` needs {needed / 1e9:.2f} GB. {entry.parent} has {free / 1e9:.2f} GB free."
            )
        partial = Path(tempfile.mkdtemp(prefix=f"{entry.name}.partial-", dir=entry.parent))
        try:
            arrays = {
                name: np.lib.format.open_memmap(partial / f"{name}.npy", "w+", dtype, (self.rows, *shape))
                for name, (shape, dtype) in self.parts.items()
            }
            failures = self._run(dict(arrays))
            for name, array in arrays.items():
                array.flush()
                if failures:
                    _keep_rows(partial / f"{name}.npy", self._others(failures))
            (partial / "unreadable.json").write_text(json.dumps(failures), encoding="utf-8")
            partial.rename(entry)
        except OSError:
            # Another run may have finished this very entry first, and cleared ours away as below.
            if not entry.exists():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for leftover in entry.parent.glob(f"{entry.name}.partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def entry_key(settings: Any, hashes: Iterable[str]) -> str:
    """The name of an entry: it follows from JSON-able settings and the content of the files, in order.

    >>> entry_key([1], ["ab"]) == entry_key([1], ["ac"])
    False
    """
    digest = hashlib.sha256(json.dumps(settings).encode())
    for content in hashes:
        digest.update(content.encode())
    return digest.hexdigest()[:32]


def _keep_rows(path: Path, rows: np.ndarray) -> None:
    """Narrow the array on disk, row by row into a new file of the same name."""
    array = np.load(path, mmap_mode="r")
    kept = np.lib.format.open_memmap(
        path.with_suffix(".kept"), "w+", array.dtype, (len(rows), *array.shape[1:])
    )
    for target, row in enumerate(rows):
        kept[target] = array[row]
    kept.flush()
    path.with_suffix(".kept").replace(path)
