"""Volumes: voxels with an affine, and validation of voxels, affines and label maps."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keras_ssl._checks import check_labels
from keras_ssl.data.files import shorten_list

# Labels are stored as uint8.
MAX_CLASSES = 256


class VolumeGrid(NamedTuple):
    """Number of voxels along each axis, and the affine `(4, 4)` from indices to millimeters."""

    shape: tuple[int, int, int]
    affine: np.ndarray


class Volume(NamedTuple):
    """Voxels `(x, y, z)` or `(x, y, z, channels)`, and the affine `(4, 4)` from their indices to millimeters.

    Millimeters count to the patient's right, anterior and superior (RAS+), as in NIfTI.

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
    """Check voxels, and return them as integers or float32 in native byte order.

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


def to_smallest_integers(voxels: np.ndarray) -> np.ndarray:
    """Convert integers and booleans to the smallest of uint8, int16 and int32 that holds them.

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


def check_affine(affine: npt.ArrayLike) -> np.ndarray:
    """Check an affine, and return it as float64.

    Raises:
        ValueError: it has another shape, is not finite, or cannot be inverted.
    """
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4):
        raise ValueError(f"`affine` must have shape (4, 4). Received shape {affine.shape}.")
    # The determinant of the axes' directions, whatever the size of the voxels.
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (
        not (np.isfinite(affine).all() and lengths.all() and np.isfinite(lengths).all())
        or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3
    ):
        raise ValueError(f"`affine` must be finite and invertible. Received {affine.tolist()}.")
    return affine


def affines_match(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Return True if two affines place every voxel of a grid within a tenth of its side.

    Headers of an image and of its mask often differ in the last digits of rounded numbers.
    """
    corners = np.array(np.meshgrid(*((0, side - 1) for side in shape[:3]), indexing="ij")).reshape(3, -1)
    distances = (affine[:3, :3] - other[:3, :3]) @ corners + (affine[:3, 3] - other[:3, 3])[:, None]
    smallest_side = np.linalg.norm(affine[:3, :3], axis=0).min()
    return bool(np.linalg.norm(distances, axis=0).max() <= 0.1 * smallest_side)


def check_label_values(label_values: Sequence[int] | None, num_classes: int | None = None) -> None:
    """Check that the label values of classes are integers, different, and as many as there are classes.

    Raises:
        ValueError: they are not.

    >>> check_label_values((0, 255), num_classes=2)
    """
    if label_values is None:
        return
    values = np.asarray(label_values)
    if (
        values.ndim != 1
        or values.dtype.kind not in "iu"
        or not 1 <= len(set(values.tolist())) == len(values) <= MAX_CLASSES
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
