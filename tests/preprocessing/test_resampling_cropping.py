"""Crops: equal to slices and to numpy.interp, and the same to every flip and turn."""

import numpy as np
import pytest
from keras import ops

from keras_ssl.preprocessing import center_crop, zoom_crop

RNG = np.random.default_rng(0)


def interpolated(image, scale, offsets):
    """Linear interpolation one axis after the other by numpy.interp."""
    for axis, offset in enumerate(offsets):
        size = image.shape[axis]
        start = (size - scale * size) * (offset + 1) / 2
        positions = start + (np.arange(size) + 0.5) * scale - 0.5
        line = lambda values, at=positions, n=size: np.interp(at, np.arange(n), values)  # noqa: E731
        image = np.apply_along_axis(line, axis, image)
    return image


def test_center_crop_is_a_slice():
    images = RNG.uniform(size=(2, 6, 7, 3))
    np.testing.assert_array_equal(center_crop(images, (4, 4)), images[:, 1:5, 1:5])
    assert center_crop(images, (6, 7)) is images


def test_center_crop_refuses_what_does_not_fit():
    for shape in ((8, 7), (6,)):
        with pytest.raises(ValueError, match="`spatial_shape` must have 2 sizes within those of the images"):
            center_crop(np.zeros((1, 6, 7, 3)), shape)


@pytest.mark.parametrize("shape", [(3, 8, 8, 3), (3, 5, 6, 7, 2)])
def test_zoom_crop_is_linear_interpolation(shape):
    images = RNG.uniform(size=shape).astype("float32")
    scales, offsets = np.array([0.4, 0.75, 1.0]), RNG.uniform(-1, 1, (3, len(shape) - 2))
    zoomed = ops.convert_to_numpy(zoom_crop(images, scales, offsets))
    expected = [interpolated(*one) for one in zip(images, scales, offsets, strict=True)]
    np.testing.assert_allclose(zoomed, expected, atol=1e-5)


def test_whole_image_is_unchanged():
    images = RNG.uniform(size=(2, 8, 8, 3)).astype("float32")
    zoomed = zoom_crop(images, np.ones(2), np.array([[0.3, -1], [1, 0]]))
    np.testing.assert_allclose(ops.convert_to_numpy(zoomed), images, atol=1e-6)


def test_cropping_a_turned_image_is_turning_the_cropped_one():
    image = RNG.uniform(size=(1, 9, 9, 1)).astype("float32")
    scale, (down, right) = [0.6], (0.4, -0.7)
    cropped = ops.convert_to_numpy(zoom_crop(image, scale, [(down, right)]))
    turned = zoom_crop(np.rot90(image, 1, (1, 2)).copy(), scale, [(-right, down)])
    np.testing.assert_allclose(ops.convert_to_numpy(turned), np.rot90(cropped, 1, (1, 2)), atol=1e-6)


@pytest.mark.parametrize(("dtype", "expected"), [("float16", "float16"), ("uint8", "float32")])
def test_dtype(dtype, expected):
    zoomed = zoom_crop(np.full((1, 4, 4, 1), 7, dtype), [0.5], [(0, 0)])
    assert ops.convert_to_numpy(zoomed).dtype == expected
    np.testing.assert_allclose(ops.convert_to_numpy(zoomed), 7)
