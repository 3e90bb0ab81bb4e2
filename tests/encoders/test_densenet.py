import keras
import numpy as np
import pytest
import tiny
from keras.src.applications.densenet import DenseNet  # public only with its full number of layers

from keras_ssl.encoders import densenet121, densenet169, densenet201


def _weighted_layers(model):
    return [(layer.name, [tuple(w.shape) for w in layer.weights]) for layer in model.layers if layer.weights]


def test_densenet121_has_the_weights_of_keras_applications():
    with tiny.without_weights():
        reference = keras.applications.DenseNet121(include_top=False, weights=None, input_shape=(32, 32, 3))
        encoder = densenet121((32, 32, 3))
    assert encoder.name == reference.name
    assert _weighted_layers(encoder) == _weighted_layers(reference)
    assert encoder.output_shape == reference.output_shape


@pytest.mark.parametrize(
    ("build", "reference"),
    [(densenet169, keras.applications.DenseNet169), (densenet201, keras.applications.DenseNet201)],
)
def test_deeper_variants_have_the_blocks_of_keras_applications(build, reference, monkeypatch):
    """To build these takes seconds; what any blocks make of a network is compared below."""
    ours, theirs = [], []
    monkeypatch.setattr(f"{build.__module__}.densenet121", lambda *args, **options: ours.append(options))
    monkeypatch.setattr(f"{reference.__module__}.DenseNet", lambda blocks, *args, **_: theirs.append(blocks))
    build((32, 32, 3))
    reference(include_top=False, weights=None, input_shape=(32, 32, 3))
    assert list(ours[0]["blocks"]) == list(theirs[0])
    assert ours[0]["name"] == reference.__name__.lower()


def test_densenet_has_the_outputs_of_keras_applications():
    blocks = (1, 2, 1, 1)
    reference = DenseNet(blocks, include_top=False, weights=None, input_shape=(32, 32, 3))
    encoder = densenet121((32, 32, 3), blocks)
    assert _weighted_layers(encoder) == _weighted_layers(reference)
    rng = np.random.default_rng(0)
    # The normalizations of a fresh network are all alike and would hide that two were exchanged.
    weights = [w + (w.ndim == 1) * rng.uniform(-0.3, 0.3, w.shape) for w in reference.get_weights()]
    reference.set_weights(weights)
    encoder.set_weights(weights)
    x = rng.normal(size=(2, 32, 32, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(reference(x, training=False))
    assert expected.std() > 0.1
    np.testing.assert_allclose(keras.ops.convert_to_numpy(encoder(x, training=False)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("input_shape", "blocks", "feature_map"),
    [
        ((28, 28, 28, 1), (2, 2, 2), (1, 1, 1, 16)),
        ((29, 61, 1), (1, 1, 1, 1), (1, 2, 8)),
        ((5, 5, 1), (1, 1), (1, 1, 10)),
        ((None, None, None, 2), (1,), (None, None, None, 12)),
    ],
)
def test_feature_map(input_shape, blocks, feature_map):
    encoder = densenet121(input_shape, blocks, growth_rate=4, initial_filters=8)
    assert encoder.output_shape[1:] == feature_map


def test_volume_encoder_loads_as_core_layers(tmp_path):
    encoder = densenet121((14, 14, 14, 1), (2, 1), growth_rate=4, initial_filters=4, name="volumes")
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    x = np.random.default_rng(0).normal(size=(2, 14, 14, 14, 1)).astype("float32")
    features = keras.ops.convert_to_numpy(encoder(x, training=False))
    assert features.shape == (2, 2, 2, 2, 10)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded(x, training=False)), features)
    assert loaded.name == "volumes"
    assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (28, 28, 28, 1)}, r"at least 29 for 4 `blocks`. Received \(28, 28, 28, 1\)"),
        ({"input_shape": (64, 3)}, "`input_shape` must be"),
        ({"input_shape": (64, 64, 3), "blocks": (6, 0)}, r"`blocks` must hold.*Received \(6, 0\)"),
        ({"input_shape": (64, 64, 3), "growth_rate": 0}, r"`growth_rate` and `initial_filters` must hold"),
    ],
)
def test_invalid_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        densenet121(**arguments)
