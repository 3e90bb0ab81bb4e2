"""Pixel scaling inside of encoders: the same numbers as scaling before, wherever encoders are used."""

import keras
import numpy as np
import pytest

from keras_ssl import encoders
from keras_ssl.encoders._checks import input_scale
from keras_ssl.encoders.densenet import default_encoder
from keras_ssl.encoders.vit import token_parts

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


def outputs(model, images):
    return keras.ops.convert_to_numpy(model(images))


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("value_range", [(0, 255), (-10, 30)])
def test_a_range_is_mapped_to_minus_one_to_one(name, value_range):
    plain, scaling = BUILDERS[name](), BUILDERS[name](value_range=value_range)
    scaling.set_weights(plain.get_weights())
    low, high = value_range
    scaled = 2 * (PIXELS - low) / (high - low) - 1
    np.testing.assert_allclose(outputs(scaling, PIXELS), outputs(plain, scaled), rtol=1e-3, atol=1e-3)
    assert input_scale(plain) is None
    assert input_scale(scaling) == pytest.approx(2 / (high - low))


@pytest.mark.parametrize(
    ("scale", "offset"), [(1 / 127.5, -1.0), (1 / 255, 0.0), ([0.1, 0.2, 0.3], (-1.0, 0.0, 1.0))]
)
def test_any_encoder_is_wrapped_with_its_own_weights(scale, offset, tmp_path):
    encoder = BUILDERS["small"]()
    wrapped = encoders.with_rescaling(encoder, scale, offset)
    expected = outputs(encoder, PIXELS * np.array(scale, "float32") + np.array(offset, "float32"))
    np.testing.assert_allclose(outputs(wrapped, PIXELS), expected, rtol=1e-4, atol=1e-4)
    assert all(one is other for one, other in zip(wrapped.weights, encoder.weights, strict=True))
    wrapped.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(outputs(loaded, PIXELS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrapped", [False, True])
def test_pyramids_tokens_inflation_stems_and_checkpointing_go_with_it(wrapped):
    def made(name):
        if wrapped:
            return encoders.with_rescaling(BUILDERS[name](), 1 / 127.5, -1.0)
        return BUILDERS[name](value_range=(0, 255))

    plain = encoders.pyramid_outputs(BUILDERS["unet"]())
    assert {k: v.shape for k, v in encoders.pyramid_outputs(made("unet")).items()} == {
        k: v.shape for k, v in plain.items()
    }
    parts, encoder = token_parts(vit := made("vit")), made("small")
    tokens = outputs(parts.blocks, outputs(parts.embed, PIXELS))
    np.testing.assert_allclose(tokens.reshape(2, 4, 4, 12), outputs(vit, PIXELS), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        outputs(encoders.rematerialize(encoder), PIXELS), outputs(encoder, PIXELS), atol=1e-5
    )
    assert input_scale(encoders.inflate(encoder, depth=4)) == pytest.approx(1 / 127.5)
    assert input_scale(encoders.adapt_channels(encoder, channels=1)) == pytest.approx(1 / 127.5)


def test_the_default_encoder_scales_photographs_and_not_volumes():
    assert input_scale(default_encoder((32, 32, 3))) == pytest.approx(1 / 127.5)
    assert input_scale(default_encoder((32, 32, 32, 1))) is None


def test_wrong_arguments_are_refused():
    for value_range in ((255, 0), (0,), (0, np.inf)):
        with pytest.raises(ValueError, match=r"`value_range` must be two increasing numbers"):
            BUILDERS["small"](value_range=value_range)
    with pytest.raises(ValueError, match="`encoder` must have one input of known shape"):
        encoders.with_rescaling(keras.layers.Dense(3), 1 / 255)
