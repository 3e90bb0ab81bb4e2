"""Lazy arrays: images and volumes that are read from files when a batch needs them."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from keras_ssl._types import Structure
from keras_ssl.data.files import hash_files, map_in_threads
from keras_ssl.data.volume import label_map
from keras_ssl.data.volume_io import map_npy, read_nifti_header, volume_suffix
from keras_ssl.data.volume_preparation import IntensityMap, apply_channels, to_ras


@dataclasses.dataclass(frozen=True, eq=False)
class LazyImages:
    """An array of images that `fit_pretext` and `FineTuner` accept, with no image in memory.

    `images[rows]` reads rows in threads; `np.asarray(images)` reads all. Training is that on an array: the
    order of batches depends only on seed and epoch, an interrupted run resumes bitwise, and the next batches
    are prefetched. `open_images` creates one from files.

    Args:
        read: function from the index of a row to its image, called from several threads at once.
        shape: `(n, *spatial, channels)`.
        dtype: type of the images.
        workers: threads that read a batch; `None` for the number of processors. Two batches are read at once.
        files: identity of the data, such as the sizes of the files; a resumed run compares it.

    Raises:
        ValueError: `shape` has no rows or a side of 0, or fewer than three axes. When reading: `read` returns
            another shape or type, NaN or infinity; the message names the row.

    >>> images = LazyImages(lambda row: np.full((4, 4, 1), row, "uint8"), shape=(10, 4, 4, 1))
    >>> len(images), images[[2, 7]][:, 0, 0, 0].tolist()
    (10, [2, 7])
    """

    is_lazy: ClassVar[bool] = True

    read: Callable[[int], np.ndarray]
    shape: tuple[int, ...]
    dtype: npt.DTypeLike = np.uint8
    workers: int | None = None
    files: Structure = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(map(int, self.shape)))
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        if len(self.shape) < 3 or min(self.shape) < 1:
            raise ValueError(f"`shape` must be (n, *spatial, channels), of 1 or more. Received {self.shape}.")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | npt.ArrayLike) -> np.ndarray:
        """Read one row, or several by a slice, a list of indices or a boolean mask."""
        if isinstance(rows, (int, np.integer)):
            return self._read_row(int(rows))
        if isinstance(rows, slice):
            indices = np.arange(len(self))[rows]
        else:
            indices = np.asarray(rows)
            indices = np.flatnonzero(indices) if indices.dtype == bool else indices
        images = map_in_threads(self._read_row, indices, self.workers)
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), self.dtype)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Read all."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def select(self, rows: npt.ArrayLike) -> "LazyImages":
        """Return the images of these rows, in this order, without reading them."""
        indices = np.arange(len(self))[np.asarray(rows)]
        return LazyImages(
            functools.partial(_read_selected, self.read, indices),
            (len(indices), *self.shape[1:]),
            self.dtype,
            self.workers,
            files=[self.files, indices],
        )

    def unreadable(self, verbose: int = 1) -> dict[int, str]:
        """Read every image once to find those that would stop training.

        Args:
            verbose: 1 shows a progress bar, 0 does not.

        Returns:
            Error messages, by row.
        """

        def find_error(row: int) -> str | None:
            try:
                self._read_row(row)
            except MemoryError:
                raise
            # Decoders may raise anything on damaged bytes.
            except Exception as error:
                return f"{type(error).__name__}: {error}"
            return None

        rows = range(len(self))
        errors = map_in_threads(find_error, rows, self.workers, verbose=verbose, unit="image")
        return {row: error for row, error in enumerate(errors) if error is not None}

    def _read_row(self, row: int) -> np.ndarray:
        if not -len(self) <= row < len(self):
            raise IndexError(f"Rows must lie in 0..{len(self) - 1}. Received {row}.")
        row %= len(self)
        image = np.asarray(self.read(row))
        if (image.shape, image.dtype) != (self.shape[1:], self.dtype):
            raise ValueError(
                f"`read` must return images of shape {self.shape[1:]} and type {self.dtype}. Received "
                f"{image.shape} and {image.dtype} of row {row}."
            )
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise ValueError(f"`read` must return finite images. Received NaN or infinity in row {row}.")
        return image


def _read_selected(read: Callable[[int], np.ndarray], indices: np.ndarray, row: int) -> np.ndarray:
    return read(int(indices[row]))


class FileIdentity(NamedTuple):
    """Identity of a file: size and modification time, or else a hash of its content."""

    stamp: tuple[int, int]
    digest: str

    @staticmethod
    def of(path: str) -> "FileIdentity":
        """Return the current identity of a file."""
        return FileIdentity(stamp := _stamp(path), _digest(path, stamp))

    def is_of(self, path: str) -> bool:
        """Return True if a file still has this content."""
        stamp = _stamp(path)
        return stamp == self.stamp or (stamp[0] == self.stamp[0] and _digest(path, stamp) == self.digest)


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


# Cached, so that a file that was replaced by a copy is not hashed for every patch.
@functools.lru_cache(maxsize=1 << 16)
def _digest(path: str, stamp: tuple[int, int]) -> str:
    return hash_files([path], workers=1)[0]


@dataclasses.dataclass(frozen=True)
class NumbersOnDisk:
    """An array in an uncompressed file that is memory-mapped for every read.

    An open mapping would hold a file descriptor, of which a process has about a thousand, and its pages would
    count as memory of this process.
    """

    path: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    order: str
    slope: float = 1.0
    inter: float = 0.0
    identity: FileIdentity | None = None

    @staticmethod
    def of_volume(path: str, identity: FileIdentity | None = None) -> "NumbersOnDisk":
        """Locate the voxels `(x, y, z)` of a `.nii` or `.npy` file that `read_volume` can read.

        With an `identity`, reading a file that was rewritten raises an error.
        """
        if volume_suffix(path) == ".npy":
            array: Any = map_npy(path)
            order = "C" if array.flags.c_contiguous else "F"
            return NumbersOnDisk(
                path, array.dtype.str, array.offset, array.shape[:3], order, identity=identity
            )
        from nibabel.arrayproxy import ArrayProxy

        numbers: Any = ArrayProxy(path, read_nifti_header(path))
        scaling = float(numbers.slope), float(numbers.inter)
        return NumbersOnDisk(
            path, numbers.dtype.str, numbers.offset, numbers.shape[:3], "F", *scaling, identity
        )

    @staticmethod
    def of_first_row(array: np.ndarray) -> "NumbersOnDisk":
        """Locate the first row of a memory-mapped array in C order."""
        assert isinstance(array, np.memmap)
        return NumbersOnDisk(str(array.filename), array.dtype.str, array.offset, array.shape[1:], "C")

    def map(self) -> np.ndarray:
        """Memory-map the stored values.

        Raises:
            OSError: the file is gone or was changed since it was opened.
        """
        order: Any = self.order
        try:
            # Its intensities were measured when it was opened.
            if self.identity is not None and not self.identity.is_of(self.path):
                raise ValueError("its content has changed")
            return np.memmap(self.path, np.dtype(self.dtype), "r", self.offset, self.shape, order)
        except (OSError, ValueError) as error:
            raise OSError(
                f"{self.path} must stay as `open_volumes` found it while it is read. Received: {error}. "
                "Put it back, or call `open_volumes` again."
            ) from error

    def scale(self, stored: np.ndarray) -> np.ndarray:
        """Apply the scaling of the header to stored values, as `read_volume` does."""
        if (self.slope, self.inter) != (1.0, 0.0):
            return (stored * np.float64(self.slope) + self.inter).astype(np.float32)
        is_float = stored.dtype.kind == "f"
        return np.array(stored, np.float32 if is_float else stored.dtype.newbyteorder("="))


@dataclasses.dataclass(frozen=True, eq=False)
class LazyVolume:
    """A prepared image or mask on disk that is read in parts: `volume[2:10, :, 4:8]`.

    Created by `open_volumes`; `np.asarray(volume)` reads all of it.

    Args:
        shape: `(x, y, z, modalities)` of an image, `(x, y, z)` of a mask.
        source: original file.
        numbers: location of each modality on disk; of a cached image, that of all modalities.
        orientation: axis orientation of the files; `None` if cached, hence already prepared.
        maps: intensity map of each modality; `None` for a mask.
        label_values: values in a mask's file that stand for the classes, see `open_volumes`.
    """

    shape: tuple[int, ...]
    source: str
    numbers: tuple[NumbersOnDisk, ...]
    orientation: np.ndarray | None = None
    maps: tuple[IntensityMap, ...] | None = None
    label_values: tuple[int, ...] | None = None

    @property
    def dtype(self) -> np.dtype:
        """float32 for an image, uint8 for a mask."""
        return np.dtype(np.float32 if len(self.shape) == 4 else np.uint8)

    def __len__(self) -> int:
        """Number of voxels along x."""
        return self.shape[0]

    def __getitem__(self, part: slice | tuple[slice, ...]) -> np.ndarray:
        """Read the part that up to three slices, along x, y and z, select."""
        if self.orientation is None:
            return np.array(self.numbers[0].map()[part])
        parts = [one.scale(to_ras(one.map(), self.orientation)[part]) for one in self.numbers]
        if self.maps is None:
            return label_map(parts[0], label_values=self.label_values)
        return apply_channels(np.stack(parts, axis=-1), self.maps)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Read all."""
        return self[:, :, :].astype(dtype or self.dtype, copy=False)
