"""A table of files to one array of prepared images: decoded in parallel, once, and kept on disk."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_ssl.data.decoded_cache import Arrays, Decoding, entry_key
from keras_ssl.data.decoding import read_image
from keras_ssl.data.duplicates import hash_files, refuse_changed
from keras_ssl.data.image_table import ImageTable
from keras_ssl.data.listing import reason_without_path, refuse_missing, refuse_system_error
from keras_ssl.data.preparation import Preparation

# Part of every key: raise it when the same files and settings come to give other pixels.
_FORMAT = 1


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
    entry is mended, and the folder may be deleted at any time.

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
        ValueError: files cannot be decoded. Both messages name up to 20 files and how many there are.
        OSError: `cache_dir` cannot be written or has too little space; with it, files changed or could no
            longer be read while they were decoded.

    >>> import tempfile, keras
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keras.utils.save_img(folder + "/a.png", np.ones((40, 40, 3)), scale=False)
    ...     table = ImageTable.from_folder(folder)
    ...     images, table = load_images(table, Preparation(size=32), verbose=0)
    >>> images.shape
    (1, 32, 32, 3)
    """
    table = rows = table if isinstance(table, ImageTable) else ImageTable(np.array(table, dtype=str))
    refuse_missing(table.paths)
    hashes = [] if cache_dir is None else hash_files(table.paths, workers).tolist()
    known = dict(zip(table.paths.tolist(), hashes, strict=cache_dir is not None))

    def fill(row: int, arrays: Arrays) -> str | None:
        reason = None
        try:
            arrays["images"][row] = preparation.apply(read_image(rows.paths[row]))
        except ValueError as error:
            # Without the path: a cached reason outlives the name of the file.
            reason = reason_without_path(error, rows.paths[row])
            if known:
                refuse_system_error(error.__cause__)
        refuse_changed([str(rows.paths[row])], known)
        return reason

    shape = (preparation.size, preparation.size, preparation.channels)
    decoding = Decoding(len(table), {"images": (shape, np.uint8)}, fill, workers, verbose)
    if cache_dir is None:
        arrays, failures = decoding.in_memory()
    else:
        key = entry_key([_FORMAT, preparation.to_json()], hashes)
        arrays, failures = decoding.on_disk(Path(cache_dir) / key)
    if failures:
        _report(table, failures, skip_unreadable)
        table = table.select(np.setdiff1d(np.arange(len(table)), list(failures)))
    return arrays["images"], table


def _report(table: ImageTable, failures: dict[int, str], skip_unreadable: bool) -> None:
    named = [f"{table.paths[row]} ({reason})" for row, reason in failures.items()]
    listed = "; ".join(named[:20]) + (" ..." if len(named) > 20 else "")
    if not skip_unreadable or len(failures) == len(table):
        raise ValueError(
            f"`table` must name readable images. {len(failures)} of {len(table)} are not: {listed}. Pass "
            "skip_unreadable=True to go on with the others."
        )
    warnings.warn(f"{len(failures)} of {len(table)} images left out as unreadable: {listed}.", stacklevel=3)
