"""Groups of layers by depth: chains, residual and dense blocks, nested models, models without a graph."""

import keras
import pytest
import tiny

from keras_ssl import encoders
from keras_ssl.encoders._depth import layer_groups


def names(encoder):
    return [[layer.name for layer in group] for group in layer_groups(encoder)]


def chain():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Normalization(name="scale"),
            keras.layers.Conv2D(4, 3, name="one"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.Conv2D(4, 3, name="two"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
        ]
    )


def test_a_chain_has_a_group_per_kernel_and_what_follows_it():
    expected = [["scale", "one", "norm", "relu"], ["two", "pool"]]
    assert names(chain()) == expected
    # A built sequential model is one layer inside a functional one.
    inputs = keras.Input((8, 8, 3))
    nested = keras.Model(inputs, keras.layers.Dense(2, name="last")(chain()(inputs)))
    assert names(nested) == [*expected, ["last"]]


def test_a_residual_block_is_one_group_and_every_layer_is_in_one():
    encoder = encoders.small_encoder((8, 8, 3), filters=(4, 8))
    groups = names(encoder)
    assert [group[0].split("_")[0] for group in groups[1:]] == ["stage1", "stage2"]
    assert {name.split("_")[0] for name in groups[2]} == {"stage2"}
    listed = [name for group in groups for name in group]
    assert sorted(listed) == sorted(layer.name for layer in encoder.layers[1:])


def test_each_layer_of_a_dense_block_is_a_group():
    encoder = encoders.densenet121((32, 32, 3), blocks=(2, 3), initial_filters=4, growth_rate=2)
    # The first convolution, five layers, one transition.
    assert len(layer_groups(encoder)) == 1 + 5 + 1


def test_each_half_of_a_transformer_block_is_a_group():
    encoder = encoders.vit_encoder((16, 16, 3), patch_size=8, embedding_dim=8, depth=3, num_heads=2)
    assert len(layer_groups(encoder)) >= 3


def test_a_layer_that_is_called_twice_is_in_the_group_of_its_first_call():
    inputs, dense = keras.Input((4,)), keras.layers.Dense(4, name="shared")
    x = keras.layers.Dense(4, name="between")(dense(inputs))
    assert names(keras.Model(inputs, dense(x))) == [["shared"], ["between"]]


@pytest.mark.parametrize("make", [tiny.SubclassedEncoder, lambda: keras.layers.Dense(3)])
def test_a_model_without_a_graph_is_one_group(make):
    encoder = make()
    encoder(keras.Input((8, 8, 3)))
    assert layer_groups(encoder) == [[encoder]]
