"""Where patches lie that overlap by half, and how large they may be, for any number of spatial axes."""

from collections.abc import Sequence

import numpy as np


def overlapping_corners(sizes: Sequence[int], patch_shape: Sequence[int]) -> np.ndarray:
    """Place a grid of patches, each of which shares half of its voxels with the next along an axis.

    Patches begin half a side apart, rounded down. As many are placed as find room, around the centre; what is
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
