"""RelativePatchTask: which neighbor lies where against a cut by NumPy, guards, and that it is learned."""

import itertools

import keras
import numpy as np
import pytest
import tiny
from cuts import corner_of
from keras import ops

from keras_ssl import RelativePatchTask, SelfSupervisedModel
from keras_ssl.random import ReplaySeeds

RNG = np.random.default_rng(0)

# Rows down and columns to the right of the center, neighbor by neighbor.
DIRECTIONS_2D = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
DIRECTIONS_3D = [step for step in itertools.product((-1, 0, 1), repeat=3) if step != (0, 0, 0)]


@pytest.mark.parametrize(
    ("shape", "directions", "batch"),
    [((24, 18, 3), DIRECTIONS_2D, 40), ((18, 12, 15, 1), DIRECTIONS_3D, 12)],
    ids=["2D", "3D"],
)
def test_a_neighbor_lies_where_its_number_says(shape, directions, batch):
    images, task = tiny.images(batch, shape), RelativePatchTask(color=None, jitter=1.0)
    patches, labels = map(ops.convert_to_numpy, task.preprocess(images, ReplaySeeds()))
    patch_shape = task.encoder_input_shape(shape)
    assert patches.shape == (2 * batch, *patch_shape)
    if len(shape) == 3:
        assert sorted(set(labels.tolist())) == list(range(8))
    cells, sides = np.array(shape[:-1]) // 3, np.array(patch_shape[:-1])
    for image, (center, neighbor), label in zip(
        images, patches.reshape(batch, 2, *patch_shape), labels, strict=True
    ):
        for patch, step in ((center, 0), (neighbor, np.array(directions[label]))):
            moved = corner_of(image, patch) - (1 + step) * cells
            assert (moved >= 0).all()
            assert (moved <= cells - sides).all()


def test_there_is_a_gap_between_patches():
    task = RelativePatchTask(color=None)
    images = tiny.images(30, (36, 36, 1))
    patches = ops.convert_to_numpy(task.preprocess(images, ReplaySeeds())[0])
    # Patches of 8 in cells of 12, which move by one voxel.
    places = np.array([corner_of(images[k // 2], patches[k]) for k in range(60)]) % 12
    assert set(places.ravel().tolist()) == {1, 2}


def test_one_channel_of_photographs_is_left():
    images = tiny.images(40, (24, 24, 3))
    plain = ops.convert_to_numpy(RelativePatchTask(color=None).preprocess(images, ReplaySeeds())[0])
    dropped = ops.convert_to_numpy(RelativePatchTask().preprocess(images, ReplaySeeds())[0])
    # Before the patches got the mean and the deviation of their image.
    of_image = np.repeat(images, 2, axis=0).reshape(80, -1)
    mean, deviation = (f(of_image, axis=1)[:, None, None, None] for f in (np.mean, np.std))
    plain, dropped = (plain - mean) / deviation, (dropped - mean) / deviation
    stays = np.isclose(plain, dropped, atol=1e-5).all(axis=(1, 2))
    # Each of the three in turn, patch by patch and not image by image.
    assert (stays.sum(axis=1) == 1).all()
    assert stays.any(axis=0).all()
    assert (stays[::2] != stays[1::2]).any()
    noise = dropped[np.repeat(~stays[:, None, None], 25, axis=1).reshape(80, 5, 5, 3)]
    np.testing.assert_allclose(noise.std(), 0.01, rtol=0.1)
    np.testing.assert_allclose(noise.mean(), 0, atol=0.001)


def test_projection_leaves_nothing_of_green_against_magenta():
    images = tiny.images(3, (24, 24, 3))
    patches = ops.convert_to_numpy(RelativePatchTask(color="project").preprocess(images, ReplaySeeds())[0])
    np.testing.assert_allclose(patches @ [-1.0, 2.0, -1.0], 0, atol=1e-5)
    assert abs(patches @ [1.0, 0.0, -1.0]).max() > 0.1


@pytest.mark.parametrize("shape", [(24, 24, 1), (24, 24, 4), (18, 18, 18, 3)])
def test_what_is_no_photograph_keeps_its_channels(shape):
    images = tiny.images(2, shape)
    guarded, plain = (
        ops.convert_to_numpy(RelativePatchTask(**settings).preprocess(images, ReplaySeeds())[0])
        for settings in ({}, {"color": None})
    )
    np.testing.assert_array_equal(guarded, plain)


def test_network_puts_center_and_neighbor_side_by_side():
    encoder = keras.Sequential([keras.Input((4, 4, 4, 1)), keras.layers.GlobalAveragePooling3D()])
    network = RelativePatchTask(hidden_units=()).build_network(encoder, (18, 18, 18, 1))
    patches = tiny.images(6, (4, 4, 4, 1))
    weights, bias = network.get_weights()
    assert weights.shape == (2, 26)
    expected = patches.mean(axis=(1, 2, 3)).reshape(3, 2) @ weights + bias
    np.testing.assert_allclose(ops.convert_to_numpy(network(patches)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_it_is_learned():
    # The same texture in every image, and a little noise.
    images = tiny.images(1, (18, 18, 1), seed=1) + 0.05 * tiny.images(64, (18, 18, 1))
    task = RelativePatchTask(hidden_units=(64,))
    encoder = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Conv2D(32, 4, activation="relu"), keras.layers.Flatten()]
    )
    model = SelfSupervisedModel(task, encoder, input_shape=(18, 18, 1), seed=0)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(images, augment=None, batch_size=32, epochs=30, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    # By chance one in 8.
    assert history["accuracy"][-1] > 0.7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_fraction": 0}, r"`patch_fraction` must be in \(0, 1\]. Received 0"),
        ({"jitter": 1.1}, r"`jitter` must be from 0 to 1. Received 1.1"),
        ({"color": "gray"}, r'`color` must be "auto", "drop", "project" or None. Received \'gray\''),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RelativePatchTask(**settings)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({}, (24, 6, 3), r"`images` must be large enough.*Received sizes \(24, 6\)"),
        ({"color": "project"}, (24, 24, 4), r'`color="project"` needs images of 3 channels.*24, 4'),
        ({"color": "drop"}, (24, 24, 1), r'`color="drop"` needs images of 2 channels or more.*24, 1'),
    ],
)
def test_what_does_not_suit_the_images_is_refused_before_training(settings, shape, message):
    with pytest.raises(ValueError, match=message):
        SelfSupervisedModel(RelativePatchTask(**settings), tiny.SubclassedEncoder(), input_shape=shape)
