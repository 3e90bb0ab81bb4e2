"""Projection heads and prototypes: layers in order, cosines, float32 outputs, invalid arguments."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.layers import projection_head
from keras_ssl.layers.projection_heads import Prototypes, prototype_head


def layers(*units, **options):
    inputs = keras.Input((6,))
    return keras.Model(inputs, projection_head(inputs, *units, name="view", **options)).layers[1:]


def test_each_hidden_layer_is_normalized_and_the_last_is_not():
    built = layers((8, 4), 3)
    order = [keras.layers.Dense, keras.layers.BatchNormalization, keras.layers.ReLU]
    assert [type(layer) for layer in built] == [*order, *order, keras.layers.Dense]
    assert [layer.units for layer in built[::3]] == [8, 4, 3]
    # A bias before a normalization would be taken away again.
    assert [layer.use_bias for layer in built[::3]] == [False, False, True]
    assert [layer.name for layer in built[:3]] == ["view_dense_1", "view_bn_1", "view_relu_1"]


def test_without_hidden_layers_it_is_one_dense_layer():
    assert [type(layer) for layer in layers((), 3)] == [keras.layers.Dense]


def test_normalized_output_has_mean_0_and_deviation_1_in_a_batch():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, projection_head(inputs, (8,), 3, normalize_output=True, name="view"))
    images = np.random.default_rng(0).normal(5, 2, size=(64, 6)).astype("float32")
    outputs = keras.ops.convert_to_numpy(model(images, training=True))
    np.testing.assert_allclose(outputs.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(outputs.std(axis=0), 1, atol=1e-2)
    assert not model.layers[-1].trainable_weights


@pytest.mark.parametrize("normalize_output", [False, True])
def test_float32_comes_out_under_mixed_precision(normalize_output):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        built = layers((8,), 3, normalize_output=normalize_output)
    finally:
        keras.config.set_dtype_policy("float32")
    assert built[0].compute_dtype == "bfloat16"
    assert built[-1].compute_dtype == "float32"


@pytest.mark.parametrize("units", [((8, 0), 3), ((8,), 0), ((), -1)])
def test_layers_without_units_are_refused(units):
    with pytest.raises(
        ValueError, match=r"`hidden_units` and `projection_dim` must be at least 1. Received \("
    ):
        layers(*units)


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
