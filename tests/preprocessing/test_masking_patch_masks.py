"""Masks of patches: as many in every image, each set of patches as likely, exact squares of pixels."""

import numpy as np
import pytest
from keras import ops

from keras_ssl.preprocessing import count_masked, default_patch_shape, mask_lowest, patch_mask_to_pixels


def test_lowest_are_marked():
    noise = np.random.default_rng(0).uniform(size=(5, 12)).astype("float32")
    masked = ops.convert_to_numpy(mask_lowest(noise, 4))
    assert masked.sum(axis=1).tolist() == [4] * 5
    for row, marks in zip(noise, masked, strict=True):
        assert row[marks].max() < row[~marks].min()


def test_as_many_even_where_numbers_are_equal():
    assert ops.convert_to_numpy(mask_lowest(np.zeros((2, 6), "float32"), 4)).sum(axis=1).tolist() == [4, 4]


@pytest.mark.parametrize(("grid", "patch"), [((2, 3), (4, 2)), ((2, 1, 3), (2, 4, 1))])
def test_pixels_of_a_patch_are_masked_together(grid, patch):
    masked = np.random.default_rng(0).uniform(size=(3, np.prod(grid))) < 0.5
    expected = np.stack([np.kron(row.reshape(grid), np.ones(patch, bool)) for row in masked])
    pixels = ops.convert_to_numpy(patch_mask_to_pixels(masked, grid, patch))
    assert pixels.dtype == bool
    np.testing.assert_array_equal(pixels[..., 0], expected)


@pytest.mark.parametrize(
    ("side", "patch"), [(4, 1), (8, 1), (18, 3), (24, 4), (28, 4), (96, 16), (128, 16), (155, 31), (192, 32)]
)
def test_default_patch(side, patch):
    assert default_patch_shape((side, 24)) == (patch, 4)


@pytest.mark.parametrize("side", [2, 29, 9])
def test_sides_without_a_patch_are_refused(side):
    with pytest.raises(ValueError, match=rf"an eighth to a quarter. Received sides \({side}, 24\)"):
        default_patch_shape((side, 24))


@pytest.mark.parametrize(("patches", "ratio"), [(1, 0.5), (4, 0.1), (4, 0.9)])
def test_all_or_none_masked_is_refused(patches, ratio):
    with pytest.raises(
        ValueError, match=f"must hide at least one.*Received {ratio} for images of {patches} pat"
    ):
        count_masked(patches, ratio)
