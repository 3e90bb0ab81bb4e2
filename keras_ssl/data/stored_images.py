"""Images of one shape that stay where they are stored, each read when a batch asks for it."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_ssl.data.decoded_cache import Arrays, Decoding
from keras_ssl.data.decoding import read_image
from keras_ssl.data.image_table import ImageTable
from keras_ssl.data.listing import refuse_missing
from keras_ssl.data.preparation import Preparation
from keras_ssl.data.volume_preparation import VolumePreparation
from keras_ssl.data.volume_rows import UnfitFilesError, read_row, refuse_unfit
from keras_ssl.data.volume_table import VolumeTable


@dataclasses.dataclass(frozen=True, eq=False)
class StoredImages:
    """What `fit_pretext` and `FineTuner` take for an array, though no image of it is in memory.

    `images[rows]` reads these rows, in threads; `np.asarray(images)` reads all. Batches are those of an
    array: their order follows from seed and epoch, a run that was stopped goes on bitwise, and the next
    batches are read while one is trained on. `open_images` makes it of files.

    Args:
        read: function from the number of a row to its image, called from several threads at once.
        shape: `(n, *spatial, channels)`.
        dtype: that of the images.
        workers: threads that read a batch; as many as there are processors where `None`. Two batches are read
            at once.
        files: what tells these images from others of the same names, such as the sizes of their files; a
            resumed run compares it.

    Raises:
        ValueError: `shape` has no rows or a side of 0, or fewer than three axes. In reading: what `read`
            returns is of another shape or type, or holds NaN or infinity; the message names the row.

    >>> images = StoredImages(lambda row: np.full((4, 4, 1), row, "uint8"), shape=(10, 4, 4, 1))
    >>> len(images), images[[2, 7]][:, 0, 0, 0].tolist()
    (10, [2, 7])
    """

    read: Callable[[int], np.ndarray]
    shape: tuple[int, ...]
    dtype: npt.DTypeLike = np.uint8
    workers: int | None = None
    files: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(map(int, self.shape)))
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        if len(self.shape) < 3 or min(self.shape) < 1:
            raise ValueError(f"`shape` must be (n, *spatial, channels), of 1 or more. Received {self.shape}.")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Read one row, by a number, or several, by a slice or a list of numbers."""
        if isinstance(rows, (int, np.integer)):
            return self._read_row(rows)
        numbers = range(*rows.indices(len(self))) if isinstance(rows, slice) else _numbers(rows)
        with ThreadPoolExecutor(self.workers or os.cpu_count()) as executor:
            images = list(executor.map(self._read_row, numbers))
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), self.dtype)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Read all of it."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def unreadable(self, verbose: int = 1) -> dict[int, str]:
        """Read every image once, to find those that training would stop at.

        Args:
            verbose: 1 shows a progress bar, 0 does not.

        Returns:
            What is wrong, by row.
        """

        def fill(row: int, arrays: Arrays) -> str | None:
            try:
                self._read_row(row)
            except MemoryError:
                raise
            # Whatever a decoder makes of damaged bytes.
            except Exception as error:
                return f"{type(error).__name__}: {error}"
            return None

        return Decoding(len(self), {}, fill, self.workers, verbose).in_memory()[1]

    def _read_row(self, row: Any) -> np.ndarray:
        if not -len(self) <= row < len(self):
            raise IndexError(f"Rows must lie in 0..{len(self) - 1}. Received {row}.")
        row = int(row) % len(self)
        image = np.asarray(self.read(row))
        if (image.shape, image.dtype) != (self.shape[1:], self.dtype):
            raise ValueError(
                f"`read` must return images of shape {self.shape[1:]} and type {self.dtype}. Received "
                f"{image.shape} and {image.dtype} of row {row}."
            )
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise ValueError(f"`read` must return finite images. Received NaN or infinity in row {row}.")
        return image


def open_images(
    table: ImageTable | VolumeTable | Sequence[str | Path],
    preparation: Preparation | VolumePreparation,
    workers: int | None = None,
) -> StoredImages:
    """Leave the images of a table in their files, decoded and prepared anew whenever they are trained on.

    They are what `load_images` or `load_volumes` would return, without the memory or the cache that this
    takes. Masks are not read; volumes of many sizes are for `open_volumes`.

    Args:
        table: the files; a plain list is one of photographs.
        preparation: what is done to each: `Preparation` of photographs; of volumes `VolumePreparation`, whose
            `shape` must be given.
        workers: threads that read a batch; as many as there are processors where `None`.

    Returns:
        Images, `(n, size, size, channels)` of uint8, or volumes, `(n, *shape, modalities)` of float32. To
        read one that is damaged raises `ValueError`, which names the file. Images are not read before they
        are trained on: of constant ones, and of those without a disc, only `load_images` warns.

    Raises:
        FileNotFoundError: files do not exist.
        ValueError: `preparation` is not for such a table, or has no shape.

    >>> import tempfile, keras
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keras.utils.save_img(folder + "/a.png", np.ones((40, 40, 3)), scale=False)
    ...     images = open_images(ImageTable.from_folder(folder), Preparation(size=32))
    ...     images.shape, images[0].max()
    ((1, 32, 32, 3), np.uint8(1))
    """
    if not isinstance(table, (ImageTable, VolumeTable)):
        table = ImageTable(np.array(table, dtype=str))
    if isinstance(table, ImageTable) and isinstance(preparation, Preparation):
        refuse_missing(table.paths)
        side = preparation.size
        read: Any = functools.partial(_read_photograph, table.paths, preparation)
        photographs = (len(table), side, side, preparation.channels)
        return StoredImages(read, photographs, np.uint8, workers, _sizes(table.paths))
    if isinstance(table, VolumeTable) and isinstance(preparation, VolumePreparation) and preparation.shape:
        refuse_missing(table.files.ravel())
        read = functools.partial(_read_scan, table, preparation)
        shape = (len(table), *preparation.shape, table.files.shape[1])
        return StoredImages(read, shape, np.float32, workers, _sizes(table.files.ravel()))
    raise ValueError(
        "`preparation` must be a Preparation for photographs and a VolumePreparation with a shape for a "
        f"VolumeTable. Received {preparation} for {type(table).__name__}."
    )


def _sizes(paths: np.ndarray) -> np.ndarray:
    return np.array([os.path.getsize(path) for path in paths])


def _numbers(rows: Any) -> np.ndarray:
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows


def _read_photograph(paths: np.ndarray, preparation: Preparation, row: int) -> np.ndarray:
    return preparation.apply(read_image(paths[row]))


def _read_scan(table: VolumeTable, preparation: VolumePreparation, row: int) -> np.ndarray:
    try:
        return preparation.image(read_row(table.files[row]).image)
    except UnfitFilesError as error:
        refuse_unfit(table.files, None, {row: error.problems})
        raise
