"""Masks: exactly symmetric, corners hidden, nothing of what lies outside comes through."""

import numpy as np
import pytest
from keras import ops

from keras_ssl.preprocessing import border_mask, circle_mask, cut_out, hide_outside, quarter_turns


def composed(image, rotation):
    for k, plane in rotation:
        image = np.rot90(image, k, plane)
    return image


@pytest.mark.parametrize("make", [circle_mask, border_mask])
@pytest.mark.parametrize("size", [5, 8, 17, 28, 32])
@pytest.mark.parametrize("margin", [0.0, 0.05, 0.1, 1 / 3])
def test_every_turn_gives_exactly_the_same_mask(make, size, margin):
    for rank, rotations in ((2, None), (3, "cube")):
        mask = make((size,) * rank, margin)
        for rotation in quarter_turns(rank, rotations):
            np.testing.assert_array_equal(composed(mask, rotation), mask)


def test_circle_is_a_circle():
    for size in (31, 64):
        mask = circle_mask((size, size), margin=0.1)
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        np.testing.assert_array_equal(mask, np.hypot(y, x) <= 0.9 * size / 2)
        assert not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()


def test_border_is_a_frame():
    expected = np.zeros((20, 20), bool)
    expected[2:-2, 2:-2] = True
    np.testing.assert_array_equal(border_mask((20, 20), margin=0.2), expected)


def test_axes_make_a_cylinder():
    mask = circle_mask((3, 8, 8), axes=(1, 2))
    for layer in mask:
        np.testing.assert_array_equal(layer, circle_mask((8, 8)))


@pytest.mark.parametrize("shape", [(3, 6, 6, 3), (2, 6, 6, 6, 1)])
def test_outside_is_the_mean_of_the_inside(shape):
    images = np.random.default_rng(0).uniform(size=shape).astype("float32")
    mask = circle_mask(shape[1:-1], 0.1)
    hidden = ops.convert_to_numpy(hide_outside(images, mask))
    np.testing.assert_array_equal(hidden[:, mask], images[:, mask])
    expected = np.broadcast_to(images[:, mask].mean(axis=1)[:, None], hidden[:, ~mask].shape)
    np.testing.assert_allclose(hidden[:, ~mask], expected, rtol=1e-5)
    spoilt = np.where(mask[..., None], images, np.nan)
    np.testing.assert_array_equal(ops.convert_to_numpy(hide_outside(spoilt, mask)), hidden)


def test_dtype():
    mask = circle_mask((4, 4))
    assert ops.convert_to_numpy(hide_outside(np.ones((1, 4, 4, 1), "uint8"), mask)).dtype == np.float32
    assert ops.convert_to_numpy(hide_outside(np.ones((1, 4, 4, 1), "float16"), mask)).dtype == np.float16


@pytest.mark.parametrize("make", [circle_mask, border_mask])
@pytest.mark.parametrize("margin", [-0.1, 1.0])
def test_refuses_margins_out_of_range(make, margin):
    with pytest.raises(ValueError, match="`margin` must be at least 0 and below 1"):
        make((4, 4), margin)


@pytest.mark.parametrize("mask", [np.ones((4, 5), bool), np.zeros((4, 4), bool)])
def test_refuses_masks_that_do_not_fit_or_hide_everything(mask):
    with pytest.raises(ValueError, match="`mask` must be of the images' spatial shape and true somewhere"):
        hide_outside(np.zeros((1, 4, 4, 1)), mask)


@pytest.mark.parametrize("shape", [(2, 10, 8, 3), (2, 10, 8, 6, 1)])
def test_box_is_replaced_by_the_mean(shape):
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
