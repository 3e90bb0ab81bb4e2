"""Guards against chromatic aberration, each against NumPy."""

import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl.preprocessing import drop_colors, project_colors


@pytest.mark.parametrize("shape", [(6, 5, 3), (4, 5, 6, 2)], ids=["2D", "3D"])
def test_one_channel_stays_and_the_others_are_noise(shape):
    images, noise = tiny.images(4, shape), tiny.images(4, shape, seed=1)
    kept = [1, 0, 1, 1]
    dropped = ops.convert_to_numpy(drop_colors(images, kept, noise, 0.25))
    for image, channel, drawn, result in zip(images, kept, noise, dropped, strict=True):
        expected = 0.25 * image[..., channel].std() * drawn
        expected[..., channel] = image[..., channel]
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_no_difference_between_green_and_magenta_is_left():
    images = tiny.images(3, (4, 5, 3))
    projected = ops.convert_to_numpy(project_colors(images))
    np.testing.assert_allclose(projected @ [-1.0, 2.0, -1.0], 0, atol=1e-6)
    # Along all other directions nothing changes: gray, and red against blue.
    for direction in ([1.0, 1.0, 1.0], [1.0, 0.0, -1.0]):
        np.testing.assert_allclose(projected @ direction, images @ direction, atol=1e-6)


def test_gray_stays_gray():
    gray = np.repeat(tiny.images(2, (4, 4, 1)), 3, axis=-1)
    np.testing.assert_allclose(ops.convert_to_numpy(project_colors(gray)), gray, rtol=1e-5)
