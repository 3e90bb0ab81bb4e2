"""JigsawTask: which patch is of which cell against a cut by NumPy, the loss, and that it is learned."""

import keras
import numpy as np
import pytest
import tiny
from cuts import corner_of
from keras import ops

from keras_ssl import JigsawTask, SelfSupervisedModel
from keras_ssl.random import ReplaySeeds

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "patch", "settings"),
    [
        ((24, 18, 3), (6, 4, 3), {}),
        ((18, 12, 12, 1), (4, 3, 3, 1), {}),
        ((8, 12, 8, 2), (2, 3, 2, 2), {"grid": 2, "patch_fraction": 0.5, "num_permutations": 7}),
    ],
)
def test_each_patch_is_of_the_cell_that_the_permutation_says(shape, patch, settings):
    images, task = tiny.images(3, shape), JigsawTask(**settings)
    assert task.encoder_input_shape(shape) == patch
    patches, labels = map(ops.convert_to_numpy, task.preprocess(images, ReplaySeeds()))
    permutations = task.permutations(len(shape) - 1)
    cells, sizes = permutations.shape[1], np.array(shape[:-1]) // task.grid
    assert patches.shape == (3 * cells, *patch)
    assert labels.shape == (3,)
    for image, shuffled, label in zip(images, patches.reshape(3, cells, *patch), labels, strict=True):
        corners = np.array([corner_of(image, one) for one in shuffled])
        places = corners // sizes
        assert (corners + patch[:-1] <= (places + 1) * sizes).all()
        numbers = np.ravel_multi_index(tuple(places.T), (task.grid,) * places.shape[1])
        assert numbers.tolist() == permutations[label].tolist()


def test_all_permutations_are_drawn():
    task = JigsawTask(grid=2, num_permutations=5)
    labels = ops.convert_to_numpy(task.preprocess(tiny.images(200), ReplaySeeds())[1])
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3, 4]


def test_network_puts_features_of_an_image_side_by_side():
    # An encoder that gives each patch's mean, and logits that are read off the dense layer's weights.
    task = JigsawTask(grid=2, num_permutations=3, hidden_units=())
    encoder = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.GlobalAveragePooling2D()])
    network = task.build_network(encoder, (8, 8, 1))
    patches = tiny.images(8, (3, 3, 1))
    weights, bias = network.get_weights()
    expected = patches.mean(axis=(1, 2)).reshape(2, 4) @ weights + bias
    np.testing.assert_allclose(ops.convert_to_numpy(network(patches)), expected, rtol=1e-4)


@pytest.mark.slow
def test_it_is_learned():
    # Each quarter has a texture of its own: lines along either axis, both diagonals.
    i, j = np.indices((10, 10))
    lines = [np.where(along % 3, 0.0, 1.0) for along in (i, j, i + j, i - j)]
    image = np.block([[lines[0], lines[1]], [lines[2], lines[3]]])[None, ..., None]
    images = (image + 0.1 * tiny.images(32, (20, 20, 1))).astype("float32")
    task = JigsawTask(grid=2, num_permutations=6, hidden_units=(32,))
    encoder = keras.Sequential([keras.Input((7, 7, 1)), keras.layers.Conv2D(8, 3, activation="relu")])
    model = SelfSupervisedModel(task, encoder, input_shape=(20, 20, 1), seed=0)
    model.compile(keras.optimizers.Adam(0.02), jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(images, batch_size=16, epochs=15, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    # By chance one in 6.
    assert history["accuracy"][-1] > 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": 1}, r"`grid` must be an integer of at least 2. Received 1"),
        ({"grid": 2.5}, r"`grid` must be an integer of at least 2. Received 2.5"),
        ({"num_permutations": 1}, r"`num_permutations` must be an integer of at least 2. Received 1"),
        ({"patch_fraction": 0.0}, r"`patch_fraction` must be in \(0, 1\]. Received 0.0"),
        ({"patch_fraction": 1.5}, r"`patch_fraction` must be in \(0, 1\]. Received 1.5"),
        ({"permutation_seed": -1}, r"`permutation_seed` must be an integer from 0.*Received -1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        JigsawTask(**settings)


def test_what_does_not_suit_the_images_is_refused_before_training():
    with pytest.raises(ValueError, match=r"`images` must be large enough.*Received sizes \(8, 24\)"):
        SelfSupervisedModel(JigsawTask(), tiny.SubclassedEncoder(), input_shape=(8, 24, 3))
    with pytest.raises(ValueError, match=r"`num_permutations` must be from 2 to 23.*4 elements.*Received"):
        SelfSupervisedModel(JigsawTask(grid=2), tiny.SubclassedEncoder(), input_shape=(24, 24, 3))
    with pytest.raises(ValueError, match=r"`hidden_units` must all be at least 1"):
        JigsawTask(hidden_units=(0,)).build_network(tiny.SubclassedEncoder(), (24, 24, 3))
