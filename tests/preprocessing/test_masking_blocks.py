"""Blocks, their rims, what fills them: against loops over voxels."""

import numpy as np
import pytest
from keras import ops

from keras_ssl.preprocessing import block_mask, block_rim, hide_where, standardize

RNG = np.random.default_rng(0)
SPATIAL = [(9, 7), (6, 7, 5)]


def random_mask(spatial, batch=3):
    return RNG.uniform(size=(batch, *spatial, 1)) < 0.6


@pytest.mark.parametrize("spatial", SPATIAL)
def test_blocks_are_where_their_corners_are(spatial):
    block = (2, 3, 1)[: len(spatial)]
    corners = RNG.integers(0, np.array(spatial) - block + 1, size=(3, 4, len(spatial)))
    expected = np.zeros((3, *spatial, 1), bool)
    for image, places in zip(expected, corners, strict=True):
        for corner in places:
            image[tuple(slice(start, start + side) for start, side in zip(corner, block, strict=True))] = True
    np.testing.assert_array_equal(ops.convert_to_numpy(block_mask(corners, block, spatial)), expected)


@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("width", [(1, 1, 1), (2, 0, 1)])
def test_rim_is_hidden_and_near_something_visible(spatial, width):
    hidden, width = random_mask(spatial), width[: len(spatial)]
    expected = np.zeros_like(hidden)
    for number, *place, _ in np.argwhere(hidden):
        around = tuple(
            slice(max(0, here - reach), here + reach + 1) for here, reach in zip(place, width, strict=True)
        )
        expected[(number, *place, 0)] = not hidden[number][around].all()
    np.testing.assert_array_equal(ops.convert_to_numpy(block_rim(hidden, width)), expected)


def test_border_of_the_image_is_no_rim():
    hidden = np.zeros((1, 6, 6, 1), bool)
    hidden[:, :3, :3] = True
    rim = ops.convert_to_numpy(block_rim(hidden, (1, 1)))[0, :3, :3, 0]
    assert rim.astype(int).tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("spatial", SPATIAL)
def test_hidden_is_the_mean_of_the_visible(spatial):
    images = RNG.normal(size=(3, *spatial, 2)).astype("float32")
    hidden = random_mask(spatial)
    filled = ops.convert_to_numpy(hide_where(images, hidden))
    for image, mask, result in zip(images, hidden[..., 0], filled, strict=True):
        np.testing.assert_array_equal(result[~mask], image[~mask])
        expected = np.broadcast_to(image[~mask].mean(axis=0), result[mask].shape)
        np.testing.assert_allclose(result[mask], expected, rtol=1e-5, atol=1e-6)
    spoilt = np.where(hidden, np.nan, images).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(hide_where(spoilt, hidden)), filled)


def test_dtypes():
    hidden = np.array([[True, False]])[..., None]
    for dtype, expected in (("uint8", "float32"), ("float16", "float16")):
        filled = ops.convert_to_numpy(hide_where(np.ones((1, 2, 1), dtype), hidden))
        assert filled.dtype == expected
        assert ops.convert_to_numpy(standardize(np.ones((1, 2, 1), dtype))).dtype == np.float32


@pytest.mark.parametrize("spatial", SPATIAL)
def test_standardized_images_have_channels_of_mean_0_and_one_deviation(spatial):
    images = RNG.normal(size=(3, *spatial, 2)) * [1, 5] + [1000, -3]
    axes = tuple(range(1, images.ndim))
    centered = images - images.mean(axis=axes[:-1], keepdims=True)
    expected = centered / np.sqrt((centered**2).mean(axis=axes, keepdims=True))
    np.testing.assert_allclose(ops.convert_to_numpy(standardize(images)), expected, rtol=1e-3, atol=1e-4)


def test_constant_images_are_0():
    # Neither the sum of 0.1 nor that of a third is exact.
    images = np.full((2, 31, 29, 3), [0.1, 1 / 3, 255.0], "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(standardize(images)), np.zeros_like(images))
