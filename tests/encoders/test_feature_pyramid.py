import keras
import numpy as np
import pytest
import tiny
from keras import layers

from keras_ssl import WarmupFreeze
from keras_ssl.encoders import (
    densenet121,
    pyramid_model,
    pyramid_outputs,
    resnet18,
    resnet50,
    small_encoder,
    unet_encoder,
    vit_encoder,
)

OURS = {
    "densenet121": lambda: densenet121((13, 16, 14, 1), (2, 1), growth_rate=4, initial_filters=4),
    "resnet18": lambda: resnet18((13, 16, 1), (1, 1), initial_filters=4),
    "resnet50": lambda: resnet50((13, 16, 1), (1, 1), initial_filters=2),
    "small_encoder": lambda: small_encoder((9, 8, 7, 1), (2, 4)),
    "unet_encoder": lambda: unet_encoder((9, 8, 7, 1), (2, 4, 4)),
    "vit_encoder": lambda: vit_encoder((8, 16, 1), 4, embedding_dim=8, depth=1, num_heads=2),
}
SIDES = {
    "densenet121": {"P1": (7, 8, 7), "P2": (4, 4, 4), "P3": (2, 2, 2)},
    "resnet18": {"P1": (7, 8), "P2": (4, 4), "P3": (2, 2)},
    "resnet50": {"P1": (7, 8), "P2": (4, 4), "P3": (2, 2)},
    "small_encoder": {"P0": (9, 8, 7), "P1": (5, 4, 4), "P2": (3, 2, 2)},
    "unet_encoder": {"P0": (9, 8, 7), "P1": (5, 4, 4), "P2": (3, 2, 2)},
    "vit_encoder": {"P2": (2, 4)},
}


def batch(shape, seed=0):
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype("float32")


def computed(model, images):
    return {level: np.array(keras.ops.convert_to_numpy(x)) for level, x in model(images).items()}


def sides(pyramid):
    return {level: tuple(features.shape[1:-1]) for level, features in pyramid.items()}


def origins(pyramid):
    return {level: features._keras_history.operation.name for level, features in pyramid.items()}


def convolutions(inputs, strides, padding="same", filters=4):
    x = inputs
    for number, stride in enumerate(strides, start=1):
        conv = layers.Conv2D(
            filters, 3, strides=stride, padding=padding, activation="relu", name=f"c{number}"
        )
        x = conv(x)
    return keras.Model(inputs, x)


class Backbone(keras.Model):
    """A functional model that names its levels itself, as those of Keras Hub do, all but its end."""

    def __init__(self, **kwargs):
        images = keras.Input((None, None, 3))
        fine = layers.Conv2D(4, 3, strides=2, padding="same", name="fine")(images)
        coarse = layers.Conv2D(4, 3, strides=2, padding="same", name="coarse")(layers.ReLU()(fine))
        end = layers.BatchNormalization(name="end")(coarse)
        super().__init__(inputs=images, outputs=end, **kwargs)
        self.pyramid_outputs = {"P1": fine, "P2": coarse}


class Wrapped(keras.Model):
    """A subclassed model that tells its levels, under names that do not count halvings."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        images = keras.Input((12, 9, 3))
        self.inner = convolutions(images, (2, 1, 2))
        c1, c2, c3 = (layer.output for layer in self.inner.layers[1:])
        self.pyramid_outputs = {"P3": c1, "P4": c2, "tokens": layers.Flatten()(c3), "P5": c3}

    def call(self, images):
        return self.inner(images)


@pytest.mark.parametrize("name", tiny.cases(*OURS))
def test_pyramids_are_the_same_after_loading(name, tmp_path):
    encoder = OURS[name]()
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    assert sides(encoder.pyramid_outputs) == SIDES[name]
    assert origins(pyramid_outputs(loaded)) == origins(encoder.pyramid_outputs)
    assert "pyramid_outputs" not in vars(loaded)
    images = batch(encoder.input_shape[1:])
    expected = computed(pyramid_model(encoder), images)
    found = computed(pyramid_model(loaded), images)
    assert sides(expected) == SIDES[name]
    for level, features in found.items():
        np.testing.assert_array_equal(features, expected[level])
        assert features.std() > 0
    # The coarsest level is what the encoder gives.
    last = keras.ops.convert_to_numpy(encoder(images, training=False))
    np.testing.assert_array_equal(found[list(SIDES[name])[-1]], last)


def test_levels_are_the_last_maps_after_the_first_convolution():
    images = keras.Input((16, 12, 3))
    x = layers.Rescaling(1 / 255)(images)
    x = layers.ZeroPadding2D(2)(x)
    x = layers.Conv2D(4, 5, strides=2, name="half")(x)
    x = layers.ReLU(name="half_last")(x)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(4, 3, strides=2, name="quarter")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Multiply(name="quarter_last")([x, layers.Conv2D(4, 1, activation="sigmoid")(gate)])
    assert origins(pyramid_outputs(keras.Model(images, x))) == {"P1": "half_last", "P2": "quarter_last"}


def test_levels_of_valid_convolutions():
    encoder = convolutions(keras.Input((75, 75, 3)), (2, 1, 2, 2), padding="valid")
    assert sides(pyramid_outputs(encoder)) == {"P1": (37, 37), "P2": (17, 17), "P3": (8, 8)}


@pytest.mark.parametrize(
    ("side", "padding", "expected"),
    [(5, "same", {"P0": 5, "P1": 3, "P2": 2, "P3": 1}), (23, "valid", {"P0": 21, "P1": 10, "P2": 4})],
)
def test_levels_of_sides_of_1_or_2(side, padding, expected):
    strides = (1, 2, 2, 2) if padding == "same" else (1, 2, 2)
    pyramid = pyramid_outputs(convolutions(keras.Input((side, side, 1)), strides, padding))
    assert sides(pyramid) == {level: (short, short) for level, short in expected.items()}


@pytest.mark.parametrize("build", ["functional", "sequential", "deep"])
def test_pyramid_of_a_model_after_preprocessing(build):
    inner = small_encoder((12, 10, 3), (2, 4))
    images = keras.Input((12, 10, 3))
    encoder = {
        "functional": lambda: keras.Model(images, inner(layers.Rescaling(1 / 4)(images))),
        "sequential": lambda: keras.Sequential([images, layers.Rescaling(1 / 4), inner]),
        "deep": lambda: keras.Model(
            images, keras.Sequential([layers.Rescaling(1 / 2), inner])(layers.Rescaling(1 / 2)(images))
        ),
    }[build]()
    model = pyramid_model(encoder)
    assert {id(weight) for weight in model.weights} == {id(weight) for weight in inner.weights}
    found, expected = (
        computed(model, batch((12, 10, 3))),
        computed(pyramid_model(inner), batch((12, 10, 3)) / 4),
    )
    assert sides(found) == {"P0": (12, 10), "P1": (6, 5), "P2": (3, 3)}
    for level in expected:
        np.testing.assert_allclose(found[level], expected[level], atol=1e-6)


def test_levels_are_relative_to_the_images_before_preprocessing():
    images = keras.Input((32, 32, 3))
    encoder = keras.Model(images, small_encoder((16, 16, 3), (2, 4))(layers.Resizing(16, 16)(images)))
    assert sides(pyramid_outputs(encoder)) == {"P1": (16, 16), "P2": (8, 8), "P3": (4, 4)}


@pytest.mark.parametrize("nested", [False, True])
def test_open_sides_need_an_input_shape(nested):
    encoder = small_encoder((None, None, 3), (2, 4))
    if nested:
        images = keras.Input((None, None, 3))
        encoder = keras.Model(images, encoder(layers.Rescaling(1.0)(images)))
    assert not hasattr(encoder, "pyramid_outputs")
    assert list(pyramid_outputs(encoder, (12, 9, 3))) == ["P0", "P1", "P2"]
    model = pyramid_model(encoder, (12, 9, 3))
    assert model.input_shape == (None, 12, 9, 3)
    assert sides(model(keras.Input((12, 9, 3)))) == {"P0": (12, 9), "P1": (6, 5), "P2": (3, 3)}
    with pytest.raises(ValueError, match=r"takes \(None, None, 3\). Received None"):
        pyramid_outputs(encoder)


def test_attribute_pyramid_outputs_is_used():
    backbone = Backbone()
    assert origins(pyramid_outputs(backbone, (12, 9, 3))) == {"P1": "fine", "P2": "end"}
    model = pyramid_model(backbone, (12, 9, 3))
    assert sides(model(keras.Input((12, 9, 3)))) == {"P1": (6, 5), "P2": (3, 3)}
    assert {id(weight) for weight in model.weights} == {id(weight) for weight in backbone.weights}
    images = keras.Input((12, 9, 3))
    scaled = keras.Model(images, backbone(layers.Rescaling(1 / 255)(images)))
    assert sides(pyramid_outputs(scaled)) == {"P1": (6, 5), "P2": (3, 3)}


def test_pyramid_of_a_subclassed_model():
    encoder = Wrapped()
    assert origins(pyramid_outputs(encoder)) == {"P1": "c2", "P2": "c3"}
    assert sides(pyramid_model(encoder)(keras.Input((12, 9, 3)))) == {"P1": (6, 5), "P2": (3, 3)}


class Recorder(keras.callbacks.Callback):
    """Notes, in every epoch, whether training=True changes from call to call, and the encoder's weights."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.varies, self.weights = encoder, [], []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(tiny.weights(self.encoder))
        first, second = (
            keras.ops.convert_to_numpy(self.model(tiny.images(4), training=True)) for _ in range(2)
        )
        self.varies.append(not np.array_equal(first, second))


@pytest.mark.parametrize("nested", [False, True])
def test_warmup_freezes_the_encoder_of_a_pyramid(nested):
    encoder = tiny.functional_encoder()
    if nested:
        images = keras.Input(tiny.SHAPE)
        encoder = keras.Model(images, encoder(layers.Rescaling(2.0)(images)))
    images = keras.Input(tiny.SHAPE)
    levels = pyramid_model(encoder)(images)
    assert sides(levels) == {"P0": (8, 8), "P1": (4, 4)}
    x = layers.Concatenate()([levels["P0"], layers.UpSampling2D()(levels["P1"])])
    model = keras.Model(images, layers.Conv2D(1, 1)(x))
    model.compile("adam", "mse")
    before, recorder = tiny.weights(encoder), Recorder(encoder)
    labels = np.ones((12, 8, 8, 1), "float32")
    model.fit(
        tiny.images(), labels, epochs=2, verbose=0, callbacks=[WarmupFreeze(encoder, epochs=1), recorder]
    )
    tiny.assert_same(recorder.weights[0], before)
    assert tiny.differ(tiny.weights(encoder), before)
    assert recorder.varies == [False, True]


def test_segmentation_model_is_the_same_after_loading(tmp_path):
    encoder = unet_encoder((6, 6, 6, 1), (2, 3))
    images = keras.Input((6, 6, 6, 1))
    levels = pyramid_model(encoder)(images)
    x = layers.Concatenate()([levels["P0"], layers.UpSampling3D()(levels["P1"])])
    model = keras.Model(images, layers.Conv3D(2, 1)(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(loaded(batch((6, 6, 6, 1)))),
        keras.ops.convert_to_numpy(model(batch((6, 6, 6, 1)))),
    )
    tiny.assert_same(loaded.get_weights(), model.get_weights())


def test_invalid_encoders_raise():
    with pytest.raises(
        ValueError, match=r"`encoder` must be a functional model.*Build it with the functional API"
    ):
        pyramid_outputs(tiny.SubclassedEncoder())
    images = keras.Input(tiny.SHAPE)
    with pytest.raises(ValueError, match="`encoder` must be a functional model"):
        pyramid_outputs(keras.Model(images, tiny.SubclassedEncoder()(layers.Rescaling(2.0)(images))))
    vector = keras.Model(images, layers.Flatten()(images))
    vector.pyramid_outputs = {"P1": vector.output}
    with pytest.raises(ValueError, match="`encoder` must hold feature maps"):
        pyramid_outputs(vector)
    with pytest.raises(ValueError, match="`encoder` must hold a convolution"):
        pyramid_outputs(keras.Model(images, layers.Dense(3)(images)))
    with pytest.raises(ValueError, match=r"all sides of the images alike.*from \(8, 8\) to \(8, 4\)"):
        pyramid_outputs(keras.Model(images, layers.Conv2D(3, 3, strides=(1, 2), padding="same")(images)))
    others = keras.Input(tiny.SHAPE)
    with pytest.raises(ValueError, match="Received 2 inputs and 1 outputs"):
        pyramid_outputs(keras.Model([images, others], layers.Conv2D(3, 3)(layers.Add()([images, others]))))
    with pytest.raises(ValueError, match=r"which takes \(8, 8, 3\). Received \(9, 8, 3\)"):
        pyramid_model(convolutions(images, (1,)), (9, 8, 3))
