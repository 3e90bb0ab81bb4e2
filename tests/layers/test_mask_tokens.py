"""Learned fillings: they stand where they should and take gradients."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.layers.mask_tokens import AppendMaskTokens, FillMasked

RNG = np.random.default_rng(0)


def test_the_same_token_is_appended():
    tokens = RNG.normal(size=(2, 3, 4)).astype("float32")
    layer = AppendMaskTokens(2)
    out = ops.convert_to_numpy(layer(tokens))
    np.testing.assert_array_equal(out[:, :3], tokens)
    token = ops.convert_to_numpy(layer.token)[0, 0]
    assert 0 < np.abs(token).max() < 0.1
    np.testing.assert_array_equal(out[:, 3:], np.broadcast_to(token, (2, 2, 4)))


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (2, 4, 3, 2, 1)])
def test_masked_pixels_are_mean_and_learned_value(shape):
    images = RNG.normal(size=shape).astype("float32")
    masked = RNG.uniform(size=(*shape[:-1], 1)) < 0.5
    layer = FillMasked()
    layer.build(shape, masked.shape)
    value = RNG.normal(size=shape[-1]).astype("float32")
    layer.set_weights([value])
    filled = ops.convert_to_numpy(layer(images, masked))
    for image, mask, out in zip(images, masked[..., 0], filled, strict=True):
        np.testing.assert_array_equal(out[~mask], image[~mask])
        mean = image[~mask].mean(axis=0)
        deviation = np.where(mask[..., None], mean, image).std(axis=tuple(range(mask.ndim)))
        expected = np.broadcast_to(mean + value * deviation, out[mask].shape)
        np.testing.assert_allclose(out[mask], expected, rtol=1e-5, atol=1e-6)
    # Nothing of what is masked comes through.
    spoilt = ops.convert_to_numpy(layer(np.where(masked, np.float32(1e6), images), masked))
    np.testing.assert_array_equal(spoilt, filled)


def test_both_are_trained():
    images, masked = (
        keras.Input((4, 4, 2), name="images"),
        keras.Input((4, 4, 1), dtype="bool", name="masked"),
    )
    x = keras.layers.Reshape((16, 2))(FillMasked()(images, masked))
    model = keras.Model([images, masked], AppendMaskTokens(2)(x))
    before = [np.array(weight) for weight in model.get_weights()]
    model.compile("sgd", "mse", jit_compile=keras.backend.backend() == "jax")
    inputs = [RNG.normal(size=(2, 4, 4, 2)).astype("float32"), RNG.uniform(size=(2, 4, 4, 1)) < 0.5]
    model.fit(inputs, np.ones((2, 18, 2)), verbose=0)
    assert all((old != new).all() for old, new in zip(before, model.get_weights(), strict=True))
