"""CIE Lab against scikit-image."""

import numpy as np
import pytest
from keras import ops
from skimage.color import rgb2lab

from keras_ssl.preprocessing import ab_bins, count_ab_bins, rgb_to_lab


def test_colors_are_those_of_scikit_image():
    # A grid that holds black and white, and the darkest, where both curves are lines.
    grid = np.stack(np.meshgrid(*[[*np.linspace(0, 0.05, 5), *np.linspace(0.1, 1, 9)]] * 3), axis=-1)
    lab = ops.convert_to_numpy(rgb_to_lab(grid))
    assert lab.dtype == np.float32
    np.testing.assert_allclose(lab, rgb2lab(grid), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(3,), (2, 5, 4, 3)])
def test_any_rank(shape):
    colors = np.random.default_rng(0).uniform(size=shape).astype("float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(rgb_to_lab(colors)), rgb2lab(colors), rtol=1e-5, atol=1e-4
    )


def test_nan_stays():
    assert np.isnan(ops.convert_to_numpy(rgb_to_lab([[np.nan] * 3]))).all()


def test_bins_are_those_of_colors_that_there_are():
    levels = np.linspace(0, 1, 40)
    colors = rgb2lab(np.stack(np.meshgrid(levels, levels, levels), axis=-1))[..., 1:]
    squares, where = np.unique(np.rint(colors.reshape(-1, 2) / 10), axis=0, return_inverse=True)
    bins = ops.convert_to_numpy(ab_bins(colors)).ravel()
    assert bins.dtype == np.int32
    # One number a square, and no number without colors but at the very edge, which 40 levels may miss.
    pairs = np.unique(np.stack([bins, where.ravel()]), axis=1)
    assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1] == len(squares)
    assert len(squares) <= count_ab_bins() <= 1.02 * len(squares)


def test_what_no_color_has_is_given_the_nearest_bin():
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
def test_squares_without_a_side_are_refused(step):
    with pytest.raises(ValueError, match=f"`step` must be above 0. Received {step}"):
        ab_bins([[0.0, 0.0]], step)
    with pytest.raises(ValueError, match=f"`step` must be above 0. Received {step}"):
        count_ab_bins(step)
