"""An encoder taken apart: all tokens give what it gives, some as many features, nothing is a copy."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl.encoders import small_encoder, vit_encoder
from keras_ssl.encoders.vit import token_parts

SHAPE = (8, 12, 3)


def vit(shape=SHAPE, **settings):
    return vit_encoder(shape, 4, **{"embedding_dim": 12, "depth": 2, "num_heads": 2, **settings})


def reloaded(encoder, path):
    encoder.save(path / "encoder.keras")
    return keras.models.load_model(path / "encoder.keras")


def behind_rescaling(encoder):
    inputs = keras.Input(encoder.input_shape[1:])
    return keras.Model(inputs, encoder(keras.layers.Rescaling(2.0, offset=-1.0)(inputs)))


def sequential(encoder):
    return keras.Sequential([keras.Input(encoder.input_shape[1:]), keras.layers.Rescaling(2.0), encoder])


def longer(encoder):
    return keras.Model(encoder.inputs, keras.layers.ReLU()(encoder.output) + 0.0)


ENCODERS = {
    "2D": lambda path: vit(),
    "3D": lambda path: vit((8, 4, 4, 1)),
    "learned positions": lambda path: vit(position="learned"),
    "loaded": lambda path: reloaded(vit(), path),
    "inner model": lambda path: behind_rescaling(behind_rescaling(vit())),
    "inner model, loaded": lambda path: reloaded(behind_rescaling(vit()), path),
    "sequential": lambda path: sequential(vit()),
}


@pytest.mark.parametrize("name", tiny.cases(*ENCODERS))
def test_all_tokens_give_exactly_what_the_encoder_gives(name, tmp_path):
    encoder = ENCODERS[name](tmp_path)
    images = tiny.images(2, encoder.input_shape[1:])
    expected = ops.convert_to_numpy(encoder(images))
    parts = token_parts(encoder)
    features = ops.convert_to_numpy(parts.blocks(parts.embed(images)))
    np.testing.assert_array_equal(features.reshape(expected.shape), expected)
    assert parts.grid == expected.shape[1:-1]
    assert parts.patch_shape == (4,) * len(parts.grid)
    # The encoder is as it was.
    np.testing.assert_array_equal(ops.convert_to_numpy(encoder(images)), expected)


def test_some_tokens_are_as_many_features_in_their_order():
    parts = token_parts(vit())
    tokens = ops.convert_to_numpy(parts.embed(tiny.images(2, SHAPE)))
    features = ops.convert_to_numpy(parts.blocks(tokens[:, [4, 0, 1]]))
    assert features.shape == (2, 3, 12)
    swapped = ops.convert_to_numpy(parts.blocks(tokens[:, [0, 4, 1]]))
    np.testing.assert_allclose(features[:, [1, 0, 2]], swapped, atol=1e-5)
    # One token alone has nothing to attend to but itself.
    assert np.abs(ops.convert_to_numpy(parts.blocks(tokens[:, :1])) - features[:, 1:2]).max() > 1e-3


def test_weights_are_those_of_the_encoder():
    encoder = behind_rescaling(vit())
    parts = token_parts(encoder)
    own = {id(weight) for weight in encoder.weights}
    assert {id(weight) for part in parts[:2] for weight in part.weights} == own


def test_what_has_no_weights_may_follow_the_feature_map():
    encoder = vit()
    parts = token_parts(longer(encoder))
    assert parts.grid == (2, 3)


@keras.saving.register_keras_serializable("tests")
class Wrapped(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = vit()

    def call(self, images):
        return self.inner(images)


def with_neck(encoder):
    return keras.Model(encoder.inputs, keras.layers.Conv2D(4, 1, name="neck")(encoder.output))


def cropped(encoder):
    inputs = keras.Input((9, 13, 3))
    return keras.Model(inputs, encoder(keras.layers.Cropping2D(((0, 1), (1, 0)))(inputs)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: small_encoder(SHAPE, filters=(4,)),
            "`encoder` must have tokens: a functional model.*Received",
        ),
        (Wrapped, "`encoder` must have tokens: a functional model"),
        (lambda: keras.layers.Dense(3), "`encoder` must have tokens: a functional model"),
        (lambda: with_neck(vit()), "would not be trained. Received 'functional.*: neck/kernel, neck/bias"),
        (
            lambda: cropped(vit()),
            r"must have tokens that tile the image.*sides \(9, 13\) and 6 tokens.*\(2, 3\)",
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        token_parts(make())
