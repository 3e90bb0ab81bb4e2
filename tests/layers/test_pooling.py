"""Pooling of any rank, and the dense layers after it: against NumPy, in order, and what is refused."""

import keras
import numpy as np
import pytest

from keras_ssl.layers.pooling import dense_layers, pool_features


@pytest.mark.parametrize(("pooling", "expected"), [("average", np.mean), ("max", np.max)])
@pytest.mark.parametrize("spatial", [(7,), (3, 4), (2, 3, 4)])
def test_pooling_is_that_of_numpy(pooling, expected, spatial):
    maps = np.random.default_rng(0).normal(size=(5, *spatial, 6)).astype("float32")
    features = keras.Input(maps.shape[1:])
    pooled = keras.Model(features, pool_features(features, pooling)).predict(maps, verbose=0)
    np.testing.assert_allclose(pooled, expected(maps, axis=tuple(range(1, maps.ndim - 1))), atol=1e-6)


def test_vectors_pass():
    features = keras.Input((6,))
    assert pool_features(features) is features


@pytest.mark.parametrize("shape", [(), (2, 2, 2, 2, 6)])
def test_other_ranks_are_refused(shape):
    with pytest.raises(ValueError, match=r"one feature vector .* or feature map .*two or three spatial axes"):
        pool_features(keras.Input(shape))


def test_several_outputs_and_unknown_pooling_are_refused():
    with pytest.raises(
        ValueError, match=r"Received a list of 2 outputs. Pass the part .*encoder.output\[-1\]"
    ):
        pool_features([keras.Input((6,)), keras.Input((6,))])
    with pytest.raises(ValueError, match=r"`pooling` must be 'average' or 'max'. Received 'mean'"):
        pool_features(keras.Input((6,)), "mean")


def layers(hidden_units, **options):
    inputs = keras.Input((6,))
    return keras.Model(inputs, dense_layers(inputs, hidden_units, name="head", **options)).layers[1:]


def test_each_dense_layer_is_normalized_and_then_dropped_from():
    built = layers((8, 4), batch_norm=True, dropout=0.5)
    order = [keras.layers.Dense, keras.layers.BatchNormalization, keras.layers.Dropout]
    assert [type(layer) for layer in built] == order * 2
    assert [(layer.units, layer.activation.__name__) for layer in built[::3]] == [(8, "relu"), (4, "relu")]
    assert [layer.rate for layer in built[2::3]] == [0.5, 0.5]
    assert [layer.name for layer in built[:3]] == ["head_dense_1", "head_bn_1", "head_dropout_1"]


def test_only_what_is_asked_for_is_built():
    assert [type(layer) for layer in layers((8,))] == [keras.layers.Dense]
    assert [type(layer) for layer in layers((), dropout=0.5)] == [keras.layers.Dropout]
    inputs = keras.Input((6,))
    assert dense_layers(inputs, (), batch_norm=True, name="head") is inputs


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_dropout_outside_its_range_is_refused(dropout):
    with pytest.raises(ValueError, match=r"`dropout` must lie in \[0, 1\)\. Received"):
        layers((8,), dropout=dropout)


def test_layers_without_units_are_refused():
    with pytest.raises(ValueError, match=r"`hidden_units` must all be at least 1\. Received \(8, 0\)"):
        layers((8, 0))
