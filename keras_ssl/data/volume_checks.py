"""What a volume is, and what its voxels, labels and affine must be."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keras_ssl.data.listing import listed


class Volume(NamedTuple):
    """Voxels `(x, y, z)` or `(x, y, z, channels)`, and the affine `(4, 4)` from their indices to millimetres.

    The millimetres count to the patient's right, front and top (RAS+), as in NIfTI.

    >>> Volume(np.zeros((4, 5, 6)), np.diag([1.0, 1.0, 2.5, 1.0])).spacing
    (1.0, 1.0, 2.5)
    """

    voxels: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between neighbours along each axis."""
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
