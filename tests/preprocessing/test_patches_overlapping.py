"""Patches that overlap by half: where they lie, how many there are, and how large they may be."""

import itertools

import numpy as np
import pytest
from keras import ops

from keras_ssl.preprocessing import (
    crop_patches,
    overlapping_corners,
    overlapping_grid,
    overlapping_patch_shape,
)


@pytest.mark.parametrize(
    ("sizes", "patch", "starts"),
    [
        ((12, 9), (6, 4), [(0, 3, 6), (0, 2, 4)]),
        # A voxel is left over on either side; odd sides share the larger half.
        ((6, 10, 5), (4, 5, 5), [(0, 2), (0, 2, 4), (0,)]),
        ((7, 8), (2, 8), [(0, 1, 2, 3, 4, 5), (0,)]),
    ],
)
def test_they_begin_half_a_side_apart_in_the_order_of_their_places(sizes, patch, starts):
    assert overlapping_grid(sizes, patch) == tuple(map(len, starts))
    corners = overlapping_corners(sizes, patch)
    first = [(size - side - places[-1]) // 2 for size, side, places in zip(sizes, patch, starts, strict=True)]
    np.testing.assert_array_equal(corners, np.array(list(itertools.product(*starts))) + first)


def test_corners_of_one_image_serve_a_batch():
    images = np.random.default_rng(0).uniform(size=(3, 8, 6, 2)).astype("float32")
    patches = ops.convert_to_numpy(crop_patches(images, overlapping_corners((8, 6), (4, 4))[None], (4, 4)))
    assert patches.shape == (3, 6, 4, 4, 2)
    for image, (number, (row, column)) in itertools.product(
        range(3), enumerate(itertools.product((0, 2, 4), (0, 2)))
    ):
        window = images[image, row : row + 4, column : column + 4]
        np.testing.assert_array_equal(patches[image, number], window)


@pytest.mark.parametrize("cells", [1, 4, 6])
def test_as_many_as_wanted_find_room_and_larger_ones_do_not(cells):
    for size in range(2 * (cells + 1), 80):
        (side,) = overlapping_patch_shape((size,), cells)
        assert side % 2 == 0
        assert overlapping_grid((size,), (side,))[0] >= cells
        assert side + 2 > size or overlapping_grid((size,), (side + 2,))[0] < cells


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"sides of at least 14, for 6 patches .* Received sides \(20, 13\)"):
        overlapping_patch_shape((20, 13), 6)
    for patch in ((4, 9), (1, 4), (4, 4, 4)):
        with pytest.raises(ValueError, match=r"`patch_shape` must be one side of at least 2.*sides \(8, 8\)"):
            overlapping_corners((8, 8), patch)
