"""What callbacks have in common that measure something every few epochs and log it in all."""

import abc
from typing import Any

import keras


class PeriodicCheck(keras.callbacks.Callback, abc.ABC):
    """Measures in the first epoch of a fit, in every `every`-th and in the last, and logs each epoch.

    Epochs between two measurements repeat the values of the latest one: every epoch has the same keys and
    a number, as the history, `CSVLogger` and `EarlyStopping` want them, also in a run that was resumed.

    Args:
        every: epochs from one measurement to the next, at least 1.

    Raises:
        ValueError: `every` is no such integer.
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be an integer of at least 1. Received {every!r}.")
        self.every = every
        self.values: dict[str, float] = {}

    @abc.abstractmethod
    def start(self) -> None:
        """Take up `self.model` at the beginning of a fit."""

    @abc.abstractmethod
    def measure(self, epoch: int) -> dict[str, float]:
        """Return what is to be logged; the same keys each time."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget an earlier fit."""
        self.values = {}
        self.start()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure, where it is time, and log."""
        if not self.values or epoch % self.every == 0 or epoch + 1 == self.params["epochs"]:
            self.values = self.measure(epoch)
        if logs is not None:
            logs.update(self.values)

    def get_state(self) -> dict[str, Any]:
        """What a resumed run needs: the values to repeat."""
        return {"values": self.values}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take up what `get_state` gave, after `on_train_begin`, which forgets."""
        self.values = state["values"]
