"""Validation of volumes, masks and affines, and warnings about a table of volumes."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from keras_ssl.data.cache import Arrays, Parts
from keras_ssl.data.files import listed


class VolumeGrid(NamedTuple):
    """Where voxels lie: how many along each axis, and the affine `(4, 4)` from indices to millimeters."""

    shape: tuple[int, int, int]
    affine: np.ndarray


if TYPE_CHECKING:
    from keras_ssl.data.volume_table import VolumeTable


class Volume(NamedTuple):
    """Voxels `(x, y, z)` or `(x, y, z, channels)`, and the affine `(4, 4)` from their indices to millimeters.

    The millimeters count to the patient's right, front and top (RAS+), as in NIfTI.

    >>> Volume(np.zeros((4, 5, 6)), np.diag([1.0, 1.0, 2.5, 1.0])).spacing
    (1.0, 1.0, 2.5)
    """

    voxels: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimeters between neighbors along each axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z


@contextlib.contextmanager
def memory_named(path: object) -> Iterator[None]:
    """Name the file in a `MemoryError` raised inside."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{path} does not fit into memory. {error}".rstrip()) from error


def check_voxels(voxels: np.ndarray) -> np.ndarray:
    """Voxels as integers or float32, in this machine's order of bytes.

    Raises:
        ValueError: they are not real numbers, empty, NaN or infinite, also once they are float32.
    """
    if voxels.dtype.kind not in "buif":
        raise ValueError(f"`voxels` must be real numbers. Received dtype {voxels.dtype}.")
    if 0 in voxels.shape:
        raise ValueError(f"`voxels` must not be empty. Received shape {voxels.shape}.")
    if voxels.dtype.kind != "f":
        return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    with np.errstate(over="ignore"):
        voxels = voxels.astype(np.float32, copy=False)
    if bad := int(np.count_nonzero(~np.isfinite(voxels))):
        raise ValueError(
            f"`voxels` must be finite. Received NaN or infinity in {bad} of {voxels.size} voxels."
        )
    return voxels


def check_affine(affine: npt.ArrayLike) -> np.ndarray:
    """An affine as float64.

    Raises:
        ValueError: it has another shape, is not finite, or cannot be inverted.
    """
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4):
        raise ValueError(f"`affine` must have shape (4, 4). Received shape {affine.shape}.")
    # Of the axes' directions, whatever the size of the voxels.
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (
        not (np.isfinite(affine).all() and lengths.all() and np.isfinite(lengths).all())
        or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3
    ):
        raise ValueError(f"`affine` must be finite and invertible. Received {affine.tolist()}.")
    return affine


def check_label_values(label_values: Sequence[int] | None, num_classes: int | None = None) -> None:
    """Refuse values of classes that are not whole, not different or not as many as there are classes.

    Raises:
        ValueError: they are.

    >>> check_label_values((0, 255), num_classes=2)
    """
    if label_values is None:
        return
    values = np.asarray(label_values)
    # More than 256 classes do not fit into uint8.
    if (
        values.ndim != 1
        or values.dtype.kind not in "iu"
        or not 1 <= len(set(values.tolist())) == len(values) <= 256
    ):
        raise ValueError(
            "`label_values` must be different whole numbers, at most 256, that stand for classes 0, 1 and so "
            f"on, or None. Received {label_values!r}."
        )
    if num_classes is not None and len(values) != num_classes:
        raise ValueError(
            f"`label_values` must be {num_classes} values, one per class. Received {label_values!r}."
        )


def check_labels(
    labels: np.ndarray, num_classes: int | None = None, label_values: Sequence[int] | None = None
) -> np.ndarray:
    """Labels as uint8.

    Args:
        labels: whole numbers, `(x, y, z)`; floats that are whole will do.
        num_classes: each must lie in 0..`num_classes` - 1; in 0..255 where `None`.
        label_values: the values that stand for classes 0, 1 and so on: each label must be one of them, and
            becomes the number of its class. `None` where labels are numbers of classes.

    Raises:
        ValueError: `labels` have other axes, are not whole, out of range or none of `label_values`. The
            message lists the values found.

    >>> check_labels(np.array([[[0.0, 2.0]]]), num_classes=3).dtype.name
    'uint8'
    >>> check_labels(np.array([[[0, 255]]]), label_values=(0, 255)).tolist()
    [[[0, 1]]]
    >>> check_labels(np.array([[[0, 255]]]), num_classes=2)
    Traceback (most recent call last):
        ...
    ValueError: labels must be whole numbers in 0..1. Received 255 in 1 of 2 voxels; the values found are 0, \
255. Others can be mapped, as by label_values=(0, 255).
    """
    labels = np.asarray(labels)
    if labels.ndim != 3:
        raise ValueError(f"labels must have shape (x, y, z). Received shape {labels.shape}.")
    if labels.dtype.kind not in "buif":
        raise ValueError(f"labels must be whole numbers. Received dtype {labels.dtype}.")
    if label_values is not None:
        return _mapped(labels, label_values)
    highest = 255 if num_classes is None else num_classes - 1
    if labels.dtype == np.uint8 and labels.max(initial=0) <= highest:
        return labels
    # Written so that NaN, for which every comparison is false, is bad.
    bad = ~((labels >= 0) & (labels <= highest))
    if labels.dtype.kind == "f":
        bad |= labels != np.floor(labels)
    if bad.any():
        raise ValueError(
            f"labels must be whole numbers in 0..{highest}. Received {labels[bad][0]} in {int(bad.sum())} of "
            f"{labels.size} voxels; the values found are {shown(np.unique(labels))}. Others can be "
            "mapped, as by label_values=(0, 255)."
        )
    return labels.astype(np.uint8)


def shown(values: np.ndarray) -> str:
    """The first twenty values, and how many there are."""
    return listed([f"{value:g}" for value in values.tolist()])


def _mapped(labels: np.ndarray, label_values: Sequence[int]) -> np.ndarray:
    """The class of each label, uint8."""
    known = np.asarray(label_values, np.int64)
    order = np.argsort(known)
    classes = order[np.searchsorted(known[order], labels).clip(0, len(known) - 1)].astype(np.uint8)
    unknown = known[classes] != labels
    if unknown.any():
        raise ValueError(
            f"labels must be in `label_values`, {tuple(known.tolist())}. Received {labels[unknown][0]} in "
            f"{int(unknown.sum())} of {labels.size} voxels; the values found are {shown(np.unique(labels))}."
        )
    return classes


def smallest_integers(voxels: np.ndarray) -> np.ndarray:
    """Integers and booleans in the smallest of uint8, int16 and int32 that holds them; floats as they are.

    Raises:
        ValueError: none of the three holds them.

    >>> smallest_integers(np.array([-1, 300])).dtype.name
    'int16'
    """
    if voxels.dtype.kind == "f":
        return voxels
    low, high = int(voxels.min()), int(voxels.max())
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return voxels.astype(dtype)
    raise ValueError(f"`voxels` must fit into 32 bits. Received integers in {low}..{high}.")


def same_place(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether two affines put every voxel of a grid within a tenth of its side of the same place.

    Headers of an image and of its mask often differ in the last digits of rounded numbers.
    """
    corners = np.array(np.meshgrid(*((0, side - 1) for side in shape[:3]), indexing="ij")).reshape(3, -1)
    apart = (one[:3, :3] - other[:3, :3]) @ corners + (one[:3, 3] - other[:3, 3])[:, None]
    return bool(np.linalg.norm(apart, axis=0).max() <= 0.1 * np.linalg.norm(one[:3, :3], axis=0).min())


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
