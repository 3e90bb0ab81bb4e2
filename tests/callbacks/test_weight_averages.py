"""Moving averages of the weights: validated, kept at the end, and left out of training."""

import keras
import numpy as np
import pytest
import tiny

from keras_ssl import FineTuner, OrdinalHead, RegressionHead

IMAGES, GRADES = tiny.images(12), tiny.grades(12)


def tuner(**arguments):
    keras.utils.set_random_seed(0)
    return FineTuner(tiny.sequential_encoder(), OrdinalHead(3), seed=0, learning_rate=0.05, **arguments)


class Trajectory(keras.callbacks.Callback):
    """Trainable weights after each step, and what callbacks see at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.steps, self.seen = [], []

    def weights(self):
        return [np.array(keras.ops.convert_to_numpy(v)) for v in self.model.trainable_variables]

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.steps.append(self.weights())

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.weights())


@pytest.mark.compiled
def test_averages_are_those_of_numpy_and_training_is_as_without():
    fits = {}
    for momentum in (None, 0.5):
        trajectory, fine_tuner = Trajectory(), tuner(ema_momentum=momentum)
        arguments = {"validation_data": (IMAGES, GRADES), "batch_size": 4, "verbose": 0}
        history = fine_tuner.fit(IMAGES, GRADES, epochs=3, callbacks=[trajectory], **arguments).history
        fits[momentum] = trajectory.steps
        loss = fine_tuner.evaluate(IMAGES, GRADES)["loss"]
        assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-4)
    for plain, averaged in zip(*fits.values(), strict=True):
        tiny.assert_same(plain, averaged)
    average = fits[None][0]
    for number, step in enumerate(fits[None]):
        average = [0.5 * old + 0.5 * new for old, new in zip(average, step, strict=True)]
        if number % 3 == 2:
            for expected, seen in zip(average, trajectory.seen[number // 3], strict=True):
                np.testing.assert_allclose(seen, expected, atol=1e-6)
    for expected, seen in zip(average, trajectory.weights(), strict=True):
        np.testing.assert_allclose(seen, expected, atol=1e-6)


@pytest.mark.compiled
def test_averages_rates_and_stages_resume_bitwise_and_begin_with_the_weights(tmp_path):
    def run(stop_at, backup_dir):
        keras.utils.set_random_seed(0)
        encoder = tiny.functional_encoder(dropout=0.0)
        fine_tuner = FineTuner(
            encoder,
            OrdinalHead(3),
            warmup_epochs=1,
            warmup_stages=2,
            encoder_learning_rate=keras.optimizers.schedules.CosineDecay(0.01, 15),
            layer_decay=0.5,
            ema_momentum=0.9,
            seed=0,
        )
        history = fine_tuner.fit(
            IMAGES,
            GRADES,
            validation_data=(IMAGES, GRADES),
            epochs=5,
            batch_size=4,
            callbacks=[tiny.stop(stop_at)],
            backup_dir=backup_dir,
            verbose=0,
        )
        return tiny.weights(fine_tuner.model), history.history

    expected, history = run(None, None)
    for stop_at in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            run(stop_at, tmp_path / str(stop_at))
        resumed, resumed_history = run(None, tmp_path / str(stop_at))
        tiny.assert_same(expected, resumed)
        assert resumed_history == history


def test_a_second_fit_continues_from_the_averages():
    fine_tuner = tuner(ema_momentum=0.5)
    for _ in range(2):
        fine_tuner.fit(IMAGES, GRADES, epochs=1, batch_size=4, verbose=0)
    assert all(np.isfinite(weight).all() for weight in tiny.weights(fine_tuner.model))


@pytest.mark.parametrize("head", [OrdinalHead(3), RegressionHead()])
def test_the_best_epoch_is_restored(head):
    keras.utils.set_random_seed(0)
    fine_tuner = FineTuner(tiny.sequential_encoder(), head, seed=0, learning_rate=0.3)
    trajectory = Trajectory()
    labels = GRADES if isinstance(head, OrdinalHead) else GRADES.astype("float32")
    history = fine_tuner.fit(
        IMAGES,
        labels,
        validation_data=(tiny.images(6, seed=1), labels[:6]),
        epochs=6,
        restore_best=True,
        callbacks=[trajectory],
        verbose=0,
    ).history
    scored = "val_qw_kappa" in history
    best = int(np.argmax(history["val_qw_kappa"]) if scored else np.argmin(history["val_loss"]))
    tiny.assert_same(trajectory.seen[best], trajectory.weights())
