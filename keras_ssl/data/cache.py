"""Cache on disk of arrays that threads fill row by row from files; atomic writes, checksums."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from keras_ssl._atomic import explain_os_error, ready_folder, reserve, temporary_folder_beside
from keras_ssl._types import Structure
from keras_ssl.data.files import map_in_threads

_REASONS, _CHECKSUMS = "unreadable.json", "checksums.json"

# Bytes per checksum.
_CHUNK_BYTES = 1 << 23

# Arrays by name.
Arrays = dict[str, np.ndarray]
# Shape of a row, and type, of each array.
Parts = dict[str, tuple[tuple[int, ...], type]]


@dataclasses.dataclass(frozen=True)
class Decoding:
    """Decodes files into arrays, in memory or in a cache.

    Args:
        rows: number of rows of each array.
        parts: shape of a row and type of each array, by name.
        fill: function `(row, arrays)` that fills a row of the arrays and returns `None`, or the reason of a
            failure as a JSON-compatible value.
        workers: number of threads; `None` for the number of processors.
        verbose: 1 shows a progress bar, 0 does not.
        unit: what the progress bar counts.
    """

    rows: int
    parts: Parts
    fill: Callable[[int, Arrays], Structure]
    workers: int | None = None
    verbose: int = 1
    unit: str = "image"

    def in_memory(self) -> tuple[Arrays, dict[int, Structure]]:
        """Return the arrays without failed rows, and the reasons of failures by row."""
        arrays: Arrays = {
            name: np.empty((self.rows, *shape), dtype) for name, (shape, dtype) in self.parts.items()
        }
        failures = self._run(arrays)
        if failures:
            arrays = {name: array[self._readable(failures)] for name, array in arrays.items()}
        return arrays, failures

    def on_disk(self, entry: Path) -> tuple[Arrays, dict[int, Structure]]:
        """Return the same, memory-mapped from a folder, which is written first if it does not exist.

        Writes are atomic: a killed run leaves no entry. The checksums of all files are verified each time, so
        that data that changed on disk are detected.

        Raises:
            OSError: the folder cannot be written or has too little space.
        """
        if entry.exists():
            try:
                return self._open(entry)
            # Damaged bytes may raise anything, such as an AttributeError on unexpected JSON.
            except Exception as error:
                if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                    raise OSError(error.errno, f"`cache_dir` must be readable. Received: {error}") from error
                warnings.warn(f"{entry} is damaged and is decoded again: {error}", stacklevel=3)
        try:
            self._write(entry)
        except OSError:
            # Another run may have written this entry meanwhile.
            with contextlib.suppress(Exception):
                return self._open(entry)
            raise
        try:
            return self._open(entry)
        except Exception as error:
            raise OSError(
                f"`cache_dir` must keep what is written to it. {entry} could not be read back: {error}"
            ) from error

    def _readable(self, failures: dict[int, Structure]) -> np.ndarray:
        return np.setdiff1d(np.arange(self.rows), list(failures))

    def _run(self, arrays: Arrays) -> dict[int, Structure]:
        """Fill all rows; return the reasons of failures by row."""
        reasons = map_in_threads(
            lambda row: self.fill(row, arrays),
            range(self.rows),
            self.workers,
            verbose=self.verbose,
            unit=self.unit,
        )
        return {row: reason for row, reason in enumerate(reasons) if reason is not None}

    def _open(self, entry: Path) -> tuple[Arrays, dict[int, Structure]]:
        """Return the arrays and failures of an entry; raises any `Exception` if it is damaged."""
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
        """Decode into a temporary folder and rename it when it is complete."""
        ready_folder(entry.parent, "cache_dir")
        free = shutil.disk_usage(entry.parent).free
        row_bytes = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.parts.values())
        if free < (needed := self.rows * row_bytes):
            raise OSError(
                f"`cache_dir` needs {needed / 1e9:.2f} GB. {entry.parent} has {free / 1e9:.2f} GB free."
            )
        with temporary_folder_beside(entry) as folder:
            self._fill(folder / entry.name, entry)

    def _fill(self, partial: Path, entry: Path) -> None:
        problem, advice = f"`cache_dir` could not be filled ({entry}).", "Free space there and call again."
        with explain_os_error(problem, advice):
            partial.mkdir()
            arrays = {
                name: _new_array(partial / f"{name}.npy", (self.rows, *shape), dtype)
                for name, (shape, dtype) in self.parts.items()
            }
        failures = self._run(dict(arrays))
        with explain_os_error(problem, advice):
            for name, array in arrays.items():
                array.flush()
                if failures:
                    _keep_rows(partial / f"{name}.npy", self._readable(failures))
            (partial / _REASONS).write_text(json.dumps(failures), encoding="utf-8")
            sums = json.dumps(self._checksums(partial))
            (partial / _CHECKSUMS).write_text(sums, encoding="utf-8")
            _move_into_place(partial, entry)

    def _checksums(self, entry: Path) -> dict[str, list[int]]:
        """Compute the CRC-32 of each chunk of each file of an entry."""
        sums = {}
        for name in [*(f"{part}.npy" for part in self.parts), _REASONS]:
            starts = range(0, (entry / name).stat().st_size, _CHUNK_BYTES)
            sums[name] = map_in_threads(functools.partial(_checksum, entry / name), starts, self.workers)
        return sums


def _checksum(path: Path, start: int) -> int:
    with open(path, "rb") as file:
        file.seek(start)
        return zlib.crc32(file.read(_CHUNK_BYTES))


def entry_key(settings: Structure, hashes: Iterable[str]) -> str:
    """Return the name of an entry, a hash of JSON-compatible settings and of the files' contents, in order.

    >>> entry_key([1], ["ab"]) == entry_key([1], ["ac"])
    False
    """
    digest = hashlib.sha256(json.dumps(settings).encode())
    for content in hashes:
        digest.update(content.encode())
    return digest.hexdigest()[:32]


def _new_array(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """Create an array with reserved disk space, since a memory map on a full disk kills the process."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with open(path, "r+b") as file:
        reserve(file.fileno(), array.offset + array.nbytes)
    return array


def _move_into_place(partial: Path, entry: Path) -> None:
    """Rename a complete folder into place, or its files, one by one, into the damaged folder there.

    Other runs may be reading or repairing that folder; none of its files is missing at any moment.
    """
    try:
        partial.rename(entry)
    except OSError:
        for file in partial.iterdir():
            file.replace(entry / file.name)


def _keep_rows(path: Path, rows: np.ndarray) -> None:
    """Keep only these rows of an array on disk, in place, since there may be no space for another."""
    array = np.lib.format.open_memmap(path, "r+")
    for target, row in enumerate(rows):
        array[target] = array[row]
    array.flush()
    shape = (len(rows), *array.shape[1:])
    with open(path, "r+b") as file:
        # NumPy pads for the digits of the first axis, so the header keeps its length.
        np.lib.format.write_array_header_1_0(
            file, {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
        )
        file.truncate(array.offset + math.prod(shape) * array.dtype.itemsize)
