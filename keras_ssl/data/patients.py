"""Groups of images that splits keep together: patients recognized by file name, duplicates by content."""

import hashlib
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_ssl._types import Images
from keras_ssl.data.files import hash_files, shorten_list

# Laterality in a file name: a separate word, or after a number (`01L`, as in CHASE DB1).
_EYE = re.compile(
    r"(?<![a-zA-Z])(?i:left|right)"
    r"|(?<=\d[-_. ])(?i:l|r|od|os|le|re)(?![a-zA-Z])"
    r"|(?<![a-zA-Z])(?:L|R|OD|OS|LE|RE)(?![a-zA-Z])"
    r"|(?<=\d)[lr](?![a-zA-Z0-9])"
)
_EYE_ALONE = re.compile(r"left|right|l|r|od|os|le|re", re.IGNORECASE)
_LEFT = ("left", "l", "os", "le")

# Images on disk that threads read at once.
_READ_TOGETHER = 32


def patients_of_names(names: Sequence[str]) -> np.ndarray | None:
    """Group images by patient where file names contain a laterality, with a warning; `None` where none does.

    Names may hold several numbers, of visits or images. The part taken as the patient is the one that
    distinguishes most patients while at least half of the images have their patient's other eye among them.
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
        f"; {len(others)} others each taken as a separate patient ({shorten_list(others)})" if others else ""
    )
    example = next(name for name, group in zip(names, groups, strict=True) if group is not None)
    doubt = "" if paired else " Few patients have images of both eyes, so this is uncertain."
    warnings.warn(
        f"Patients are taken from the names of files, such as {example}: {len(known)} images of "
        f"{len(set(chosen))} patients{rest}.{doubt} If this is wrong, pass the patients: `group_column` of "
        "from_csv, or `groups` of the table.",
        stacklevel=3,
    )
    # Keys of patients contain no spaces, so these are unique.
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
        # Letters in the word of the number distinguish patients, letters before it are the same for all.
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
    """Normalize the key of a patient: no leading zeros, no spaces."""
    return (text.lstrip("0") or "0" if text else "").replace(" ", "_")


def duplicate_groups(images: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> np.ndarray:
    """Group copies of the same image, and merge these groups with given ones.

    Copies are files with the same bytes, or arrays with the same values. Images are read one by one, so that
    a memory-mapped array stays on disk.

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
    hashes = hash_files(images) if images.dtype.kind in "UO" else hash_images(images)
    return merge_groups(hashes) if groups is None else merge_groups(hashes, groups)


def hash_images(images: Images) -> list[str]:
    """Return a hash of the values of each image; images on disk are read a few at a time.

    >>> len(set(hash_images(np.array([[1, 2], [3, 4], [1, 2]], "uint8"))))
    2
    """
    parts = (images[start : start + _READ_TOGETHER] for start in range(0, len(images), _READ_TOGETHER))
    return [hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for part in parts for image in part]


def merge_groups(*groups: npt.ArrayLike) -> np.ndarray:
    """Merge groups: images that share a group in any column, directly or through others, share one.

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
    # Images and groups are the nodes of a graph; an image is linked to its group in each column.
    rows = len(columns[0])
    linked, nodes = [], rows
    for column in columns:
        linked.append(nodes + _number_in_order(column))
        nodes += rows
    # SciPy 1.11 finds no components, without an error, where indices are of 64 bits.
    image = np.tile(np.arange(rows, dtype=np.int32), len(columns))
    group = np.concatenate(linked).astype(np.int32)
    graph = coo_array((np.ones(len(group), np.int8), (image, group)), shape=(nodes, nodes))
    return _number_in_order(connected_components(graph, directed=False)[1][:rows])


def _number_in_order(column: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
