"""ResNet as in Keras Applications, and the small residual encoder."""

import keras
import numpy as np
import pytest
import tiny
from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1

from keras_ssl.encoders import resnet18, resnet34, resnet50, small_encoder


def _weighted_layers(model):
    return [(layer.name, [tuple(w.shape) for w in layer.weights]) for layer in model.layers if layer.weights]


def test_resnet50_has_the_weights_of_keras_applications():
    with tiny.without_weights():
        reference = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(32, 32, 3))
        encoder = resnet50((32, 32, 3))
    assert encoder.name == reference.name
    assert _weighted_layers(encoder) == _weighted_layers(reference)
    assert encoder.output_shape == reference.output_shape


def test_resnet50_has_the_outputs_of_keras_applications():
    def stages(x):
        x = stack_residual_blocks_v1(x, 64, 2, stride1=1, name="conv2")
        return stack_residual_blocks_v1(x, 128, 2, name="conv3")

    shape = (33, 40, 3)
    reference = ResNet(
        stages, preact=False, use_bias=True, include_top=False, weights=None, input_shape=shape
    )
    encoder = resnet50(shape, (2, 2))
    assert _weighted_layers(encoder) == _weighted_layers(reference)
    rng = np.random.default_rng(0)
    # The normalizations and biases of a fresh network are all alike and would hide an exchange.
    weights = [w + (w.ndim == 1) * rng.uniform(-0.3, 0.3, w.shape) for w in reference.get_weights()]
    reference.set_weights(weights)
    encoder.set_weights(weights)
    x = rng.normal(size=(2, 33, 40, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(reference(x, training=False))
    assert expected.std() > 0.1
    found = keras.ops.convert_to_numpy(encoder(x, training=False))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("build", "weighted"),
    # The opening, two convolutions a block, and a shortcut in each of the three stages that halve.
    [(resnet18, 1 + 2 * 8 + 3), (resnet34, 1 + 2 * 16 + 3)],
)
def test_resnet18_and_34_number_of_convolutions(build, weighted):
    with tiny.without_weights():
        encoder = build((32, 32, 32, 1))
    convolutions = [layer for layer in encoder.layers if isinstance(layer, keras.layers.Conv3D)]
    assert len(convolutions) == weighted
    assert encoder.output_shape == (None, 1, 1, 1, 512)
    assert list(encoder.pyramid_outputs) == ["P1", "P2", "P3", "P4", "P5"]


@pytest.mark.parametrize("build", [resnet18, resnet50])
def test_training_with_few_channels_on_odd_sides(build):
    encoder = build((9, 7, 8, 1), (1, 1), initial_filters=2)
    assert encoder.output_shape[1:-1] == (2, 1, 1)
    before = [np.array(weight) for weight in encoder.get_weights()]
    encoder.compile("adam", "mse")
    images = np.random.default_rng(0).normal(size=(2, 9, 7, 8, 1)).astype("float32")
    encoder.fit(images, np.ones((2, *encoder.output_shape[1:])), verbose=0)
    changed = [not np.array_equal(old, new) for old, new in zip(before, encoder.get_weights(), strict=True)]
    # A bias before batch normalization has no effect, hence hardly a gradient.
    assert np.mean(changed) > 0.7
    assert all(np.isfinite(weight).all() for weight in encoder.get_weights())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (64, 3)}, "`input_shape` must be"),
        ({"input_shape": (64, 64, 3), "blocks": (2, 0)}, r"`blocks` must hold.*Received \(2, 0\)"),
        ({"input_shape": (64, 64, 3), "initial_filters": 0}, "`initial_filters` must hold"),
    ],
)
def test_invalid_resnet_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet18(**arguments)


@pytest.mark.parametrize(
    ("input_shape", "filters", "feature_map"),
    [
        ((28, 28, 3), (16, 32, 64), (4, 4, 64)),
        ((64, 48, 1), (4, 8), (16, 12, 8)),
        ((13, 10, 9, 2), (4, 8), (4, 3, 3, 8)),
        ((None, None, 3), (4,), (None, None, 4)),
    ],
)
def test_every_stage_halves_the_feature_map(input_shape, filters, feature_map):
    encoder = small_encoder(input_shape, filters)
    assert encoder.output_shape[1:] == feature_map
    assert encoder.input_shape[1:] == input_shape
    assert len({layer.name for layer in encoder.layers}) == len(encoder.layers)


def test_layer_names_are_the_same_every_time():
    first, second = (small_encoder((8, 8, 1), (2, 4)) for _ in range(2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]


def test_3d_equals_2d_on_a_volume_of_identical_slices():
    """With the 2D kernel in the middle slice, every slice of the volume gives the 2D feature map."""
    flat, deep = small_encoder((12, 12, 2), (3, 4)), small_encoder((7, 12, 12, 2), (3, 4))
    deep.set_weights(
        [
            np.stack([weight * (k == depth // 2) for k in range(depth)])
            if (depth := target.shape[0] if target.ndim == 5 else 0)
            else weight
            for weight, target in zip(flat.get_weights(), deep.get_weights(), strict=True)
        ]
    )
    image = np.random.default_rng(0).normal(size=(2, 12, 12, 2)).astype("float32")
    expected = keras.ops.convert_to_numpy(flat(image, training=False))
    volume = np.repeat(image[:, None], 7, axis=1)
    slices = keras.ops.convert_to_numpy(deep(volume, training=False))
    np.testing.assert_allclose(slices, np.repeat(expected[:, None], 2, axis=1), atol=1e-5)


def test_small_encoder_learns_in_few_steps():
    """The moving statistics follow within a short run: evaluation agrees with the labels as well."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 64)
    images = rng.normal(size=(64, 8, 8, 1)).astype("float32") * 0.1
    images[:, :, :4, 0] += labels[:, None, None]
    encoder = small_encoder((8, 8, 1), (4, 8))
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(encoder.output))
    model = keras.Model(encoder.input, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(images, labels, batch_size=16, epochs=10, verbose=0)
    assert model.evaluate(images, labels, verbose=0, return_dict=True)["accuracy"] > 0.9


def test_small_encoder_loads_as_core_layers(tmp_path):
    encoder = small_encoder((8, 8, 8, 1), (2, 4))
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(loaded(x, training=False)),
        keras.ops.convert_to_numpy(encoder(x, training=False)),
    )
    assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (28, 3)}, r"`input_shape` must be \(\*spatial, channels\).*Received \(28, 3\)"),
        ({"input_shape": (4, 28, 28, 28, 1)}, "two or three spatial axes"),
        ({"input_shape": (28, 28, None)}, "a number of channels"),
        ({"input_shape": (28, 28, 3), "filters": ()}, r"`filters` must hold one or more.*Received \(\)"),
        ({"input_shape": (28, 28, 3), "filters": (8, 0)}, r"at least 1. Received \(8, 0\)"),
    ],
)
def test_invalid_small_encoder_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_encoder(**arguments)
