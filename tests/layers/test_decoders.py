"""Decoders: any image size, features stay in place, pixels of a position, invalid feature maps."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.layers import upsampling_decoder
from keras_ssl.layers.decoders import _resize_axis, pixel_head, token_decoder


def layers_of(small, spatial_shape, **options):
    features = keras.Input((*small, 6))
    return keras.Model(features, upsampling_decoder(features, spatial_shape, 2, **options)).layers


@pytest.mark.parametrize(
    ("small", "spatial_shape"),
    [
        ((3, 4), (24, 28)),  # strides of 2, sides rounded up
        ((4, 4), (24, 25)),  # patches of 6, and rounding up
        ((11, 5), (24, 24)),  # convolutions without padding
        ((8, 2), (8, 16)),  # one axis is large enough
        ((8, 8), (8, 8)),
        ((12, 12), (6, 5)),  # smaller than the features
        ((1, 1), (3, 7)),
        ((2, 3, 2), (9, 24, 2)),
    ],
)
def test_any_size_is_met(small, spatial_shape):
    features = keras.Input((*small, 6))
    outputs = upsampling_decoder(features, spatial_shape, 5, filters=8)
    assert outputs.shape == (None, *spatial_shape, 5)
    values = keras.Model(features, outputs)(np.ones((2, *small, 6), "float32"))
    assert values.shape == (2, *spatial_shape, 5)


def test_channels_are_halved_with_every_doubling_to_16():
    convolutions = [layer for layer in layers_of((2, 2), (32, 32), filters=64) if "_conv" in layer.name]
    assert [layer.filters for layer in convolutions] == [64, 32, 16, 16]
    assert [tuple(layer.output.shape[1:3]) for layer in convolutions] == [(4, 4), (8, 8), (16, 16), (32, 32)]
    few = [layer.filters for layer in layers_of((2, 2), (8, 8), filters=4) if "_conv" in layer.name]
    assert few == [4, 4]


def test_large_features_are_convolved_once():
    names = [layer.name for layer in layers_of((8, 8), (8, 8), name="painter")]
    assert names[1:] == ["painter_1_conv", "painter_1_bn", "painter_1_relu", "painter_output"]


def places_found(small, side):
    """Where along an axis each feature of an encoder is put, by what its change moves in the outputs."""
    features = keras.Input((small, small, 1))
    model = keras.Model(features, upsampling_decoder(features, (side, side), 1, filters=1))
    for layer in model.layers:
        if "_conv" in layer.name or layer.name == "decoder_output":
            # The mean over the kernel, so that what is left is how features are enlarged.
            layer.set_weights(
                [np.ones_like(layer.get_weights()[0]) / layer.kernel.shape[0] ** 2]
                + [np.zeros_like(weight) for weight in layer.get_weights()[1:]]
            )
    found = []
    for number in range(small):
        image = np.zeros((1, small, small, 1), "float32")
        image[:, number] = 1
        values = ops.convert_to_numpy(model(image))[0].mean(axis=(1, 2))
        found.append((values * np.arange(side)).sum() / values.sum())
    return np.array(found)


@pytest.mark.parametrize(
    ("small", "side", "stride"),
    [
        (8, 32, 4),  # even sides
        (7, 50, 8),  # rounded up: the last features lie beyond the image's end
        (6, 36, 6),  # patches
        (5, 30, 6),
    ],
)
def test_features_stay_in_their_places(small, side, stride):
    centers = (np.arange(small) + 0.5) * stride - 0.5
    # The first and the last are drawn inwards by the padding of the convolutions.
    np.testing.assert_allclose(places_found(small, side)[2:-2], centers[2:-2], atol=0.75)


def test_resizing_is_linear():
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 2)).astype("float32")
    places = (np.arange(6) + 0.5) * 4 / 6 - 0.5
    expected = np.apply_along_axis(lambda line: np.interp(places, np.arange(4), line), 1, x)
    resized = ops.convert_to_numpy(_resize_axis(ops.convert_to_tensor(x), 1, 6))
    np.testing.assert_allclose(resized, expected, rtol=1e-5, atol=1e-6)


def test_outputs_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        outputs = upsampling_decoder(keras.Input((5, 5, 4)), (24, 24), 1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert outputs.dtype == "float32"


@pytest.mark.parametrize("shape", [(16,), (9, 16), (3, 3, 3, 16), (None, 3, 16)])
def test_what_is_no_feature_map_of_that_rank_is_refused(shape):
    with pytest.raises(ValueError, match=r"The task needs a feature map: .* of 2 spatial axes .* Received"):
        upsampling_decoder(keras.Input(shape), (24, 24), 1)


def test_several_outputs_are_refused():
    with pytest.raises(ValueError, match=r"Received a list of 2 outputs. Pass the part"):
        upsampling_decoder([keras.Input((3, 3, 4))] * 2, (24, 24), 1)


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("spatial_shape", {"spatial_shape": (0, 8)}),
        ("channels", {"channels": 0}),
        ("filters", {"filters": 0}),
    ],
)
def test_numbers_below_one_are_refused(argument, options):
    options = {"spatial_shape": (8, 8), "channels": 1, **options}
    with pytest.raises(ValueError, match=f"`{argument}` must hold one or more integers of at least 1"):
        upsampling_decoder(keras.Input((4, 4, 4)), **options)


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
