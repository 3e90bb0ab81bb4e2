"""The center: where it moves to, when, and that it is saved."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.layers import Centering

RNG = np.random.default_rng(0)


def test_center_is_the_moving_mean_of_the_batches_before():
    layer, center = Centering(0.8), np.zeros(3)
    for _ in range(4):
        vectors = RNG.normal(2.0, size=(5, 3)).astype("float32")
        answer = ops.convert_to_numpy(layer(vectors, training=True))
        np.testing.assert_allclose(answer, vectors - center, rtol=1e-5, atol=1e-6)
        center = 0.8 * center + 0.2 * vectors.mean(axis=0)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.center), center, rtol=1e-5)


def test_it_stays_where_it_is_outside_training():
    layer = Centering(0.5)
    layer(np.ones((2, 3), "float32"), training=True)
    for _ in range(2):
        np.testing.assert_allclose(ops.convert_to_numpy(layer(np.ones((1, 3), "float32"))), 0.5)


@pytest.mark.compiled
def test_it_moves_in_fit_is_no_weight_that_is_trained_and_is_float32_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((3,))
        layer = Centering(0.9)
        model = keras.Model(inputs, layer(inputs))
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("sgd", "mse", jit_compile=keras.backend.backend() == "jax")
    model.fit(np.ones((4, 3), "float32"), np.ones((4, 3), "float32"), batch_size=2, epochs=5, verbose=0)
    assert not layer.trainable_variables
    assert keras.backend.standardize_dtype(layer.center.dtype) == "float32"
    np.testing.assert_allclose(ops.convert_to_numpy(layer.center), 1 - 0.9**10, rtol=1e-4)


def test_momentum_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"`momentum` must be within 0 and 1. Received 1.5"):
        Centering(1.5)
