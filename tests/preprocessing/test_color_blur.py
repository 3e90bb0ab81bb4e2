"""Blur: equal to scipy.ndimage.gaussian_filter, image by image."""

import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from keras_ssl.preprocessing import gaussian_blur

RNG = np.random.default_rng(0)
SIGMAS = np.array([0.0, 0.6, 1.3])


@pytest.mark.parametrize("shape", [(3, 9, 7, 3), (3, 6, 8, 7, 1)])
@pytest.mark.parametrize("radius", [1, 4])
def test_equals_scipy(shape, radius):
    images = RNG.uniform(size=shape).astype("float32")
    expected = [
        ndimage.gaussian_filter(image, [sigma] * (len(shape) - 2) + [0], mode="nearest", radius=radius)
        for image, sigma in zip(images, SIGMAS, strict=True)
    ]
    blurred = ops.convert_to_numpy(gaussian_blur(images, SIGMAS, radius))
    np.testing.assert_allclose(blurred, expected, atol=1e-6)
    np.testing.assert_array_equal(blurred[0], images[0])


@pytest.mark.parametrize(("dtype", "expected"), [("float16", "float16"), ("uint8", "float32")])
def test_dtype_and_images_smaller_than_the_radius(dtype, expected):
    blurred = ops.convert_to_numpy(gaussian_blur(np.full((3, 2, 1, 1), 7, dtype), SIGMAS, 4))
    assert blurred.dtype == expected
    np.testing.assert_allclose(blurred, 7, rtol=1e-3)


@pytest.mark.parametrize("radius", [0, 1.5])
def test_refused(radius):
    with pytest.raises(ValueError, match=f"`radius` must be an integer of at least 1. Received {radius}"):
        gaussian_blur(np.ones((3, 4, 4, 1)), SIGMAS, radius)
