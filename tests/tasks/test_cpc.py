"""CPCTask: patches, causal context, and that what lies below is learned."""

import itertools

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import CPCTask, SelfSupervisedModel
from keras_ssl.preprocessing import Augmentation, Intensity
from keras_ssl.random import ReplaySeeds
from keras_ssl.tasks.cpc import _causal_convolution

RNG = np.random.default_rng(0)
SMALL = {"embedding_dim": 6, "context_filters": (5, 5)}


@pytest.mark.parametrize(("shape", "patch"), [((10, 9, 2), (4, 5)), ((8, 6, 7, 1), (4, 3, 4))])
def test_patches_are_those_of_the_grid_normalized_each_on_its_own(shape, patch):
    images = RNG.normal(5, 2, (2, *shape)).astype("float32")
    # A patch of the second image that is the same all over.
    images[(1, *(slice(side) for side in patch))] = 0.3
    task = CPCTask(patch_shape=patch, steps=(1,))
    patches, targets = task.preprocess(images, ReplaySeeds())
    assert targets == {}
    found = ops.convert_to_numpy(patches)
    starts = [
        range((size - side) % (side // 2) // 2, size - side + 1, side // 2)
        for size, side in zip(shape[:-1], patch, strict=True)
    ]
    expected = []
    for image, place in itertools.product(images, itertools.product(*starts)):
        cut = image[tuple(slice(start, start + side) for start, side in zip(place, patch, strict=True))]
        axes = tuple(range(len(patch)))
        deviation = cut.std(axis=axes)
        normal = np.where(deviation > 1e-6, (cut - cut.mean(axis=axes)) / np.maximum(deviation, 1e-6), 0)
        expected.append(image.mean() + image.std() * normal)
    assert task.encoder_input_shape(shape) == (*patch, shape[-1])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_every_patch_is_given_a_view_of_its_own():
    images = np.repeat(tiny.images(1, (16, 16, 3)), 2, axis=0)
    plain = CPCTask(patch_shape=(8, 8), steps=(1,)).preprocess(images, ReplaySeeds())[0]
    task = CPCTask(patch_shape=(8, 8), steps=(1,), patch_views=Augmentation(intensity=Intensity(noise=0.1)))
    views = task.preprocess(images, ReplaySeeds())[0]
    assert views.shape == plain.shape == (18, 8, 8, 3)
    first, second = np.split(ops.convert_to_numpy(views), 2)
    assert all((one != other).any() for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("shape", "patch", "grid"), [((24, 20, 3), (6, 4), (7, 9)), ((18, 10, 12, 1), (6, 4, 4), (5, 4, 5))]
)
def test_predictions_of_a_row_do_not_depend_on_rows_below(shape, patch, grid):
    task = CPCTask(steps=(1, 3), **SMALL)
    assert task.encoder_input_shape(shape) == (*patch, shape[-1])
    network = task.build_network(tiny.functional_encoder((*patch, shape[-1])), shape)
    patches = RNG.normal(size=(2 * np.prod(grid), *patch, shape[-1])).astype("float32")
    before = {key: ops.convert_to_numpy(value) for key, value in network(patches).items()}
    assert before["codes"].shape == (2, *grid, 6)
    assert before["predictions"].shape == (2, *grid, 2, 6)
    for row in (1, 3):
        changed = patches.reshape(2, *grid, *patch, shape[-1]).copy()
        changed[0, row] = RNG.normal(size=changed[0, row].shape)
        after = network(changed.reshape(patches.shape))
        for key, old in before.items():
            new = ops.convert_to_numpy(after[key])
            np.testing.assert_allclose(new[1], old[1], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(new[0, :row], old[0, :row], rtol=1e-5, atol=1e-6)
            assert np.abs(new[0, row] - old[0, row]).max() > 1e-3


def test_metric_is_the_share_of_predictions_that_find_their_target():
    codes = RNG.normal(size=(1, 4, 2, 3)).astype("float32")
    predictions = np.zeros((1, 4, 2, 2, 3), "float32")
    predictions[:, :3, :, 0] = codes[:, 1:]
    # Those of the second step, two in number, are each other's.
    predictions[:, :1, ::-1, 1] = codes[:, 3:]
    (metric,) = CPCTask(steps=(1, 3)).build_metrics()
    metric.update_state({}, {"codes": codes, "predictions": predictions})
    assert float(metric.result()) == 6 / 8


@pytest.mark.slow
def test_what_lies_below_is_learned():
    # Stripes from top to bottom: what lies below is what lies above, in three rows of seven patches.
    images = np.repeat(RNG.normal(size=(8, 1, 16, 1)), 8, axis=1).astype("float32")
    task = CPCTask(patch_shape=(4, 4), steps=(2,), embedding_dim=16, context_filters=(16,))
    encoder = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(16, 4, activation="tanh")])
    model = SelfSupervisedModel(task, encoder, input_shape=(8, 16, 1), seed=0)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(images, batch_size=8, epochs=30, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    # By chance one in 56; where all codes are alike, none.
    assert history["accuracy"][-1] > 0.5


@pytest.mark.parametrize("setting", ["temperature", "embedding_dim", "context_filters", "steps"])
def test_bad_settings_are_refused(setting):
    bad = {"temperature": [0], "embedding_dim": [0], "context_filters": [(4, 0)], "steps": [(), (0, 1), [2]]}
    for value in bad[setting]:
        with pytest.raises(ValueError, match=f"`{setting}`.* must be"):
            CPCTask(**{setting: value})


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((13, 20, 3), {}, r"`images` must have sides of at least 14, for 6 .* Received sides \(13, 20\)"),
        ((9, 18, 18, 1), {}, r"`images` must have sides of at least 10, for 4 patches"),
        ((24, 24, 3), {"steps": (2, 7)}, r"`steps` must leave two or more .*\(2, 7\) and a grid of \(7, 7\)"),
        ((8, 4, 3), {"patch_shape": (4, 4), "steps": (2,)}, r"`steps` must leave .* a grid of \(3, 1\)"),
        ((24, 24, 3), {"patch_shape": (32, 8)}, r"`patch_shape` must be .* Received \(32, 8\) for images"),
        ((24, 24, 3), {"patch_shape": (8, 8, 8)}, "`patch_shape` must be one side .* for each spatial axis"),
        ((24, 3), {}, "`input_shape` must be .* two or three spatial axes"),
        ((None, 24, 3), {}, "`input_shape` must be .* two or three spatial axes"),
    ],
)
def test_images_that_do_not_suit_are_refused(shape, settings, message):
    with pytest.raises(ValueError, match=message):
        SelfSupervisedModel(CPCTask(**settings), tiny.SubclassedEncoder(), input_shape=shape)


def network(shape, layers=1, kernel_size=3):
    x = inputs = keras.Input(shape)
    for number in range(layers):
        x = _causal_convolution(x, 3, kernel_size, name=f"context_{number}")
    return keras.Model(inputs, x)


@pytest.mark.parametrize("shape", [(5, 4, 2), (5, 3, 4, 2)])
def test_a_row_depends_on_itself_and_the_rows_before_it_alone(shape):
    model = network(shape, layers=2)
    maps = RNG.normal(size=(1, *shape)).astype("float32")
    before = model.predict(maps, verbose=0)
    assert before.shape == (1, *shape[:-1], 3)
    for row in range(shape[0]):
        changed = maps.copy()
        changed[:, row] += 1 + RNG.uniform(size=changed[:, row].shape)
        after = model.predict(changed, verbose=0)
        np.testing.assert_array_equal(after[:, :row], before[:, :row])
        assert (after[:, row] != before[:, row]).any()


@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_it_is_the_sum_that_it_says(kernel_size):
    model = network((5, 4, 2), kernel_size=kernel_size)
    kernel, bias = (np.array(weight) for weight in model.get_weights())
    maps = RNG.normal(size=(1, 5, 4, 2)).astype("float32")
    expected = np.zeros((5, 4, 3)) + bias
    for row, column, up, aside in np.ndindex(5, 4, kernel_size, kernel_size):
        seen = (row - up, column + aside - kernel_size // 2)
        if seen[0] >= 0 and 0 <= seen[1] < 4:
            expected[row, column] += maps[0][seen] @ kernel[kernel_size - 1 - up, aside]
    np.testing.assert_allclose(
        model.predict(maps, verbose=0)[0], np.maximum(expected, 0), rtol=1e-5, atol=1e-6
    )
