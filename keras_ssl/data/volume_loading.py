"""A table of volumes to arrays of prepared images and masks: read in parallel, once, and kept on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_ssl.data.decoded_cache import Arrays, Decoding, Parts, entry_key
from keras_ssl.data.duplicates import hash_files, refuse_changed
from keras_ssl.data.listing import refuse_missing
from keras_ssl.data.volume_checks import check_label_values, memory_named
from keras_ssl.data.volume_facts import check_loss, facts_of, facts_parts, keep_facts, tell_of
from keras_ssl.data.volume_preparation import VolumePreparation
from keras_ssl.data.volume_rows import Problems, UnfitFilesError, prepare_row, read_row, refuse_unfit
from keras_ssl.data.volume_table import VolumeTable, check_choice

# Part of every key: raise it when the same files and settings come to give other voxels.
_FORMAT = 2


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
    check_choice(empty_masks)
    check_label_values(label_values, num_classes)
    check_loss(max_foreground_loss)
    if preparation.shape is None:
        raise ValueError(
            "`preparation` must have a shape, so that volumes go into one array. Received None. Or draw "
            "patches: open_volumes, PatchBatches."
        )
    paths = [str(path) for path in (*table.files.ravel(), *(() if table.masks is None else table.masks))]
    refuse_missing(paths)
    hashes = [] if cache_dir is None else hash_files(paths, workers).tolist()
    known = dict(zip(paths, hashes, strict=cache_dir is not None))

    def fill(row: int, arrays: Arrays) -> Problems | None:
        problems = None
        try:
            with memory_named(table.files[row, 0]):
                whole = read_row(table.files[row], table.mask_of(row), num_classes, label_values)
                arrays["images"][row], mask, facts = prepare_row(whole, preparation)
            if mask is not None:
                arrays["masks"][row] = mask
            keep_facts(arrays, row, facts)
        except UnfitFilesError as error:
            problems = error.problems
        refuse_changed([*map(str, table.files[row]), *filter(None, [table.mask_of(row)])], known)
        return problems

    parts: Parts = {"images": ((*preparation.shape, table.files.shape[1]), np.float32)}
    if table.masks is not None:
        parts["masks"] = (preparation.shape, np.uint8)
    parts |= facts_parts(table.files.shape[1], table.masks is not None)
    decoding = Decoding(len(table), parts, fill, workers, verbose, unit="volume")
    if cache_dir is None:
        arrays, failures = decoding.in_memory()
    else:
        values = None if label_values is None else list(map(int, label_values))
        settings = [_FORMAT, preparation.to_json(), table.files.shape, list(parts), num_classes, values]
        arrays, failures = decoding.on_disk(Path(cache_dir) / entry_key(settings, hashes))
    refuse_unfit(table.files, table.masks, failures)
    tell_of(
        table,
        facts_of(arrays),
        empty_masks=empty_masks,
        num_classes=num_classes if label_values is None else len(label_values),
        max_foreground_loss=max_foreground_loss,
    )
    return arrays["images"], arrays.get("masks")
