"""Lazy collections: images and volumes that are read when a batch needs them."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from keras_ssl.data.cache import Arrays, Decoding, Parts, entry_key
from keras_ssl.data.files import check_files_exist, map_in_order
from keras_ssl.data.groups import hash_files, refuse_changed
from keras_ssl.data.image_preparation import Preparation
from keras_ssl.data.image_reading import read_image
from keras_ssl.data.image_table import ImageTable
from keras_ssl.data.volume import VolumeGrid, check_label_values, label_map, memory_error_naming
from keras_ssl.data.volume_io import map_npy, read_nifti_header, volume_suffix
from keras_ssl.data.volume_preparation import (
    IntensityMap,
    VolumePreparation,
    apply_channels,
    axis_orientation,
    measure_channels,
    ras_grid,
    to_ras,
)
from keras_ssl.data.volume_table import (
    InvalidFilesError,
    Problems,
    RowStatistics,
    VolumeTable,
    check_empty_masks,
    check_max_foreground_loss,
    count_labels,
    is_constant,
    load_statistics,
    prepare_row,
    raise_invalid_files,
    read_row,
    read_row_grid,
    statistics_parts,
    store_statistics,
    warn_about_table,
)


@dataclasses.dataclass(frozen=True, eq=False)
class LazyImages:
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

    >>> images = LazyImages(lambda row: np.full((4, 4, 1), row, "uint8"), shape=(10, 4, 4, 1))
    >>> len(images), images[[2, 7]][:, 0, 0, 0].tolist()
    (10, [2, 7])
    """

    is_lazy: ClassVar[bool] = True

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
) -> LazyImages:
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
        check_files_exist(table.paths)
        side = preparation.size
        read: Any = functools.partial(_read_photograph, table.paths, preparation)
        photographs = (len(table), side, side, preparation.channels)
        return LazyImages(read, photographs, np.uint8, workers, _sizes(table.paths))
    if isinstance(table, VolumeTable) and isinstance(preparation, VolumePreparation) and preparation.shape:
        check_files_exist(table.files.ravel())
        read = functools.partial(_read_scan, table, preparation)
        shape = (len(table), *preparation.shape, table.files.shape[1])
        return LazyImages(read, shape, np.float32, workers, _sizes(table.files.ravel()))
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
    except InvalidFilesError as error:
        raise_invalid_files(table.files, None, {row: error.problems})
        raise


# Part of every key: raise it when the same files and settings come to give other voxels.
_FORMAT = 2


class FileIdentity(NamedTuple):
    """Identity of a file: size and modification time, or else its content."""

    stamp: tuple[int, int]
    digest: str

    @staticmethod
    def of(path: str) -> "FileIdentity":
        """The identity that a file has now."""
        return FileIdentity(stamp := _stamp(path), _digest(path, stamp))

    def is_of(self, path: str) -> bool:
        """Return True if the file has its original content."""
        stamp = _stamp(path)
        return stamp == self.stamp or (stamp[0] == self.stamp[0] and _digest(path, stamp) == self.digest)


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


# Kept, so that a file that was put back is not read whole for every patch.
@functools.lru_cache(maxsize=1 << 16)
def _digest(path: str, stamp: tuple[int, int]) -> str:
    return str(hash_files([path], workers=1)[0])


@dataclasses.dataclass(frozen=True)
class NumbersOnDisk:
    """Where the numbers of an uncompressed file lie, mapped anew for every read.

    A mapping that stayed open would hold a file descriptor, of which a process has about a thousand, and
    its pages would count as this process' memory for as long.
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
        """The numbers `(x, y, z)` of a `.nii` or `.npy` file that `read_volume` can read.

        With an `identity` a file that is rewritten is refused.
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
    def of_row(path: str) -> "NumbersOnDisk":
        """The numbers of the one row of a cache entry's array."""
        array: Any = map_npy(path)
        return NumbersOnDisk(path, array.dtype.str, array.offset, array.shape[1:], "C")

    def map(self) -> np.ndarray:
        """The stored numbers, without reading them.

        Raises:
            OSError: the file is gone or is another than when it was opened.
        """
        order: Any = self.order
        try:
            # What was measured in it, as its intensities, would be that of another volume.
            if self.identity is not None and not self.identity.is_of(self.path):
                raise ValueError("its content is another")
            return np.memmap(self.path, np.dtype(self.dtype), "r", self.offset, self.shape, order)
        except (OSError, ValueError) as error:
            raise OSError(
                f"{self.path} must stay as `open_volumes` found it while it is read. Received: {error}. "
                "Put it back, or call `open_volumes` again."
            ) from error

    def scale(self, stored: np.ndarray) -> np.ndarray:
        """What the header makes of stored numbers, as `read_volume` does it."""
        if (self.slope, self.inter) != (1.0, 0.0):
            return (stored * np.float64(self.slope) + self.inter).astype(np.float32)
        is_float = stored.dtype.kind == "f"
        return np.array(stored, np.float32 if is_float else stored.dtype.newbyteorder("="))


@dataclasses.dataclass(frozen=True, eq=False)
class LazyVolume:
    """A prepared image or mask on disk, of which parts are read: `volume[2:10, :, 4:8]`.

    Made by `open_volumes`; `np.asarray(volume)` reads all of it.

    Args:
        shape: `(x, y, z, modalities)` of an image, `(x, y, z)` of a mask.
        source: the file that it comes from.
        numbers: of each modality where they are on disk; of a cached image, of all together.
        orientation: how the axes of the files run; `None` of what is cached, which is prepared.
        maps: what is done to the intensities of each modality of files; `None` of a mask.
        label_values: the values in a mask's file that stand for classes, see `open_volumes`.
    """

    shape: tuple[int, ...]
    source: str
    numbers: tuple[NumbersOnDisk, ...]
    orientation: np.ndarray | None = None
    maps: tuple[IntensityMap, ...] | None = None
    label_values: tuple[int, ...] | None = None

    @property
    def dtype(self) -> np.dtype:
        """float32 of an image, uint8 of a mask."""
        return np.dtype(np.float32 if len(self.shape) == 4 else np.uint8)

    def __len__(self) -> int:
        """Voxels along x."""
        return self.shape[0]

    def __getitem__(self, part: slice | tuple[slice, ...]) -> np.ndarray:
        """Read what up to three slices, along x, y and z, name."""
        if self.orientation is None:
            return np.array(self.numbers[0].map()[part])
        parts = [one.scale(to_ras(one.map(), self.orientation)[part]) for one in self.numbers]
        if self.maps is None:
            return label_map(parts[0], label_values=self.label_values)
        return apply_channels(np.stack(parts, axis=-1), self.maps)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Read all of it."""
        return self[:, :, :].astype(dtype or self.dtype, copy=False)


def open_volumes(
    table: VolumeTable,
    preparation: VolumePreparation,
    cache_dir: str | Path | None = None,
    *,
    num_classes: int | None = None,
    empty_masks: str = "warn",
    label_values: Sequence[int] | None = None,
    max_foreground_loss: float = 0.01,
    workers: int | None = None,
    verbose: int = 1,
) -> tuple[list[LazyVolume], list[LazyVolume] | None]:
    """Prepared volumes of any size, left on disk for `PatchBatches` to read parts of.

    Every file is read once, to check it and to measure its intensities. From then on `.nii` and `.npy`
    files are read in part, as they are, where `preparation` neither resamples, crops nor pads them. What
    is compressed or to be moved to another grid is prepared into `cache_dir`, one entry per row, and
    found there by the next run, as `load_images` does it.

    Args:
        table: the files.
        preparation: what is done to each.
        cache_dir: folder for prepared volumes, made where missing.
        num_classes: labels must lie in 0..`num_classes` - 1. Where `None`, those of all masks together must
            be 0..K - 1 without gaps.
        empty_masks: what is done about masks that, once prepared, have no foreground: `"warn"`, `"refuse"` or
            `"allow"`.
        label_values: the values in the masks that stand for classes 0, 1 and so on, such as `(0, 255)` or
            `(0, 1, 2, 4)` of BraTS; `None` where they are numbers of classes.
        max_foreground_loss: the fraction of a mask's voxels of any class that the preparation's shape may cut
            off; more is an error. Less is warned of, with how much each mask loses. 1 allows all.
        workers: threads; as many as there are processors where `None`.
        verbose: 1 shows a progress bar, 0 does not.

    Returns:
        Images, `(x, y, z, modalities)` each, and masks, `(x, y, z)` each, or `None` where the table has
        none.

    Raises:
        FileNotFoundError: files do not exist.
        ValueError: files are unfit, as `VolumeTable.check` says, or the shape cuts off too much: all files
            are named at once. Or one needs the cache, and `cache_dir` is `None`.
        MemoryError: a volume does not fit into memory. The message names its file.
        OSError: `cache_dir` cannot be written or has too little space; files changed or could no longer be
            read. In reading: a file is gone or was rewritten.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/a.npy", np.arange(60.0).reshape(3, 4, 5))
    ...     images, _ = open_volumes(VolumeTable.from_folder(folder), VolumePreparation(), verbose=0)
    ...     images[0].shape, images[0][1:3, 0:2, :].shape
    ((3, 4, 5, 1), (2, 2, 5, 1))
    """
    check_empty_masks(empty_masks)
    check_label_values(label_values, num_classes)
    check_max_foreground_loss(max_foreground_loss)
    values = None if label_values is None else tuple(map(int, label_values))
    check_files_exist([*table.files.ravel(), *(() if table.masks is None else table.masks)])
    opened: dict[int, _Opened] = {}
    failures: dict[int, Problems] = {}

    def open_row(row: int) -> None:
        files, mask = [str(path) for path in table.files[row]], table.mask_of(row)
        try:
            with memory_error_naming(files[0]):
                stored = _open_files(files, mask, preparation, num_classes, values)
                opened[row] = stored or _open_cached(files, mask, preparation, cache_dir, num_classes, values)
        except InvalidFilesError as error:
            failures[row] = error.problems

    progress = keras.utils.Progbar(len(table), verbose=verbose, unit_name="volume")
    executor = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        for row, _ in enumerate(map_in_order(executor, open_row, range(len(table)))):
            progress.update(row + 1)
    finally:
        executor.shutdown(cancel_futures=True)
    raise_invalid_files(table.files, table.masks, failures)
    images, masks, facts = zip(*(opened[row] for row in range(len(table))), strict=True)
    warn_about_table(
        table,
        facts,
        empty_masks=empty_masks,
        num_classes=num_classes if values is None else len(values),
        max_foreground_loss=max_foreground_loss,
    )
    return list(images), None if table.masks is None else list(masks)


class _Opened(NamedTuple):
    image: LazyVolume
    mask: LazyVolume | None
    facts: RowStatistics


def _open_files(
    files: list[str],
    mask: str | None,
    preparation: VolumePreparation,
    num_classes: int | None,
    label_values: tuple[int, ...] | None,
) -> _Opened | None:
    """A row whose files can be read in part, as they are; `None` of others."""
    if any(volume_suffix(path) not in (".nii", ".npy") for path in [*files, mask or files[0]]):
        return None
    identities = {path: FileIdentity.of(path) for path in [*files, *filter(None, [mask])]}
    image, labels = read_row(files, mask, num_classes, label_values)
    x, y, z = image.voxels.shape[:3]
    turned, prepared = ras_grid(VolumeGrid((x, y, z), image.affine)), preparation.grid(image)
    if turned.shape != prepared.shape or not np.allclose(turned.affine, prepared.affine, atol=1e-6):
        return None
    numbers = tuple(NumbersOnDisk.of_volume(path, identities[path]) for path in files)
    orientation, shape = axis_orientation(image.affine), prepared.shape
    maps = measure_channels(image.voxels, preparation.intensity)
    ends = np.stack([image.voxels.min(axis=(0, 1, 2)), image.voxels.max(axis=(0, 1, 2))])
    constant = is_constant(apply_channels(ends, maps))
    stored = LazyVolume(
        (*shape, len(files)),
        files[0],
        numbers,
        orientation,
        maps,
    )
    if mask is None or labels is None:
        return _Opened(stored, None, RowStatistics(constant))
    counts = np.stack([count_labels(labels.voxels)] * 3)
    where = (NumbersOnDisk.of_volume(mask, identities[mask]),)
    return _Opened(
        stored,
        LazyVolume(shape, mask, where, orientation, label_values=label_values),
        RowStatistics(constant, counts),
    )


def _open_cached(
    files: list[str],
    mask: str | None,
    preparation: VolumePreparation,
    cache_dir: str | Path | None,
    num_classes: int | None,
    label_values: tuple[int, ...] | None,
) -> _Opened:
    """A row that is prepared as a whole, into an entry of its own."""
    if cache_dir is None:
        raise InvalidFilesError([(0, "it cannot be read in part: give a `cache_dir`")])

    def fill(row: int, arrays: Arrays) -> Problems | None:
        problems = None
        try:
            whole = read_row(files, mask, num_classes, label_values)
            arrays["image"][row], labels, facts = prepare_row(whole, preparation)
            if labels is not None:
                arrays["mask"][row] = labels
            store_statistics(arrays, row, facts)
        except InvalidFilesError as error:
            problems = error.problems
        refuse_changed(paths, known)
        return problems

    try:
        shape = preparation.grid(read_row_grid(files, mask)).shape
    except ValueError as error:
        # The whole row is read, so that all that is wrong with it is told.
        read_row(files, mask, num_classes, label_values)
        raise InvalidFilesError([(0, str(error))]) from error
    parts: Parts = {"image": ((*shape, len(files)), np.float32)}
    if mask is not None:
        parts["mask"] = (shape, np.uint8)
    shapes = {name: part_shape for name, (part_shape, _) in parts.items()}
    parts |= statistics_parts(len(files), mask is not None)
    paths = [*files, *(() if mask is None else (mask,))]
    hashes = hash_files(paths, workers=1).tolist()
    known = dict(zip(paths, hashes, strict=True))
    settings = [_FORMAT, preparation.to_json(), list(parts), num_classes, label_values]
    entry = Path(cache_dir) / entry_key(settings, hashes)
    arrays, failures = Decoding(1, parts, fill, workers=1, verbose=0).on_disk(entry)
    if failures:
        raise InvalidFilesError(failures[0])
    image, *labels = (
        LazyVolume(part_shape, path, (NumbersOnDisk.of_row(str(entry / f"{name}.npy")),))
        for path, (name, part_shape) in zip((files[0], mask or ""), shapes.items(), strict=False)
    )
    return _Opened(image, labels[0] if labels else None, load_statistics(arrays)[0])
