"""Blocks that hide parts of every image at places of its own."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_ssl.preprocessing._floats import floating_dtype


def block_mask(corners: Any, block_shape: Sequence[int], spatial_shape: Sequence[int]) -> Any:
    """Mark the blocks of every image, which may overlap.

    Args:
        corners: integers `(batch, blocks, spatial axes)`, the first voxel of each block.
        block_shape: size of a block along each spatial axis.
        spatial_shape: size of the images along each spatial axis.

    Returns:
        Boolean tensor `(batch, *spatial, 1)`, true within a block.

    >>> import numpy as np
    >>> np.asarray(block_mask([[[0, 1], [1, 2]]], (1, 2), (2, 4)))[0, ..., 0].astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 1, 1]]
    """
    corners, rank = ops.cast(corners, "int32"), len(spatial_shape)
    inside: Any = True
    for axis, (size, side) in enumerate(zip(spatial_shape, block_shape, strict=True)):
        steps = ops.arange(size, dtype="int32") - corners[..., axis, None]
        within = ops.logical_and(steps >= 0, steps < side)
        lines = (size if other == axis else 1 for other in range(rank))
        inside = ops.logical_and(inside, ops.reshape(within, (-1, corners.shape[1], *lines, 1)))
    return ops.any(inside, axis=1)


def block_rim(hidden: Any, width: Sequence[int]) -> Any:
    """Mark what is hidden and within `width` voxels of something visible, diagonals included.

    The border of the image is no rim: there is nothing visible behind it.

    Args:
        hidden: boolean tensor `(batch, *spatial, 1)`.
        width: number of voxels along each spatial axis, 0 for none.

    Returns:
        Boolean tensor of the shape of `hidden`.

    >>> import numpy as np
    >>> hidden = np.array([1, 1, 1, 1, 0, 0]).reshape(1, 1, 6, 1) == 1
    >>> np.asarray(block_rim(hidden, (1, 2))).ravel().astype(int).tolist()
    [0, 0, 1, 1, 0, 0]
    """
    hidden = ops.convert_to_tensor(hidden)
    near = ops.cast(ops.logical_not(hidden), "float32")
    rank = len(width)
    for axis, reach in enumerate(width):
        if reach:
            # One axis after the other: a cube of 15 voxels a side would be 75 times the work in 3D.
            window = tuple(2 * reach + 1 if other == axis else 1 for other in range(rank))
            near = ops.max_pool(near, window, strides=1, padding="same", data_format="channels_last")
    return ops.logical_and(hidden, near > 0)


def hide_where(images: Any, hidden: Any) -> Any:
    """Replace what is hidden by the mean of what is visible, per image and channel.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        hidden: boolean tensor `(batch, *spatial, 1)`, not all of an image.

    Returns:
        Tensor of the shape of `images`, in which nothing depends on what was hidden; floating images keep
        their dtype, others become float32.

    >>> import numpy as np
    >>> image, hidden = np.array([[1.0, 3.0, 9.0]]), np.array([[False, False, True]])
    >>> np.asarray(hide_where(image[..., None], hidden[..., None])).ravel().tolist()
    [1.0, 3.0, 2.0]
    """
    images, hidden = ops.convert_to_tensor(images), ops.convert_to_tensor(hidden)
    values, spatial = ops.cast(images, "float32"), tuple(range(1, len(images.shape) - 1))
    visible = ops.where(hidden, 0.0, values)
    count = ops.sum(ops.cast(ops.logical_not(hidden), "float32"), axis=spatial, keepdims=True)
    mean = ops.sum(visible, axis=spatial, keepdims=True) / count
    return ops.cast(ops.where(hidden, mean, values), floating_dtype(images))


def standardize(images: Any) -> Any:
    """Subtract the mean of each channel and divide by the image's standard deviation about these means.

    One deviation for all channels: a channel of next to no contrast stays so.

    Args:
        images: tensor `(batch, *spatial, channels)`.

    Returns:
        float32 tensor of the shape of `images`; zeros for an image whose channels are constant.

    >>> import numpy as np
    >>> np.asarray(standardize(np.array([1.0, 3.0]).reshape(1, 2, 1))).ravel().tolist()
    [-1.0, 1.0]
    """
    values = ops.cast(images, "float32")
    axes = tuple(range(1, len(values.shape)))
    # First, so that a constant gives exactly 0, which its mean in float32 would miss.
    values = values - ops.min(values, axis=axes[:-1], keepdims=True)
    values = values - ops.mean(values, axis=axes[:-1], keepdims=True)
    deviation = ops.sqrt(ops.mean(ops.square(values), axis=axes, keepdims=True))
    return values / ops.where(deviation > 0, deviation, 1.0)
