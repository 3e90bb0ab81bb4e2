"""The checks during training: training does not notice them, and they go on after an interrupt."""

import keras
import pytest

from keras_ssl.callbacks import RepresentationCheck, ShortcutCheck
from tests.tiny import SHAPE, assert_same, grades, images, pretext_model, weights


class Kill(keras.callbacks.Callback):
    """Interrupts the fourth epoch."""

    armed = False

    def on_train_batch_end(self, batch, logs=None):
        if self.armed and len(self.model.history.epoch) == 3 and batch == 1:
            raise KeyboardInterrupt


def checks():
    return [
        RepresentationCheck(images(), grades(), every=2, batch_size=5),
        ShortcutCheck(images(), every=2, tolerance=0.9),
    ]


def fit(model, *callbacks, **options):
    history = model.fit_pretext(
        images(), batch_size=4, epochs=6, callbacks=list(callbacks), verbose=0, **options
    )
    return history.history


def fresh_model():
    keras.utils.set_random_seed(0)
    # Random draws and moving statistics, which a check could disturb.
    parts = [keras.layers.Dropout(0.3), keras.layers.BatchNormalization(), keras.layers.Flatten()]
    encoder = keras.Sequential([keras.Input(SHAPE), *parts, keras.layers.Dense(4)])
    return pretext_model(encoder, guards=None)


def test_training_is_the_same_bitwise_and_an_interrupted_run_too(tmp_path):
    plain, checked, parts = (fresh_model() for _ in range(3))
    expected, logged, kill = fit(plain), fit(checked, *checks(), Kill()), Kill()
    assert_same(weights(plain), weights(checked))
    assert {name: logged[name] for name in expected} == expected
    assert "probe_qw_kappa" in logged
    assert "shortcut_border_only" in logged
    kill.armed = True
    with pytest.raises(KeyboardInterrupt):
        fit(parts, *checks(), kill, backup_dir=tmp_path)
    kill.armed = False
    # The values to be repeated are in the backup only: these callbacks have seen nothing.
    assert fit(parts, *checks(), kill, backup_dir=tmp_path) == logged
    assert_same(weights(plain), weights(parts))
