"""Patients by the names of image files: `10_left` and `10_right` are eyes of patient 10."""

import re
import warnings
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from keras_ssl.data.listing import listed

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
    rest = f"; {len(others)} others each taken for a patient of its own ({listed(others)})" if others else ""
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
