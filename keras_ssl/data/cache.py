"""Arrays that are filled row by row from files, in parallel, once, and kept on disk."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ssl._atomic import explained, folder_aside, ready_folder, reserve
from keras_ssl.data.files import map_in_order

_REASONS, _CHECKSUMS = "unreadable.json", "checksums.json"


# Bytes that are read at a time to be compared with their checksum.
_PIECE = 1 << 23


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

        An entry appears whole or not at all, hence a run that was killed leaves none. Its files are read once
        and compared with their checksums each time, so that bytes that changed on the disk are noticed.

        Raises:
            OSError: the folder cannot be written or has too little space.
        """
        if entry.exists():
            try:
                return self._open(entry)
            # Whatever the damaged bytes led to, AttributeError of another kind of JSON, say.
            except Exception as error:
                if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                    raise OSError(error.errno, f"`cache_dir` must be readable. Received: {error}") from error
                warnings.warn(f"{entry} is damaged and is decoded again: {error}", stacklevel=3)
        try:
            self._write(entry)
        except OSError:
            # Another run may have made this very entry meanwhile.
            with contextlib.suppress(Exception):
                return self._open(entry)
            raise
        try:
            return self._open(entry)
        except Exception as error:
            raise OSError(
                f"`cache_dir` must keep what is written to it. {entry} could not be read back: {error}"
            ) from error

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
            rows = map_in_order(executor, lambda row: self.fill(row, arrays), range(self.rows))
            for row, reason in enumerate(rows):
                if reason is not None:
                    failures[row] = reason
                progress.update(row + 1)
        finally:
            # Without it an interrupted run would first decode all that is still waiting.
            executor.shutdown(cancel_futures=True)
        return failures

    def _open(self, entry: Path) -> tuple[Arrays, dict[int, Any]]:
        """The arrays and failures of an entry; any `Exception` where it is not whole."""
        expected_sums = json.loads((entry / _CHECKSUMS).read_text(encoding="utf-8"))
        found = self._checksums(entry)
        changed = [name for name in found if found[name] != expected_sums[name]]
        if changed:
            raise ValueError(f"{', '.join(changed)} changed since it was written")
        reasons = json.loads((entry / _REASONS).read_text(encoding="utf-8"))
        failures = {int(row): reason for row, reason in reasons.items()}
        arrays: Arrays = {name: np.lib.format.open_memmap(entry / f"{name}.npy", "r") for name in self.parts}
        for name, (shape, dtype) in self.parts.items():
            expected = (self.rows - len(failures), *shape), np.dtype(dtype)
            if (arrays[name].shape, arrays[name].dtype) != expected:
                raise ValueError(f"{name} must be of shape and type {expected}")
        return arrays, failures

    def _write(self, entry: Path) -> None:
        """Decode into a folder of its own, and rename it once all is written."""
        ready_folder(entry.parent, "cache_dir")
        free = shutil.disk_usage(entry.parent).free
        row_bytes = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.parts.values())
        if free < (needed := self.rows * row_bytes):
            raise OSError(
                f"`cache_dir` needs {needed / 1e9:.2f} GB. {entry.parent} has {free / 1e9:.2f} GB free."
            )
        with folder_aside(entry) as folder:
            self._fill(folder / entry.name, entry)

    def _fill(self, partial: Path, entry: Path) -> None:
        trouble, advice = f"`cache_dir` could not be filled ({entry}).", "Free space there and call again."
        with explained(trouble, advice):
            partial.mkdir()
            arrays = {
                name: _new_array(partial / f"{name}.npy", (self.rows, *shape), dtype)
                for name, (shape, dtype) in self.parts.items()
            }
        failures = self._run(dict(arrays))
        with explained(trouble, advice):
            for name, array in arrays.items():
                array.flush()
                if failures:
                    _keep_rows(partial / f"{name}.npy", self._others(failures))
            (partial / _REASONS).write_text(json.dumps(failures), encoding="utf-8")
            sums = json.dumps(self._checksums(partial))
            (partial / _CHECKSUMS).write_text(sums, encoding="utf-8")
            _put(partial, entry)

    def _checksums(self, entry: Path) -> dict[str, list[int]]:
        """CRC-32 of each part of each file of an entry."""
        sums = {}
        with ThreadPoolExecutor(self.workers or os.cpu_count()) as executor:
            for name in [*(f"{part}.npy" for part in self.parts), _REASONS]:
                starts = range(0, (entry / name).stat().st_size, _PIECE)
                sums[name] = list(map_in_order(executor, functools.partial(_checksum, entry / name), starts))
        return sums


def _checksum(path: Path, start: int) -> int:
    with open(path, "rb") as file:
        file.seek(start)
        return zlib.crc32(file.read(_PIECE))


def entry_key(settings: Any, hashes: Iterable[str]) -> str:
    """The name of an entry: it follows from JSON-able settings and the content of the files, in order.

    >>> entry_key([1], ["ab"]) == entry_key([1], ["ac"])
    False
    """
    digest = hashlib.sha256(json.dumps(settings).encode())
    for content in hashes:
        digest.update(content.encode())
    return digest.hexdigest()[:32]


def _new_array(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """An array whose room on the disk is taken: to write to a memory map without it kills the process."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with open(path, "r+b") as file:
        reserve(file.fileno(), array.offset + array.nbytes)
    return array


def _put(partial: Path, entry: Path) -> None:
    """Put a whole folder in its place, or its files, one by one, into the damaged one that is there.

    Others may be reading that one, or mending it too; no file of it is missing at any moment.
    """
    try:
        partial.rename(entry)
    except OSError:
        for file in partial.iterdir():
            file.replace(entry / file.name)


def _keep_rows(path: Path, rows: np.ndarray) -> None:
    """Narrow the array on disk, in place, as there may be no room for another."""
    array = np.lib.format.open_memmap(path, "r+")
    for target, row in enumerate(rows):
        array[target] = array[row]
    array.flush()
    shape = (len(rows), *array.shape[1:])
    with open(path, "r+b") as file:
        # NumPy leaves room for the digits of the first axis, hence the header stays as long as it was.
        np.lib.format.write_array_header_1_0(
            file, {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
        )
        file.truncate(array.offset + math.prod(shape) * array.dtype.itemsize)
