"""Vision transformer: positions, feature map, and its parts on a subset of tokens."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl.encoders import pyramid_outputs, small_encoder, vit_encoder
from keras_ssl.encoders.vit import sine_positions, token_parts


def features(model, images):
    return np.array(keras.ops.convert_to_numpy(model(images, training=False)))


@pytest.mark.parametrize(
    ("input_shape", "patch_size", "feature_map", "levels"),
    [
        ((32, 16, 3), 8, (4, 2, 24), ["P3"]),
        ((4, 16, 16, 1), (1, 8, 8), (4, 2, 2, 24), None),
        ((48, 48, 1), 12, (4, 4, 24), None),
    ],
)
def test_feature_map_and_pyramid(input_shape, patch_size, feature_map, levels):
    encoder = vit_encoder(input_shape, patch_size, embedding_dim=24, depth=1)
    assert encoder.output_shape[1:] == feature_map
    if levels:
        assert list(encoder.pyramid_outputs) == levels
    else:
        with pytest.raises(ValueError, match="scale all sides of the images alike, by a power of two"):
            pyramid_outputs(encoder)


@pytest.mark.parametrize("position", ["sine", "learned"])
@pytest.mark.parametrize("shape", [(8, 12, 1), (8, 4, 4, 2)])
def test_loads_as_core_layers(position, shape, tmp_path):
    encoder = vit_encoder(shape, 4, embedding_dim=12, depth=1, num_heads=2, position=position)
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    images = tiny.images(3, shape)
    np.testing.assert_array_equal(features(loaded, images), features(encoder, images))
    assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)
    # Anew from its config alone, with other weights, the fixed positions are those of the encoder.
    clone = keras.models.clone_model(encoder)
    clone.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(features(clone, images), features(encoder, images))


def test_features_depend_on_learned_positions():
    """All patches alike: features differ by position alone, and with zeros for positions they do not."""
    encoder = vit_encoder((8, 8, 1), 4, embedding_dim=12, depth=2, num_heads=2, position="learned")
    same = np.ones((1, 8, 8, 1), "float32")
    assert features(encoder, same).reshape(4, 12).std(axis=0).min() > 1e-4
    table = encoder.get_layer("position")
    table.set_weights([np.zeros_like(table.get_weights()[0])])
    np.testing.assert_allclose(features(encoder, same).reshape(4, 12).std(axis=0), 0, atol=1e-6)


@pytest.mark.parametrize("rank", [2, 3])
def test_sine_positions_of_each_axis_have_their_own_channels(rank):
    grid, dim = (3, 4, 2)[:rank], 12
    encoder = vit_encoder((*(2 * count for count in grid), 1), 2, embedding_dim=dim, depth=1)
    patches = encoder.get_layer("patches")
    added = keras.Model(encoder.input, encoder.get_layer(f"position{rank}").output)
    patches.set_weights([np.zeros_like(weight) for weight in patches.get_weights()])
    found = features(added, np.ones((1, *encoder.input_shape[1:]), "float32"))[0]
    share = dim // rank
    for place in np.ndindex(grid):
        expected = []
        for number in place:
            angles = [number / 10000 ** (2 * i / share) for i in range(share // 2)]
            expected += [*np.sin(angles), *np.cos(angles)]
        np.testing.assert_allclose(found[place], expected, atol=1e-6)


def test_sine_positions_of_near_patches_are_similar():
    vectors = sine_positions(16, 32)
    similarity = vectors @ vectors.T
    assert np.all(np.diff(similarity[0, :4]) < 0)
    np.testing.assert_allclose(np.diag(similarity), 16, rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 12, 3), (8, 4, 8, 1)], ids=["2D", "3D"])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_images_are_standardized_inside(shape, policy):
    keras.config.set_dtype_policy(policy)
    try:
        encoder = vit_encoder(shape, 4, embedding_dim=12, depth=1, num_heads=2)
    finally:
        keras.config.set_dtype_policy("float32")
    inside = keras.Model(encoder.input, encoder.get_layer("standardize").output)
    # A dark image of little contrast, one of 0 to 255, Hounsfield units.
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(4, *shape)) * np.reshape([0.02, 255, 4000, 0], (4, *(1,) * len(shape)))
    images[2] -= 1000
    images[3] = 200.0
    images = images.astype("float32")
    found = features(inside, images)
    axes = tuple(range(1, images.ndim))
    deviation = np.sqrt(images.var(axis=axes, keepdims=True) + 1e-6)
    expected = (images - images.mean(axis=axes, keepdims=True)) / deviation
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(found[:3].std(axis=axes), 1, atol=0.02)
    assert np.isfinite(features(encoder, images).astype("float32")).all()


def test_absolute_values_are_kept_on_request():
    encoder = vit(standardize=False, value_range=(-1000, 3000))
    names = [layer.name for layer in encoder.layers]
    assert "rescaling" in names
    assert "standardize" not in names
    images = 1000 * tiny.images(2, SHAPE)
    assert np.abs(features(encoder, images) - features(encoder, images + 500)).max() > 1e-2
    standardizing = vit()
    np.testing.assert_allclose(
        features(standardizing, images), features(standardizing, 2 * images + 500), atol=1e-3
    )


@pytest.mark.parametrize(("shape", "patch"), [((32, 32, 3), 16), ((16, 16, 16, 1), 8)], ids=["2D", "3D"])
def test_patches_are_initialized_as_by_a_dense_layer(shape, patch):
    kernel = vit_encoder(shape, patch, embedding_dim=192, depth=1).get_layer("patches").get_weights()[0]
    flat = kernel.reshape(-1, 192)
    limit = np.sqrt(6 / sum(flat.shape))
    assert 0.99 * limit < np.abs(flat).max() <= limit
    assert flat.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("position", ["sine", "learned"])
def test_training_changes_all_weights(position):
    encoder = vit_encoder((8, 8, 1), 4, embedding_dim=8, depth=1, num_heads=2, position=position)
    before = tiny.weights(encoder)
    encoder.compile("adam", "mse")
    encoder.fit(tiny.images(4, (8, 8, 1)), np.ones((4, 2, 2, 8)), verbose=0)
    unchanged = [
        weight.path
        for weight, old, new in zip(encoder.weights, before, tiny.weights(encoder), strict=True)
        if np.array_equal(old, new)
    ]
    # Softmax does not change by what is added to all keys.
    assert all("key" in path for path in unchanged)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"input_shape": (32, 40, 3)},
            r"multiple of `patch_size`. Received sides \(32, 40\)",
        ),
        ({"input_shape": (32, None, 3)}, "must be a fixed multiple"),
        ({"input_shape": (32, 32, 3), "patch_size": (16, 16, 16)}, "must be a fixed multiple"),
        (
            {"input_shape": (32, 32, 3), "embedding_dim": 100},
            "`embedding_dim` must be a multiple.*Received 100 with 3 heads",
        ),
        (
            {"input_shape": (32, 32, 3), "embedding_dim": 6, "num_heads": 2},
            "for sine positions of 4. Received 6",
        ),
        ({"input_shape": (32, 32, 3), "position": "sin"}, "`position` must be"),
        ({"input_shape": (32, 32, 3), "depth": 0}, "`depth`, `num_heads` and `mlp_ratio` must hold"),
    ],
)
def test_invalid_vit_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        vit_encoder(**arguments)


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
def test_parts_with_all_tokens_equal_the_encoder(name, tmp_path):
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


def test_blocks_on_a_subset_of_tokens():
    parts = token_parts(vit())
    tokens = ops.convert_to_numpy(parts.embed(tiny.images(2, SHAPE)))
    features = ops.convert_to_numpy(parts.blocks(tokens[:, [4, 0, 1]]))
    assert features.shape == (2, 3, 12)
    swapped = ops.convert_to_numpy(parts.blocks(tokens[:, [0, 4, 1]]))
    np.testing.assert_allclose(features[:, [1, 0, 2]], swapped, atol=1e-5)
    # One token alone has nothing to attend to but itself.
    assert np.abs(ops.convert_to_numpy(parts.blocks(tokens[:, :1])) - features[:, 1:2]).max() > 1e-3


def test_parts_share_the_weights_of_the_encoder():
    encoder = behind_rescaling(vit())
    parts = token_parts(encoder)
    own = {id(weight) for weight in encoder.weights}
    assert {id(weight) for part in parts[:2] for weight in part.weights} == own


def test_layers_without_weights_may_follow_the_feature_map():
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
def test_encoders_without_tokens_raise(make, message):
    with pytest.raises(ValueError, match=message):
        token_parts(make())
