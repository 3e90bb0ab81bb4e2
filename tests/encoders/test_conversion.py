"""Conversion of encoders: 2D to 3D inflation, other channels, rescaling of pixels."""

import keras
import numpy as np
import pytest
import tiny
from keras import layers
from keras.src.applications.densenet import DenseNet
from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1

from keras_ssl import encoders
from keras_ssl.encoders import adapt_channels, densenet121, inflate, small_encoder, unet_encoder
from keras_ssl.encoders._checks import input_scale
from keras_ssl.encoders.conversion import adapt_kernel_channels, inflate_kernel
from keras_ssl.encoders.densenet import default_encoder
from keras_ssl.encoders.vit import token_parts


def outputs(model, images):
    return np.array(keras.ops.convert_to_numpy(model(images, training=False)))


def with_other_weights(model):
    """Weights unlike those that layers start with, so that an exchange shows; variances stay positive."""
    rng = np.random.default_rng(0)
    model.set_weights([w + (w.ndim == 1) * rng.uniform(-0.3, 0.3, w.shape) for w in model.get_weights()])
    return model


def flat_and_deep(model, depth, mode):
    """Return what a 2D model gives for an image, and what its inflated gives for a volume of such slices."""
    images = tiny.images(2, model.input_shape[1:])
    deep = inflate(model, depth, mode)
    assert deep.input_shape == (None, depth, *model.input_shape[1:])
    return outputs(model, images), outputs(deep, np.repeat(images[:, None], depth, axis=1))


def stack(*members, shape=(12, 10, 2)):
    return keras.Sequential([keras.Input(shape), *members])


def small_densenet():
    return DenseNet((1, 1, 1, 1), include_top=False, weights=None, input_shape=(32, 32, 3))


def small_resnet():
    def stages(x):
        return stack_residual_blocks_v1(x, 8, 2, stride1=2, name="conv2")

    options = {"preact": False, "use_bias": True, "include_top": False, "weights": None}
    return ResNet(stages, input_shape=(32, 32, 3), **options)


@pytest.mark.parametrize(
    ("build", "depth"),
    tiny.cases(
        (lambda: small_encoder((12, 10, 2), (3, 4)), 8),
        (lambda: small_encoder((12, 10, 2), (3, 4)), 9),
        (lambda: unet_encoder((12, 10, 2), (3, 4)), 8),
        (lambda: unet_encoder((12, 10, 2), (3, 4)), 9),
        (small_densenet, 29),
        (small_densenet, 32),
        (small_resnet, 8),
        (small_resnet, 9),
    ),
)
def test_center_inflation_of_encoders(build, depth):
    flat, deep = flat_and_deep(with_other_weights(build()), depth, "center")
    assert flat.std() > 0.01
    np.testing.assert_allclose(deep, np.repeat(flat[:, None], deep.shape[1], axis=1), atol=1e-5)


@pytest.mark.parametrize("depth", [7, 8])
@pytest.mark.parametrize("width", tiny.cases(1, 2, 3, 4, 5))
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", tiny.cases(1, 2, 3))
def test_center_inflation_of_one_convolution(depth, width, padding, strides):
    if (keras.backend.backend(), width, padding, strides) == ("tensorflow", 1, "same", 3):
        pytest.skip("TensorFlow's Conv3D begins at another pixel here than its Conv2D")
    model = stack(layers.Conv2D(3, width, strides=strides, padding=padding))
    flat, deep = flat_and_deep(model, depth, "center")
    slices = -(-depth // strides) if padding == "same" else (depth - width) // strides + 1
    np.testing.assert_allclose(deep, np.repeat(flat[:, None], slices, axis=1), atol=1e-5)


@pytest.mark.parametrize("depth", [7, 8])
@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(3, 3, padding="same", dilation_rate=2),
        layers.Conv2D(4, 3, padding="same", groups=2),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        layers.AveragePooling2D(3, strides=2, padding="same"),
        layers.MaxPooling2D(2),
        layers.AveragePooling2D(2),
        layers.UpSampling2D(2),
        layers.Cropping2D(1),
    ],
    ids=lambda layer: layer.name,
)
def test_center_inflation_of_one_layer(layer, depth):
    if keras.backend.backend() != "torch" and getattr(layer, "groups", 1) > 1:
        pytest.skip("grouped convolutions in 3D are not computed everywhere on a CPU")
    flat, deep = flat_and_deep(stack(layer), depth, "center")
    np.testing.assert_allclose(deep, np.repeat(flat[:, None], deep.shape[1], axis=1), atol=1e-5)


def test_mean_inflation_equals_2d_beyond_the_reach_of_padding():
    model = stack(
        layers.Conv2D(3, 3, padding="same", activation="relu"),
        layers.Conv2D(3, 5, padding="same", activation="relu"),
    )
    flat, deep = flat_and_deep(model, 11, "mean")
    same = [np.allclose(deep[:, number], flat, atol=1e-5) for number in range(11)]
    assert same == [3 <= number < 8 for number in range(11)]


def test_mean_inflation_through_strides_and_pools():
    model = stack(
        layers.ZeroPadding2D(1),
        layers.Conv2D(3, 3, strides=2, activation="relu"),
        layers.AveragePooling2D(2),
        layers.Conv2D(3, 2),
        layers.MaxPooling2D(2, padding="same"),
        shape=(16, 16, 2),
    )
    # 24 slices are halved to 12, of which padding has reached the first; to 6, the first; 5; 3.
    flat, deep = flat_and_deep(model, 24, "mean")
    assert [np.allclose(deep[:, number], flat, atol=1e-5) for number in range(3)] == [False, True, True]


def test_inflation_keeps_names_and_weights_of_all_layers(tmp_path):
    images = keras.Input((8, 8, 2))
    scale = layers.Normalization(axis=3, name="scale")
    scale.adapt(tiny.images(3, (8, 8, 2)))
    x = scale(layers.Rescaling([1.0, 2.0], name="rescale")(images))
    twice = layers.Conv2D(2, 3, padding="same", name="twice")
    x = twice(twice(x))
    y = layers.BatchNormalization(axis=3, name="batch")(x)
    y = layers.GroupNormalization(2, name="group")(layers.LeakyReLU(name="leaky")(y))
    x = layers.Concatenate(axis=3, name="join")([x, layers.LayerNormalization(axis=3, name="layer")(y)])
    x = layers.SpatialDropout2D(0.1, name="drop")(layers.Dense(6, name="dense")(x))
    inner = keras.Sequential([layers.Conv2D(4, 3, name="inside"), layers.ReLU(name="relu")], name="inner")
    x = layers.GlobalAveragePooling2D(name="pool")(inner(x))
    x = layers.Concatenate(axis=1, name="vectors")([x, layers.Softmax(name="softmax")(x)])
    model = with_other_weights(keras.Model(images, layers.Dense(3, name="last")(x), name="all_kinds"))
    scale.finalize_state()
    model.compile("adam", "mse")
    flat, deep = flat_and_deep(model, 9, "center")
    np.testing.assert_allclose(deep, flat, atol=1e-5)

    inflated = inflate(model, None)
    assert [layer.name for layer in inflated.layers] == [layer.name for layer in model.layers]
    assert inflated.name == "all_kinds"
    assert not inflated.compiled
    assert not {id(weight) for weight in inflated.weights} & {id(weight) for weight in model.weights}
    inflated = inflate(model, 9)
    inflated.save(tmp_path / "inflated.keras")
    loaded = keras.models.load_model(tmp_path / "inflated.keras")
    volumes = tiny.images(2, (9, 8, 8, 2))
    np.testing.assert_array_equal(outputs(loaded, volumes), outputs(inflated, volumes))


def test_inflated_depth_is_the_smaller_side_of_a_kernel():
    model = stack(
        layers.Conv2D(3, (1, 7), padding="same"), layers.Conv2D(3, (5, 3), strides=(2, 1), padding="same")
    )
    deep = inflate(model, 6)
    assert [layer.kernel_size for layer in deep.layers[1:]] == [(1, 1, 7), (3, 5, 3)]
    assert deep.output_shape == (None, 6, 6, 10, 3)


@pytest.mark.parametrize("mode", ["center", "mean"])
def test_inflated_kernels_keep_their_sum(mode):
    kernel = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype("float32")
    for depth in (1, 2, 3, 6):
        deep = inflate_kernel(kernel, depth, mode)
        assert deep.shape == (depth, 3, 2, 4, 5)
        assert deep.dtype == np.float32
        np.testing.assert_allclose(deep.sum(axis=0), kernel, atol=1e-6)
        assert np.count_nonzero(deep.any(axis=(1, 2, 3, 4))) == (1 if mode == "center" else depth)


@pytest.mark.parametrize(
    "layer",
    [
        layers.DepthwiseConv2D(3, name="odd"),
        layers.SeparableConv2D(2, 3, name="odd"),
        layers.Conv2DTranspose(2, 3, name="odd"),
        layers.UpSampling2D(interpolation="bilinear", name="odd"),
        layers.Flatten(name="odd"),
        layers.Reshape((-1, 2), name="odd"),
        layers.PReLU(name="odd"),
        layers.BatchNormalization(axis=1, name="odd"),
        layers.Rescaling(np.ones((12, 10, 2)), name="odd"),
        tiny.SubclassedEncoder(name="odd"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_without_3d_counterpart_raise(layer):
    with pytest.raises(ValueError, match=f"Received 'odd', a {type(layer).__name__}|Received.*name=odd"):
        inflate(stack(layer), 6)


def test_invalid_inflation_raises():
    images = keras.Input((8, 8, 2))
    with pytest.raises(ValueError, match=r"layers that exist in three dimensions.*a Sin"):
        inflate(keras.Model(images, keras.ops.sin(images)), 6)
    with pytest.raises(ValueError, match=r"`model` must take \(batch, height, width, channels\)"):
        inflate(small_encoder((8, 8, 8, 1)), 6)
    with pytest.raises(ValueError, match=r'`mode` must be "center" or "mean". Received \'centre\''):
        inflate(small_encoder((8, 8, 1)), 6, "centre")
    with pytest.raises(ValueError, match=r"`depth` must be at least 1, or None. Received 0"):
        inflate(small_encoder((8, 8, 1)), 0)
    with pytest.raises(ValueError, match="`model` must be a functional model"):
        inflate(tiny.SubclassedEncoder(), 6)


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
def test_images_of_identical_channels_keep_their_features(build, channels):
    model = build()
    adapted = adapt_channels(model, channels)
    shape = model.input_shape[1:-1]
    assert adapted.input_shape == (None, *shape, channels)
    assert names(adapted) == names(model)
    expected = outputs(model, same_in_all_channels(shape, 3))
    found = outputs(adapted, same_in_all_channels(shape, channels))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_adapted_kernel_is_a_scaled_mean_and_the_rest_is_copied(tmp_path):
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


def test_one_channel_equals_three_copies_of_it():
    """With a linear first layer, any image of one channel is the image of three that hold it."""
    model = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(2, 3)])
    images = tiny.images(2, (6, 6, 1))
    expected = outputs(model, np.repeat(images, 3, axis=-1))
    np.testing.assert_allclose(outputs(adapt_channels(model, 1), images), expected, atol=1e-5)


def test_adapted_kernels_keep_sum_and_dtype():
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
def test_layers_that_depend_on_channels_raise(layer):
    model = keras.Sequential([keras.Input((8, 8, 3)), layer(), layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match=r"plain convolutions.*Received 'odd', a"):
        adapt_channels(model, 1)


def test_invalid_adaptation_raises():
    images = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match=r"`model` must apply plain convolutions to the images.*a Divide"):
        adapt_channels(keras.Model(images, layers.Conv2D(2, 3)(keras.ops.divide(images, 255.0))), 1)
    with pytest.raises(ValueError, match="`model` must hold a convolution"):
        adapt_channels(keras.Model(images, layers.Rescaling(2.0)(images)), 1)
    with pytest.raises(ValueError, match=r"`channels` must be at least 1. Received 0"):
        adapt_channels(small_encoder((8, 8, 3)), 0)
    with pytest.raises(ValueError, match="`model` must be a functional model"):
        adapt_channels(tiny.SubclassedEncoder(), 1)


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
BUILDERS = {
    "small": lambda **given: encoders.small_encoder((32, 32, 3), filters=(4,), **given),
    "unet": lambda **given: encoders.unet_encoder((32, 32, 3), filters=(4, 8), **given),
    "resnet18": lambda **given: encoders.resnet18((32, 32, 3), blocks=(1,), initial_filters=4, **given),
    "resnet50": lambda **given: encoders.resnet50((32, 32, 3), blocks=(1,), initial_filters=4, **given),
    "densenet": lambda **given: encoders.densenet121((32, 32, 3), blocks=(1,), growth_rate=4, **given),
    "vit": lambda **given: encoders.vit_encoder(
        (32, 32, 3), patch_size=8, embedding_dim=12, depth=1, **given
    ),
}


def outputs_of(model, images):
    return keras.ops.convert_to_numpy(model(images))


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("value_range", [(0, 255), (-10, 30)])
def test_value_range_is_mapped_to_minus_one_to_one(name, value_range):
    plain, scaling = BUILDERS[name](), BUILDERS[name](value_range=value_range)
    scaling.set_weights(plain.get_weights())
    low, high = value_range
    scaled = 2 * (PIXELS - low) / (high - low) - 1
    np.testing.assert_allclose(outputs_of(scaling, PIXELS), outputs_of(plain, scaled), rtol=1e-3, atol=1e-3)
    assert input_scale(plain) is None
    assert input_scale(scaling) == pytest.approx(2 / (high - low))


@pytest.mark.parametrize(
    ("scale", "offset"), [(1 / 127.5, -1.0), (1 / 255, 0.0), ([0.1, 0.2, 0.3], (-1.0, 0.0, 1.0))]
)
def test_with_rescaling_shares_the_weights(scale, offset, tmp_path):
    encoder = BUILDERS["small"]()
    wrapped = encoders.with_rescaling(encoder, scale, offset)
    expected = outputs_of(encoder, PIXELS * np.array(scale, "float32") + np.array(offset, "float32"))
    np.testing.assert_allclose(outputs_of(wrapped, PIXELS), expected, rtol=1e-4, atol=1e-4)
    assert all(one is other for one, other in zip(wrapped.weights, encoder.weights, strict=True))
    wrapped.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(outputs_of(loaded, PIXELS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrapped", [False, True])
def test_rescaled_encoders_work_with_all_conversions(wrapped):
    def made(name):
        if wrapped:
            return encoders.with_rescaling(BUILDERS[name](), 1 / 127.5, -1.0)
        return BUILDERS[name](value_range=(0, 255))

    plain = encoders.pyramid_outputs(BUILDERS["unet"]())
    assert {k: v.shape for k, v in encoders.pyramid_outputs(made("unet")).items()} == {
        k: v.shape for k, v in plain.items()
    }
    parts, encoder = token_parts(vit := made("vit")), made("small")
    tokens = outputs_of(parts.blocks, outputs_of(parts.embed, PIXELS))
    np.testing.assert_allclose(tokens.reshape(2, 4, 4, 12), outputs_of(vit, PIXELS), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        outputs_of(encoders.rematerialize(encoder), PIXELS), outputs_of(encoder, PIXELS), atol=1e-5
    )
    assert input_scale(encoders.inflate(encoder, depth=4)) == pytest.approx(1 / 127.5)
    assert input_scale(encoders.adapt_channels(encoder, channels=1)) == pytest.approx(1 / 127.5)


def test_default_encoder_rescales_images_but_not_volumes():
    assert input_scale(default_encoder((32, 32, 3))) == pytest.approx(1 / 127.5)
    assert input_scale(default_encoder((32, 32, 32, 1))) is None


def test_invalid_rescaling_raises():
    for value_range in ((255, 0), (0,), (0, np.inf)):
        with pytest.raises(ValueError, match=r"`value_range` must be two increasing numbers"):
            BUILDERS["small"](value_range=value_range)
    with pytest.raises(ValueError, match="`encoder` must have one input of known shape"):
        encoders.with_rescaling(keras.layers.Dense(3), 1 / 255)
