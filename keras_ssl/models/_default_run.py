"""Default course of a pretraining run: epochs, optimizer, learning-rate schedule; estimate of its time."""

import math
import time
from typing import Any

import keras

from keras_ssl.callbacks._optimizers import decay_kernels_only
from keras_ssl.tasks.base import PretextTask

# Steps of a run whose number of epochs is not given, and bounds of that number.
STEPS = 2000
_EPOCHS = (10, 200)
# With fewer, no task has been seen to learn anything.
_FEW_STEPS = 300
_WARMUP_FRACTION = 0.1
_WEIGHT_DECAY = 0.05
_CLIP_NORM = 1.0
# Batch size of `PretextTask.base_learning_rate`.
_BASE_BATCH = 256
# Name of the optimizer, by which a loaded model knows that the user did not choose it.
OPTIMIZER_NAME = "pretext_adamw"
# Steps after which time per step is measured, and those it is measured over.
_SKIPPED, _TIMED = 3, 10


def default_epochs(batches: int | None) -> int:
    """Return the number of epochs for `batches` in an epoch; `None` if that is unknown.

    >>> default_epochs(32), default_epochs(1), default_epochs(5000)
    (63, 200, 10)
    """
    return max(_EPOCHS[0], min(_EPOCHS[1], math.ceil(STEPS / (batches or STEPS))))


def default_learning_rate(task: PretextTask, batch_size: int) -> float:
    """Return the learning rate of a task, scaled by the square root of the batch size.

    Adam's steps do not depend on the size of gradients, whose noise falls with that root.

    References:
        Malladi, S. et al. (2022). On the SDEs and scaling rules for adaptive gradient algorithms. NeurIPS.
    """
    return task.base_learning_rate() * math.sqrt(batch_size / _BASE_BATCH)


def default_optimizer(learning_rate: float, steps: int | None) -> keras.optimizers.Optimizer:
    """Return AdamW with linear warm-up, cosine decay to 0, decay of kernels only and gradient clipping.

    For an unknown number of steps, the rate is constant.
    """
    schedule: Any = learning_rate
    if steps is not None:
        warmup = round(_WARMUP_FRACTION * steps)
        rise: dict[str, Any] = {"initial_learning_rate": learning_rate}
        if warmup:
            # Not from 0, at which the first step would be lost.
            rise = {
                "initial_learning_rate": learning_rate / (warmup + 1),
                "warmup_target": learning_rate,
                "warmup_steps": warmup,
            }
        schedule = keras.optimizers.schedules.CosineDecay(decay_steps=max(steps - warmup, 1), **rise)
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=_WEIGHT_DECAY, global_clipnorm=_CLIP_NORM, name=OPTIMIZER_NAME
    )
    decay_kernels_only(optimizer)
    return optimizer


def sets_learning_rate(callbacks: list[keras.callbacks.Callback]) -> bool:
    """Return whether a callback sets the learning rate, which must then have no schedule.

    >>> sets_learning_rate([keras.callbacks.ReduceLROnPlateau("loss")])
    True
    """
    kinds = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)
    return any(isinstance(callback, kinds) for callback in callbacks)


class Announcement(keras.callbacks.Callback):
    """Prints the length of a run before it, and the estimated time after a few steps.

    Args:
        epochs: number of epochs to run.
        batches: batches in an epoch, `None` if unknown.
        lines: further lines to print.
    """

    def __init__(self, epochs: int, batches: int | None, lines: list[str]) -> None:
        super().__init__()
        self.epochs, self.batches = epochs, batches
        self.lines = lines

    @property
    def steps(self) -> int | None:
        """Steps of the run, `None` if unknown."""
        return None if self.batches is None else self.epochs * self.batches

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        length = f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"
        if self.batches is not None:
            length += f" of {self.batches} steps, {self.steps} steps"
        print(f"Pretraining: {length}.", *self.lines, sep="\n", flush=True)
        if self.steps is not None and self.steps < _FEW_STEPS:
            print(
                f"{self.steps} steps are too few to learn from: at least {_FEW_STEPS} are needed; "
                f"`epochs=None` chooses about {STEPS}.",
                flush=True,
            )
        self._seen, self._start = 0, 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._seen += 1
        if self._seen == _SKIPPED:
            self._start = time.perf_counter()
        if self._seen == _SKIPPED + _TIMED and self.steps is not None:
            step = (time.perf_counter() - self._start) / _TIMED
            print(f"\n{step:.2g} s per step, about {_duration(step * self.steps)} in all.", flush=True)


def _duration(seconds: float) -> str:
    """Return a duration for people.

    >>> _duration(42), _duration(600), _duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
