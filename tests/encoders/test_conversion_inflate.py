import keras
import numpy as np
import pytest
import tiny
from keras import layers
from keras.src.applications.densenet import DenseNet  # public only with its full number of layers
from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1

from keras_ssl.encoders import inflate, small_encoder, unet_encoder
from keras_ssl.encoders.conversion import inflate_kernel


def outputs(model, images):
    return np.array(keras.ops.convert_to_numpy(model(images, training=False)))


def with_other_weights(model):
    """Weights unlike those that layers start with, so that an exchange shows; variances stay positive."""
    rng = np.random.default_rng(0)
    model.set_weights([w + (w.ndim == 1) * rng.uniform(-0.3, 0.3, w.shape) for w in model.get_weights()])
    return model


def flat_and_deep(model, depth, mode):
    """Return what a 2D model gives for an image, and what its twin gives for a volume of such slices."""
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
def test_center_inflation_repeats_encoders_in_every_slice(build, depth):
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


def test_mean_inflation_repeats_the_model_beyond_the_reach_of_padding():
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


def test_every_kind_of_layer_keeps_its_name_and_weights(tmp_path):
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

    twin = inflate(model, None)
    assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
    assert twin.name == "all_kinds"
    assert not twin.compiled
    assert not {id(weight) for weight in twin.weights} & {id(weight) for weight in model.weights}
    twin = inflate(model, 9)
    twin.save(tmp_path / "twin.keras")
    loaded = keras.models.load_model(tmp_path / "twin.keras")
    volumes = tiny.images(2, (9, 8, 8, 2))
    np.testing.assert_array_equal(outputs(loaded, volumes), outputs(twin, volumes))


def test_unequal_kernels_are_as_deep_as_their_shorter_side():
    model = stack(
        layers.Conv2D(3, (1, 7), padding="same"), layers.Conv2D(3, (5, 3), strides=(2, 1), padding="same")
    )
    deep = inflate(model, 6)
    assert [layer.kernel_size for layer in deep.layers[1:]] == [(1, 1, 7), (3, 5, 3)]
    assert deep.output_shape == (None, 6, 6, 10, 3)


@pytest.mark.parametrize("mode", ["center", "mean"])
def test_slices_of_a_kernel_add_up_to_it(mode):
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
def test_layers_without_a_twin_are_named(layer):
    with pytest.raises(ValueError, match=f"Received 'odd', a {type(layer).__name__}|Received.*name=odd"):
        inflate(stack(layer), 6)


def test_refused():
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
