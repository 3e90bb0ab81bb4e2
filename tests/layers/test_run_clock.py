import math

import keras
import numpy as np
import pytest

import keras_ssl
from keras_ssl.layers import EMATeacher, RunClock
from keras_ssl.layers.centering import Sharpening
from keras_ssl.layers.projection_heads import Prototypes
from tests.tiny import functional_encoder, images


def at(clock, done, planned):
    clock.start(planned)
    for _ in range(done):
        clock.advance()
    return clock


def test_progress_is_0_without_a_known_length_and_ends_at_1():
    clock = RunClock()
    assert float(clock.progress()) == 0
    assert float(at(clock, 3, None).progress()) == 0
    assert float(at(clock, 3, 4).progress()) == 0.75
    assert float(at(clock, 9, 4).progress()) == 1


@pytest.mark.parametrize(("done", "momentum"), [(0, 0.9), (1, 0.95), (2, 1.0)])
def test_momentum_of_a_teacher_rises_to_1(done, momentum):
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    teacher = EMATeacher(student, momentum=0.9)
    student.set_weights([np.ones((2, 1))])
    teacher.average.set_weights([np.zeros((2, 1))])
    teacher.follow_clock(at(RunClock(), done, 2))
    teacher(np.ones((1, 2)), training=True)
    np.testing.assert_allclose(teacher.average.get_weights()[0], 1 - momentum, atol=1e-6)


@pytest.mark.parametrize(("done", "temperature"), [(0, 0.04), (3, 0.055), (6, 0.07), (20, 0.07)])
def test_temperature_rises_in_the_first_third(done, temperature):
    layer = Sharpening((0.04, 0.07))
    layer.follow_clock(at(RunClock(), done, 20))
    assert float(layer(np.ones((1, 1)))[0, 0]) == pytest.approx(1 / temperature, rel=1e-5)


def test_prototypes_are_frozen_at_the_start_of_a_run():
    task = keras_ssl.DINOTask(num_local_views=0, frozen_fraction=0.5)
    model = keras_ssl.SelfSupervisedModel(task, functional_encoder(), seed=0)
    (layer,) = [
        one
        for one in model.network._flatten_layers()
        if isinstance(one, Prototypes) and one.follows_clock and one.prototypes.trainable
    ]
    seen = [np.array(layer.prototypes)]
    model.compile(keras.optimizers.SGD(1.0))
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(np.array(keras.ops.convert_to_numpy(layer.prototypes)))
    )
    model.fit_pretext(images(8), epochs=2, batch_size=4, callbacks=[keep], verbose=0)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[1] != seen[2]).any()


def test_a_run_advances_its_clock_and_a_new_run_starts_again(tmp_path):
    model = keras_ssl.SelfSupervisedModel(
        keras_ssl.BYOLTask(hidden_units=(4,), projection_dim=4), functional_encoder(), seed=0
    )
    for epochs in (2, 1):
        model.fit_pretext(images(8), epochs=epochs, batch_size=4, verbose=0)
        counts = [float(model.clock.done), float(model.clock.planned)]
        assert counts == [2 * epochs, 2 * epochs]
    model.evaluate(images(8), verbose=0)
    assert float(model.clock.done) == 2
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.clock.done) == 2
    loaded.fit_pretext(images(8), epochs=1, batch_size=4, verbose=0)
    assert math.isfinite(loaded.evaluate(images(8), verbose=0, return_dict=True)["loss"])
