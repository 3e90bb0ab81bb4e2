"""Intensities: closed form, blind to the range of values and to rotation."""

import numpy as np
import pytest
from keras import ops

from keras_ssl.preprocessing import adjust_intensity, rotate

IMAGES = np.random.default_rng(0).uniform(size=(3, 4, 4, 2)).astype("float32")
FACTORS = {
    "brightness": np.array([0.5, 1.0, 1.5]),
    "contrast": np.array([1.2, 0.0, 0.8]),
    "colour": np.array([[1.1, 0.9], [1.0, 1.2], [0.7, 1.0]]),
}


def test_closed_form():
    mean = IMAGES.mean(axis=(1, 2), keepdims=True)
    expected = mean + (IMAGES - mean) * FACTORS["contrast"].reshape(3, 1, 1, 1)
    expected *= (FACTORS["brightness"][:, None] * FACTORS["colour"]).reshape(3, 1, 1, 2)
    adjusted = ops.convert_to_numpy(adjust_intensity(IMAGES, **FACTORS))
    np.testing.assert_allclose(adjusted, expected, rtol=1e-5, atol=1e-6)


def test_nothing_asked_nothing_changed():
    np.testing.assert_array_equal(ops.convert_to_numpy(adjust_intensity(IMAGES)), IMAGES)


def test_range_of_values_does_not_matter():
    bytes_ = (IMAGES * 255).astype("uint8")
    adjusted = ops.convert_to_numpy(adjust_intensity(bytes_, **FACTORS))
    scaled = ops.convert_to_numpy(adjust_intensity(bytes_ / np.float32(255), **FACTORS))
    assert adjusted.dtype == np.float32
    np.testing.assert_allclose(adjusted / 255, scaled, rtol=1e-5, atol=1e-6)


def test_volumes_and_half_precision():
    volumes = np.full((2, 3, 3, 3, 1), 200, "float16")
    adjusted = ops.convert_to_numpy(adjust_intensity(volumes, brightness=[1, 2], contrast=[0.5, 2]))
    assert adjusted.dtype == np.float16
    np.testing.assert_array_equal(adjusted[:, 0, 0, 0, 0], [200, 400])


@pytest.mark.parametrize("label", range(4))
def test_turning_before_or_after_is_the_same(label):
    labels = np.full(3, label)
    before = adjust_intensity(rotate(IMAGES, labels), **FACTORS)
    after = rotate(adjust_intensity(IMAGES, **FACTORS), labels)
    np.testing.assert_allclose(ops.convert_to_numpy(before), ops.convert_to_numpy(after), rtol=1e-5)
