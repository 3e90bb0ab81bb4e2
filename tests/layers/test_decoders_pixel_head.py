"""Linear heads to pixels: each place of the map paints the pixels that it stands for."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.layers import pixel_head, token_decoder


@pytest.mark.parametrize(("small", "sides"), [((2, 3), (8, 6)), ((2, 1, 3), (4, 3, 3))])
def test_a_place_paints_its_own_pixels(small, sides):
    features = keras.Input((*small, 5))
    model = keras.Model(features, pixel_head(features, sides, 2))
    maps = np.random.default_rng(0).normal(size=(2, *small, 5)).astype("float32")
    out = ops.convert_to_numpy(model(maps))
    assert out.shape == (2, *sides, 2)
    kernel, bias = (np.asarray(weight) for weight in model.get_weights())
    patch = [side // size for side, size in zip(sides, small, strict=True)]
    for place in np.ndindex(*small):
        where = tuple(slice(p * size, (p + 1) * size) for p, size in zip(place, patch, strict=True))
        expected = maps[:, *place] @ kernel.reshape(5, -1) + bias
        np.testing.assert_allclose(out[:, *where].reshape(2, -1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sides", "patch"), [((7, 12), (2, 4)), ((8, 10), (2, 4))])
def test_squares_that_reach_beyond_the_end_are_cut(sides, patch):
    small = (4, 3)
    features = keras.Input((*small, 5))
    model = keras.Model(features, pixel_head(features, sides, 2))
    maps = np.random.default_rng(0).normal(size=(2, *small, 5)).astype("float32")
    whole = keras.Model(
        features, pixel_head(features, [n * side for n, side in zip(small, patch, strict=True)], 2)
    )
    whole.set_weights(model.get_weights())
    expected = ops.convert_to_numpy(whole(maps))[:, : sides[0], : sides[1]]
    np.testing.assert_array_equal(ops.convert_to_numpy(model(maps)), expected)


@pytest.mark.parametrize(
    ("stride", "decoded", "units"),
    [(1, (26, 18), 3), (4, (7, 5), 48), (32, (1, 1), 3072), (None, (7, 5), 48)],
)
def test_maps_that_do_not_tile_the_image_or_are_to_be_decoded(stride, decoded, units):
    features = keras.Input((6, 7, 4))
    model = keras.Model(features, pixel_head(features, (26, 18), 3, stride=stride, filters=8))
    assert model.output_shape == (None, 26, 18, 3)
    assert model.get_layer("pixels_output").output.shape == (None, *decoded, units)


def test_strides_in_3d():
    assert pixel_head(keras.Input((2, 2, 2, 4)), (9, 8, 7), 1, stride=4).shape == (None, 9, 8, 7, 1)


@pytest.mark.parametrize("shape", [(8,), (4, None, 8), (4, 4, 4, 8)])
def test_what_is_no_map_of_that_rank_is_refused(shape):
    with pytest.raises(ValueError, match="feature map"):
        pixel_head(keras.Input(shape), (8, 8), 3)


def test_decoder_knows_places():
    tokens = keras.Input((6, 12))
    model = keras.Model(tokens, token_decoder(tokens, (2, 3), depth=1, num_heads=3))
    out = ops.convert_to_numpy(model(np.ones((1, 6, 12), "float32")))
    assert out.shape == (1, 6, 12)
    assert out[0].std(axis=0).min() > 1e-3


@pytest.mark.parametrize(("dim", "heads"), [(12, 5), (6, 3)])
def test_decoder_of_another_length_is_refused(dim, heads):
    with pytest.raises(
        ValueError, match=f"`decoder_dim` must be.*Received {dim}, {heads} heads and 2 spatial"
    ):
        token_decoder(keras.Input((6, dim)), (2, 3), depth=1, num_heads=heads)
