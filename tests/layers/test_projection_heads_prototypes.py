"""Prototypes: cosines, in float32, of a head that can be copied for a teacher."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.layers import Prototypes, prototype_head

VECTORS = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")


def test_answers_are_cosines():
    layer = Prototypes(4)
    cosines = ops.convert_to_numpy(layer(VECTORS))
    directions = ops.convert_to_numpy(layer.prototypes)
    lengths = np.outer(np.linalg.norm(VECTORS, axis=1), np.linalg.norm(directions, axis=1))
    np.testing.assert_allclose(cosines, VECTORS @ directions.T / lengths, rtol=1e-4, atol=1e-6)


def test_head_is_copied_and_answers_in_float32_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((3,))
        model = keras.Model(inputs, prototype_head((8,), 4, 6)(inputs))
        copy = keras.models.clone_model(model)
    finally:
        keras.config.set_dtype_policy("float32")
    copy.set_weights(model.get_weights())
    first, second = (ops.convert_to_numpy(each(VECTORS)) for each in (model, copy))
    assert first.shape == (5, 6)
    assert first.dtype == "float32"
    np.testing.assert_array_equal(first, second)


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match=r"`count` must be at least 1. Received 0"):
        Prototypes(0)
    with pytest.raises(ValueError, match=r"`num_prototypes` must be at least 1. Received \(8,\), 0 and 4"):
        prototype_head((8,), 0, 4)
