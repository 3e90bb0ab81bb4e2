"""Facts about the volumes of a table: values of labels, foreground lost to a shape, volumes of one value."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_ssl.data.decoded_cache import Arrays, Parts
from keras_ssl.data.listing import listed
from keras_ssl.data.volume_checks import shown

if TYPE_CHECKING:
    from keras_ssl.data.volume_table import VolumeTable

CLASSES = 256
_ADVICE = "Pass max_foreground_loss to allow more, a larger shape, or None as shape and draw patches."


class RowFacts(NamedTuple):
    """Facts about one scan and its mask.

    Args:
        constant: whether each modality has one value everywhere, `(modalities,)`.
        labels: of a mask the voxels of each class as they are read, at the new spacing, and once cropped and
            padded, int64 `(3, 256)`; `None` without a mask.
    """

    constant: np.ndarray
    labels: np.ndarray | None = None


def facts_parts(modalities: int, masks: bool) -> Parts:
    """The arrays that hold the facts of all rows beside what is prepared of them."""
    parts: Parts = {"constant": ((modalities,), np.bool_)}
    return parts | {"labels": ((3, CLASSES), np.int64)} if masks else parts


def keep_facts(arrays: Arrays, row: int, facts: RowFacts) -> None:
    """Fill a row of the arrays of `facts_parts`."""
    arrays["constant"][row] = facts.constant
    if facts.labels is not None:
        arrays["labels"][row] = facts.labels


def facts_of(arrays: Arrays) -> list[RowFacts]:
    """The facts of all rows that `keep_facts` kept."""
    constant, labels = arrays["constant"], arrays.get("labels")
    return [RowFacts(one, None if labels is None else labels[row]) for row, one in enumerate(constant)]


def check_loss(max_foreground_loss: float) -> None:
    """Refuse what is no fraction."""
    if not 0 <= max_foreground_loss <= 1:
        raise ValueError(f"`max_foreground_loss` must lie in 0..1. Received {max_foreground_loss!r}.")


def count_labels(mask: np.ndarray) -> np.ndarray:
    """Voxels of each class of a mask of uint8, int64 `(256,)`.

    >>> count_labels(np.array([[[0, 2], [2, 2]]], "uint8"))[:3].tolist()
    [1, 0, 3]
    """
    # Part by part: NumPy counts numbers of eight bytes.
    parts = np.array_split(mask.ravel(order="K"), 1 + mask.size // (1 << 20))
    return sum((np.bincount(part, minlength=CLASSES) for part in parts), np.zeros(CLASSES, np.int64))


def is_constant(voxels: np.ndarray) -> np.ndarray:
    """Return which channels of `(x, y, z, channels)` are constant, `(channels,)`."""
    axes = tuple(range(voxels.ndim - 1))
    return voxels.min(axis=axes) == voxels.max(axis=axes)


def tell_of(
    table: "VolumeTable",
    facts: Sequence[RowFacts],
    *,
    empty_masks: str,
    num_classes: int | None,
    max_foreground_loss: float = 1.0,
) -> None:
    """Refuse, or warn of, what the facts of all rows say.

    Raises:
        ValueError: all volumes have one value everywhere; labels are not 0..K-1 without gaps; a mask loses
            more than `max_foreground_loss` of a class; with `empty_masks="refuse"`, masks have no foreground.
    """
    _tell_of_constant(table, np.array([one.constant for one in facts]))
    if table.masks is None:
        return
    labels = np.array([one.labels for one in facts])
    _tell_of_values(table, labels[:, 0], num_classes)
    _tell_of_loss(table, labels, max_foreground_loss)
    tell_of_empty(table, np.flatnonzero(labels[:, 2, 1:].sum(axis=1) == 0).tolist(), empty_masks)


def tell_of_empty(table: "VolumeTable", rows: Sequence[int], empty_masks: str) -> None:
    """Warn of masks without foreground, or raise, as `empty_masks` says."""
    if not rows or empty_masks == "allow" or table.masks is None:
        return
    message = (
        f"{len(rows)} of {len(table)} masks have no foreground: {listed([table.masks[row] for row in rows])}."
    )
    if empty_masks == "refuse":
        raise ValueError(f"`table` must name masks with foreground. {message}")
    warnings.warn(message, stacklevel=4)


def _tell_of_constant(table: "VolumeTable", constant: np.ndarray) -> None:
    if not constant.any():
        return
    named = f"{constant.sum()} of {constant.size} files: {listed(table.files[constant].tolist())}."
    if constant.all():
        raise ValueError(f"`table` must name volumes of more than one value. All have a single one, {named}")
    warnings.warn(f"Volumes of one value everywhere, which teach nothing, in {named}", stacklevel=4)


def _tell_of_values(table: "VolumeTable", counts: np.ndarray, num_classes: int | None) -> None:
    """Refuse labels with gaps; with `num_classes` warn of classes that never occur."""
    found = np.flatnonzero(counts.any(axis=0))
    if num_classes is not None:
        absent = np.setdiff1d(np.arange(num_classes), found)
        if len(absent):
            warnings.warn(
                f"{len(absent)} of {num_classes} classes occur in none of the {len(table)} masks: "
                f"{shown(absent)}.",
                stacklevel=4,
            )
        return
    if len(found) == found[-1] + 1:
        return
    assert table.masks is not None
    named = [
        f"{value:g} in {np.count_nonzero(counts[:, value])} masks "
        f"({table.masks[int(counts[:, value].argmax())]})"
        for value in found[found > 0]
    ]
    values = ", ".join(map(str, found))
    advice = (
        f"Pass label_values=({values}) to map them to 0..{len(found) - 1}, or " if len(found) > 1 else "Pass "
    )
    raise ValueError(
        "`table` must name masks whose labels are 0, 1 and so on without gaps, as each is a class. Those "
        f"found are {shown(found)}: {listed(named)}. {advice}num_classes={found[-1] + 1} if the others are "
        "classes that occur nowhere."
    )


def _tell_of_loss(table: "VolumeTable", labels: np.ndarray, max_foreground_loss: float) -> None:
    """Warn of masks that lose foreground to the shape; refuse those of which a class loses too much."""
    before, after = labels[:, 1, 1:], labels[:, 2, 1:]
    lost = 1 - after / np.maximum(before, 1)
    lost[before == 0] = 0
    # Of the class that loses most: a small lesion beside a large organ counts too.
    worst = lost.max(axis=1)
    rows = np.flatnonzero(worst)
    if not len(rows):
        return
    assert table.masks is not None

    def named(rows: np.ndarray) -> str:
        ordered = rows[np.argsort(-worst[rows], kind="stable")]
        return listed([f"{table.masks[row]} ({_loss(before[row], after[row])})" for row in ordered])  # type: ignore[index]

    beyond = rows[worst[rows] > max_foreground_loss]
    if len(beyond):
        raise ValueError(
            f"`preparation` must not cut off more than {100 * max_foreground_loss:g} % of a class. Its shape "
            f"does in {len(beyond)} of {len(table)} masks: {named(beyond)}. {_ADVICE}"
        )
    warnings.warn(
        f"The shape cuts off foreground in {len(rows)} of {len(table)} masks: {named(rows)}.", stacklevel=4
    )


def _loss(before: np.ndarray, after: np.ndarray) -> str:
    """Return the lost fraction of the foreground and of the class that loses most."""
    lost = (before - after) / np.maximum(before, 1)
    worst = int(lost.argmax())
    total = before.sum() - after.sum()
    return f"{total} of {before.sum()} voxels, {100 * lost[worst]:.3g} % of class {worst + 1}"
