"""Loading of whole tables to arrays of prepared images or volumes."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_ssl.data.cache import Arrays, Decoding, Parts, entry_key
from keras_ssl.data.files import check_files_exist, message_without_path, raise_system_error, shorten_list
from keras_ssl.data.groups import hash_files, refuse_changed
from keras_ssl.data.image_preparation import Preparation, prepare_image
from keras_ssl.data.image_reading import DAMAGED_METADATA, MULTIPLE_PAGES, decode_image
from keras_ssl.data.image_table import ImageTable
from keras_ssl.data.volume import check_label_values, memory_error_naming
from keras_ssl.data.volume_preparation import VolumePreparation
from keras_ssl.data.volume_table import (
    InvalidFilesError,
    Problems,
    VolumeTable,
    check_empty_masks,
    check_max_foreground_loss,
    load_statistics,
    prepare_row,
    raise_invalid_files,
    read_row,
    statistics_parts,
    store_statistics,
    warn_about_table,
)

# Part of every key: raise it when the same files and settings come to give other pixels.
_FORMAT = 2


_CONSTANT = "constant: black, or of one color"


_WHOLE = (
    "without a fundus disc in a dark frame, and left whole. Set `crop=None` in the preparation where images "
    "have none"
)


# What there may be to say of an image that was read, each a bit that the cache keeps.
_TRAITS = (MULTIPLE_PAGES, DAMAGED_METADATA, _CONSTANT, _WHOLE)


# Levels of 255 that what JPEG makes of one color may span.
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
    """Decode and prepare every image of a table.

    With `cache_dir` the result is written to disk as it comes, so memory stays flat, and found there by
    the next run: by the bytes of the files, in order, and the preparation, whatever the files are
    called. A changed file or setting makes a new entry. An entry appears whole or not at all, hence a
    run that was killed leaves none; it starts again. Runs may share the folder at the same time, a damaged
    entry is mended, and the folder may be deleted at any time. Checksums are compared whenever an entry is
    opened; what changes on the disk after that is not noticed.

    Warnings count and name images that are constant (black, or of one color), in which `preparation` finds
    no fundus disc to crop to, of several pages, and of damaged annotations.

    Args:
        table: the files, or simply their paths.
        preparation: what is done to each.
        cache_dir: folder for decoded images, made where missing; `None` to decode into memory.
        skip_unreadable: leave out files that cannot be decoded, with a warning that names them.
        workers: threads; as many as there are processors where `None`.
        verbose: 1 shows a progress bar, 0 does not.

    Returns:
        Images, uint8, `(n, size, size, channels)`, read-only and memory-mapped with `cache_dir`; and the
        table of those that could be read, which is `table` where all could.

    Raises:
        FileNotFoundError: files do not exist.
        ValueError: files cannot be decoded, or all of several are constant. Messages name up to 20 files and
            how many there are.
        MemoryError: an image does not fit into memory. The message names the file.
        OSError: `cache_dir` cannot be written or has too little space; with it, files changed or could no
            longer be read while they were decoded.

    >>> import tempfile, keras
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keras.utils.save_img(folder + "/a.png", np.eye(40)[..., None] * 200, scale=False)
    ...     table = ImageTable.from_folder(folder)
    ...     images, table = load_images(table, Preparation(size=32, crop=None), verbose=0)
    >>> images.shape
    (1, 32, 32, 3)
    """
    table = rows = table if isinstance(table, ImageTable) else ImageTable(np.array(table, dtype=str))
    check_files_exist(table.paths)
    hashes = [] if cache_dir is None else hash_files(table.paths, workers).tolist()
    known = dict(zip(table.paths.tolist(), hashes, strict=cache_dir is not None))

    def fill(row: int, arrays: Arrays) -> str | None:
        reason = None
        try:
            image, notes = decode_image(rows.paths[row])
            arrays["images"][row], left_whole = prepare_image(preparation, image)
            told = [*notes, *([_CONSTANT] if _is_constant(image) else [])]
            told += [_WHOLE] if left_whole else []
            arrays["traits"][row] = sum(1 << _TRAITS.index(trait) for trait in told)
        except ValueError as error:
            # Without the path: a cached reason outlives the name of the file.
            reason = message_without_path(error, rows.paths[row])
            if known:
                raise_system_error(error.__cause__)
        except MemoryError as error:
            raise MemoryError(f"{rows.paths[row]} needs more memory than there is.") from error
        refuse_changed([str(rows.paths[row])], known)
        return reason

    shape = (preparation.size, preparation.size, preparation.channels)
    parts: Parts = {"images": (shape, np.uint8), "traits": ((), np.uint8)}
    decoding = Decoding(len(table), parts, fill, workers, verbose)
    if cache_dir is None:
        arrays, failures = decoding.in_memory()
    else:
        key = entry_key([_FORMAT, preparation.to_json()], hashes)
        arrays, failures = decoding.on_disk(Path(cache_dir) / key)
    if failures:
        _report(table, failures, skip_unreadable)
        table = table.select(np.setdiff1d(np.arange(len(table)), list(failures)))
    _tell(table, arrays["traits"])
    return arrays["images"], table


def _is_constant(image: np.ndarray) -> bool:
    """Return True if no channel spans more than one or two of 255 levels."""
    pixels = image.reshape(image.shape[0] * image.shape[1], -1)
    most = _FLAT * (np.iinfo(image.dtype).max // 255)
    # A few first: nearly all images are told by them.
    return all((np.ptp(some, axis=0) <= most).all() for some in (pixels[:: 1 + len(pixels) // 1000], pixels))


def _tell(table: ImageTable, traits: np.ndarray) -> None:
    """Warn of what images have been found to be; refuse those of which there is nothing to learn."""
    for bit, trait in enumerate(_TRAITS):
        rows = np.flatnonzero(np.asarray(traits) >> bit & 1)
        if not len(rows):
            continue
        names = shorten_list(table.paths[rows].tolist())
        if trait == _CONSTANT and len(rows) == len(table) > 1:
            raise ValueError(f"`table` must name images of something. All {len(rows)} are {trait}: {names}.")
        count = f"{len(rows)} of {len(table)} images are "
        # Names, of which there may be many, before what they are is explained.
        first, _, rest = trait.partition(". ")
        warnings.warn(f"{count}{first}: {names}.{f' {rest}.' if rest else ''}", stacklevel=3)


def _report(table: ImageTable, failures: dict[int, str], skip_unreadable: bool) -> None:
    named = [f"{table.paths[row]} ({reason})" for row, reason in failures.items()]
    if not skip_unreadable or len(failures) == len(table):
        raise ValueError(
            f"`table` must name readable images. {len(failures)} of {len(table)} are not: "
            f"{shorten_list(named, '; ')}. Pass "
            "skip_unreadable=True to go on with the others."
        )
    warnings.warn(
        f"{len(failures)} of {len(table)} images left out as unreadable: {shorten_list(named, '; ')}.",
        stacklevel=3,
    )


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
    """Read and prepare every volume of a table, and its mask, to one shape.

    With `cache_dir` the result is written to disk as it comes, so memory stays flat, and found there by
    the next run, as `load_images` does it. Volumes of many sizes are for `open_volumes` and `PatchBatches`.

    Args:
        table: the files.
        preparation: what is done to each; its `shape` must be given.
        cache_dir: folder for prepared volumes, made where missing; `None` to keep them in memory.
        num_classes: labels must lie in 0..`num_classes` - 1. Where `None`, those of all masks together must
            be 0..K - 1 without gaps.
        empty_masks: what is done about masks that, once prepared, have no foreground: `"warn"`, `"refuse"` or
            `"allow"`.
        label_values: the values in the masks that stand for classes 0, 1 and so on, such as `(0, 255)` or
            `(0, 1, 2, 4)` of BraTS; `None` where they are numbers of classes.
        max_foreground_loss: the fraction of a mask's voxels of any class that the shape may cut off; more is
            an error. Less is warned of, with how much each mask loses. 1 allows all.
        workers: threads; as many as there are processors where `None`.
        verbose: 1 shows a progress bar, 0 does not.

    Returns:
        Images, float32, `(n, *shape, modalities)`, and masks, uint8, `(n, *shape)`, or `None` where the
        table has none; read-only and memory-mapped with `cache_dir`.

    Raises:
        FileNotFoundError: files do not exist.
        ValueError: `preparation` has no shape, files are unfit, as `VolumeTable.check` says, or the shape
            cuts off too much: all files are named at once.
        MemoryError: a volume does not fit into memory. The message names its file.
        OSError: `cache_dir` cannot be written or has too little space; files changed or could no longer be
            read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/a.npy", np.arange(60.0).reshape(3, 4, 5))
    ...     table = VolumeTable.from_folder(folder)
    ...     images, masks = load_volumes(table, VolumePreparation(shape=(4, 4, 4)), verbose=0)
    >>> images.shape, masks
    ((1, 4, 4, 4, 1), None)
    """
    check_empty_masks(empty_masks)
    check_label_values(label_values, num_classes)
    check_max_foreground_loss(max_foreground_loss)
    if preparation.shape is None:
        raise ValueError(
            "`preparation` must have a shape, so that volumes go into one array. Received None. Or draw "
            "patches: open_volumes, PatchBatches."
        )
    paths = [str(path) for path in (*table.files.ravel(), *(() if table.masks is None else table.masks))]
    check_files_exist(paths)
    hashes = [] if cache_dir is None else hash_files(paths, workers).tolist()
    known = dict(zip(paths, hashes, strict=cache_dir is not None))

    def fill(row: int, arrays: Arrays) -> Problems | None:
        problems = None
        try:
            with memory_error_naming(table.files[row, 0]):
                whole = read_row(table.files[row], table.mask_of(row), num_classes, label_values)
                arrays["images"][row], mask, facts = prepare_row(whole, preparation)
            if mask is not None:
                arrays["masks"][row] = mask
            store_statistics(arrays, row, facts)
        except InvalidFilesError as error:
            problems = error.problems
        refuse_changed([*map(str, table.files[row]), *filter(None, [table.mask_of(row)])], known)
        return problems

    parts: Parts = {"images": ((*preparation.shape, table.files.shape[1]), np.float32)}
    if table.masks is not None:
        parts["masks"] = (preparation.shape, np.uint8)
    parts |= statistics_parts(table.files.shape[1], table.masks is not None)
    decoding = Decoding(len(table), parts, fill, workers, verbose, unit="volume")
    if cache_dir is None:
        arrays, failures = decoding.in_memory()
    else:
        values = None if label_values is None else list(map(int, label_values))
        settings = [_FORMAT, preparation.to_json(), table.files.shape, list(parts), num_classes, values]
        arrays, failures = decoding.on_disk(Path(cache_dir) / entry_key(settings, hashes))
    raise_invalid_files(table.files, table.masks, failures)
    warn_about_table(
        table,
        load_statistics(arrays),
        empty_masks=empty_masks,
        num_classes=num_classes if label_values is None else len(label_values),
        max_foreground_loss=max_foreground_loss,
    )
    return arrays["images"], arrays.get("masks")
