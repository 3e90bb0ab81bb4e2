import keras
import numpy as np
import pytest
import tiny
from keras import layers

from keras_ssl.encoders import adapt_channels, densenet121, small_encoder
from keras_ssl.encoders.conversion import adapt_kernel_channels


def outputs(model, images):
    return np.array(keras.ops.convert_to_numpy(model(images, training=False)))


def names(model):
    """Names of all layers but the input, which a sequential model does not list."""
    return [layer.name for layer in model.layers if not isinstance(layer, layers.InputLayer)]


def same_in_all_channels(shape, channels):
    return np.repeat(tiny.images(2, (*shape, 1)), channels, axis=-1)


def behind_scaling():
    images = keras.Input((8, 8, 3))
    x = layers.ZeroPadding2D(1)(layers.Rescaling(1 / 255, offset=-0.5)(images))
    return keras.Model(images, small_encoder((10, 10, 3), (2, 4))(x))


def two_branches():
    images = keras.Input((8, 8, 3))
    x = layers.Activation("relu")(keras.Sequential([layers.Rescaling(2.0), layers.Identity()])(images))
    x = [layers.Conv2D(3, width, padding="same", name=f"wide{width}")(x) for width in (1, 3)]
    # As many channels as the images have, and yet no images.
    return keras.Model(images, layers.DepthwiseConv2D(3)(layers.Add()(x)))


@pytest.mark.parametrize("channels", tiny.cases(1, 2, 3, 4))
@pytest.mark.parametrize(
    "build",
    [
        lambda: densenet121((8, 8, 3), (1, 1), growth_rate=4, initial_filters=4),
        lambda: small_encoder((8, 7, 8, 3), (2, 4)),
        lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu")]),
        behind_scaling,
        two_branches,
    ],
    ids=["densenet", "volumes", "sequential", "scaling", "branches"],
)
def test_equal_channels_give_what_they_gave(build, channels):
    model = build()
    adapted = adapt_channels(model, channels)
    shape = model.input_shape[1:-1]
    assert adapted.input_shape == (None, *shape, channels)
    assert names(adapted) == names(model)
    expected = outputs(model, same_in_all_channels(shape, 3))
    found = outputs(adapted, same_in_all_channels(shape, channels))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_kernel_is_the_mean_times_old_by_new_and_the_rest_is_copied(tmp_path):
    model = small_encoder((8, 8, 3), (2, 4))
    adapted = adapt_channels(model, 4)
    (old, *others), (new, *copied) = model.get_weights(), adapted.get_weights()
    assert new.shape == (3, 3, 4, 2)
    for channel in range(4):
        np.testing.assert_allclose(new[:, :, channel], old.mean(axis=2) * 3 / 4, atol=1e-6)
    tiny.assert_same(copied, others)
    assert not {id(weight) for weight in adapted.weights} & {id(weight) for weight in model.weights}
    adapted.save(tmp_path / "adapted.keras")
    loaded = keras.models.load_model(tmp_path / "adapted.keras")
    images = tiny.images(2, (8, 8, 4))
    np.testing.assert_array_equal(outputs(loaded, images), outputs(adapted, images))


def test_features_follow_the_mean_of_the_channels():
    """With a linear first layer, any image of one channel is the image of three that hold it."""
    model = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(2, 3)])
    images = tiny.images(2, (6, 6, 1))
    expected = outputs(model, np.repeat(images, 3, axis=-1))
    np.testing.assert_allclose(outputs(adapt_channels(model, 1), images), expected, atol=1e-5)


def test_adapt_kernel_keeps_sums_and_dtype():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 2, 4)).astype("float16")
    adapted = adapt_kernel_channels(kernel, 5)
    assert adapted.shape == (3, 3, 3, 5, 4)
    assert adapted.dtype == np.float16
    np.testing.assert_allclose(adapted.sum(axis=3), kernel.sum(axis=3), atol=0.02)


def _adapted_normalization():
    layer = layers.Normalization(name="odd")
    layer.adapt(tiny.images(2, (8, 8, 3)))
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        lambda: _adapted_normalization(),
        lambda: layers.Rescaling([1.0, 2.0, 3.0], name="odd"),
        lambda: layers.BatchNormalization(name="odd"),
        lambda: layers.DepthwiseConv2D(3, name="odd"),
        lambda: layers.Conv2D(3, 3, groups=3, name="odd"),
    ],
)
def test_what_depends_on_the_number_of_channels_is_named(layer):
    model = keras.Sequential([keras.Input((8, 8, 3)), layer(), layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match=r"plain convolutions.*Received 'odd', a"):
        adapt_channels(model, 1)


def test_refused():
    images = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match=r"`model` must apply plain convolutions to the images.*a Divide"):
        adapt_channels(keras.Model(images, layers.Conv2D(2, 3)(keras.ops.divide(images, 255.0))), 1)
    with pytest.raises(ValueError, match="`model` must hold a convolution"):
        adapt_channels(keras.Model(images, layers.Rescaling(2.0)(images)), 1)
    with pytest.raises(ValueError, match=r"`channels` must be at least 1. Received 0"):
        adapt_channels(small_encoder((8, 8, 3)), 0)
    with pytest.raises(ValueError, match="`model` must be a functional model"):
        adapt_channels(tiny.SubclassedEncoder(), 1)
