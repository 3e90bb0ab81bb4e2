"""Patches of images: cropping, splitting and joining, places on grids, permutations."""

import functools
import itertools
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_ssl._types import Tensor
from keras_ssl.preprocessing._compilation import floating_dtype
from keras_ssl.preprocessing.color import standard_deviation, standardize
from keras_ssl.preprocessing.resampling import gather_voxels


def crop_patches(images: Tensor, corners: Tensor, patch_shape: Sequence[int]) -> Tensor:
    """Crop patches from every image.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        corners: integers `(batch, patches, spatial axes)`, the first voxel of each patch, which must lie
            inside the image. A batch of 1 applies to all images.
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


def split_patches(images: Tensor, patch_shape: Sequence[int]) -> Tensor:
    """Split images into a grid of non-overlapping patches.

    Args:
        images: tensor `(batch, *spatial, channels)`, each side a multiple of the patch's.
        patch_shape: size of a patch along each spatial axis.

    Returns:
        Tensor `(batch, patches, *patch_shape, channels)`, patches in the order of the grid.

    Raises:
        ValueError: a side is not a multiple of the patch's.

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


def join_patches(patches: Tensor, grid: Sequence[int]) -> Tensor:
    """Join the patches of `split_patches` to images.

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


def patch_grid(sizes: Sequence[int], patch_shape: Sequence[int]) -> tuple[int, ...]:
    """Return the number of non-overlapping patches along each axis.

    Args:
        sizes: sides of the images.
        patch_shape: sides of a patch.

    Raises:
        ValueError: they have different numbers of axes, or a side is not a multiple of the patch's.

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


def patch_shape_in_boxes(sizes: Sequence[int], grid: int, patch_fraction: float) -> tuple[int, ...]:
    """Return the shape of patches, each inside one box of a grid over the image.

    Args:
        sizes: sides of the images.
        grid: number of boxes along each axis.
        patch_fraction: side of a patch as a fraction of the box's, in (0, 1]; rounded down to whole voxels.

    Raises:
        ValueError: a size is not fixed, or a patch would be narrower than 2 voxels.

    >>> patch_shape_in_boxes((225, 225), 3, 64 / 75)
    (64, 64)
    """
    if None in sizes:
        raise ValueError(f"`images` must have fixed sizes. Received {tuple(sizes)}.")
    # The small number compensates for rounding of fractions such as 64 / 75.
    shape = tuple(int(patch_fraction * (size // grid) + 1e-6) for size in sizes)
    if min(shape) < 2:
        raise ValueError(
            "`images` must be large enough for patches of at least 2 voxels a side. Received sizes "
            f"{tuple(sizes)}, for which {grid} boxes a side and a fraction of {patch_fraction:.3g} give "
            f"{shape}. Use larger images, fewer boxes or larger patches."
        )
    return shape


def random_corners_in_boxes(
    boxes: Tensor,
    sizes: Sequence[int],
    grid: int,
    patch_shape: Sequence[int],
    seed: keras.random.SeedGenerator,
    jitter: float = 1.0,
) -> Tensor:
    """Draw a random place for each patch inside its box.

    The boxes of the grid have equal sizes. The grid is centered: if a side is not a multiple of `grid`, the
    voxels left over at its ends are in no box.

    Args:
        boxes: integers `(batch, patches)`, the box of each patch, numbered in the order of the grid.
        sizes: sides of the images.
        grid: number of boxes along each axis.
        patch_shape: sides of a patch, not larger than a box.
        seed: seed generator.
        jitter: fraction of the room in its box that a patch moves in, around the center, from 0 to 1, rounded
            to whole voxels. The rest is a gap between patches of different boxes.

    Returns:
        Integers `(batch, patches, spatial axes)`, the first voxel of each patch, for `crop_patches`.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> np.asarray(random_corners_in_boxes([[0, 8]], (12, 12), 3, (2, 2), ReplaySeeds(), jitter=0)).tolist()
    [[[1, 1], [9, 9]]]
    """
    boxes = ops.convert_to_tensor(boxes)
    corners = []
    for axis, (size, side) in enumerate(zip(sizes, patch_shape, strict=True)):
        box = size // grid
        moves = round(jitter * (box - side))
        first = (size - grid * box) // 2 + (box - side - moves) // 2
        starts = first + box * np.indices((grid,) * len(sizes), "int32")[axis].ravel()
        moved = keras.random.randint(ops.shape(boxes), 0, moves + 1, seed=seed)
        corners.append(ops.take(ops.convert_to_tensor(starts), boxes, axis=0) + moved)
    return ops.stack(corners, axis=-1)


def crop_standardized(images: Tensor, corners: Tensor, patch_shape: Sequence[int]) -> Tensor:
    """Crop patches from every image and standardize each channel of each patch.

    Brightness, contrast and color cast then do not reveal from where in the image a patch is.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        corners: integers `(batch, patches, spatial axes)`, see `crop_patches`.
        patch_shape: sides of a patch.

    Returns:
        Tensor `(batch * patches, *patch_shape, channels)`, all patches of the first image first; channels
        that are constant in a patch are 0. Floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([[1.0, 5.0, 7.0, 7.0]]).reshape(1, 1, 4, 1)
    >>> np.asarray(crop_standardized(image, [[[0, 0], [0, 2]]], (1, 2)))[:, 0, :, 0].tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    images = ops.convert_to_tensor(images)
    patches = ops.reshape(crop_patches(images, corners, patch_shape), (-1, *patch_shape, images.shape[-1]))
    spatial = tuple(range(1, len(images.shape) - 1))
    return ops.cast(standardize(patches, spatial), floating_dtype(images))


def match_intensity(patches: Tensor, images: Tensor) -> Tensor:
    """Give standardized patches the mean and standard deviation of the image that they are from.

    An encoder that takes pixels as stored, and rescales them itself, could not see patches with mean 0 and
    standard deviation 1. All patches of an image are transformed alike.

    Args:
        patches: tensor `(batch * patches, *patch_shape, channels)`, as from `crop_standardized`.
        images: tensor `(batch, *spatial, channels)`.

    Returns:
        Tensor of the shape and dtype of `patches`.

    >>> import numpy as np
    >>> image = np.array([[10.0, 30.0]]).reshape(1, 1, 2, 1)
    >>> np.asarray(match_intensity(np.array([[[[-1.0]]], [[[0.0]]]]), image)).ravel().tolist()
    [10.0, 20.0]
    """
    patches = ops.convert_to_tensor(patches)
    images = ops.cast(images, "float32")
    axes = tuple(range(1, len(images.shape)))
    mean, deviation = ops.mean(images, axis=axes, keepdims=True), standard_deviation(images, axes)
    by_image = ops.reshape(ops.cast(patches, "float32"), (ops.shape(images)[0], -1, *patches.shape[1:]))
    return ops.cast(
        ops.reshape(mean[:, None] + deviation[:, None] * by_image, ops.shape(patches)), patches.dtype
    )


def overlapping_patch_shape(sizes: Sequence[int], num_patches: int) -> tuple[int, ...]:
    """Return the largest even sides of patches that overlap by half, `num_patches` or more along each axis.

    Args:
        sizes: sides of the images.
        num_patches: smallest number of patches along each axis.

    Raises:
        ValueError: patches would be smaller than 4 and overlap by a single voxel.

    >>> overlapping_patch_shape((224, 28), 6)
    (64, 8)
    """
    # An axis has one more half side than patches.
    if min(sizes) < 2 * (num_patches + 1):
        raise ValueError(
            f"`images` must have sides of at least {2 * (num_patches + 1)}, for {num_patches} patches along "
            f"each. Received sides {tuple(sizes)}. Enlarge them, or choose the patches' sides."
        )
    return tuple(2 * (size // (num_patches + 1)) for size in sizes)


def overlapping_grid(sizes: Sequence[int], patch_shape: Sequence[int]) -> tuple[int, ...]:
    """Return the number of patches along each axis that overlap by half.

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


def overlapping_corners(sizes: Sequence[int], patch_shape: Sequence[int]) -> np.ndarray:
    """Return the places of a grid of patches that overlap by half.

    Patches start half a side apart, rounded down. The grid has as many patches as fit and is centered.

    Args:
        sizes: sides of the images.
        patch_shape: sides of a patch, at least 2.

    Returns:
        int32 `(patches, spatial axes)`, the first voxel of each patch, in the order of the grid.

    Raises:
        ValueError: as `overlapping_grid`.

    >>> overlapping_corners((2, 9), (2, 4)).tolist()
    [[0, 0], [0, 2], [0, 4]]
    """
    grid = overlapping_grid(sizes, patch_shape)
    steps = np.array(patch_shape) // 2
    first = (np.array(sizes) - patch_shape - steps * (np.array(grid) - 1)) // 2
    places = np.indices(grid).reshape(len(grid), -1).T
    return (first + steps * places).astype("int32")


# 27 boxes have 10^28 permutations; more candidates than these do not increase the distances.
_CANDIDATES = 50_000


@functools.lru_cache(maxsize=32)
def hamming_permutations(length: int, num_permutations: int, seed: int = 0) -> np.ndarray:
    """Choose permutations with large Hamming distances from each other and from the identity.

    The choice is greedy: each is the candidate with the largest minimal Hamming distance to those chosen
    before. Candidates are all permutations if these are few, otherwise a random sample of 50000. For every
    seed that was tried, 100 permutations of 9 had a minimal distance of 6, as with all 9! candidates, and 100
    of 27 one of 24.

    Args:
        length: number of elements to permute, at least 2.
        num_permutations: number of permutations, at least 2 and below the factorial of `length`, since the
            identity is never chosen.
        seed: seed of the candidates and of choices among equals, an integer from 0 to 2^32 - 1.

    Returns:
        Integers `(num_permutations, length)`, read-only; the same for the same arguments.

    Raises:
        ValueError: `num_permutations` is out of range.

    >>> hamming_permutations(3, 2).tolist()
    [[1, 2, 0], [2, 0, 1]]

    References:
        Noroozi, M., Favaro, P. (2016). Unsupervised learning of visual representations by solving jigsaw
        puzzles. ECCV. (It maximizes the mean distance; the minimal distance keeps two classes apart.)
    """
    if not 2 <= num_permutations < math.factorial(length):
        raise ValueError(
            f"`num_permutations` must be from 2 to {math.factorial(length) - 1}, the number of permutations "
            f"of {length} elements without the identity. Received {num_permutations}."
        )
    # The numbers of RandomState never change; those of newer generators may, and then the logits of a saved
    # network would stand for other permutations.
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
