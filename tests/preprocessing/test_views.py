"""Views: defaults by kind of image, independent views, and functions or layers of the user."""

import colorsys

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.data import synthetic_fundus
from keras_ssl.preprocessing import (
    color_views,
    ct_views,
    fundus_views,
    histology_views,
    mr_views,
    random_views,
    xray_views,
)
from keras_ssl.preprocessing.views import describe_default_views, mild_augmentation, views_for
from keras_ssl.random import ReplaySeeds

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "recipe"),
    [((2, 8, 8, 3), color_views), ((2, 8, 8, 1), xray_views), ((2, 6, 6, 6, 1), mr_views)],
)
def test_default_views_by_shape_are_independent(shape, recipe):
    images = np.tile(RNG.uniform(size=(1, *shape[1:])).astype("float32"), (2, *[1] * (len(shape) - 1)))
    assert views_for(shape) == recipe()
    assert f"{recipe.__name__}(), chosen for" in describe_default_views(shape)
    views = ops.convert_to_numpy(random_views(images, ReplaySeeds(), count=3))
    assert views.shape == (6, *shape[1:])
    assert len({view.tobytes() for view in views}) == 6
    np.testing.assert_array_equal(views, ops.convert_to_numpy(random_views(images, ReplaySeeds(), count=3)))


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_views_do_not_depend_on_the_range_of_values(factor):
    images = RNG.uniform(-1, 1, size=(2, 12, 12, 3)).astype("float32")
    views = ops.convert_to_numpy(random_views(images, ReplaySeeds()))
    larger = ops.convert_to_numpy(random_views(images * factor + 5, ReplaySeeds()))
    np.testing.assert_allclose((larger - 5) / factor, views, rtol=1e-3, atol=1e-3)


def test_fundus_views_keep_the_hue():
    red, yellow = [0.6, 0.2, 0.1], [0.7, 0.6, 0.2]
    images = np.ones((2, 8, 8, 3), "float32") * np.array([red, yellow], "float32")[:, None, None]
    # A dark corner, so that contrast and brightness have something to act on.
    images[:, :2, :2] *= 0.5
    views = ops.convert_to_numpy(random_views(images, ReplaySeeds(), fundus_views()))
    for view, color in zip(views, (red, red, yellow, yellow), strict=True):
        pixel = np.median(view.reshape(-1, 3), axis=0)
        hue, expected = colorsys.rgb_to_hsv(*pixel)[0], colorsys.rgb_to_hsv(*color)[0]
        assert abs(hue - expected) < 0.02


def _found_by_colors(images, recipe):
    """Fraction of images whose two views find each other by means and deviations of the channels alone."""
    views = ops.convert_to_numpy(random_views(images, ReplaySeeds(1), recipe))
    features = np.concatenate([views.mean(axis=(1, 2)), views.std(axis=(1, 2))], axis=-1)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    distances = ((features[::2, None] - features[None, 1::2]) ** 2).sum(axis=-1)
    return (distances.argmin(axis=1) == np.arange(len(images))).mean()


def test_color_views_hide_which_views_belong_together_and_fundus_views_do_not():
    images = synthetic_fundus(64, size=32)[0].astype("float32")
    assert _found_by_colors(images, color_views()) < 0.15
    assert _found_by_colors(images, fundus_views()) > 0.2


def test_histology_views_change_amounts_of_stains_and_keep_what_is_white():
    amounts = RNG.uniform(0.1, 1.0, size=(4, 16, 16, 2))
    # Hematoxylin and eosin alone; no image has any of the third stain.
    images = 255 * np.exp(-amounts @ [[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]]).astype("float32")
    images[:, :3, :3] = 255
    views = ops.convert_to_numpy(random_views(images, ReplaySeeds(), histology_views()))
    assert views.shape == (8, 16, 16, 3)
    assert len({tuple(view.mean(axis=(0, 1)).round()) for view in views}) == 8
    assert 0 < views.min() < views.max() < 255 * 1.5


def test_mild_augmentation_keeps_values_and_sides():
    for shape, flip_axes in (((12, 12, 3), (0, 1)), ((12, 12, 1), ()), ((8, 8, 8, 1), ())):
        recipe = mild_augmentation(shape)
        assert recipe.geometry.flip_axes == flip_axes
        assert mild_augmentation(shape, flips=False).geometry.flip_axes == ()
        images = RNG.uniform(size=(3, *shape)).astype("float32")
        changed = ops.convert_to_numpy(random_views(images, ReplaySeeds(), recipe, count=1))
        assert changed.shape == images.shape
        assert (images.min() - 1e-5 <= changed.min()) & (changed.max() <= images.max() + 1e-5)
        assert (changed != images).any()


def test_ct_views_keep_hounsfield_units():
    recipe = ct_views()
    assert recipe.intensity.contrast == recipe.intensity.brightness == 0
    assert recipe.intensity.gamma == (1.0, 1.0)


def test_views_of_a_function_or_a_layer():
    images = RNG.uniform(size=(2, 8, 8, 3)).astype("float32")

    def darker(images, seed):
        return images * keras.random.uniform((ops.shape(images)[0], 1, 1, 1), seed=seed)

    views = ops.convert_to_numpy(random_views(images, ReplaySeeds(), darker))
    factors = (views / np.repeat(images, 2, axis=0)).reshape(4, -1)
    np.testing.assert_allclose(factors, np.tile(factors[:, :1], (1, factors.shape[1])), rtol=1e-5)
    assert len(set(factors[:, 0])) == 4
    layer = keras.layers.RandomFlip("horizontal", seed=0)
    views = ops.convert_to_numpy(random_views(images, ReplaySeeds(), layer, count=4))
    originals = np.repeat(images, 4, axis=0)
    same = [(view == image).all() for view, image in zip(views, originals, strict=True)]
    flipped = [(view == image[:, ::-1]).all() for view, image in zip(views, originals, strict=True)]
    assert all(one or other for one, other in zip(same, flipped, strict=True))
    assert any(same)
    assert any(flipped)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.RandomTranslation(0.3, 0.3, seed=1),
        keras.Sequential([keras.layers.RandomFlip(seed=1), keras.layers.GaussianNoise(0.1, seed=2)]),
    ],
    ids=["layer", "layers"],
)
def test_layers_are_random_in_training_and_repeatable_in_evaluation(layer):
    images = RNG.uniform(size=(4, 8, 8, 3)).astype("float32")
    states = layer.variables or [layer.seed_generator.state]
    before = [np.array(ops.convert_to_numpy(state)) for state in states]
    first, again, other = (
        ops.convert_to_numpy(random_views(images, ReplaySeeds(seed), layer)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    for state, value in zip(states, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(state), value)
    seeds = keras.random.SeedGenerator(0)
    one, two = (ops.convert_to_numpy(random_views(images, seeds, layer)) for _ in range(2))
    assert (one != two).any()
