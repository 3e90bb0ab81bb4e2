"""Masks: circles, borders, boxes, blocks and patches that are hidden."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_ssl.preprocessing._batching import floating_dtype
from keras_ssl.preprocessing.patches import join_patches


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
    squares = np.sort(_distances_from_center(spatial_shape, margin, axes) ** 2, axis=0)
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
    return _distances_from_center(spatial_shape, margin, axes).max(axis=0) <= 1 - margin


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


def cut_out(images: Any, centers: Any, sizes: Any) -> Any:
    """Replace a box in every image by the image's mean, channel by channel.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        centers: `(batch, spatial axes)`, where the center of the box lies: 0 at the start of the axis, 1 at
            its end.
        sizes: `(batch, spatial axes)`, sides of the box as shares of the image's; pixels whose center is in
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
    centers, sizes = ops.cast(centers, "float32"), ops.cast(sizes, "float32")
    hidden: Any = True
    for axis, size in enumerate(images.shape[1:-1]):
        places = (ops.arange(size, dtype="float32") + 0.5) / size
        within = 2 * ops.abs(places - centers[:, axis, None]) < sizes[:, axis, None]
        hidden = ops.logical_and(
            hidden, ops.reshape(within, (-1, *(size if a == axis else 1 for a in range(rank)), 1))
        )
    mean = ops.mean(values, axis=tuple(range(1, rank + 1)), keepdims=True)
    return ops.cast(ops.where(hidden, mean, values), floating_dtype(images))


def _distances_from_center(
    spatial_shape: Sequence[int], margin: float, axes: Sequence[int] | None
) -> np.ndarray:
    """Return per axis how far each pixel's center is from the image's, 1 being the image's edge."""
    if not 0 <= margin < 1:
        raise ValueError(f"`margin` must be at least 0 and below 1. Received {margin}.")
    axes = range(len(spatial_shape)) if axes is None else axes
    index = np.indices(spatial_shape)
    return np.stack([abs(2 * index[axis] + 1 - spatial_shape[axis]) / spatial_shape[axis] for axis in axes])


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


def count_masked(patches: int, mask_fraction: float) -> int:
    """Say how many patches to mask, such that some are masked and some stay.

    Args:
        patches: how many there are.
        mask_fraction: share of them to mask; the count is rounded.

    Raises:
        ValueError: none would be masked, or all.

    >>> count_masked(196, 0.75)
    147
    """
    masked = round(patches * mask_fraction)
    if not 0 < masked < patches:
        raise ValueError(
            f"`mask_fraction` must hide at least one patch and leave one. Received {mask_fraction} for "
            f"images of {patches} patches. Choose smaller patches or another ratio."
        )
    return masked


def mask_lowest(noise: Any, count: int) -> Any:
    """Mark the `count` smallest numbers of every row.

    Args:
        noise: float tensor `(batch, patches)`; uniform noise gives every set of patches the same chance.
        count: how many to mark.

    Returns:
        Boolean tensor `(batch, patches)`, true `count` times in every row.

    >>> import numpy as np
    >>> np.asarray(mask_lowest(np.array([[0.3, 0.9, 0.1]]), 2)).tolist()
    [[True, False, True]]
    """
    return ops.less(ops.argsort(ops.argsort(noise, axis=1), axis=1), count)


def patch_mask_to_pixels(masked: Any, grid: Sequence[int], patch_shape: Sequence[int]) -> Any:
    """Enlarge a mask of patches to one of pixels.

    Args:
        masked: tensor `(batch, patches)`.
        grid: number of patches along each spatial axis.
        patch_shape: size of a patch along each spatial axis.

    Returns:
        Tensor `(batch, *spatial, 1)` of the dtype of `masked`.

    >>> import numpy as np
    >>> np.asarray(patch_mask_to_pixels(np.array([[True, False]]), (1, 2), (1, 2))).ravel().tolist()
    [True, True, False, False]
    """
    patches = ops.reshape(masked, (-1, masked.shape[1], *(1,) * len(grid), 1))
    return join_patches(ops.tile(patches, (1, 1, *patch_shape, 1)), grid)


def default_patch_shape(sides: Sequence[int]) -> tuple[int, ...]:
    """Choose a patch that tiles an image, about a sixth of each side: 32 pixels of 192 or 224, 4 of 24.

    Args:
        sides: of the image.

    Returns:
        For each side, that of its divisors between an eighth and a quarter of it which is nearest to a sixth.

    Raises:
        ValueError: a side has no such divisor.

    >>> default_patch_shape((224, 224)), default_patch_shape((48, 96, 96))
    ((32, 32), (8, 16, 16))
    """
    fitting = [[side // count for count in range(4, 9) if side % count == 0] for side in sides]
    if not all(fitting):
        raise ValueError(
            "`images` must have sides that can be divided into patches of an eighth to a quarter. Received "
            f"sides {tuple(sides)}. Crop, pad or resize the images, or choose `patch_size`."
        )
    return tuple(
        min(patches, key=lambda patch: abs(patch - side / 6))
        for patches, side in zip(fitting, sides, strict=True)
    )
