"""Loading of tables: whole into arrays, with a cache on disk, or lazily from files."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_ssl._types import Structure
from keras_ssl.data.cache import Arrays, Decoding, Parts, entry_key
from keras_ssl.data.files import (
    check_files_exist,
    check_unchanged,
    hash_files,
    map_in_threads,
    message_without_path,
    raise_system_error,
    shorten_list,
)
from keras_ssl.data.image_preparation import Preparation, prepare_image
from keras_ssl.data.image_reading import DAMAGED_METADATA, MULTIPLE_PAGES, decode_image, read_image
from keras_ssl.data.image_table import ImageTable
from keras_ssl.data.lazy_collections import FileIdentity, LazyImages, LazyVolume, NumbersOnDisk
from keras_ssl.data.volume import VolumeGrid, check_label_values, memory_error_naming
from keras_ssl.data.volume_io import volume_suffix
from keras_ssl.data.volume_preparation import (
    VolumePreparation,
    apply_channels,
    axis_orientation,
    measure_channels,
    ras_grid,
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

# Part of every cache key: increase it when the same files and settings give other values.
_FORMAT = 3

_CONSTANT = "constant: black, or of one color"
_WITHOUT_DISC = (
    "without a fundus disc in a dark frame, and not cropped. Set `crop=None` in the preparation where images "
    "have none"
)

# Remarks about an image that was read, each a bit in the cache.
_REMARKS = (MULTIPLE_PAGES, DAMAGED_METADATA, _CONSTANT, _WITHOUT_DISC)

# Levels of 255 that an image of one color may span after JPEG compression.
_FLAT = 2


def load_images(
    table: ImageTable | Sequence[str | Path],
    preparation: Preparation,
    cache_dir: str | Path | None = None,
    *,
    skip_unreadable: bool = False,
    workers: int | None = None,
    verbose: int = 1,
) -> tuple[np.ndarray, ImageTable]:
    """Decode and prepare all images of a table.

    With `cache_dir`, the result is written to disk as it is computed, so memory use stays constant, and the
    next run finds it there: by the content and order of the files and the preparation, not by file names. A
    changed file or setting gives a new entry. Writes are atomic: a killed run leaves no entry and starts
    again. Several runs may share the folder, damaged entries are repaired, and the folder may be deleted at
    any time. Checksums are verified whenever an entry is opened; later changes on disk are not detected.

    Warnings count and name images that are constant (black, or of one color), in which `preparation` finds
    no fundus disc to crop to, with several pages, or with damaged metadata.

    Args:
        table: the files, or simply their paths.
        preparation: preparation of each image.
        cache_dir: folder for decoded images, created if missing; `None` to decode into memory.
        skip_unreadable: skip files that cannot be decoded, with a warning that names them.
        workers: number of threads; `None` for the number of processors.
        verbose: 1 shows a progress bar, 0 does not.

    Returns:
        Images, uint8, `(n, size, size, channels)`, read-only and memory-mapped with `cache_dir`; and the
        table of the readable images, which is `table` if all are.

    Raises:
        FileNotFoundError: files do not exist.
        ValueError: files cannot be decoded, or all of several are constant. Messages name up to 20 files and
            their number.
        MemoryError: an image does not fit into memory. The message names the file.
        OSError: `cache_dir` cannot be written or has too little space; with it, files changed or became
            unreadable during decoding.

    >>> import tempfile, keras
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keras.utils.save_img(folder + "/a.png", np.eye(40)[..., None] * 200, scale=False)
    ...     table = ImageTable.from_folder(folder)
    ...     images, table = load_images(table, Preparation(size=32, crop=None), verbose=0)
    >>> images.shape
    (1, 32, 32, 3)
    """
    table = table if isinstance(table, ImageTable) else ImageTable(np.array(table, dtype=str))
    paths = table.paths
    check_files_exist(paths)

    def fill(row: int, arrays: Arrays) -> str | None:
        try:
            with memory_error_naming(paths[row]):
                image, remarks = decode_image(paths[row])
                arrays["images"][row], left_whole = prepare_image(preparation, image)
        except ValueError as error:
            if cache_dir is not None:
                raise_system_error(error.__cause__)
            # Without the path, since a cached reason outlives the file name.
            return message_without_path(error, paths[row])
        found = {
            *remarks,
            *([_CONSTANT] if _is_constant(image) else []),
            *([_WITHOUT_DISC] if left_whole else []),
        }
        arrays["remarks"][row] = sum(1 << bit for bit, remark in enumerate(_REMARKS) if remark in found)
        return None

    shape = (preparation.size, preparation.size, preparation.channels)
    parts: Parts = {"images": (shape, np.uint8), "remarks": ((), np.uint8)}
    settings = [_FORMAT, preparation.to_json()]
    arrays, failures = _decode(paths[:, None], fill, parts, settings, cache_dir, workers, verbose, "image")
    if failures:
        named = shorten_list([f"{paths[row]} ({reason})" for row, reason in failures.items()], "; ")
        if not skip_unreadable or len(failures) == len(table):
            raise ValueError(
                f"`table` must name readable images. {len(failures)} of {len(table)} are not: {named}. Pass "
                "skip_unreadable=True to skip them."
            )
        message = f"{len(failures)} of {len(table)} images skipped as unreadable: {named}."
        warnings.warn(message, stacklevel=2)
        table = table.select(np.setdiff1d(np.arange(len(table)), list(failures)))
    _warn_about_images(table, arrays["remarks"])
    return arrays["images"], table


def load_volumes(
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
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read and prepare all volumes of a table, and their masks, to one shape.

    With `cache_dir`, the result is written to disk as it is computed and found there by the next run, as in
    `load_images`. For volumes of different sizes use `open_volumes` and `PatchBatches`.

    Args:
        table: the files.
        preparation: preparation of each volume; its `shape` is required.
        cache_dir: folder for prepared volumes, created if missing; `None` to keep them in memory.
        num_classes: labels must lie in 0..`num_classes` - 1. If `None`, those of all masks together must be
            0..K - 1 without gaps.
        empty_masks: what to do about masks that have no foreground after preparation: `"warn"`, `"refuse"`
            (raise an error) or `"allow"`.
        label_values: the values in the masks that stand for classes 0, 1 and so on, such as `(0, 255)` or
            `(0, 1, 2, 4)` of BraTS; `None` if they are class numbers.
        max_foreground_loss: fraction of a mask's voxels of any class that the shape may crop; more is an
            error, less a warning that lists the loss of each mask. 1 allows all.
        workers: number of threads; `None` for the number of processors.
        verbose: 1 shows a progress bar, 0 does not.

    Returns:
        Images, float32, `(n, *shape, modalities)`, and masks, uint8, `(n, *shape)`, or `None` if the table
        has none; read-only and memory-mapped with `cache_dir`.

    Raises:
        FileNotFoundError: files do not exist.
        ValueError: `preparation` has no shape, files are invalid, as in `VolumeTable.check`, or the shape
            crops too much: all files are named at once.
        MemoryError: a volume does not fit into memory. The message names its file.
        OSError: `cache_dir` cannot be written or has too little space; files changed or became unreadable.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/a.npy", np.arange(60.0).reshape(3, 4, 5))
    ...     table = VolumeTable.from_folder(folder)
    ...     images, masks = load_volumes(table, VolumePreparation(shape=(4, 4, 4)), verbose=0)
    >>> images.shape, masks
    ((1, 4, 4, 4, 1), None)
    """
    check_label_values(label_values, num_classes)
    values = None if label_values is None else tuple(map(int, label_values))
    volumes = _VolumeLoader(table, preparation, num_classes, empty_masks, values, max_foreground_loss)
    if preparation.shape is None:
        raise ValueError(
            "`preparation` must have a shape, so that volumes fit into one array. Received None. Or train on "
            "patches: open_volumes, PatchBatches."
        )
    arrays, failures = volumes.prepare(table, preparation.shape, cache_dir, workers, verbose)
    raise_invalid_files(table.files, table.masks, failures)
    volumes.warn(load_statistics(arrays))
    return arrays["images"], arrays.get("masks")


def open_images(
    table: ImageTable | VolumeTable | Sequence[str | Path],
    preparation: Preparation | VolumePreparation,
    workers: int | None = None,
) -> LazyImages:
    """Open the images of a table lazily: each is decoded and prepared whenever a batch needs it.

    The images are those of `load_images` or `load_volumes`, but take neither memory nor a cache. Masks are
    not read; for volumes of different sizes use `open_volumes`.

    Args:
        table: the files; a plain list is one of images.
        preparation: `Preparation` of each image, or `VolumePreparation` of each volume, whose `shape` is
            required.
        workers: threads that read a batch; `None` for the number of processors.

    Returns:
        Images, `(n, size, size, channels)` of uint8, or volumes, `(n, *shape, modalities)` of float32.
        Reading a damaged file raises `ValueError`, which names it. Nothing is read before training: only
        `load_images` warns about constant images and those without a fundus disc.

    Raises:
        FileNotFoundError: files do not exist.
        ValueError: `preparation` does not fit the table, or has no shape.

    >>> import tempfile, keras
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keras.utils.save_img(folder + "/a.png", np.ones((40, 40, 3)), scale=False)
    ...     images = open_images(ImageTable.from_folder(folder), Preparation(size=32))
    ...     images.shape, int(images[0].max())
    ((1, 32, 32, 3), 1)
    """
    if not isinstance(table, (ImageTable, VolumeTable)):
        table = ImageTable(np.array(table, dtype=str))
    read: Callable[[int], np.ndarray]
    if isinstance(table, ImageTable) and isinstance(preparation, Preparation):
        paths, dtype = table.paths, "uint8"
        shape: tuple[int, ...] = (preparation.size, preparation.size, preparation.channels)
        read = functools.partial(_read_image, paths, preparation)
    elif isinstance(table, VolumeTable) and isinstance(preparation, VolumePreparation) and preparation.shape:
        paths, dtype = table.files.ravel(), "float32"
        shape = (*preparation.shape, table.files.shape[1])
        read = functools.partial(_read_volume, table, preparation)
    else:
        raise ValueError(
            "`preparation` must be a Preparation for images and a VolumePreparation with a shape for a "
            f"VolumeTable. Received {preparation} for {type(table).__name__}."
        )
    check_files_exist(paths)
    sizes = np.array([os.path.getsize(path) for path in paths])
    return LazyImages(read, (len(table), *shape), dtype, workers, files=sizes)


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
    """Open the prepared volumes of a table lazily, of any size, for `PatchBatches` to read parts of.

    Every file is read once, to validate it and to measure its intensities. After that, `.nii` and `.npy`
    files are read in part, as they are, if `preparation` neither resamples, crops nor pads them. Compressed
    files, and those that change their grid, are prepared into `cache_dir`, one entry per row, and found there
    by the next run, as in `load_images`.

    Args:
        table: the files.
        preparation: preparation of each volume.
        cache_dir: folder for prepared volumes, created if missing.
        num_classes: labels must lie in 0..`num_classes` - 1. If `None`, those of all masks together must be
            0..K - 1 without gaps.
        empty_masks: what to do about masks that have no foreground after preparation: `"warn"`, `"refuse"`
            (raise an error) or `"allow"`.
        label_values: the values in the masks that stand for classes 0, 1 and so on, such as `(0, 255)` or
            `(0, 1, 2, 4)` of BraTS; `None` if they are class numbers.
        max_foreground_loss: fraction of a mask's voxels of any class that the preparation's shape may crop;
            more is an error, less a warning that lists the loss of each mask. 1 allows all.
        workers: number of threads; `None` for the number of processors.
        verbose: 1 shows a progress bar, 0 does not.

    Returns:
        Images, `(x, y, z, modalities)` each, and masks, `(x, y, z)` each, or `None` if the table has none.

    Raises:
        FileNotFoundError: files do not exist.
        ValueError: files are invalid, as in `VolumeTable.check`, or the shape crops too much: all files are
            named at once. Or one needs the cache, and `cache_dir` is `None`.
        MemoryError: a volume does not fit into memory. The message names its file.
        OSError: `cache_dir` cannot be written or has too little space; files changed or became unreadable.
            When reading: a file is gone or was rewritten.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/a.npy", np.arange(60.0).reshape(3, 4, 5))
    ...     images, _ = open_volumes(VolumeTable.from_folder(folder), VolumePreparation(), verbose=0)
    ...     images[0].shape, images[0][1:3, 0:2, :].shape
    ((3, 4, 5, 1), (2, 2, 5, 1))
    """
    check_label_values(label_values, num_classes)
    values = None if label_values is None else tuple(map(int, label_values))
    volumes = _VolumeLoader(table, preparation, num_classes, empty_masks, values, max_foreground_loss)
    open_row = functools.partial(volumes.open_row, cache_dir)
    rows = map_in_threads(open_row, range(len(table)), workers, verbose=verbose, unit="volume")
    failures = {row: found for row, found in enumerate(rows) if not isinstance(found, _LazyRow)}
    raise_invalid_files(table.files, table.masks, failures)
    opened = [found for found in rows if isinstance(found, _LazyRow)]
    volumes.warn([row.statistics for row in opened])
    masks = [row.mask for row in opened if row.mask is not None]
    return [row.image for row in opened], None if table.masks is None else masks


def _decode(
    paths: np.ndarray,
    fill: Callable[[int, Arrays], Structure],
    parts: Parts,
    settings: list[Structure],
    cache_dir: str | Path | None,
    workers: int | None,
    verbose: int,
    unit: str,
) -> tuple[Arrays, dict[int, Structure]]:
    """Decode files into arrays, or load these from the cache.

    Args:
        paths: files of each row, `(rows, files)`.
        fill: see `Decoding`.
        parts: see `Decoding`.
        settings: part of the cache key, JSON-compatible.
        cache_dir: folder of the cache; `None` to decode into memory.
        workers: see `Decoding`.
        verbose: see `Decoding`.
        unit: see `Decoding`.

    Returns:
        The arrays without failed rows, and the reasons of failures by row.
    """
    files = paths.ravel().tolist()
    hashes = [] if cache_dir is None else hash_files(files, workers)
    known = dict(zip(files, hashes, strict=cache_dir is not None))

    def fill_unchanged(row: int, arrays: Arrays) -> Structure:
        reason = fill(row, arrays)
        check_unchanged(paths[row].tolist(), known)
        return reason

    decoding = Decoding(len(paths), parts, fill_unchanged, workers, verbose, unit)
    if cache_dir is None:
        return decoding.in_memory()
    return decoding.on_disk(Path(cache_dir) / entry_key(settings, hashes))


def _is_constant(image: np.ndarray) -> bool:
    """Return True if no channel spans more than one or two of 255 levels."""
    pixels = image.reshape(image.shape[0] * image.shape[1], -1)
    most = _FLAT * (np.iinfo(image.dtype).max // 255)
    # A sample first, which is enough for almost all images.
    return all((np.ptp(some, axis=0) <= most).all() for some in (pixels[:: 1 + len(pixels) // 1000], pixels))


def _warn_about_images(table: ImageTable, remarks: np.ndarray) -> None:
    """Warn about the remarks on images; raise if all images are constant."""
    for bit, remark in enumerate(_REMARKS):
        rows = np.flatnonzero(np.asarray(remarks) >> bit & 1)
        if not len(rows):
            continue
        names = shorten_list(table.paths[rows].tolist())
        if remark == _CONSTANT and len(rows) == len(table) > 1:
            raise ValueError(f"`table` must name images with content. All {len(rows)} are {remark}: {names}.")
        # The names, of which there may be many, precede the advice.
        first, _, advice = remark.partition(". ")
        message = f"{len(rows)} of {len(table)} images are {first}: {names}.{f' {advice}.' if advice else ''}"
        warnings.warn(message, stacklevel=3)


def _read_image(paths: np.ndarray, preparation: Preparation, row: int) -> np.ndarray:
    return preparation.apply(read_image(paths[row]))


def _read_volume(table: VolumeTable, preparation: VolumePreparation, row: int) -> np.ndarray:
    try:
        return preparation.image(read_row(table.files[row]).image)
    except InvalidFilesError as error:
        raise_invalid_files(table.files, None, {row: error.problems})
        raise


class _LazyRow(NamedTuple):
    """A scan and its mask, opened lazily, and their statistics."""

    image: LazyVolume
    mask: LazyVolume | None
    statistics: RowStatistics


@dataclasses.dataclass(frozen=True)
class _VolumeLoader:
    """Arguments that `load_volumes` and `open_volumes` share, validated."""

    table: VolumeTable
    preparation: VolumePreparation
    num_classes: int | None
    empty_masks: str
    label_values: tuple[int, ...] | None
    max_foreground_loss: float

    def __post_init__(self) -> None:
        check_empty_masks(self.empty_masks)
        check_max_foreground_loss(self.max_foreground_loss)
        masks = () if self.table.masks is None else self.table.masks
        check_files_exist([*self.table.files.ravel(), *masks])

    @property
    def warn(self) -> Callable[[Sequence[RowStatistics]], None]:
        """Function that checks the statistics of all rows, see `warn_about_table`."""
        return functools.partial(
            warn_about_table,
            self.table,
            empty_masks=self.empty_masks,
            num_classes=self.num_classes if self.label_values is None else len(self.label_values),
            max_foreground_loss=self.max_foreground_loss,
        )

    def prepare(
        self,
        table: VolumeTable,
        shape: tuple[int, ...],
        cache_dir: str | Path | None,
        workers: int | None,
        verbose: int,
    ) -> tuple[Arrays, dict[int, Problems]]:
        """Read and prepare rows to one shape; return arrays, and the problems of invalid rows."""

        def fill(row: int, arrays: Arrays) -> Problems | None:
            try:
                with memory_error_naming(table.files[row, 0]):
                    whole = read_row(
                        table.files[row], table.mask_of(row), self.num_classes, self.label_values
                    )
                    arrays["images"][row], mask, statistics = prepare_row(whole, self.preparation)
            except InvalidFilesError as error:
                return error.problems
            if mask is not None:
                arrays["masks"][row] = mask
            store_statistics(arrays, row, statistics)
            return None

        modalities = table.files.shape[1]
        parts: Parts = {"images": ((*shape, modalities), np.float32)}
        paths = table.files
        if table.masks is not None:
            parts["masks"] = (shape, np.uint8)
            paths = np.column_stack([table.files, table.masks])
        parts |= statistics_parts(modalities, table.masks is not None)
        settings = [_FORMAT, self.preparation.to_json(), table.files.shape, list(parts)]
        settings += [self.num_classes, self.label_values]
        return _decode(paths, fill, parts, settings, cache_dir, workers, verbose, "volume")

    def open_row(self, cache_dir: str | Path | None, row: int) -> _LazyRow | Problems:
        """Open a row from its files if they can be read in part, else from the cache."""
        files, mask = [str(path) for path in self.table.files[row]], self.table.mask_of(row)
        try:
            with memory_error_naming(files[0]):
                opened = self._open_files(files, mask)
            return opened or self._open_cached(row, files, mask, cache_dir)
        except InvalidFilesError as error:
            return error.problems

    def _open_files(self, files: list[str], mask: str | None) -> _LazyRow | None:
        """Open files that can be read in part, as they are; return `None` for others."""
        if any(volume_suffix(path) not in (".nii", ".npy") for path in [*files, mask or files[0]]):
            return None
        identities = {path: FileIdentity.of(path) for path in [*files, *filter(None, [mask])]}
        image, labels = read_row(files, mask, self.num_classes, self.label_values)
        x, y, z = image.voxels.shape[:3]
        turned, prepared = ras_grid(VolumeGrid((x, y, z), image.affine)), self.preparation.grid(image)
        if turned.shape != prepared.shape or not np.allclose(turned.affine, prepared.affine, atol=1e-6):
            return None
        numbers = tuple(NumbersOnDisk.of_volume(path, identities[path]) for path in files)
        orientation, shape = axis_orientation(image.affine), prepared.shape
        maps = measure_channels(image.voxels, self.preparation.intensity)
        ends = np.stack([image.voxels.min(axis=(0, 1, 2)), image.voxels.max(axis=(0, 1, 2))])
        constant = is_constant(apply_channels(ends, maps))
        opened = LazyVolume((*shape, len(files)), files[0], numbers, orientation, maps)
        if mask is None or labels is None:
            return _LazyRow(opened, None, RowStatistics(constant))
        counts = np.stack([count_labels(labels.voxels)] * 3)
        where = (NumbersOnDisk.of_volume(mask, identities[mask]),)
        opened_mask = LazyVolume(shape, mask, where, orientation, label_values=self.label_values)
        return _LazyRow(opened, opened_mask, RowStatistics(constant, counts))

    def _open_cached(
        self, row: int, files: list[str], mask: str | None, cache_dir: str | Path | None
    ) -> _LazyRow:
        """Prepare a row as a whole into a cache entry of its own."""
        if cache_dir is None:
            raise InvalidFilesError([(0, "it cannot be read in part: pass `cache_dir`")])
        try:
            shape = self.preparation.grid(read_row_grid(files, mask)).shape
        except ValueError as error:
            # Reads the whole row, so that all its problems are reported.
            read_row(files, mask, self.num_classes, self.label_values)
            raise InvalidFilesError([(0, str(error))]) from error
        arrays, failures = self.prepare(self.table.select([row]), shape, cache_dir, workers=1, verbose=0)
        if failures:
            raise InvalidFilesError(failures[0])
        statistics = load_statistics(arrays)[0]
        image = LazyVolume((*shape, len(files)), files[0], (NumbersOnDisk.of_first_row(arrays["images"]),))
        if mask is None:
            return _LazyRow(image, None, statistics)
        numbers = (NumbersOnDisk.of_first_row(arrays["masks"]),)
        return _LazyRow(image, LazyVolume(shape, mask, numbers), statistics)
