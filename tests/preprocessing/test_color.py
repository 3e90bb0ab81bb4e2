"""Intensity and color: closed form, independent of the range of values; CIE Lab as in scikit-image."""

import numpy as np
import pytest
import tiny
from keras import ops
from scipy import ndimage
from skimage.color import hed_from_rgb, rgb2lab, rgb2yiq, rgb_from_hed, yiq2rgb

from keras_ssl.preprocessing import rotate
from keras_ssl.preprocessing.color import (
    ab_bins,
    add_noise,
    adjust_colors,
    adjust_gamma,
    adjust_intensity,
    adjust_stains,
    count_ab_bins,
    drop_colors,
    gaussian_blur,
    project_colors,
    rgb_to_lab,
    solarize,
)

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


def test_no_factors_change_nothing():
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
def test_intensity_commutes_with_rotation(label):
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
def test_gamma_is_a_power_between_minimum_and_maximum(shift):
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


def test_constant_images_do_not_change():
    images = np.full((2, 3, 3, 3, 1), -7.0, "float32")
    for changed in (
        adjust_gamma(images, [0.5, 2.0]),
        add_noise(images, np.ones_like(images), [0.5, 0.5]),
        adjust_intensity(images, contrast=[0.5, 2.0], offset=[1.0, 1.0]),
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(changed), images)


def test_inputs_are_not_changed_in_place():
    images, noise = IMAGES.copy(), np.ones_like(IMAGES)
    adjust_gamma(images, [2.0] * 3)
    add_noise(images, noise, [1.0] * 3)
    adjust_intensity(images, **FACTORS, offset=[1.0] * 3)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(noise, 1)


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
def test_blur_of_images_smaller_than_the_radius(dtype, expected):
    blurred = ops.convert_to_numpy(gaussian_blur(np.full((3, 2, 1, 1), 7, dtype), SIGMAS, 4))
    assert blurred.dtype == expected
    np.testing.assert_allclose(blurred, 7, rtol=1e-3)


@pytest.mark.parametrize("radius", [0, 1.5])
def test_invalid_radius_raises(radius):
    with pytest.raises(ValueError, match=f"`radius` must be an integer of at least 1. Received {radius}"):
        gaussian_blur(np.ones((3, 4, 4, 1)), SIGMAS, radius)


@pytest.mark.parametrize("shape", [(6, 5, 3), (4, 5, 6, 2)], ids=["2D", "3D"])
def test_color_dropping_keeps_one_channel(shape):
    images, noise = tiny.images(4, shape), tiny.images(4, shape, seed=1)
    kept = [1, 0, 1, 1]
    dropped = ops.convert_to_numpy(drop_colors(images, kept, noise, 0.25))
    for image, channel, drawn, result in zip(images, kept, noise, dropped, strict=True):
        expected = 0.25 * image[..., channel].std() * drawn
        expected[..., channel] = image[..., channel]
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_color_projection_removes_the_green_magenta_axis():
    images = tiny.images(3, (4, 5, 3))
    projected = ops.convert_to_numpy(project_colors(images))
    np.testing.assert_allclose(projected @ [-1.0, 2.0, -1.0], 0, atol=1e-6)
    # Along all other directions nothing changes: gray, and red against blue.
    for direction in ([1.0, 1.0, 1.0], [1.0, 0.0, -1.0]):
        np.testing.assert_allclose(projected @ direction, images @ direction, atol=1e-6)


def test_color_projection_keeps_gray():
    gray = np.repeat(tiny.images(2, (4, 4, 1)), 3, axis=-1)
    np.testing.assert_allclose(ops.convert_to_numpy(project_colors(gray)), gray, rtol=1e-5)


def test_lab_equals_scikit_image():
    # A grid that holds black and white, and the darkest, where both curves are lines.
    grid = np.stack(np.meshgrid(*[[*np.linspace(0, 0.05, 5), *np.linspace(0.1, 1, 9)]] * 3), axis=-1)
    lab = ops.convert_to_numpy(rgb_to_lab(grid))
    assert lab.dtype == np.float32
    np.testing.assert_allclose(lab, rgb2lab(grid), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(3,), (2, 5, 4, 3)])
def test_lab_of_any_rank(shape):
    colors = np.random.default_rng(0).uniform(size=shape).astype("float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(rgb_to_lab(colors)), rgb2lab(colors), rtol=1e-5, atol=1e-4
    )


def test_lab_keeps_nan():
    assert np.isnan(ops.convert_to_numpy(rgb_to_lab([[np.nan] * 3]))).all()


def test_bins_are_those_with_srgb_colors():
    levels = np.linspace(0, 1, 40)
    colors = rgb2lab(np.stack(np.meshgrid(levels, levels, levels), axis=-1))[..., 1:]
    squares, where = np.unique(np.rint(colors.reshape(-1, 2) / 10), axis=0, return_inverse=True)
    bins = ops.convert_to_numpy(ab_bins(colors)).ravel()
    assert bins.dtype == np.int32
    # One number a square, and no number without colors but at the very edge, which 40 levels may miss.
    pairs = np.unique(np.stack([bins, where.ravel()]), axis=1)
    assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1] == len(squares)
    assert len(squares) <= count_ab_bins() <= 1.02 * len(squares)


def test_other_colors_have_the_nearest_bin():
    step = 10
    axis = np.arange(-11, 12) * step
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    bins = ops.convert_to_numpy(ab_bins(grid, step))
    assert sorted(set(bins.ravel())) == list(range(count_ab_bins(step)))
    levels = np.linspace(0, 1, 64)
    real = rgb2lab(np.stack(np.meshgrid(levels, levels, levels), axis=-1))[..., 1:].reshape(-1, 2)
    centers = step * np.unique(np.rint(real / step), axis=0)
    distances = np.linalg.norm(grid[:, :, None] - centers, axis=-1)
    chosen = {number: grid[bins == number] for number in range(count_ab_bins(step))}
    # What has the same number has one square with colors among it, and is nearest to that.
    for number, places in chosen.items():
        own = [center for center in centers if (places == center).all(axis=1).any()]
        assert len(own) == 1, number
        gap = np.linalg.norm(places - own[0], axis=1)
        nearest = distances[tuple(((places + 110) // step).astype(int).T)].min(axis=1)
        np.testing.assert_allclose(gap, nearest)
    assert ops.convert_to_numpy(ab_bins([[1e6, 0.0]], step)).tolist() == [bins[-1, 11]]


@pytest.mark.parametrize("step", [0, -1.0])
def test_invalid_bin_sides_raise(step):
    with pytest.raises(ValueError, match=f"`step` must be above 0. Received {step}"):
        ab_bins([[0.0, 0.0]], step)
    with pytest.raises(ValueError, match=f"`step` must be above 0. Received {step}"):
        count_ab_bins(step)


@pytest.mark.parametrize("shape", [(3, 5, 4, 3), (3, 2, 3, 4, 3)], ids=["2D", "3D"])
def test_colors_turn_in_yiq_as_in_scikit_image(shape):
    images = np.random.default_rng(0).uniform(size=shape)
    hues, saturations = np.array([0.0, 30.0, -100.0]), np.array([0.0, 1.5, 1.0])
    adjusted = ops.convert_to_numpy(adjust_colors(images.astype("float32"), hues, saturations))
    for image, hue, saturation, result in zip(images, np.radians(hues), saturations, adjusted, strict=True):
        luma, i, q = np.moveaxis(rgb2yiq(image), -1, 0)
        turned = saturation * (i + 1j * q) * np.exp(1j * hue)
        expected = yiq2rgb(np.stack([luma, turned.real, turned.imag], axis=-1))
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_colors_without_change_keep_images_and_any_range_will_do():
    images = tiny.images(3, (4, 4, 3))
    kept = ops.convert_to_numpy(adjust_colors(images, [0.0] * 3, [1.0] * 3))
    np.testing.assert_allclose(kept, images, atol=1e-6)
    hues, saturations = [20.0, -90.0, 170.0], [0.3, 1.0, 2.0]
    small = ops.convert_to_numpy(adjust_colors(images, hues, saturations))
    large = ops.convert_to_numpy(adjust_colors(1000 * images - 300, hues, saturations))
    np.testing.assert_allclose((large + 300) / 1000, small, atol=1e-5)
    gray = np.repeat(images[..., :1], 3, axis=-1)
    np.testing.assert_allclose(ops.convert_to_numpy(adjust_colors(gray, hues, saturations)), gray, atol=1e-5)


def test_solarization_mirrors_chosen_images():
    images = tiny.images(2, (4, 4, 3)) * 200 - 50
    changed = ops.convert_to_numpy(solarize(images, [0.0, 1.0]))
    np.testing.assert_array_equal(changed[0], images[0])
    low, high = images[1].min(), images[1].max()
    bright = images[1] > (low + high) / 2
    assert 0 < bright.mean() < 1
    np.testing.assert_allclose(changed[1], np.where(bright, low + high - images[1], images[1]), atol=1e-4)


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_stains_are_those_of_scikit_image(white):
    images = np.random.default_rng(0).uniform(0.1, 0.9, size=(3, 5, 4, 3))
    # Each image has a white pixel, its largest value.
    images[:, 0, 0] = 1
    factors = np.array([[1.0, 1.0, 1.0], [1.2, 0.7, 1.0], [0.9, 1.1, 1.3]])
    offsets = np.array([[0.0, 0.0, 0.0], [0.1, -0.1, 0.2], [0.0, 0.2, 0.0]])
    adjusted = ops.convert_to_numpy(adjust_stains((white * images).astype("float32"), factors, offsets))
    for image, factor, offset, result in zip(images, factors, offsets, adjusted, strict=True):
        amounts = -np.log(image) @ hed_from_rgb * factor + offset
        np.testing.assert_allclose(result / white, np.exp(-amounts @ rgb_from_hed), rtol=1e-4)
    np.testing.assert_allclose(adjusted[0] / white, images[0], rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_stains_of_black_images_stay_finite(value):
    images = np.full((2, 4, 4, 3), value, "float32")
    assert np.isfinite(ops.convert_to_numpy(adjust_stains(images, np.ones((2, 3)), np.ones((2, 3))))).all()
