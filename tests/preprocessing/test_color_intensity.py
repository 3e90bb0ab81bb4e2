"""Intensities: closed form, blind to the range of values and to rotation."""

import numpy as np
import pytest
from keras import ops

from keras_ssl.preprocessing import add_noise, adjust_gamma, adjust_intensity, rotate

IMAGES = np.random.default_rng(0).uniform(size=(3, 4, 4, 2)).astype("float32")
FACTORS = {
    "brightness": np.array([0.5, 1.0, 1.5]),
    "contrast": np.array([1.2, 0.0, 0.8]),
    "color": np.array([[1.1, 0.9], [1.0, 1.2], [0.7, 1.0]]),
}


def test_closed_form():
    mean = IMAGES.mean(axis=(1, 2), keepdims=True)
    expected = mean + (IMAGES - mean) * FACTORS["contrast"].reshape(3, 1, 1, 1)
    expected *= (FACTORS["brightness"][:, None] * FACTORS["color"]).reshape(3, 1, 1, 2)
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


def test_offset_is_in_standard_deviations():
    brighter = ops.convert_to_numpy(adjust_intensity(IMAGES, offset=[0.0, 0.5, -1.0]))
    deviation = IMAGES.std(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(
        brighter, IMAGES + np.reshape([0, 0.5, -1], (3, 1, 1, 1)) * deviation, atol=1e-6
    )


@pytest.mark.parametrize("shift", [0, -1000])
def test_gamma_is_a_power_between_least_and_largest(shift):
    images, gammas = IMAGES + np.float32(shift), np.array([0.5, 1.0, 2.2])
    low, high = images.min(axis=(1, 2), keepdims=True), images.max(axis=(1, 2), keepdims=True)
    expected = low + (high - low) * ((images - low) / (high - low)) ** gammas.reshape(3, 1, 1, 1)
    changed = ops.convert_to_numpy(adjust_gamma(images, gammas))
    np.testing.assert_allclose(changed, expected, atol=1e-6 * (1 + abs(shift)))


def test_noise_is_in_standard_deviations():
    noise = np.random.default_rng(1).normal(size=IMAGES.shape).astype("float32")
    noisy = ops.convert_to_numpy(add_noise(IMAGES, noise, [0.0, 0.1, 1.0]))
    deviation = IMAGES.std(axis=(1, 2), keepdims=True)
    expected = IMAGES + np.reshape([0, 0.1, 1], (3, 1, 1, 1)) * deviation * noise
    np.testing.assert_allclose(noisy, expected, atol=1e-6)


def test_constant_images_stay_as_they_are():
    images = np.full((2, 3, 3, 3, 1), -7.0, "float32")
    for changed in (
        adjust_gamma(images, [0.5, 2.0]),
        add_noise(images, np.ones_like(images), [0.5, 0.5]),
        adjust_intensity(images, contrast=[0.5, 2.0], offset=[1.0, 1.0]),
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(changed), images)


def test_images_given_are_not_changed():
    images, noise = IMAGES.copy(), np.ones_like(IMAGES)
    adjust_gamma(images, [2.0] * 3)
    add_noise(images, noise, [1.0] * 3)
    adjust_intensity(images, **FACTORS, offset=[1.0] * 3)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(noise, 1)
