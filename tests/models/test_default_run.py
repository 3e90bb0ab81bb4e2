"""The default course of `fit_pretext`: what is chosen where the user chose nothing."""

import math

import keras
import numpy as np
import pytest

import keras_ssl
from keras_ssl import _fit
from keras_ssl.models._default_run import (
    default_epochs,
    default_learning_rate,
    default_optimizer,
)
from tests.tiny import SHAPE, images, pretext_model, quick_model


def rates(steps, peak=0.1):
    schedule = default_optimizer(peak, steps)._learning_rate
    return [float(schedule(step)) for step in range(steps)]


def test_the_rate_rises_in_a_tenth_of_the_run_and_falls_to_0():
    found = rates(100)
    assert np.argmax(found) == 10
    assert max(found) == pytest.approx(0.1)
    assert 0 < found[0] < found[1]
    assert found[99] < 1e-4
    cosine = [0.05 * (1 + math.cos(math.pi * (step - 10) / 90)) for step in range(10, 100)]
    np.testing.assert_allclose(found[10:], cosine, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_short_runs_have_no_step_without_effect(steps):
    assert min(rates(steps)) > 0


def test_only_kernels_decay():
    model = quick_model()
    optimizer = default_optimizer(1e-3, 10)
    optimizer.build(model.trainable_variables)
    decayed = {v.name for v in model.trainable_variables if optimizer._use_weight_decay(v)}
    assert decayed == {"kernel"}


def test_the_rate_grows_with_the_root_of_the_batch():
    task = keras_ssl.RotationTask()
    assert default_learning_rate(task, 256) == task.base_learning_rate()
    assert default_learning_rate(task, 64) == task.base_learning_rate() / 2


def test_several_tasks_take_the_smallest_rate():
    task = keras_ssl.MultiTask(tasks=(keras_ssl.RotationTask(), keras_ssl.InpaintingTask()))
    assert task.base_learning_rate() == 1e-3


@pytest.mark.parametrize(("batches", "epochs"), [(20, 100), (2, 200), (10_000, 10), (None, 10)])
def test_epochs_are_chosen_from_the_number_of_batches(batches, epochs):
    assert default_epochs(batches) == epochs


def test_the_run_is_printed_before_it_and_too_few_steps_are_said(capsys):
    model = quick_model()
    model.fit_pretext(images(12), epochs=5, batch_size=4, verbose=2)
    printed = capsys.readouterr().out
    assert printed.startswith("Pretraining: 5 epochs of 3 steps, 15 steps.\n")
    assert "15 steps are too few" in printed
    assert "about" in printed
    model.fit_pretext(images(12), epochs=5, batch_size=4, verbose=0)
    assert capsys.readouterr().out == ""


def test_each_run_has_a_course_of_its_own_unless_the_user_compiled(tmp_path):
    model = quick_model()
    for epochs in (1, 2):
        model.fit_pretext(images(12), epochs=epochs, batch_size=4, verbose=0)
        assert model.optimizer.get_config()["learning_rate"]["config"]["decay_steps"] == round(2.7 * epochs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit_pretext(images(12), epochs=3, batch_size=4, verbose=0)
    assert int(loaded.optimizer.iterations) == 9
    optimizer = keras.optimizers.SGD(0.1)
    loaded.compile(optimizer)
    loaded.fit_pretext(images(12), epochs=1, batch_size=4, verbose=0)
    assert loaded.optimizer is optimizer


def test_streams_of_unknown_length_have_a_constant_rate():
    model = quick_model()
    model.fit_pretext((images(4) for _ in range(3)), epochs=1, learning_rate=0.01, verbose=0)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    assert float(model.clock.planned) == 0


def test_a_rate_that_is_no_rate_is_refused_before_training():
    model = quick_model()
    with pytest.raises(ValueError, match="`learning_rate` must be a finite number above 0"):
        model.fit_pretext(images(), learning_rate=0.0, epochs=1)
    with pytest.raises(ValueError, match="For a schedule, call `compile"):
        model.fit_pretext(images(), learning_rate=keras.optimizers.schedules.CosineDecay(0.1, 5), epochs=1)
    with pytest.raises(ValueError, match="`epochs` must be at least `initial_epoch`"):
        model.fit_pretext(images(), initial_epoch=10, epochs=1, batch_size=12)
    model.compile("sgd")
    with pytest.raises(ValueError, match="`learning_rate` must be None after `compile`"):
        model.fit_pretext(images(), learning_rate=0.1, epochs=1)


def test_a_run_by_default_resumes_bitwise(tmp_path, monkeypatch):
    def fit(**options):
        task = keras_ssl.BYOLTask(hidden_units=(4,), projection_dim=4)
        model = keras_ssl.SelfSupervisedModel(task, pretext_model().encoder, input_shape=SHAPE, seed=0)
        model.fit_pretext(images(12), epochs=4, batch_size=4, verbose=0, **options)
        return model.get_weights()

    class Stop(_fit.StopOnSignal):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    whole = fit()
    with monkeypatch.context() as patch:
        patch.setattr(_fit, "StopOnSignal", Stop)
        with pytest.raises(KeyboardInterrupt):
            fit(backup_dir=tmp_path)
    for one, other in zip(whole, fit(backup_dir=tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)
