"""Cutting images into patches and putting them together again, for any number of spatial axes."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_ssl.preprocessing.resampling import gather_voxels


def crop_patches(images: Any, corners: Any, patch_shape: Sequence[int]) -> Any:
    """Cut patches out of every image at places of its own.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        corners: integers `(batch, patches, spatial axes)`, the first voxel of each patch, such that all of
            the patch lies in the image.
        patch_shape: size of a patch along each spatial axis.

    Returns:
        Tensor `(batch, patches, *patch_shape, channels)` of the images' dtype.

    >>> import numpy as np
    >>> image = np.arange(16).reshape(1, 4, 4, 1)
    >>> np.asarray(crop_patches(image, [[[0, 0], [2, 1]]], (1, 2)))[0, :, 0, :, 0].tolist()
    [[0, 1], [9, 10]]
    """
    images = ops.convert_to_tensor(images)
    sizes, rank = images.shape[1:-1], len(images.shape) - 2
    corners = ops.cast(corners, "int32")
    index = ops.reshape(ops.arange(ops.shape(images)[0], dtype="int32"), (-1, *(1,) * (rank + 1)))
    for axis, (size, side) in enumerate(zip(sizes, patch_shape, strict=True)):
        steps = ops.reshape(ops.arange(side, dtype="int32"), (-1, *(1,) * (rank - 1 - axis)))
        start = ops.reshape(corners[:, :, axis], (-1, corners.shape[1], *(1,) * rank))
        index = index * size + start + steps
    return gather_voxels(images, index)


def split_patches(images: Any, patch_shape: Sequence[int]) -> Any:
    """Cut images into a grid of patches that do not overlap.

    Args:
        images: tensor `(batch, *spatial, channels)`, each side a multiple of the patch's.
        patch_shape: size of a patch along each spatial axis.

    Returns:
        Tensor `(batch, patches, *patch_shape, channels)`, the patches in the order of their places.

    Raises:
        ValueError: a side is no multiple of the patch's.

    >>> import numpy as np
    >>> image = np.arange(8).reshape(1, 2, 4, 1)
    >>> np.asarray(split_patches(image, (2, 2)))[0, 1, :, :, 0].tolist()
    [[2, 3], [6, 7]]
    """
    images = ops.convert_to_tensor(images)
    rank, channels = len(images.shape) - 2, images.shape[-1]
    grid = patch_grid(tuple(images.shape[1:-1]), patch_shape)
    split = ops.reshape(images, (-1, *_interleaved(grid, patch_shape), channels))
    order = (*range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2))
    split = ops.transpose(split, (0, *order, 2 * rank + 1))
    return ops.reshape(split, (-1, int(np.prod(grid)), *patch_shape, channels))


def join_patches(patches: Any, grid: Sequence[int]) -> Any:
    """Put the patches of `split_patches` together again.

    Args:
        patches: tensor `(batch, patches, *patch_shape, channels)`.
        grid: number of patches along each spatial axis.

    Returns:
        Tensor `(batch, *spatial, channels)`.

    >>> import numpy as np
    >>> image = np.arange(16).reshape(1, 4, 4, 1)
    >>> bool((np.asarray(join_patches(split_patches(image, (2, 2)), (2, 2))) == image).all())
    True
    """
    patches = ops.convert_to_tensor(patches)
    rank, channels = len(grid), patches.shape[-1]
    sides = tuple(patches.shape[2:-1])
    split = ops.reshape(patches, (-1, *grid, *sides, channels))
    order = itertools.chain.from_iterable((axis + 1, rank + axis + 1) for axis in range(rank))
    joined = ops.transpose(split, (0, *order, 2 * rank + 1))
    sizes = tuple(count * side for count, side in zip(grid, sides, strict=True))
    return ops.reshape(joined, (-1, *sizes, channels))


def standardize_patches(patches: Any, epsilon: float = 1e-6) -> Any:
    """Bring every patch to a mean of 0 and a variance of 1, all its channels together.

    Args:
        patches: tensor `(batch, patches, *patch_shape, channels)`.
        epsilon: what is added to the variance, so that a patch of next to no contrast stays so.

    Returns:
        float32 tensor of the shape of `patches`.

    >>> import numpy as np
    >>> patches = np.array([[1.0, 3.0], [5.0, 5.0]]).reshape(1, 2, 1, 2, 1)
    >>> np.asarray(standardize_patches(patches)).reshape(2, 2).round(3).tolist()
    [[-1.0, 1.0], [0.0, 0.0]]

    References:
        He, K. et al. (2022). Masked autoencoders are scalable vision learners. CVPR.
    """
    patches = ops.cast(patches, "float32")
    axes = tuple(range(2, len(patches.shape)))
    centred = patches - ops.mean(patches, axis=axes, keepdims=True)
    return centred * ops.rsqrt(ops.mean(ops.square(centred), axis=axes, keepdims=True) + epsilon)


def patch_grid(sizes: Sequence[int], patch_shape: Sequence[int]) -> tuple[int, ...]:
    """Return the number of patches along each axis.

    Args:
        sizes: sides of the images.
        patch_shape: sides of a patch.

    Raises:
        ValueError: they have different numbers of axes, or a side is no multiple of the patch's.

    >>> patch_grid((32, 48), (16, 16))
    (2, 3)
    """
    if len(sizes) != len(patch_shape) or any(
        size % side for size, side in zip(sizes, patch_shape, strict=True)
    ):
        raise ValueError(
            f"`images` must have sides that are multiples of the patch's. Received sides {tuple(sizes)} and "
            f"patches of {tuple(patch_shape)}. Crop, pad or resize the images, or choose another patch."
        )
    return tuple(size // side for size, side in zip(sizes, patch_shape, strict=True))


def _interleaved(grid: Sequence[int], patch_shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(itertools.chain.from_iterable(zip(grid, patch_shape, strict=True)))
