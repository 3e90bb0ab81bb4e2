"""MAETask: which patches are seen, that each comes back to its place, the loss, and that it is learned."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import MAETask, SelfSupervisedModel
from keras_ssl.encoders import vit_encoder
from keras_ssl.encoders.vit import token_parts
from keras_ssl.random import ReplaySeeds

RNG = np.random.default_rng(0)
SHAPE = (12, 8, 3)
PATCH = (4, 2)
COUNT, KEPT = 12, 3
TASK = MAETask(decoder_dim=12, decoder_depth=1)


def encoder(shape=SHAPE, patch=PATCH, dim=12):
    keras.utils.set_random_seed(0)
    return vit_encoder(shape, patch, embedding_dim=dim, depth=1, num_heads=2)


def patches_of(images, patch):
    """The patches of 2D images, in the order of their places, cut out one by one."""
    rows, columns = images.shape[1] // patch[0], images.shape[2] // patch[1]
    cut = [
        images[:, r * patch[0] : (r + 1) * patch[0], c * patch[1] : (c + 1) * patch[1]]
        for r in range(rows)
        for c in range(columns)
    ]
    return np.stack(cut, axis=1)


def order_of(noise):
    return np.argsort([patches_of(noise[..., None], PATCH)[i, :, 0, 0, 0] for i in range(len(noise))], axis=1)


def test_noise_differs_from_image_to_image():
    images = np.repeat(tiny.images(1, SHAPE), 2, axis=0)
    inputs, targets = TASK.preprocess(images, ReplaySeeds())
    np.testing.assert_array_equal(ops.convert_to_numpy(inputs["images"]), images)
    np.testing.assert_array_equal(ops.convert_to_numpy(targets), images)
    first, second = ops.convert_to_numpy(inputs["noise"])
    assert first.shape == SHAPE[:2]
    assert (first != second).any()


def test_visible_tokens_pass_the_blocks_and_come_back_to_their_places():
    model = encoder()
    network = TASK.build_network(model, SHAPE)
    images, noise = tiny.images(4, SHAPE), RNG.uniform(size=(4, *SHAPE[:2])).astype("float32")
    parts, order = token_parts(model), order_of(noise)
    tokens = ops.convert_to_numpy(parts.embed(images))
    visible = np.stack([row[kept] for row, kept in zip(tokens, order[:, :KEPT], strict=True)])
    embedded = ops.convert_to_numpy(network.get_layer("decoder_embed")(parts.blocks(visible)))
    expected = np.empty((4, COUNT, 12), "float32")
    expected[:] = ops.convert_to_numpy(network.get_layer("mask_tokens").token)
    for row, kept, values in zip(expected, order[:, :KEPT], embedded, strict=True):
        row[kept] = values
    decoded = keras.Model(network.inputs, network.get_layer("decoder_map").input)
    named = {"images": images, "noise": noise}
    found = ops.convert_to_numpy(decoded([named[tensor.name] for tensor in network.inputs]))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    masked = ops.convert_to_numpy(network(named)["masked"])
    assert [np.flatnonzero(~row).tolist() for row in masked] == np.sort(order[:, :KEPT]).tolist()


def test_nothing_of_a_hidden_patch_is_seen():
    # Standardized by its mean and deviation, an image would tell these of hidden patches, and no more.
    keras.utils.set_random_seed(0)
    plain = vit_encoder(SHAPE, PATCH, embedding_dim=12, depth=1, num_heads=2, standardize=False)
    network = TASK.build_network(plain, SHAPE)
    images, noise = tiny.images(2, SHAPE), RNG.uniform(size=(2, *SHAPE[:2])).astype("float32")
    outputs = network({"images": images, "noise": noise})
    masked = ops.convert_to_numpy(outputs["masked"])
    pixels = np.stack([np.kron(row.reshape(3, 4), np.ones(PATCH)) for row in masked])[..., None] > 0
    for where, seen in ((pixels, False), (~pixels, True)):
        spoilt = network({"images": np.where(where, 1 - images, images), "noise": noise})
        same = np.array_equal(*(ops.convert_to_numpy(each["patches"]) for each in (spoilt, outputs)))
        assert same is not seen


@pytest.mark.parametrize("normalize", [True, False])
def test_loss_is_the_squared_error_of_hidden_patches(normalize):
    images = RNG.normal(3, 2, size=(3, *SHAPE)).astype("float32")
    images[0, :4, :2] = 1.0
    predicted = RNG.normal(size=(3, COUNT, *PATCH, 3)).astype("float32")
    masked = RNG.uniform(size=(3, COUNT)) < 0.7
    values = images - images.mean(axis=(1, 2), keepdims=True)
    values = values / values.std(axis=(1, 2, 3), keepdims=True)
    true = patches_of(values.astype("float64"), PATCH)
    if normalize:
        mean, variance = (f(true, axis=(2, 3, 4), keepdims=True) for f in (np.mean, np.var))
        true = (true - mean) / np.sqrt(variance + 1e-6)
    expected = [((t - p)[m] ** 2).mean() for t, p, m in zip(true, predicted, masked, strict=True)]
    task = MAETask(normalize_patches=normalize)
    outputs = {"patches": predicted, "masked": masked}
    loss = ops.convert_to_numpy(task.compute_loss(images, outputs))
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    (metric,) = task.build_metrics()
    metric.update_state(images, outputs)
    baseline = [(t[m] ** 2).mean() for t, m in zip(true, masked, strict=True)]
    np.testing.assert_allclose(float(metric.result()), np.sum(expected) / np.sum(baseline), rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "patch", "dim", "heads", "expected"),
    [((8, 8, 1), 4, 24, 3, 12), ((8, 8, 1), 4, 32, 3, 24), ((8, 8, 8, 1), 4, 36, 2, 18)],
)
def test_decoder_is_half_as_long_as_the_encoder_or_the_next_multiple(shape, patch, dim, heads, expected):
    network = MAETask(decoder_heads=heads).build_network(
        vit_encoder(shape, patch, embedding_dim=dim, depth=1, num_heads=2), shape
    )
    assert network.get_layer("decoder_embed").units == expected


def test_what_is_shown_needs_no_sides_that_divide():
    inputs, _ = TASK.preprocess(tiny.images(2, (23, 14, 3)), ReplaySeeds())
    (shown,) = TASK.shown(inputs).values()
    assert shown.shape == (2, 23, 14, 3)
    changed = (ops.convert_to_numpy(shown) != ops.convert_to_numpy(inputs["images"])).all(axis=-1)
    # Patches of one by two, three quarters of them.
    assert (changed[:, :, ::2] == changed[:, :, 1::2]).all()
    np.testing.assert_allclose(changed.mean(axis=(1, 2)), 0.75, atol=0.01)


def stripes(count, side=16):
    """Images of stripes, upright or level, from dark to bright or the other way round."""
    ramp = np.tile(np.linspace(0, 1, 4, dtype="float32"), side // 4)
    level = np.broadcast_to(ramp[:, None], (side, side))
    kinds = np.stack([level, level[::-1], level.T, level.T[:, ::-1]])
    return kinds[np.arange(count) % 4][..., None]


@pytest.mark.slow
def test_it_is_learned_by_the_whole_encoder():
    model = encoder((16, 16, 1), (4, 4), dim=16)
    before = tiny.weights(model)
    learner = SelfSupervisedModel(MAETask(decoder_dim=16, decoder_depth=1, decoder_heads=2), model, seed=0)
    learner.compile(keras.optimizers.Adam(0.01), jit_compile=keras.backend.backend() == "jax")
    history = learner.fit_pretext(stripes(16), augment=None, batch_size=16, epochs=60, verbose=0).history
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert history["relative_error"][-1] < 0.3
    unchanged = [
        weight.path
        for weight, old, new in zip(model.weights, before, tiny.weights(model), strict=True)
        if np.array_equal(old, new)
    ]
    # Softmax does not change by what is added to all keys.
    assert all("key/bias" in path for path in unchanged)
    assert model(stripes(2)).shape == (2, 4, 4, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_fraction": 0}, r"`mask_fraction` must lie in \(0, 1\). Received 0"),
        ({"mask_fraction": 1.0}, r"`mask_fraction` must lie in \(0, 1\). Received 1"),
        ({"decoder_dim": 0}, "`decoder_dim` must hold one or more integers of at least 1"),
        ({"decoder_depth": 0}, "`decoder_depth` must hold one or more integers of at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MAETask(**settings)


@pytest.mark.parametrize(
    ("task", "make", "message"),
    [
        (TASK, lambda: tiny.functional_encoder(SHAPE), "must have tokens"),
        (MAETask(mask_fraction=0.99), encoder, "Received 0.99 for images of 12 patches"),
        (
            MAETask(decoder_dim=10),
            encoder,
            "`decoder_dim` must be a multiple.*Received 10, 3 heads and 2 spatial",
        ),
    ],
)
def test_what_does_not_suit_the_encoder_is_refused(task, make, message):
    with pytest.raises(ValueError, match=message):
        SelfSupervisedModel(task, make())
