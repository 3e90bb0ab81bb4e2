"""Patches of images: splitting, joining, cropping, grids and permutations."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ssl.preprocessing._batching import floating_dtype
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
    centered = patches - ops.mean(patches, axis=axes, keepdims=True)
    return centered * ops.rsqrt(ops.mean(ops.square(centered), axis=axes, keepdims=True) + epsilon)


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


_SMALLEST_SIDE = 2


def cell_patch_shape(sizes: Sequence[int], grid: int, patch_fraction: float) -> tuple[int, ...]:
    """Return the sides of a patch that lies within a cell.

    Args:
        sizes: sides of the images.
        grid: number of cells along each axis.
        patch_fraction: side of a patch as a share of the cell's, in (0, 1]; rounded down to whole voxels.

    Raises:
        ValueError: a size is not fixed, or a patch would be less than 2 voxels wide.

    >>> cell_patch_shape((225, 225), 3, 64 / 75)
    (64, 64)
    """
    if None in sizes:
        raise ValueError(f"`images` must be of fixed sizes. Received {tuple(sizes)}.")
    # The small number makes up for what a share such as 64 / 75 loses by being a float.
    shape = tuple(int(patch_fraction * (size // grid) + 1e-6) for size in sizes)
    if min(shape) < _SMALLEST_SIDE:
        raise ValueError(
            f"`images` must be large enough for patches of at least {_SMALLEST_SIDE} voxels a side. Received "
            f"sizes {tuple(sizes)}, of which {grid} cells a side and a share of {patch_fraction:.3g} leave "
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

    The cells are of equal size and lie about the center of the image; what is over where a side is no
    multiple of `grid` belongs to none.

    Args:
        cells: integers `(batch, patches)`, the cell of each patch, numbered in the order of their places.
        sizes: sides of the images.
        grid: number of cells along each axis.
        patch_shape: sides of a patch, not larger than a cell.
        seed: what is drawn from.
        jitter: how much of the room that a patch has in its cell it moves in, about the cell's center, from 0
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

    Neither brightness, contrast nor color cast then tells from where in the image a patch is.

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
    """Give normalized patches the mean and the standard deviation of the image that they are from.

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


def overlapping_corners(sizes: Sequence[int], patch_shape: Sequence[int]) -> np.ndarray:
    """Place a grid of patches, each of which shares half of its voxels with the next along an axis.

    Patches begin half a side apart, rounded down. As many are placed as find room, around the center; what is
    left over at the borders is in none.

    Args:
        sizes: sides of the images.
        patch_shape: sides of a patch, at least 2.

    Returns:
        int32 `(patches, spatial axes)`, the first voxel of each patch, in the order of their places.

    Raises:
        ValueError: patches are smaller than 2, larger than the images, or have another number of axes.

    >>> overlapping_corners((2, 9), (2, 4)).tolist()
    [[0, 0], [0, 2], [0, 4]]
    """
    grid = overlapping_grid(sizes, patch_shape)
    steps = np.array(patch_shape) // 2
    first = (np.array(sizes) - patch_shape - steps * (np.array(grid) - 1)) // 2
    places = np.indices(grid).reshape(len(grid), -1).T
    return (first + steps * places).astype("int32")


def overlapping_patch_shape(sizes: Sequence[int], cells: int) -> tuple[int, ...]:
    """Return the largest even sides of which so many patches, overlapping by half, find room along each axis.

    Args:
        sizes: sides of the images.
        cells: how many patches there are along each axis, at least; there may be more in small images.

    Raises:
        ValueError: patches would be smaller than 4, and overlap by a single voxel.

    >>> overlapping_patch_shape((224, 28), 6)
    (64, 8)
    """
    # Of steps of half a patch, an axis holds one more than of patches.
    if min(sizes) < 2 * (cells + 1):
        raise ValueError(
            f"`images` must have sides of at least {2 * (cells + 1)}, for {cells} patches along each. "
            f"Received sides {tuple(sizes)}. Enlarge them, or choose the patches' sides."
        )
    return tuple(2 * (size // (cells + 1)) for size in sizes)


def overlapping_grid(sizes: Sequence[int], patch_shape: Sequence[int]) -> tuple[int, ...]:
    """Return the number of patches that overlap by half along each axis.

    Args:
        sizes: sides of the images.
        patch_shape: sides of a patch, at least 2.

    Raises:
        ValueError: patches are smaller than 2, larger than the images, or have another number of axes.

    >>> overlapping_grid((256, 40), (64, 16))
    (7, 4)
    """
    if len(sizes) != len(patch_shape) or any(
        not 2 <= side <= size for size, side in zip(sizes, patch_shape, strict=True)
    ):
        raise ValueError(
            "`patch_shape` must be one side of at least 2, and at most the image's, for each spatial axis. "
            f"Received {tuple(patch_shape)} for images of sides {tuple(sizes)}."
        )
    return tuple((size - side) // (side // 2) + 1 for size, side in zip(sizes, patch_shape, strict=True))


# Among 27 cells there are 10^28 permutations; more candidates than these bring the chosen no farther apart.
_CANDIDATES = 50_000


@functools.lru_cache(maxsize=32)
def hamming_permutations(length: int, num_permutations: int, seed: int = 0) -> np.ndarray:
    """Choose permutations that differ from one another, and from the order itself, at many places.

    The choice is greedy: each is, of the candidates, the one whose least Hamming distance to those chosen
    before is largest. All permutations are candidates where they are few, a random sample of 50000 otherwise.
    Every seed that was tried brought 100 permutations of 9 to a least distance of 6, as all 9! candidates
    did, and 100 of 27 to 24.

    Args:
        length: number of things that are permuted, at least 2.
        num_permutations: how many to choose, at least 2 and below the factorial of `length`: the order
            itself is never among them.
        seed: what candidates and choices among equals depend on, an integer from 0 to 2^32 - 1.

    Returns:
        Integers `(num_permutations, length)`, read-only; the same for the same arguments.

    Raises:
        ValueError: `num_permutations` is out of range.

    >>> hamming_permutations(3, 2).tolist()
    [[1, 2, 0], [2, 0, 1]]

    References:
        Noroozi, M., Favaro, P. (2016). Unsupervised learning of visual representations by solving jigsaw
        puzzles. ECCV. (It maximises the mean distance to those chosen before; the least is what keeps two
        classes from being alike.)
    """
    if not 2 <= num_permutations < math.factorial(length):
        raise ValueError(
            f"`num_permutations` must be from 2 to {math.factorial(length) - 1}, as many as {length} parts "
            f"have but for their own order. Received {num_permutations}."
        )
    # The draws of RandomState never change, those of newer generators may: a saved network's logits would
    # then stand for other permutations.
    draws = np.random.RandomState(seed)
    count = max(_CANDIDATES, 10 * num_permutations)
    if math.factorial(length) <= count:
        candidates = draws.permutation(np.array(list(itertools.permutations(range(length)))))
    else:
        candidates = draws.random_sample((count, length)).argsort(axis=1)
    chosen = [np.arange(length)]
    least = np.full(len(candidates), length)
    for _ in range(num_permutations):
        least = np.minimum(least, (candidates != chosen[-1]).sum(axis=1))
        chosen.append(candidates[least.argmax()])
    permutations = np.array(chosen[1:], "int32")
    permutations.flags.writeable = False
    return permutations
