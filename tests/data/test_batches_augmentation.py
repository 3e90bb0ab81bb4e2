"""Augmentation against NumPy's own flip, image by image."""

import numpy as np
import pytest

from keras_ssl.data import random_mirror


@pytest.mark.parametrize("shape", [(50, 4, 5, 3), (50, 3, 4, 5, 1)])
def test_each_image_is_mirrored_or_left(shape):
    images = np.random.default_rng(0).integers(0, 255, shape).astype("uint8")
    seen = random_mirror(images, np.random.default_rng(1))
    again = random_mirror(images, np.random.default_rng(1))
    np.testing.assert_array_equal(seen, again)
    assert seen.dtype == images.dtype
    mirrored = [np.array_equal(one, np.flip(image, -2)) for one, image in zip(seen, images, strict=True)]
    left = [np.array_equal(one, image) for one, image in zip(seen, images, strict=True)]
    assert all(a or b for a, b in zip(mirrored, left, strict=True))
    assert 10 < sum(mirrored) < 40
