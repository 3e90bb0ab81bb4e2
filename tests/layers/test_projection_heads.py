"""The projector: its layers in order, float32 at the end, and what is refused."""

import keras
import numpy as np
import pytest

from keras_ssl.layers import projection_head


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
        ValueError, match=r"`hidden_units` and `output_units` must be at least 1. Received \("
    ):
        layers(*units)
