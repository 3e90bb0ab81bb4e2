"""Patches of images and volumes of any size: where they lie, and how one is read."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_ssl.data.listing import listed


def grid_positions(shape: Sequence[int], patch_shape: Sequence[int], overlap: float = 0.5) -> np.ndarray:
    """Where patches must begin to cover a whole image or volume.

    They are spread evenly, the first at the beginning and the last at the end, so that neighbours overlap
    by at least `overlap`. Along an axis that is shorter than the patch there is one, with the axis
    in its middle: it begins at a negative index.

    Args:
        shape: `(*spatial)` of what is covered.
        patch_shape: `(*spatial)` of a patch.
        overlap: the share of a patch, along each axis, that its neighbour covers too; from 0 to below 1.

    Returns:
        int64, `(patches, rank)`, the last axis fastest.

    Raises:
        ValueError: shapes differ in rank or are not positive, or `overlap` is out of range.

    >>> grid_positions((10, 3), (4, 4), overlap=0.25).tolist()
    [[0, 0], [3, 0], [6, 0]]
    """
    if len(shape) != len(patch_shape) or min(*shape, *patch_shape) < 1:
        raise ValueError(
            "`shape` and `patch_shape` must have as many sides, each at least 1. Received "
            f"{tuple(shape)} and {tuple(patch_shape)}."
        )
    if not 0 <= overlap < 1:
        raise ValueError(f"`overlap` must be at least 0 and less than 1. Received {overlap!r}.")
    starts = []
    for side, patch in zip(shape, patch_shape, strict=True):
        room = side - patch
        if room <= 0:
            starts.append(np.array([middle_start(side, patch)]))
        else:
            # Rounded first: ten times 0.1 is a little less than 1 here.
            step = max(1, int(round(patch * (1 - overlap), 6)))
            starts.append(np.round(np.linspace(0, room, -(-room // step) + 1)).astype(np.int64))
    return np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, len(shape)).astype(np.int64)


def grid_patches(
    image: Any, patch_shape: Sequence[int], overlap: float = 0.5, small: str = "refuse"
) -> tuple[np.ndarray, np.ndarray]:
    """All patches that cover an image or volume, and where they begin.

    Args:
        image: `(*spatial, channels)`, an array or a `StoredVolume`.
        patch_shape: `(*spatial)` of a patch.
        overlap: as in `grid_positions`.
        small: what is done where the patch is larger than the image: `"refuse"`, or `"pad"` around it
            with the patch's smallest value.

    Returns:
        Patches, `(patches, *patch_shape, channels)`, and int64 positions, `(patches, rank)`.

    Raises:
        ValueError: as `grid_positions`; the patch is larger than the image, with `"refuse"`; another `small`.

    >>> patches, positions = grid_patches(np.arange(6).reshape(6, 1), (4,), overlap=0.5)
    >>> patches[..., 0].tolist(), positions.tolist()
    ([[0, 1, 2, 3], [2, 3, 4, 5]], [[0], [2]])
    """
    shape = image.shape[:-1]
    positions = grid_positions(shape, patch_shape, overlap)
    check_sizes([shape], patch_shape, small)
    return np.stack([read_patch(image, start, patch_shape) for start in positions]), positions


def read_patch(
    image: Any, start: Sequence[int] | np.ndarray, patch_shape: Sequence[int], fill: float | None = None
) -> np.ndarray:
    """One patch, padded where it reaches beyond the image or volume.

    Args:
        image: `(*spatial)` or `(*spatial, channels)`, an array or a `StoredVolume`, of which the patch alone
            is read.
        start: index at which the patch begins, along each spatial axis.
        patch_shape: `(*spatial)` of the patch.
        fill: what is padded with; `None` for the smallest value, of each channel, in the patch.

    Returns:
        `(*patch_shape)` or `(*patch_shape, channels)`.

    >>> read_patch(np.array([[1, 2], [3, 4]]), (-1, 0), (3, 2), fill=0).tolist()
    [[0, 0], [1, 2], [3, 4]]
    """
    sides = image.shape[: len(patch_shape)]
    before = [max(0, -at) for at in start]
    ends = [min(side, at + patch) for side, at, patch in zip(sides, start, patch_shape, strict=True)]
    inside = np.asarray(image[tuple(slice(max(0, at), end) for at, end in zip(start, ends, strict=True))])
    rank = len(patch_shape)
    if inside.shape[:rank] == tuple(patch_shape):
        return inside
    padded = np.empty((*patch_shape, *inside.shape[rank:]), inside.dtype)
    padded[...] = inside.min(axis=tuple(range(rank))) if fill is None else fill
    middle = (slice(at, at + side) for at, side in zip(before, inside.shape[:rank], strict=True))
    padded[tuple(middle)] = inside
    return padded


def check_sizes(
    shapes: Sequence[Sequence[int]],
    patch_shape: Sequence[int],
    small: str,
    names: Sequence[str] | None = None,
) -> None:
    """Refuse patches that are larger than images, unless they are to be padded.

    Raises:
        ValueError: a patch is larger than an image, of which the first twenty are named by `names`, or
            `small` is unknown.
    """
    if small not in ("refuse", "pad"):
        raise ValueError(f'`small` must be "refuse" or "pad". Received {small!r}.')
    names = names or [str(row) for row in range(len(shapes))]
    too_small = [
        f"{name} {tuple(shape)}"
        for name, shape in zip(names, shapes, strict=True)
        if any(side < patch for side, patch in zip(shape, patch_shape, strict=True))
    ]
    if small == "refuse" and too_small:
        raise ValueError(
            f"`patch_shape` must not be larger than an image. Received {tuple(patch_shape)}, larger than "
            f'{len(too_small)} of {len(shapes)}: {listed(too_small)}. Pass small="pad" to pad them.'
        )


def middle_start(side: int, patch: int) -> int:
    """Where a patch begins that is larger than the axis, or as large, with the axis in its middle."""
    return -((patch - side) // 2)
