"""What is drawn follows from the seed, whatever else the process is doing."""

import random
import threading

import keras
import tiny

from keras_ssl.random import seeded


def drawn_seeds():
    with seeded(3):
        return [keras.random.SeedGenerator().get_config()["seed"] for _ in range(60)]


def test_other_threads_that_draw_change_nothing():
    quiet, stop, disturbed = drawn_seeds(), threading.Event(), []

    def draw():
        while not stop.is_set():
            random.random()
            disturbed.append(random.randint(1, 10**9))

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        assert drawn_seeds() == quiet
    finally:
        stop.set()
        thread.join()
    assert disturbed
    assert not set(disturbed) & set(quiet)


def test_weights_follow_from_the_seed_and_the_global_generator_is_left_alone():
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
