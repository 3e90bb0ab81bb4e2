import keras
import numpy as np
import pytest
import tiny
from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1  # public with all layers only

from keras_ssl.encoders import resnet18, resnet34, resnet50


def _weighted_layers(model):
    return [(layer.name, [tuple(w.shape) for w in layer.weights]) for layer in model.layers if layer.weights]


def test_layers_and_weights_in_two_dimensions_are_those_of_keras_resnet50():
    with tiny.without_weights():
        reference = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(32, 32, 3))
        encoder = resnet50((32, 32, 3))
    assert encoder.name == reference.name
    assert _weighted_layers(encoder) == _weighted_layers(reference)
    assert encoder.output_shape == reference.output_shape


def test_outputs_in_two_dimensions_are_those_of_keras_applications():
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
def test_number_of_convolutions(build, weighted):
    with tiny.without_weights():
        encoder = build((32, 32, 32, 1))
    convolutions = [layer for layer in encoder.layers if isinstance(layer, keras.layers.Conv3D)]
    assert len(convolutions) == weighted
    assert encoder.output_shape == (None, 1, 1, 1, 512)
    assert list(encoder.pyramid_outputs) == ["P1", "P2", "P3", "P4", "P5"]


@pytest.mark.parametrize("build", [resnet18, resnet50])
def test_trains_with_few_channels_on_odd_volumes(build):
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
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet18(**arguments)
