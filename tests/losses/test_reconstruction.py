"""The weighted squared error against NumPy."""

import numpy as np
import pytest
from keras import ops

from keras_ssl.losses import weighted_squared_error

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("spatial", [(4, 5), (2, 3, 4)])
def test_it_is_the_weighted_mean(spatial):
    targets, outputs = RNG.normal(size=(2, 3, *spatial, 2))
    weights = RNG.uniform(size=(3, *spatial, 1)) * (RNG.uniform(size=(3, *spatial, 1)) < 0.5)
    expected = [
        np.average(((target - output) ** 2).mean(axis=-1), weights=weight[..., 0])
        for target, output, weight in zip(targets, outputs, weights, strict=True)
    ]
    loss = ops.convert_to_numpy(weighted_squared_error(targets, outputs, weights))
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_booleans_are_weights_and_none_at_all_give_0():
    targets = np.array([[1.0, 2.0], [1.0, 2.0]])[..., None]
    weights = np.array([[False, True], [False, False]])[..., None]
    loss = weighted_squared_error(targets, np.zeros_like(targets), weights)
    assert ops.convert_to_numpy(loss).tolist() == [4, 0]
