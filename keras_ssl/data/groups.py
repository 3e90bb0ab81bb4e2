"""Groups of images: patients recognized from file names, and duplicates found by content."""

import hashlib
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_ssl.data.files import map_in_order, shorten_list

# An eye in a file's name: a word of its own, or behind a number (`01L`, as in CHASE DB1).
_EYE = re.compile(
    r"(?<![a-zA-Z])(?i:left|right)"
    r"|(?<=\d[-_. ])(?i:l|r|od|os|le|re)(?![a-zA-Z])"
    r"|(?<![a-zA-Z])(?:L|R|OD|OS|LE|RE)(?![a-zA-Z])"
    r"|(?<=\d)[lr](?![a-zA-Z0-9])"
)


_EYE_ALONE = re.compile(r"left|right|l|r|od|os|le|re", re.IGNORECASE)


_LEFT = ("left", "l", "os", "le")


def patients_of_names(names: Sequence[str]) -> np.ndarray | None:
    """Groups by what names of eyes tell of patients, with a warning; `None` where they tell nothing.

    Names may hold several numbers, of visits or images. What is taken for the patient is the part that tells
    the most patients while at least half of the images have their patient's other eye among them.
    """
    eyes = [_eye_of_name(name) for name in names]
    known = [eye for eye in eyes if eye]
    if not known:
        return None
    kinds = list(dict.fromkeys(kind for _, keys in known for kind in keys))
    groupings = [[keys.get(kind) or next(iter(keys.values())) for _, keys in known] for kind in kinds]
    paired = [grouping for grouping in groupings if 2 * _count_paired(known, grouping) >= len(known)]
    chosen = max(paired, key=lambda grouping: len(set(grouping)), default=groupings[0])
    patients = iter(chosen)
    groups = [next(patients) if eye else None for eye in eyes]
    others = [name for name, group in zip(names, groups, strict=True) if group is None]
    rest = (
        f"; {len(others)} others each taken for a patient of its own ({shorten_list(others)})"
        if others
        else ""
    )
    example = next(name for name, group in zip(names, groups, strict=True) if group is not None)
    doubt = "" if paired else " Few have their patient's other eye among them, so this is doubtful."
    warnings.warn(
        f"Patients are taken from the names of files, such as {example}: {len(known)} images of "
        f"{len(set(chosen))} patients{rest}.{doubt} Where that is wrong, give the patients: `group_column` "
        "of from_csv, or `groups` of the table.",
        stacklevel=3,
    )
    # No patient's key has a space and a single number.
    return np.array([f"image {row}" if group is None else group for row, group in enumerate(groups)])


def _count_paired(eyes: list[tuple[bool, dict[str, str]]], patients: list[str]) -> int:
    """Count the images whose patient has images of both eyes."""
    sides = defaultdict(set)
    for (is_left, _), patient in zip(eyes, patients, strict=True):
        sides[patient].add(is_left)
    return sum(len(sides[patient]) == 2 for patient in patients)


def _eye_of_name(name: str) -> tuple[bool, dict[str, str]] | None:
    """Return the laterality (True for left) and candidate patient keys; `None` if no eye is named."""
    *folders, last = name.replace("\\", "/").split("/")
    folder = _key(folders[-1]) if folders else ""
    if folders and _EYE_ALONE.fullmatch(folders[-1]):
        outer = _key(folders[-2]) if len(folders) > 1 else ""
        keys = {"stem": _key(last.split(".")[0]), "outer": outer}
        return folders[-1].lower() in _LEFT, {kind: key for kind, key in keys.items() if key}
    stem = last.split(".")[0] if _EYE_ALONE.fullmatch(last.split(".")[0]) else last
    match = _EYE.search(stem) or (_EYE_ALONE.fullmatch(stem) if folders else None)
    if match is None:
        return None
    before, after = stem[: match.start()].rstrip("-_. ("), stem[match.end() :]
    numbers = re.findall(r"\d+", before)
    if len(numbers) > 1:
        first = re.match(r"\D*\d+", before)
        keys = {"whole": _key(before), "first": _key(first[0]) if first else "", "last": _key(numbers[-1])}
    elif numbers:
        # Letters within the number's word tell patients apart, those before it are the same for all.
        word = re.search(r"\d+\w*$", before)
        keys = {"number": _key(numbers[0]), "word": _key(word[0]) if word else ""}
    else:
        following = re.search(r"\d+", after.rpartition(".")[0] or after)
        keys = {
            "text": _key(before) if re.search("[a-zA-Z]", before) else "",
            "following": _key(following[0]) if following else "",
            "folder": folder,
        }
    keys = {kind: key for kind, key in keys.items() if key}
    return (match[0].lower() in _LEFT, keys) if keys else None


def _key(text: str) -> str:
    """Write a patient without the zeros before a number, and without spaces."""
    return (text.lstrip("0") or "0" if text else "").replace(" ", "_")


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
        return np.array(list(map_in_order(executor, _hash_file, paths)), dtype=str)


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
