"""Views: defaults by kind of image, independent views, and functions or layers of the user."""

import colorsys

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.preprocessing import ct_views, fundus_views, mr_views, random_views, xray_views
from keras_ssl.preprocessing.views import views_for
from keras_ssl.random import ReplaySeeds

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "recipe"),
    [((2, 8, 8, 3), fundus_views), ((2, 8, 8, 1), xray_views), ((2, 6, 6, 6, 1), mr_views)],
)
def test_default_views_by_shape_are_independent(shape, recipe):
    images = np.tile(RNG.uniform(size=(1, *shape[1:])).astype("float32"), (2, *[1] * (len(shape) - 1)))
    assert views_for(shape) == recipe()
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
    views = ops.convert_to_numpy(random_views(images, ReplaySeeds()))
    for view, color in zip(views, (red, red, yellow, yellow), strict=True):
        pixel = np.median(view.reshape(-1, 3), axis=0)
        hue, expected = colorsys.rgb_to_hsv(*pixel)[0], colorsys.rgb_to_hsv(*color)[0]
        assert abs(hue - expected) < 0.02


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
