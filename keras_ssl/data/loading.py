"""A table of files to one array of prepared images: decoded in parallel, once, and kept on disk."""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np

from keras_ssl.data.decoding import read_image
from keras_ssl.data.duplicates import hash_files
from keras_ssl.data.image_table import ImageTable
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
    run that was killed leaves none; it starts again. The folder may be deleted at any time.

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
        OSError: `cache_dir` cannot be written or has too little space.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keras.utils.save_img(folder + "/a.png", np.ones((40, 40, 3)), scale=False)
    ...     table = ImageTable.from_folder(folder)
    ...     images, table = load_images(table, Preparation(size=32), verbose=0)
    >>> images.shape
    (1, 32, 32, 3)
    """
    table = table if isinstance(table, ImageTable) else ImageTable(np.array(table, dtype=str))
    missing = [path for path in table.paths if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(
            f"`table` must name files that exist. {len(missing)} do not: {', '.join(missing[:20])}."
        )
    if cache_dir is None:
        shape = (len(table), preparation.size, preparation.size, preparation.channels)
        images = np.empty(shape, np.uint8)
        failures = _decode(table, preparation, images, workers, verbose)
        if failures:
            _report(table, failures, skip_unreadable)
            images = images[_others(table, failures)]
    else:
        entry = Path(cache_dir) / _key(table, preparation, workers)
        cached = _open_entry(entry)
        if cached is None:
            _write_entry(entry, table, preparation, workers, verbose)
            cached = _open_entry(entry)
        if cached is None:
            raise OSError(f"`cache_dir` must keep what is written to it. {entry} could not be read back.")
        images, failures = cached
        if failures:
            _report(table, failures, skip_unreadable)
    if not failures:
        return images, table
    return images, table.select(_others(table, failures))


def _others(table: ImageTable, failures: dict[int, str]) -> np.ndarray:
    return np.setdiff1d(np.arange(len(table)), list(failures))


def _decode(
    table: ImageTable,
    preparation: Preparation,
    images: np.ndarray,
    workers: int | None,
    verbose: int,
) -> dict[int, str]:
    """Fill the rows of `images`; the reason for each row that could not be."""

    def fill(row: int) -> str | None:
        try:
            images[row] = preparation.apply(read_image(table.paths[row]))
        except ValueError as error:
            # Without the path: a cached reason outlives the name of the file.
            return str(error.__cause__ or error)
        return None

    progress = keras.utils.Progbar(len(table), verbose=verbose, unit_name="image")
    failures = {}
    # Threads: decoding and resizing release the lock. Two gave 20.5 images/s of 12 megapixels on two
    # cores where two processes gave 13.6, and one thread 10.4.
    executor = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        for row, reason in enumerate(executor.map(fill, range(len(table)))):
            if reason is not None:
                failures[row] = reason
            progress.update(row + 1)
    finally:
        # Without it an interrupted run would first decode all that is still waiting.
        executor.shutdown(cancel_futures=True)
    return failures


def _report(table: ImageTable, failures: dict[int, str], skip_unreadable: bool) -> None:
    named = [f"{table.paths[row]} ({reason})" for row, reason in failures.items()]
    listed = "; ".join(named[:20]) + (" ..." if len(named) > 20 else "")
    if not skip_unreadable or len(failures) == len(table):
        raise ValueError(
            f"`table` must name readable images. {len(failures)} of {len(table)} are not: {listed}. Pass "
            "skip_unreadable=True to go on with the others."
        )
    warnings.warn(f"{len(failures)} of {len(table)} images left out as unreadable: {listed}.", stacklevel=3)


def _key(table: ImageTable, preparation: Preparation, workers: int | None) -> str:
    digest = hashlib.sha256(json.dumps([_FORMAT, preparation.to_json()]).encode())
    for content in hash_files(table.paths, workers):
        digest.update(content.encode())
    return digest.hexdigest()[:32]


def _open_entry(entry: Path) -> tuple[np.ndarray, dict[int, str]] | None:
    """The images and failures of a cache entry; `None` where there is none, or none that is whole."""
    if not entry.is_dir():
        return None
    try:
        failures = json.loads((entry / "unreadable.json").read_text(encoding="utf-8"))
        images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        warnings.warn(f"{entry} is damaged and is decoded again: {error}", stacklevel=3)
        shutil.rmtree(entry)
        return None
    return images, {int(row): reason for row, reason in failures.items()}


def _write_entry(
    entry: Path, table: ImageTable, preparation: Preparation, workers: int | None, verbose: int
) -> None:
    """Decode into a folder of its own, and rename it once all is written."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(table), preparation.size, preparation.size, preparation.channels)
    # A memory-mapped write to a full disk kills the process: ask first.
    free = shutil.disk_usage(entry.parent).free
    if free < (needed := int(np.prod(shape))):
        raise OSError(
            f"`cache_dir` needs {needed / 1e9:.2f} GB. {entry.parent} has {free / 1e9:.2f} GB free."
        )
    partial = Path(tempfile.mkdtemp(prefix=f"{entry.name}.partial-", dir=entry.parent))
    try:
        images = np.lib.format.open_memmap(partial / "images.npy", "w+", np.uint8, shape)
        failures = _decode(table, preparation, images, workers, verbose)
        images.flush()
        if failures:
            _keep_rows(partial, _others(table, failures))
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


def _keep_rows(folder: Path, rows: np.ndarray) -> None:
    """Narrow the array on disk, row by row into a new file of the same name."""
    images = np.load(folder / "images.npy", mmap_mode="r")
    kept = np.lib.format.open_memmap(folder / "kept.npy", "w+", np.uint8, (len(rows), *images.shape[1:]))
    for target, row in enumerate(rows):
        kept[target] = images[row]
    kept.flush()
    (folder / "kept.npy").replace(folder / "images.npy")
