"""`seeded` fixes weights and default seeds; `ReplaySeeds` repeats its draws."""

import random

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl._seeding import seeded
from keras_ssl.random import ReplaySeeds


def draw(seeds, times=3):
    return [ops.convert_to_numpy(keras.random.uniform((4,), seed=seeds)) for _ in range(times)]


def test_draws_are_those_of_a_new_seed_generator():
    np.testing.assert_array_equal(draw(ReplaySeeds(7)), draw(keras.random.SeedGenerator(7)))


def test_draws_start_again_each_time_and_differ_from_each_other():
    first, second = draw(ReplaySeeds()), draw(ReplaySeeds())
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], draw(ReplaySeeds(1))[0])


@pytest.mark.compiled
@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_function_replays_and_tracks_no_state(jit_compile):
    class Noise(keras.Model):
        def call(self, x):
            return x + keras.random.uniform(ops.shape(x), seed=ReplaySeeds(3))

    model = Noise()
    model.compile(jit_compile=jit_compile and keras.backend.backend() != "torch")
    zeros = np.zeros((4, 2), "float32")
    first = model.predict(zeros, verbose=0)
    np.testing.assert_array_equal(first, model.predict(zeros, verbose=0))
    assert model.variables == []


def test_every_distribution_of_keras_accepts_replay_seeds():
    for distribution in (keras.random.normal, keras.random.uniform, keras.random.truncated_normal):
        assert np.isfinite(ops.convert_to_numpy(distribution((3,), seed=ReplaySeeds()))).all()
    labels = ops.convert_to_numpy(keras.random.randint((50,), 0, 4, seed=ReplaySeeds()))
    assert set(labels) == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5, "0", None])
def test_invalid_seeds_raise(seed):
    with pytest.raises(ValueError, match="`seed` must be an integer from 0"):
        ReplaySeeds(seed)


def test_seeded_fixes_weights_and_leaves_the_global_generator_alone():
    models = []
    random.seed(1)
    for _ in range(2):
        with seeded(5):
            models.append(tiny.functional_encoder())
    after = random.random()
    tiny.assert_same(tiny.weights(models[0]), tiny.weights(models[1]))
    random.seed(1)
    assert random.random() == after
    with seeded(6):
        assert tiny.differ(tiny.weights(models[0]), tiny.weights(tiny.functional_encoder()))
