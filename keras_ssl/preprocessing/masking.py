"""Masks of circles, borders, boxes and patches; hiding what they mark."""

from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_ssl._types import Tensor
from keras_ssl.preprocessing._compilation import floating_dtype
from keras_ssl.preprocessing.patches import join_patches


def circle_mask(
    spatial_shape: Sequence[int], margin: float = 0.0, axes: Sequence[int] | None = None
) -> np.ndarray:
    """Return a mask of the circle (in 3D, the ball) inscribed in an image.

    Args:
        spatial_shape: size of each spatial axis.
        margin: fraction of the radius by which the circle is smaller, in [0, 1).
        axes: spatial axes, numbered from 0, of the circle; two of three make a cylinder. `None` for all.

    Returns:
        Boolean array of shape `spatial_shape`, True inside. Flips, and quarter turns in planes of equal
        sizes, do not change it.

    Raises:
        ValueError: `margin` is out of range, or so large that no pixel is inside.

    >>> circle_mask((4, 4), margin=0.1).astype(int).tolist()
    [[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]]
    """
    # Sorted, since the order of a sum may change its last digit, and so the mask.
    squares = np.sort(_distances_from_center(spatial_shape, margin, axes) ** 2, axis=0)
    return _not_empty(squares.sum(axis=0) <= (1 - margin) ** 2, margin)


def border_mask(
    spatial_shape: Sequence[int], margin: float = 0.1, axes: Sequence[int] | None = None
) -> np.ndarray:
    """Return a mask of an image without its border.

    Args:
        spatial_shape: size of each spatial axis.
        margin: width of the border, as a fraction of half the size, in [0, 1).
        axes: spatial axes, numbered from 0, that have a border; `None` for all.

    Returns:
        Boolean array of shape `spatial_shape`, True inside, with the symmetries of `circle_mask`.

    Raises:
        ValueError: `margin` is out of range, or so large that no pixel is inside.

    >>> border_mask((4, 4), margin=0.5).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    return _not_empty(_distances_from_center(spatial_shape, margin, axes).max(axis=0) <= 1 - margin, margin)


def _distances_from_center(
    spatial_shape: Sequence[int], margin: float, axes: Sequence[int] | None
) -> np.ndarray:
    """Return the distance of each pixel from the center along each axis; 1 is the edge of the image."""
    if not 0 <= margin < 1:
        raise ValueError(f"`margin` must be at least 0 and below 1. Received {margin}.")
    axes = range(len(spatial_shape)) if axes is None else axes
    index = np.indices(spatial_shape)
    return np.stack([abs(2 * index[axis] + 1 - spatial_shape[axis]) / spatial_shape[axis] for axis in axes])


def _not_empty(mask: np.ndarray, margin: float) -> np.ndarray:
    if not mask.any():
        raise ValueError(f"`margin` must leave pixels of an image of shape {mask.shape}. Received {margin}.")
    return mask


def hide_where(images: Tensor, hidden: Tensor) -> Tensor:
    """Replace hidden pixels by the mean of the visible ones, per image and channel.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        hidden: booleans `(batch, *spatial, 1)`, or `(*spatial, 1)` for all images, True where hidden; not all
            pixels of an image.

    Returns:
        Tensor of the shape of `images`, which does not depend on the hidden pixels; floating images keep
        their dtype, others become float32.

    >>> import numpy as np
    >>> image, hidden = np.array([[1.0, 3.0, 9.0]]), np.array([[False, False, True]])
    >>> np.asarray(hide_where(image[..., None], hidden[..., None])).ravel().tolist()
    [1.0, 3.0, 2.0]
    """
    images, hidden = ops.convert_to_tensor(images), ops.convert_to_tensor(hidden)
    hidden = hidden if len(hidden.shape) == len(images.shape) else hidden[None]
    values, spatial = ops.cast(images, "float32"), tuple(range(1, len(images.shape) - 1))
    visible = ops.where(hidden, 0.0, values)
    count = ops.sum(ops.cast(ops.logical_not(hidden), "float32"), axis=spatial, keepdims=True)
    mean = ops.sum(visible, axis=spatial, keepdims=True) / count
    return ops.cast(ops.where(hidden, mean, values), floating_dtype(images))


def cut_out(images: Tensor, centers: Tensor, sizes: Tensor) -> Tensor:
    """Replace a box in every image by the image's mean, per channel (cutout).

    Args:
        images: tensor `(batch, *spatial, channels)`.
        centers: `(batch, spatial axes)`, center of the box, from 0 at the start of the axis to 1 at its end.
        sizes: `(batch, spatial axes)`, sides of the box as fractions of the image's. Pixels whose center is
            in the box are replaced, so none if a side is 0.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([1.0, 1.0, 3.0, 7.0]).reshape(1, 4, 1, 1)
    >>> np.asarray(cut_out(image, [[0.0, 0.5]], [[1.0, 1.0]])).ravel().tolist()
    [3.0, 3.0, 3.0, 7.0]

    References:
        DeVries, T., Taylor, G. W. (2017). Improved regularization of convolutional neural networks with
        cutout. arXiv:1708.04552.
    """
    images = ops.convert_to_tensor(images)
    values, rank = ops.cast(images, "float32"), len(images.shape) - 2
    centers, sizes = ops.cast(centers, "float32"), ops.cast(sizes, "float32")
    hidden: Tensor = True
    for axis, size in enumerate(images.shape[1:-1]):
        places = (ops.arange(size, dtype="float32") + 0.5) / size
        within = 2 * ops.abs(places - centers[:, axis, None]) < sizes[:, axis, None]
        hidden = ops.logical_and(
            hidden, ops.reshape(within, (-1, *(size if a == axis else 1 for a in range(rank)), 1))
        )
    mean = ops.mean(values, axis=tuple(range(1, rank + 1)), keepdims=True)
    return ops.cast(ops.where(hidden, mean, values), floating_dtype(images))


def box_mask(corners: Tensor, box_shape: Sequence[int], spatial_shape: Sequence[int]) -> Tensor:
    """Return a mask of boxes, which may overlap.

    Args:
        corners: integers `(batch, boxes, spatial axes)`, the first voxel of each box.
        box_shape: size of a box along each spatial axis.
        spatial_shape: size of the images along each spatial axis.

    Returns:
        Boolean tensor `(batch, *spatial, 1)`, True inside a box.

    >>> import numpy as np
    >>> np.asarray(box_mask([[[0, 1], [1, 2]]], (1, 2), (2, 4)))[0, ..., 0].astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 1, 1]]
    """
    corners, rank = ops.cast(corners, "int32"), len(spatial_shape)
    inside: Tensor = True
    for axis, (size, side) in enumerate(zip(spatial_shape, box_shape, strict=True)):
        steps = ops.arange(size, dtype="int32") - corners[..., axis, None]
        within = ops.logical_and(steps >= 0, steps < side)
        lines = (size if other == axis else 1 for other in range(rank))
        inside = ops.logical_and(inside, ops.reshape(within, (-1, corners.shape[1], *lines, 1)))
    return ops.any(inside, axis=1)


def mask_rim(hidden: Tensor, width: Sequence[int]) -> Tensor:
    """Return a mask of the hidden voxels within `width` voxels of a visible one, diagonals included.

    The border of the image is not part of the rim.

    Args:
        hidden: boolean tensor `(batch, *spatial, 1)`.
        width: number of voxels along each spatial axis, 0 for none.

    Returns:
        Boolean tensor of the shape of `hidden`.

    >>> import numpy as np
    >>> hidden = np.array([1, 1, 1, 1, 0, 0]).reshape(1, 1, 6, 1) == 1
    >>> np.asarray(mask_rim(hidden, (1, 2))).ravel().astype(int).tolist()
    [0, 0, 1, 1, 0, 0]
    """
    hidden = ops.convert_to_tensor(hidden)
    near = ops.cast(ops.logical_not(hidden), "float32")
    rank = len(width)
    for axis, reach in enumerate(width):
        if reach:
            # One axis after the other: a cube with 15 voxels a side would take 75 times the operations.
            window = tuple(2 * reach + 1 if other == axis else 1 for other in range(rank))
            near = ops.max_pool(near, window, strides=1, padding="same", data_format="channels_last")
    return ops.logical_and(hidden, near > 0)


def count_masked(patches: int, mask_fraction: float) -> int:
    """Return the number of patches to mask, at least one but not all.

    Args:
        patches: number of patches.
        mask_fraction: fraction of them to mask; the number is rounded.

    Raises:
        ValueError: none or all would be masked.

    >>> count_masked(196, 0.75)
    147
    """
    masked = round(patches * mask_fraction)
    if not 0 < masked < patches:
        raise ValueError(
            f"`mask_fraction` must hide at least one patch and leave one. Received {mask_fraction} for "
            f"images of {patches} patches. Choose smaller patches or another fraction."
        )
    return masked


def mask_lowest(noise: Tensor, count: int) -> Tensor:
    """Return a mask of the `count` smallest numbers in every row: random masking, given uniform noise.

    Args:
        noise: float tensor `(batch, patches)`; with uniform noise, all sets of patches are equally likely.
        count: number of patches to mask.

    Returns:
        Boolean tensor `(batch, patches)`, True `count` times in every row.

    >>> import numpy as np
    >>> np.asarray(mask_lowest(np.array([[0.3, 0.9, 0.1]]), 2)).tolist()
    [[True, False, True]]
    """
    return ops.less(ops.argsort(ops.argsort(noise, axis=1), axis=1), count)


def patch_mask_to_pixels(masked: Tensor, grid: Sequence[int], patch_shape: Sequence[int]) -> Tensor:
    """Convert a mask of patches to a mask of pixels.

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
    """Return the shape of patches that tile an image, about a sixth of each side: 32 of 192 or 224, 4 of 24.

    Args:
        sides: sides of the image.

    Returns:
        For each side, its divisor nearest to a sixth of it, between an eighth and a quarter.

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
