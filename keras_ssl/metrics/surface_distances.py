"""Surface distances of masks: Hausdorff distance and average surface distance."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_ssl.metrics.segmentation import check_same_shape


def surface_distances(
    true: npt.ArrayLike, predicted: npt.ArrayLike, spacing: float | Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the distance of each surface voxel of one mask to the nearest of the other, in both directions.

    A voxel of a mask belongs to its surface if one of its neighbors across a face (an edge in 2D) does not
    belong to the mask, or lies outside the volume. Distances are between voxel centers.

    Args:
        true: mask with any number of axes; nonzero is foreground.
        predicted: mask of the same shape.
        spacing: voxel size along each axis, for example in mm; or one number for all axes.

    Returns:
        Distances from the true surface and distances from the predicted one, float64, one per surface voxel.
        Infinite if the other mask is empty.

    Raises:
        ValueError: shapes differ, or `spacing` is not one finite number above 0 per axis.

    >>> there, back = surface_distances([0, 1, 1, 1, 0], [0, 0, 1, 1, 0], spacing=2.0)
    >>> there.tolist(), back.tolist()  # the middle voxel of the first is inside
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
    """Compute the 95th percentile of the Hausdorff distance of two surfaces.

    The larger of two 95th percentiles: of the distances from the true to the predicted surface, and of those
    in the other direction, see `surface_distances`. (Some implementations take one percentile of both
    together, which a large surface dominates.) Percentiles are interpolated as in `numpy.percentile`.

    Args:
        true: as in `surface_distances`.
        predicted: as in `surface_distances`.
        spacing: as in `surface_distances`.

    Returns:
        A length in the unit of `spacing`, at least 0. nan if both masks are empty, infinite if one is.

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
    """Compute the average (symmetric) surface distance, over all surface voxels of both masks.

    Args:
        true: as in `surface_distances`.
        predicted: as in `surface_distances`.
        spacing: as in `surface_distances`.

    Returns:
        A length in the unit of `spacing`, at least 0. nan if both masks are empty, infinite if one is.

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
    """Compute `hausdorff_95` from the results of `surface_distances`."""
    if not len(there) or not len(back):
        return _of_empty(there, back)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def mean_distance(there: np.ndarray, back: np.ndarray) -> float:
    """Compute `average_surface_distance` from the results of `surface_distances`."""
    if not len(there) or not len(back):
        return _of_empty(there, back)
    return float((there.sum() + back.sum()) / (len(there) + len(back)))


def _of_empty(there: np.ndarray, back: np.ndarray) -> float:
    return float("inf") if len(there) or len(back) else float("nan")


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the bounding box of a mask; empty for an empty mask."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        box.append(slice(occupied[0], occupied[-1] + 1) if len(occupied) else slice(0, 0))
    return tuple(box)


def _surface(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    # Outside of the array counts as background, which it is: the array is the bounding box of both masks.
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
            f"`spacing` must be one finite number above 0 per axis, {axes} in all. Received {spacing}."
        )
    return tuple(np.broadcast_to(values, axes).tolist())
