"""CIE Lab against scikit-image."""

import numpy as np
import pytest
from keras import ops
from skimage.color import rgb2lab

from keras_ssl.preprocessing import rgb_to_lab


def test_colours_are_those_of_scikit_image():
    # A grid that holds black and white, and the darkest, where both curves are lines.
    grid = np.stack(np.meshgrid(*[[*np.linspace(0, 0.05, 5), *np.linspace(0.1, 1, 9)]] * 3), axis=-1)
    lab = ops.convert_to_numpy(rgb_to_lab(grid))
    assert lab.dtype == np.float32
    np.testing.assert_allclose(lab, rgb2lab(grid), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(3,), (2, 5, 4, 3)])
def test_any_rank(shape):
    colours = np.random.default_rng(0).uniform(size=shape).astype("float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(rgb_to_lab(colours)), rgb2lab(colours), rtol=1e-5, atol=1e-4
    )


def test_nan_stays():
    assert np.isnan(ops.convert_to_numpy(rgb_to_lab([[np.nan] * 3]))).all()
