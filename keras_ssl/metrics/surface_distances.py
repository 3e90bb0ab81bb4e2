"""How far apart the surfaces of two masks lie, in the unit of the spacing."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_ssl.metrics.segmentation import check_same_shape


def surface_distances(
    true: npt.ArrayLike, predicted: npt.ArrayLike, spacing: float | Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each surface voxel of one mask to the nearest surface voxel of the other, both ways.

    A voxel of a mask belongs to its surface if one of its neighbors across a face (an edge in 2D) does not
    belong to the mask, or lies outside the volume. Distances are between centers of voxels.

    Args:
        true: mask of any number of axes; what is not 0 belongs to it.
        predicted: mask of the same shape.
        spacing: size of a voxel along each axis, in mm say; one number for all axes alike.

    Returns:
        Distances from the true surface and distances from the predicted one, float64, each with one element
        a surface voxel. Infinite where the other mask is empty.

    Raises:
        ValueError: shapes differ, or `spacing` is not one finite number above 0 an axis.

    >>> there, back = surface_distances([0, 1, 1, 1, 0], [0, 0, 1, 1, 0], spacing=2.0)
    >>> there.tolist(), back.tolist()  # the middle voxel of the first lies within
    ([2.0, 0.0], [2.0, 0.0])
    """
    masks = [np.asarray(true) != 0, np.asarray(predicted) != 0]
    check_same_shape(*masks)
    sampling = _checked_spacing(spacing, masks[0].ndim)
    box = _bounding_box(masks[0] | masks[1])
    surfaces = [_surface(mask[box]) for mask in masks]
    return (
        _distances(surfaces[0], surfaces[1], sampling),
        _distances(surfaces[1], surfaces[0], sampling),
    )


def hausdorff_95(true: npt.ArrayLike, predicted: npt.ArrayLike, spacing: float | Sequence[float]) -> float:
    """Hausdorff distance of two surfaces without their outermost 5 %.

    The larger of two 95th percentiles: of the distances from the true surface to the predicted one, and of
    those back, see `surface_distances`. (Some take one percentile of both together, which a large surface
    then rules alone.) Percentiles lie between two distances where they must, as in `numpy.percentile`.

    Args:
        true: as in `surface_distances`.
        predicted: as in `surface_distances`.
        spacing: as in `surface_distances`.

    Returns:
        A length in the unit of `spacing`, at least 0. nan where both masks are empty, infinite where one is.

    Raises:
        ValueError: as `surface_distances`.

    >>> hausdorff_95([0, 1, 0, 0, 0], [0, 0, 0, 1, 0], spacing=0.5)
    1.0

    References:
        Huttenlocher, D. P. et al. (1993). Comparing images using the Hausdorff distance. IEEE Transactions
        on Pattern Analysis and Machine Intelligence 15(9).
    """
    return percentile_95(*surface_distances(true, predicted, spacing))


def average_surface_distance(
    true: npt.ArrayLike, predicted: npt.ArrayLike, spacing: float | Sequence[float]
) -> float:
    """Mean distance between two surfaces, over all surface voxels of both together.

    Args:
        true: as in `surface_distances`.
        predicted: as in `surface_distances`.
        spacing: as in `surface_distances`.

    Returns:
        A length in the unit of `spacing`, at least 0. nan where both masks are empty, infinite where one is.

    Raises:
        ValueError: as `surface_distances`.

    >>> average_surface_distance([0, 1, 1, 1, 0], [0, 0, 1, 1, 0], spacing=2.0)
    1.0

    References:
        Heimann, T. et al. (2009). Comparison and evaluation of methods for liver segmentation from CT
        datasets. IEEE Transactions on Medical Imaging 28(8).
    """
    return mean_distance(*surface_distances(true, predicted, spacing))


def percentile_95(there: np.ndarray, back: np.ndarray) -> float:
    """`hausdorff_95` from what `surface_distances` gives."""
    if not len(there) or not len(back):
        return _of_empty(there, back)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def mean_distance(there: np.ndarray, back: np.ndarray) -> float:
    """`average_surface_distance` from what `surface_distances` gives."""
    if not len(there) or not len(back):
        return _of_empty(there, back)
    return float((there.sum() + back.sum()) / (len(there) + len(back)))


def _of_empty(there: np.ndarray, back: np.ndarray) -> float:
    return float("inf") if len(there) or len(back) else float("nan")


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds all of a mask; nothing where it is empty."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        box.append(slice(occupied[0], occupied[-1] + 1) if len(occupied) else slice(0, 0))
    return tuple(box)


def _surface(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    # Outside counts as empty. Outside the box of both masks it is, so cutting to the box changes nothing.
    return mask & ~binary_erosion(mask) if mask.size else mask


def _distances(start: np.ndarray, end: np.ndarray, sampling: tuple[float, ...]) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    if not end.any():
        return np.full(np.count_nonzero(start), np.inf)
    return distance_transform_edt(~end, sampling)[start]


def _checked_spacing(spacing: float | Sequence[float], axes: int) -> tuple[float, ...]:
    values = np.asarray(spacing, "float64")
    if values.shape not in ((), (axes,)) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            f"`spacing` must be one finite number above 0 for each of {axes} axes. Received {spacing}."
        )
    return tuple(np.broadcast_to(values, axes).tolist())
