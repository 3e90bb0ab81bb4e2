"""A run resumed in or after a warm-up, its optimizer divided as it was, ends where the whole run does."""

import keras
import numpy as np
import pytest
import tiny

from keras_ssl.callbacks._optimizers import parts_of, rebuild_training
from keras_ssl.callbacks.warmup_freeze import WarmupFreeze

JIT = keras.backend.backend() == "jax"


class Backup(keras.callbacks.Callback):
    """The least that resumes: keeps the state after each epoch, and brings one back."""

    def __init__(self, warmup, saved, initial_epoch):
        super().__init__()
        self.warmup, self.saved, self.initial_epoch = warmup, saved, initial_epoch
        self.states = []

    def variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    def on_train_begin(self, logs=None):
        if self.saved:
            self.warmup.on_epoch_begin(self.initial_epoch)
            rebuild_training(self.model, parts=self.saved[0])

    def on_epoch_begin(self, epoch, logs=None):
        if self.saved:
            for variable, value in zip(self.variables(), self.saved[1], strict=True):
                variable.assign(value)
        self.saved = None

    def on_epoch_end(self, epoch, logs=None):
        values = [np.array(keras.ops.convert_to_numpy(v)) for v in self.variables()]
        self.states.append((parts_of(self.model.optimizer, self.model.variables), values))


def run(optimizer, initial_epoch=0, saved=None):
    """Four epochs, two of them frozen; the state after each."""
    # Each run starts from other weights and optimizer variables, as a fresh process might.
    keras.utils.set_random_seed(initial_epoch)
    # Seeded: on PyTorch, Keras' dropout draws from PyTorch's own generator otherwise.
    dropout = keras.layers.Dropout(0.5, seed=1)
    encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), dropout])
    model = keras.Sequential([encoder, keras.layers.Dropout(0.5, seed=2), keras.layers.Dense(2)])
    model.build((None, 3))
    model.compile(optimizer(), "mse", jit_compile=JIT)
    warmup = WarmupFreeze(encoder, 2)
    backup = Backup(warmup, saved, initial_epoch)
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(8, 3)), draws.normal(size=(8, 2))
    model.fit(
        x,
        y,
        batch_size=4,
        shuffle=False,
        epochs=4,
        initial_epoch=initial_epoch,
        verbose=0,
        callbacks=[warmup, backup],
    )
    return backup.states


def averaged():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 2, 0.7)
    return keras.optimizers.AdamW(schedule, use_ema=True)


def scaled():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))


def several():
    biases = {".*bias": keras.optimizers.RMSprop()}
    return tiny.multi_optimizer(keras.optimizers.Adam(0.01), biases)


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("optimizer", "epochs"),
    # Resumed in the warm-up, at its end, and after it.
    [(averaged, (1, 2, 3)), (scaled, (2,)), (several, (1, 3))],
)
def test_resumed_runs_end_bitwise_like_an_uninterrupted_run(optimizer, epochs):
    states = run(optimizer)
    for epoch in epochs:
        resumed = run(optimizer, initial_epoch=epoch, saved=states[epoch - 1])
        for expected, actual in zip(states[-1][1], resumed[-1][1], strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_parts_are_described_by_the_places_of_their_variables():
    # Two and three are the seeds of dropout.
    assert [parts for parts, _ in run(averaged)] == [[[4, 5], [0, 1]]] * 4
    assert [parts for parts, _ in run(averaged, initial_epoch=2)] == [None] * 2
