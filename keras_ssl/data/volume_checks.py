"""Validation of volumes, masks and affines, and warnings about a table of volumes."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from keras_ssl._checks import check_labels
from keras_ssl.data.cache import Arrays, Parts
from keras_ssl.data.files import shorten_list


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
def memory_error_naming(path: object) -> Iterator[None]:
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


def label_map(
    labels: np.ndarray, num_classes: int | None = None, label_values: Sequence[int] | None = None
) -> np.ndarray:
    """Convert the labels of a volume to uint8.

    Args:
        labels: whole numbers, `(x, y, z)`; floats that are whole are accepted.
        num_classes: each must lie in 0..`num_classes` - 1; in 0..255 where `None`.
        label_values: the values that stand for classes 0, 1 and so on: each label must be one of them, and
            becomes the number of its class. `None` where labels are numbers of classes.

    Raises:
        ValueError: `labels` have other axes, are not whole, out of range or none of `label_values`. The
            message lists the values found.

    >>> label_map(np.array([[[0, 255]]]), label_values=(0, 255)).tolist()
    [[[0, 1]]]
    """
    labels = np.asarray(labels)
    if labels.ndim != 3:
        raise ValueError(f"`labels` must have shape (x, y, z). Received shape {labels.shape}.")
    if label_values is None:
        hint = " Others can be mapped, as by label_values=(0, 255)."
        return check_labels(labels, num_classes or MAX_CLASSES, dtype=np.uint8, hint=hint)
    known = np.asarray(label_values, np.int64)
    order = np.argsort(known)
    classes = order[np.searchsorted(known[order], labels).clip(0, len(known) - 1)].astype(np.uint8)
    unknown = known[classes] != labels
    if unknown.any():
        raise ValueError(
            f"`labels` must be in `label_values`, {tuple(known.tolist())}. Received {labels[unknown][0]} in "
            f"{int(unknown.sum())} of {labels.size} voxels; all values: {shorten_values(np.unique(labels))}."
        )
    return classes


def shorten_values(values: np.ndarray) -> str:
    """The first twenty values, and how many there are."""
    return shorten_list([f"{value:g}" for value in values.tolist()])


def to_smallest_integers(voxels: np.ndarray) -> np.ndarray:
    """Integers and booleans in the smallest of uint8, int16 and int32 that holds them; floats as they are.

    Raises:
        ValueError: none of the three holds them.

    >>> to_smallest_integers(np.array([-1, 300])).dtype.name
    'int16'
    """
    if voxels.dtype.kind == "f":
        return voxels
    low, high = int(voxels.min()), int(voxels.max())
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return voxels.astype(dtype)
    raise ValueError(f"`voxels` must fit into 32 bits. Received integers in {low}..{high}.")


def affines_match(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether two affines put every voxel of a grid within a tenth of its side of the same place.

    Headers of an image and of its mask often differ in the last digits of rounded numbers.
    """
    corners = np.array(np.meshgrid(*((0, side - 1) for side in shape[:3]), indexing="ij")).reshape(3, -1)
    apart = (one[:3, :3] - other[:3, :3]) @ corners + (one[:3, 3] - other[:3, 3])[:, None]
    return bool(np.linalg.norm(apart, axis=0).max() <= 0.1 * np.linalg.norm(one[:3, :3], axis=0).min())


MAX_CLASSES = 256


_ADVICE = "Pass max_foreground_loss to allow more, a larger shape, or None as shape and draw patches."


class RowStatistics(NamedTuple):
    """Facts about one scan and its mask.

    Args:
        constant: whether each modality has one value everywhere, `(modalities,)`.
        labels: of a mask the voxels of each class as they are read, at the new spacing, and once cropped and
            padded, int64 `(3, 256)`; `None` without a mask.
    """

    constant: np.ndarray
    labels: np.ndarray | None = None


def statistics_parts(modalities: int, masks: bool) -> Parts:
    """The arrays that hold the facts of all rows beside what is prepared of them."""
    parts: Parts = {"constant": ((modalities,), np.bool_)}
    return parts | {"labels": ((3, MAX_CLASSES), np.int64)} if masks else parts


def store_statistics(arrays: Arrays, row: int, facts: RowStatistics) -> None:
    """Fill a row of the arrays of `statistics_parts`."""
    arrays["constant"][row] = facts.constant
    if facts.labels is not None:
        arrays["labels"][row] = facts.labels


def load_statistics(arrays: Arrays) -> list[RowStatistics]:
    """The facts of all rows that `store_statistics` kept."""
    constant, labels = arrays["constant"], arrays.get("labels")
    return [RowStatistics(one, None if labels is None else labels[row]) for row, one in enumerate(constant)]


def check_max_foreground_loss(max_foreground_loss: float) -> None:
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
    return sum((np.bincount(part, minlength=MAX_CLASSES) for part in parts), np.zeros(MAX_CLASSES, np.int64))


def is_constant(voxels: np.ndarray) -> np.ndarray:
    """Return which channels of `(x, y, z, channels)` are constant, `(channels,)`."""
    axes = tuple(range(voxels.ndim - 1))
    return voxels.min(axis=axes) == voxels.max(axis=axes)


def warn_about_table(
    table: "VolumeTable",
    facts: Sequence[RowStatistics],
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
    warn_about_empty_masks(table, np.flatnonzero(labels[:, 2, 1:].sum(axis=1) == 0).tolist(), empty_masks)


def warn_about_empty_masks(table: "VolumeTable", rows: Sequence[int], empty_masks: str) -> None:
    """Warn of masks without foreground, or raise, as `empty_masks` says."""
    if not rows or empty_masks == "allow" or table.masks is None:
        return
    names = shorten_list([table.masks[row] for row in rows])
    message = f"{len(rows)} of {len(table)} masks have no foreground: {names}."
    if empty_masks == "refuse":
        raise ValueError(f"`table` must name masks with foreground. {message}")
    warnings.warn(message, stacklevel=4)


def _tell_of_constant(table: "VolumeTable", constant: np.ndarray) -> None:
    if not constant.any():
        return
    named = f"{constant.sum()} of {constant.size} files: {shorten_list(table.files[constant].tolist())}."
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
                f"{shorten_values(absent)}.",
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
        f"found are {shorten_values(found)}: {shorten_list(named)}. {advice}num_classes={found[-1] + 1} if "
        "the others are classes that occur nowhere."
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
        return shorten_list([f"{table.masks[row]} ({_loss(before[row], after[row])})" for row in ordered])  # type: ignore[index]

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
