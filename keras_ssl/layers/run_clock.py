"""Clock of a training run, which schedules inside networks follow."""

import math
from collections.abc import Callable

import keras
from keras import ops

from keras_ssl._types import Config, Tensor


@keras.saving.register_keras_serializable(package="keras_ssl")
class RunClock(keras.Layer):
    """Counts the steps of a run: schedules of momentum and temperature inside a network follow it.

    Both counts are non-trainable weights, advanced in the compiled training step, and restored with the other
    weights when a run resumes.

    Args:
        name: name of the layer.

    >>> clock = RunClock()
    >>> clock.start(4)
    >>> clock.advance()
    >>> float(clock.progress())
    0.25
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__(trainable=False, dtype="float32", name=name)
        self.done, self.planned = (
            # Each replica of a distributed step counts the same.
            self.add_weight(shape=(), initializer="zeros", trainable=False, aggregation="mean", name=count)
            for count in ("done", "planned")
        )
        self.built = True

    def start(self, steps: int | None) -> None:
        """Start a run of `steps`; `None` if their number is unknown, for which `progress` stays 0."""
        self.done.assign(0.0)
        self.plan(steps)

    def plan(self, steps: int | None) -> None:
        """Set the number of steps of the present run."""
        self.planned.assign(float(steps or 0))

    def advance(self) -> None:
        """Count a step."""
        self.done.assign(self.done + 1.0)

    def progress(self) -> Tensor:
        """Return the completed fraction of the run, float32 in [0, 1]; 0 without a run of known length."""
        done, planned = ops.convert_to_tensor(self.done), ops.convert_to_tensor(self.planned)
        return ops.where(planned > 0, ops.minimum(done / ops.maximum(planned, 1.0), 1.0), 0.0)

    def get_config(self) -> Config:
        """Return the name."""
        return {"name": self.name}


class FollowsClock:
    """Mixin of layers with a schedule; without a clock, they stay at its start.

    >>> class Annealing(FollowsClock, keras.layers.Layer):
    ...     def call(self, logits):
    ...         return logits / (1 - 0.5 * self.progress())
    >>> annealing, clock = Annealing(), RunClock()
    >>> annealing.follow_clock(clock)
    >>> clock.start(2)
    >>> clock.advance()
    >>> round(float(annealing(ops.ones((1, 1)))[0, 0]), 3)
    1.333
    """

    # In a closure, so that Keras does not track the clock as a part of the layer.
    _progress: Callable[[], Tensor] | None = None

    def follow_clock(self, clock: RunClock) -> None:
        """Follow `clock` from now on."""
        self._progress = lambda: clock.progress()

    @property
    def follows_clock(self) -> bool:
        """True if the layer follows a clock."""
        return self._progress is not None

    def progress(self) -> Tensor:
        """Return the completed fraction of the run, in [0, 1]."""
        return ops.zeros(()) if self._progress is None else self._progress()


def cosine_rise(start: float, end: float, progress: Tensor) -> Tensor:
    """Return a value that rises from `start` to `end` along half a cosine, for `progress` in [0, 1].

    >>> round(float(cosine_rise(0.9, 1.0, 0.5)), 3)
    0.95
    """
    return end - (end - start) * (ops.cos(math.pi * progress) + 1) / 2
