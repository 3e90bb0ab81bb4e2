"""Masks of circles, borders, boxes and patches; hidden pixels do not show through."""

import numpy as np
import pytest
from keras import ops

from keras_ssl.preprocessing.color import standardize
from keras_ssl.preprocessing.masking import (
    border_mask,
    box_mask,
    circle_mask,
    count_masked,
    cut_out,
    default_patch_shape,
    hide_where,
    mask_lowest,
    mask_rim,
    patch_mask_to_pixels,
)
from keras_ssl.preprocessing.rotation import quarter_turns


def composed(image, rotation):
    for k, plane in rotation:
        image = np.rot90(image, k, plane)
    return image


@pytest.mark.parametrize("make", [circle_mask, border_mask])
@pytest.mark.parametrize("size", [5, 8, 17, 28, 32])
@pytest.mark.parametrize("margin", [0.0, 0.05, 0.1, 1 / 3])
def test_rotations_do_not_change_masks(make, size, margin):
    for rank, rotations in ((2, None), (3, "cube")):
        mask = make((size,) * rank, margin)
        for rotation in quarter_turns(rank, rotations):
            np.testing.assert_array_equal(composed(mask, rotation), mask)


def test_circle_mask_is_a_circle():
    for size in (31, 64):
        mask = circle_mask((size, size), margin=0.1)
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        np.testing.assert_array_equal(mask, np.hypot(y, x) <= 0.9 * size / 2)
        assert not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()


def test_border_mask_is_a_frame():
    expected = np.zeros((20, 20), bool)
    expected[2:-2, 2:-2] = True
    np.testing.assert_array_equal(border_mask((20, 20), margin=0.2), expected)


def test_two_of_three_axes_make_a_cylinder():
    mask = circle_mask((3, 8, 8), axes=(1, 2))
    for layer in mask:
        np.testing.assert_array_equal(layer, circle_mask((8, 8)))


@pytest.mark.parametrize("shape", [(3, 6, 6, 3), (2, 6, 6, 6, 1)])
def test_one_mask_hides_pixels_of_all_images(shape):
    images = np.random.default_rng(0).uniform(size=shape).astype("float32")
    outside = ~circle_mask(shape[1:-1], 0.1)[..., None]
    hidden = ops.convert_to_numpy(hide_where(images, outside))
    each = np.broadcast_to(outside, (shape[0], *outside.shape))
    expected = ops.convert_to_numpy(hide_where(images, each))
    np.testing.assert_allclose(hidden, expected, rtol=1e-6)


@pytest.mark.parametrize("make", [circle_mask, border_mask])
@pytest.mark.parametrize("margin", [-0.1, 1.0])
def test_margins_out_of_range_raise(make, margin):
    with pytest.raises(ValueError, match="`margin` must be at least 0 and below 1"):
        make((4, 4), margin)


@pytest.mark.parametrize("make", [circle_mask, border_mask])
def test_margins_that_leave_no_pixel_raise(make):
    with pytest.raises(ValueError, match=r"`margin` must leave pixels .*\(2, 2\). Received 0.9"):
        make((2, 2), 0.9)


@pytest.mark.parametrize("shape", [(2, 10, 8, 3), (2, 10, 8, 6, 1)])
def test_cutout_replaces_a_box_by_the_mean(shape):
    images = np.random.default_rng(0).uniform(size=shape).astype("float32")
    centers, sizes = np.full((2, len(shape) - 2), 0.5), np.full((2, len(shape) - 2), 0.5)
    centers[:, 0], sizes[0, 0], sizes[1, 1] = 0.1, 0.4, 0.0
    expected = images.copy()
    # From a tenth of the axis, a fifth to either side; the second image has a box without width.
    expected[0, :3, 2:6] = images[0].mean(axis=tuple(range(len(shape) - 2)))
    if len(shape) == 5:
        expected[0, :3, 2:6] = images[0, :3, 2:6]
        expected[0, :3, 2:6, 2:4] = images[0].mean(axis=(0, 1, 2))
        sizes[:, 2] = 0.4
    cut = ops.convert_to_numpy(cut_out(images, centers, sizes))
    np.testing.assert_allclose(cut, expected, atol=1e-6)


RNG = np.random.default_rng(0)
SPATIAL = [(9, 7), (6, 7, 5)]


def random_mask(spatial, batch=3):
    return RNG.uniform(size=(batch, *spatial, 1)) < 0.6


@pytest.mark.parametrize("spatial", SPATIAL)
def test_boxes_start_at_their_corners(spatial):
    box = (2, 3, 1)[: len(spatial)]
    corners = RNG.integers(0, np.array(spatial) - box + 1, size=(3, 4, len(spatial)))
    expected = np.zeros((3, *spatial, 1), bool)
    for image, places in zip(expected, corners, strict=True):
        for corner in places:
            image[tuple(slice(start, start + side) for start, side in zip(corner, box, strict=True))] = True
    np.testing.assert_array_equal(ops.convert_to_numpy(box_mask(corners, box, spatial)), expected)


@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("width", [(1, 1, 1), (2, 0, 1)])
def test_rim_is_hidden_and_near_visible_pixels(spatial, width):
    hidden, width = random_mask(spatial), width[: len(spatial)]
    expected = np.zeros_like(hidden)
    for number, *place, _ in np.argwhere(hidden):
        around = tuple(
            slice(max(0, here - reach), here + reach + 1) for here, reach in zip(place, width, strict=True)
        )
        expected[(number, *place, 0)] = not hidden[number][around].all()
    np.testing.assert_array_equal(ops.convert_to_numpy(mask_rim(hidden, width)), expected)


def test_border_of_the_image_is_not_part_of_the_rim():
    hidden = np.zeros((1, 6, 6, 1), bool)
    hidden[:, :3, :3] = True
    rim = ops.convert_to_numpy(mask_rim(hidden, (1, 1)))[0, :3, :3, 0]
    assert rim.astype(int).tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("spatial", SPATIAL)
def test_hidden_pixels_are_the_mean_of_the_visible_ones(spatial):
    images = RNG.normal(size=(3, *spatial, 2)).astype("float32")
    hidden = random_mask(spatial)
    filled = ops.convert_to_numpy(hide_where(images, hidden))
    for image, mask, result in zip(images, hidden[..., 0], filled, strict=True):
        np.testing.assert_array_equal(result[~mask], image[~mask])
        expected = np.broadcast_to(image[~mask].mean(axis=0), result[mask].shape)
        np.testing.assert_allclose(result[mask], expected, rtol=1e-5, atol=1e-6)
    spoilt = np.where(hidden, np.nan, images).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(hide_where(spoilt, hidden)), filled)


def test_hide_where_keeps_floating_dtypes():
    hidden = np.array([[True, False]])[..., None]
    for dtype, expected in (("uint8", "float32"), ("float16", "float16")):
        filled = ops.convert_to_numpy(hide_where(np.ones((1, 2, 1), dtype), hidden))
        assert filled.dtype == expected
        assert ops.convert_to_numpy(standardize(np.ones((1, 2, 1), dtype))).dtype == np.float32


@pytest.mark.parametrize("spatial", SPATIAL)
def test_standardize_centers_channels_and_scales_the_image(spatial):
    images = RNG.normal(size=(3, *spatial, 2)) * [1, 5] + [1000, -3]
    axes = tuple(range(1, images.ndim))
    centered = images - images.mean(axis=axes[:-1], keepdims=True)
    expected = centered / np.sqrt((centered**2).mean(axis=axes, keepdims=True))
    np.testing.assert_allclose(ops.convert_to_numpy(standardize(images)), expected, rtol=1e-3, atol=1e-4)


def test_standardize_maps_constant_images_to_0():
    # Neither the sum of 0.1 nor that of a third is exact.
    images = np.full((2, 31, 29, 3), [0.1, 1 / 3, 255.0], "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(standardize(images)), np.zeros_like(images))


def test_lowest_numbers_are_masked():
    noise = np.random.default_rng(0).uniform(size=(5, 12)).astype("float32")
    masked = ops.convert_to_numpy(mask_lowest(noise, 4))
    assert masked.sum(axis=1).tolist() == [4] * 5
    for row, marks in zip(noise, masked, strict=True):
        assert row[marks].max() < row[~marks].min()


def test_equal_numbers_are_masked_up_to_the_count():
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
def test_default_patch_shape(side, patch):
    assert default_patch_shape((side, 24)) == (patch, 4)


@pytest.mark.parametrize("side", [2, 29, 9])
def test_sides_without_a_default_patch_raise(side):
    with pytest.raises(ValueError, match=rf"an eighth to a quarter. Received sides \({side}, 24\)"):
        default_patch_shape((side, 24))


@pytest.mark.parametrize(("patches", "fraction"), [(1, 0.5), (4, 0.1), (4, 0.9)])
def test_masking_all_or_no_patches_raises(patches, fraction):
    with pytest.raises(
        ValueError, match=f"must hide at least one.*Received {fraction} for images of {patches} pat"
    ):
        count_masked(patches, fraction)
