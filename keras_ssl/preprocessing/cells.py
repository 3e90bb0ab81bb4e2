"""Patches from the cells of a grid over an image, each at a random place within its cell."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ssl.preprocessing._floats import floating_dtype
from keras_ssl.preprocessing.patches import crop_patches

_SMALLEST_SIDE = 2


def cell_patch_shape(sizes: Sequence[int], grid: int, patch_share: float) -> tuple[int, ...]:
    """Return the sides of a patch that lies within a cell.

    Args:
        sizes: sides of the images.
        grid: number of cells along each axis.
        patch_share: side of a patch as a share of the cell's, in (0, 1]; rounded down to whole voxels.

    Raises:
        ValueError: a size is not fixed, or a patch would be less than 2 voxels wide.

    >>> cell_patch_shape((225, 225), 3, 64 / 75)
    (64, 64)
    """
    if None in sizes:
        raise ValueError(f"`images` must be of fixed sizes. Received {tuple(sizes)}.")
    # The small number makes up for what a share such as 64 / 75 loses by being a float.
    shape = tuple(int(patch_share * (size // grid) + 1e-6) for size in sizes)
    if min(shape) < _SMALLEST_SIDE:
        raise ValueError(
            f"`images` must be large enough for patches of at least {_SMALLEST_SIDE} voxels a side. Received "
            f"sizes {tuple(sizes)}, of which {grid} cells a side and a share of {patch_share:.3g} leave "
            f"{shape}. Take larger images, fewer cells or larger patches."
        )
    return shape


def random_cell_corners(
    cells: Any,
    sizes: Sequence[int],
    grid: int,
    patch_shape: Sequence[int],
    seed: keras.random.SeedGenerator,
    jitter: float = 1.0,
) -> Any:
    """Draw for each patch a place within its cell.

    The cells are of equal size and lie about the centre of the image; what is over where a side is no
    multiple of `grid` belongs to none.

    Args:
        cells: integers `(batch, patches)`, the cell of each patch, numbered in the order of their places.
        sizes: sides of the images.
        grid: number of cells along each axis.
        patch_shape: sides of a patch, not larger than a cell.
        seed: what is drawn from.
        jitter: how much of the room that a patch has in its cell it moves in, about the cell's centre, from 0
            to 1, rounded to whole voxels. The rest is a gap that there always is between patches of
            different cells.

    Returns:
        Integers `(batch, patches, spatial axes)`, the first voxel of each patch, as `crop_patches` takes
        them.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> np.asarray(random_cell_corners([[0, 8]], (12, 12), 3, (2, 2), ReplaySeeds(), jitter=0.0)).tolist()
    [[[1, 1], [9, 9]]]
    """
    cells = ops.convert_to_tensor(cells)
    corners = []
    for axis, (size, side) in enumerate(zip(sizes, patch_shape, strict=True)):
        cell = size // grid
        moves = round(jitter * (cell - side))
        first = (size - grid * cell) // 2 + (cell - side - moves) // 2
        starts = first + cell * np.indices((grid,) * len(sizes), "int32")[axis].ravel()
        moved = keras.random.randint(ops.shape(cells), 0, moves + 1, seed=seed)
        corners.append(ops.take(ops.convert_to_tensor(starts), cells, axis=0) + moved)
    return ops.stack(corners, axis=-1)


def crop_normalized(images: Any, corners: Any, patch_shape: Sequence[int]) -> Any:
    """Cut patches out of every image and give each channel of each patch mean 0 and standard deviation 1.

    Neither brightness, contrast nor colour cast then tells from where in the image a patch is.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        corners: integers `(batch, patches, spatial axes)`, see `crop_patches`.
        patch_shape: sides of a patch.

    Returns:
        Tensor `(batch * patches, *patch_shape, channels)`, all patches of the first image first; channels
        that are constant in a patch are 0. Floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([[1.0, 5.0, 7.0, 7.0]]).reshape(1, 1, 4, 1)
    >>> np.asarray(crop_normalized(image, [[[0, 0], [0, 2]]], (1, 2)))[:, 0, :, 0].tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    images = ops.convert_to_tensor(images)
    patches = ops.cast(crop_patches(images, corners, patch_shape), "float32")
    patches = ops.reshape(patches, (-1, *patch_shape, images.shape[-1]))
    spatial = tuple(range(1, len(images.shape) - 1))
    # The mean of equal values may differ from them in the last digit; what is left without the least is 0.
    patches = patches - ops.min(patches, axis=spatial, keepdims=True)
    patches = patches - ops.mean(patches, axis=spatial, keepdims=True)
    deviation = ops.sqrt(ops.mean(ops.square(patches), axis=spatial, keepdims=True))
    return ops.cast(patches / ops.where(deviation > 0, deviation, 1.0), floating_dtype(images))


def rescale_like(patches: Any, images: Any) -> Any:
    """Give normalised patches the mean and the standard deviation of the image that they are from.

    Encoders take pixels as they are stored and may scale them inside: patches of mean 0 and deviation 1 would
    all look alike to one that expects 0 to 255. All patches of an image are treated alike.

    Args:
        patches: tensor `(batch * patches, *patch_shape, channels)`, as `crop_normalized` gives it.
        images: tensor `(batch, *spatial, channels)`.

    Returns:
        Tensor of the shape and dtype of `patches`.

    >>> import numpy as np
    >>> image = np.array([[10.0, 30.0]]).reshape(1, 1, 2, 1)
    >>> np.asarray(rescale_like(np.array([[[[-1.0]]], [[[0.0]]]]), image)).ravel().tolist()
    [10.0, 20.0]
    """
    patches = ops.convert_to_tensor(patches)
    images = ops.cast(images, "float32")
    axes = tuple(range(1, len(images.shape)))
    mean = ops.mean(images, axis=axes, keepdims=True)
    deviation = ops.sqrt(ops.mean(ops.square(images - mean), axis=axes, keepdims=True))
    by_image = ops.reshape(ops.cast(patches, "float32"), (ops.shape(images)[0], -1, *patches.shape[1:]))
    return ops.cast(
        ops.reshape(mean[:, None] + deviation[:, None] * by_image, ops.shape(patches)), patches.dtype
    )
