"""Masks that hide corners and borders, the same after every quarter turn, and boxes that hide parts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_ssl.preprocessing._floats import floating_dtype


def circle_mask(
    spatial_shape: Sequence[int], margin: float = 0.0, axes: Sequence[int] | None = None
) -> np.ndarray:
    """Mark the inside of the circle, in three dimensions of the ball, that fits into an image.

    Args:
        spatial_shape: size of each spatial axis.
        margin: share of the radius by which the circle is smaller, in [0, 1).
        axes: spatial axes, numbered from 0, that it is round along: two of three give a cylinder. `None` for
            all.

    Returns:
        Boolean array of shape `spatial_shape`, true inside; exactly the same after each flip, and
        after each quarter turn in planes of equal sizes.

    Raises:
        ValueError: `margin` is out of range.

    >>> circle_mask((4, 4), margin=0.1).astype(int).tolist()
    [[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]]
    """
    # Sorted, because sums in another order may differ in the last digit, and the mask with them.
    squares = np.sort(_distances_from_centre(spatial_shape, margin, axes) ** 2, axis=0)
    return squares.sum(axis=0) <= (1 - margin) ** 2


def border_mask(
    spatial_shape: Sequence[int], margin: float = 0.1, axes: Sequence[int] | None = None
) -> np.ndarray:
    """Mark all of an image but a frame along its border.

    Args:
        spatial_shape: size of each spatial axis.
        margin: width of the frame on each side, as a share of half the size, in [0, 1).
        axes: spatial axes, numbered from 0, that have a border; `None` for all.

    Returns:
        Boolean array of shape `spatial_shape`, true inside; symmetric as `circle_mask`.

    Raises:
        ValueError: `margin` is out of range.

    >>> border_mask((4, 4), margin=0.5).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    return _distances_from_centre(spatial_shape, margin, axes).max(axis=0) <= 1 - margin


def hide_outside(images: Any, mask: np.ndarray) -> Any:
    """Replace what lies outside a mask by the mean of what lies inside, per image and channel.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        mask: boolean array of the images' spatial shape, true where pixels stay.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    Raises:
        ValueError: `mask` is not of the images' spatial shape, or hides everything.

    >>> import numpy as np
    >>> image = np.array([1.0, 3.0, 9.0]).reshape(1, 3, 1, 1)
    >>> np.asarray(hide_outside(image, np.array([[True], [True], [False]]))).ravel().tolist()
    [1.0, 3.0, 2.0]
    """
    images, mask = ops.convert_to_tensor(images), np.asarray(mask, dtype=bool)
    if mask.shape != tuple(images.shape[1:-1]) or not mask.any():
        raise ValueError(
            "`mask` must be of the images' spatial shape and true somewhere. Received shape "
            f"{mask.shape}, {int(mask.sum())} times true, for images of shape {tuple(images.shape)}."
        )
    values, inside = ops.cast(images, "float32"), ops.convert_to_tensor(mask[None, ..., None])
    spatial = tuple(range(1, mask.ndim + 1))
    mean = ops.sum(ops.where(inside, values, 0.0), axis=spatial, keepdims=True) / int(mask.sum())
    return ops.cast(ops.where(inside, values, mean), floating_dtype(images))


def cut_out(images: Any, centres: Any, sizes: Any) -> Any:
    """Replace a box in every image by the image's mean, channel by channel.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        centres: `(batch, spatial axes)`, where the centre of the box lies: 0 at the start of the axis, 1 at
            its end.
        sizes: `(batch, spatial axes)`, sides of the box as shares of the image's; pixels whose centre is in
            the box are replaced, hence none where a side is 0.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([1.0, 1.0, 3.0, 7.0]).reshape(1, 4, 1, 1)
    >>> np.asarray(cut_out(image, [[0.0, 0.5]], [[1.0, 1.0]])).ravel().tolist()
    [3.0, 3.0, 3.0, 7.0]

    References:
        DeVries, T., Taylor, G. W. (2017). Improved regularization of convolutional neural networks with
        cutout.
    """
    images = ops.convert_to_tensor(images)
    values, rank = ops.cast(images, "float32"), len(images.shape) - 2
    centres, sizes = ops.cast(centres, "float32"), ops.cast(sizes, "float32")
    hidden: Any = True
    for axis, size in enumerate(images.shape[1:-1]):
        places = (ops.arange(size, dtype="float32") + 0.5) / size
        within = 2 * ops.abs(places - centres[:, axis, None]) < sizes[:, axis, None]
        hidden = ops.logical_and(
            hidden, ops.reshape(within, (-1, *(size if a == axis else 1 for a in range(rank)), 1))
        )
    mean = ops.mean(values, axis=tuple(range(1, rank + 1)), keepdims=True)
    return ops.cast(ops.where(hidden, mean, values), floating_dtype(images))


def _distances_from_centre(
    spatial_shape: Sequence[int], margin: float, axes: Sequence[int] | None
) -> np.ndarray:
    """Return per axis how far each pixel's centre is from the image's, 1 being the image's edge."""
    if not 0 <= margin < 1:
        raise ValueError(f"`margin` must be at least 0 and below 1. Received {margin}.")
    axes = range(len(spatial_shape)) if axes is None else axes
    index = np.indices(spatial_shape)
    return np.stack([abs(2 * index[axis] + 1 - spatial_shape[axis]) / spatial_shape[axis] for axis in axes])
