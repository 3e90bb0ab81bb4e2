"""Copies of one photograph, found by content, so that no split has them on both sides."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_ssl.data.in_order import in_order


def hash_files(paths: Sequence[str | Path] | np.ndarray, workers: int | None = None) -> np.ndarray:
    """The SHA-256 of each file's bytes; of a folder, as of a DICOM series, of its files' in any order.

    Args:
        paths: the files.
        workers: threads; as many as there are processors where `None`.

    Returns:
        Hexadecimal strings, shape `(n,)`.

    Raises:
        OSError: a file cannot be read.
    """
    with ThreadPoolExecutor(workers or os.cpu_count()) as executor:
        return np.array(list(in_order(executor, _hash_file, paths)), dtype=str)


def refuse_changed(paths: Iterable[str], hashes: Mapping[str, str]) -> None:
    """Raise where files are no longer those that were hashed, so that a cache holds what its name says.

    Args:
        paths: the files.
        hashes: what `hash_files` gave, by path; files that are not in it are passed over.

    Raises:
        OSError: files have other bytes, or are gone.
    """
    changed = [path for path in paths if path in hashes and _hash_if_there(path) != hashes[path]]
    if changed:
        raise OSError(
            "`table` must name files that stay as they are while they are read. Changed or gone since the "
            f"start: {', '.join(changed)}. Call again once nothing writes there."
        )


def _hash_if_there(path: str | Path) -> str | None:
    try:
        return _hash_file(path)
    except FileNotFoundError:
        return None


def _hash_file(path: str | Path) -> str:
    if Path(path).is_dir():
        # Folders within it are no part of a series, and a link among them may lead back to it.
        inner = sorted(_hash_file(file) for file in Path(path).iterdir() if file.is_file())
        return hashlib.sha256("".join(inner).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def duplicate_groups(images: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> np.ndarray:
    """Groups in which copies of one image are together, and with them all that `groups` keep together.

    Copies are files of the very same bytes, or arrays of the very same values. Each image is read once,
    one by one, so that a memory-mapped set stays on disk.

    Args:
        images: paths, shape `(n,)`, or an array of images, shape `(n, ...)`.
        groups: an id per image, such as its patient, any type, shape `(n,)`.

    Returns:
        int64 group numbers, shape `(n,)`, in order of first appearance.

    Raises:
        ValueError: `groups` has another length.
        OSError: a file cannot be read.

    >>> duplicate_groups(np.array([[1, 2], [3, 4], [1, 2]], "uint8")).tolist()
    [0, 1, 0]
    >>> duplicate_groups(np.array([[1, 2], [3, 4], [1, 2]], "uint8"), groups=["ann", "bob", "bob"]).tolist()
    [0, 0, 0]
    """
    images = np.asarray(images)
    if images.dtype.kind in "UO":
        hashes = hash_files(images)
    else:
        hashes = np.array([hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in images])
    return merge_groups(hashes) if groups is None else merge_groups(hashes, groups)


def merge_groups(*groups: npt.ArrayLike) -> np.ndarray:
    """Groups that keep together whatever any of the given ones keeps together, directly or by a chain.

    Args:
        groups: one or more columns of ids, each of shape `(n,)` and any type: patients, copies.

    Returns:
        int64 group numbers, shape `(n,)`, in order of first appearance.

    Raises:
        ValueError: no columns, or columns of unequal length.

    >>> merge_groups(["ann", "ann", "bob", "cy"], [0, 1, 1, 2]).tolist()
    [0, 0, 0, 1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    columns = [np.asarray(column) for column in groups]
    if not columns or len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
        raise ValueError(
            "`groups` must be one or more columns of equal length. Received shapes "
            f"{[column.shape for column in columns]}."
        )
    # Images and groups are the nodes of one graph; an image touches its group of each column.
    rows = len(columns[0])
    touched, nodes = [], rows
    for column in columns:
        touched.append(nodes + _number_in_order(column))
        nodes += rows
    image, group = np.tile(np.arange(rows), len(columns)), np.concatenate(touched)
    graph = coo_array((np.ones(len(group), np.int8), (image, group)), shape=(nodes, nodes))
    return _number_in_order(connected_components(graph, directed=False)[1][:rows])


def _number_in_order(column: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
