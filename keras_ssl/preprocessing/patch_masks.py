"""Masks of whole patches of images, as many in every image."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_ssl.preprocessing.patches import join_patches


def count_masked(patches: int, mask_ratio: float) -> int:
    """Say how many patches to mask, such that some are masked and some stay.

    Args:
        patches: how many there are.
        mask_ratio: share of them to mask; the count is rounded.

    Raises:
        ValueError: none would be masked, or all.

    >>> count_masked(196, 0.75)
    147
    """
    masked = round(patches * mask_ratio)
    if not 0 < masked < patches:
        raise ValueError(
            f"`mask_ratio` must mask at least one patch and leave at least one. Received {mask_ratio} for "
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
