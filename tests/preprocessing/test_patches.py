"""Patches: cut where NumPy cuts them, in images and volumes, and put together again."""

import itertools

import numpy as np
import pytest
from keras import ops

from keras_ssl.preprocessing import crop_patches, join_patches, patch_grid, split_patches

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3, 7, 9, 2), (2, 5, 6, 7, 1)])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_patches_are_slices(shape, dtype):
    images = (255 * RNG.uniform(size=shape)).astype(dtype)
    rank = len(shape) - 2
    patch = (3, 2, 4)[:rank]
    room = [size - side + 1 for size, side in zip(shape[1:-1], patch, strict=True)]
    corners = RNG.integers(0, room, (shape[0], 5, rank))
    found = ops.convert_to_numpy(crop_patches(images, corners, patch))
    assert found.dtype == dtype
    assert found.shape == (shape[0], 5, *patch, shape[-1])
    for row, number in itertools.product(range(shape[0]), range(5)):
        window = tuple(
            slice(start, start + side) for start, side in zip(corners[row, number], patch, strict=True)
        )
        np.testing.assert_array_equal(found[row, number], images[row][window])


@pytest.mark.parametrize(("shape", "patch"), [((2, 6, 8, 3), (3, 2)), ((2, 4, 6, 4, 1), (2, 3, 4))])
def test_a_grid_is_cut_in_order_and_joined_again(shape, patch):
    images = RNG.uniform(size=shape).astype("float32")
    grid = patch_grid(shape[1:-1], patch)
    patches = ops.convert_to_numpy(split_patches(images, patch))
    assert patches.shape == (2, np.prod(grid), *patch, shape[-1])
    for number, place in enumerate(itertools.product(*map(range, grid))):
        window = tuple(slice(i * side, (i + 1) * side) for i, side in zip(place, patch, strict=True))
        np.testing.assert_array_equal(patches[:, number], images[(slice(None), *window)])
    np.testing.assert_array_equal(ops.convert_to_numpy(join_patches(patches, grid)), images)


def test_images_that_are_no_grid_are_refused():
    with pytest.raises(ValueError, match=r"multiples of the patch's. Received sides \(6, 7\) and patches of"):
        split_patches(np.zeros((1, 6, 7, 1)), (3, 3))
    with pytest.raises(ValueError, match="`images` must have sides"):
        patch_grid((6, 6, 6), (3, 3))
