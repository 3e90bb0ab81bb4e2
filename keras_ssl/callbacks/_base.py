"""Base classes of callbacks: periodic checks and scores of a whole validation set."""

import abc
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_ssl._checks import as_numpy
from keras_ssl._types import Dataset, Structure
from keras_ssl.data.batches import length_of
from keras_ssl.distribution import predict_on_batch


def array_of(variable: keras.Variable) -> np.ndarray:
    """Return a copy: on PyTorch arrays share memory with variables, and JAX variables must not share any."""
    return np.array(keras.ops.convert_to_numpy(variable))


class PeriodicCheck(keras.callbacks.Callback, abc.ABC):
    """Base class of checks that run in the first epoch of a fit, every `every` epochs, and in the last epoch.

    Epochs in between log the latest values again, so that every epoch has a number for every key, as the
    history, `CSVLogger` and `EarlyStopping` expect, also in a resumed run.

    Args:
        every: number of epochs between measurements, at least 1.

    Raises:
        ValueError: `every` is not such an integer.
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be an integer of at least 1. Received {every!r}.")
        self.every = every
        self.values: dict[str, float] = {}

    @abc.abstractmethod
    def start(self) -> None:
        """Prepare for a fit of `self.model`."""

    @abc.abstractmethod
    def measure(self, epoch: int) -> dict[str, float]:
        """Return the values to log, always with the same keys."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Reset the state."""
        self.values = {}
        self.start()

    def is_due(self, epoch: int) -> bool:
        """Return whether the end of `epoch` is measured."""
        return not self.values or epoch % self.every == 0 or epoch + 1 == self.params["epochs"]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure if due, and log."""
        if self.is_due(epoch):
            self.values = self.measure(epoch)
        if logs is not None:
            logs.update(self.values)

    def get_state(self) -> dict[str, Any]:
        """Return the state for a resumed run."""
        return {"values": self.values}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the state of `get_state`, after `on_train_begin`."""
        self.values = state["values"]


class BestEpoch:
    """Mixin of callbacks: the highest score so far, its epoch, and the model's weights then."""

    model: keras.Model
    best_value: float | None
    best_epoch: int | None
    best_weights: list[np.ndarray] | None

    def reset_best(self) -> None:
        """Forget all scores."""
        self.set_best_state(dict.fromkeys(("best_value", "best_epoch", "best_weights")))

    def keep_if_best(self, value: float, epoch: int, weights: bool) -> bool:
        """Return whether a score is the best so far, of ties the first, and if so keep it, and `weights`."""
        # Compared with -inf, so that a NaN never becomes the best value.
        if not value > (-np.inf if self.best_value is None else self.best_value):
            return False
        self.best_value, self.best_epoch = value, epoch
        if weights:
            # Copied: on PyTorch the arrays that Keras returns share memory with the weights.
            self.best_weights = [np.array(weight) for weight in self.model.get_weights()]
        return True

    def best_state(self) -> dict[str, Any]:
        """Return the state for a resumed run: plain values and NumPy arrays."""
        return {
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }

    def set_best_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `best_state`."""
        self.best_value = state["best_value"]
        self.best_epoch = state["best_epoch"]
        self.best_weights = state["best_weights"]


class ValidationScore(BestEpoch, keras.callbacks.Callback, abc.ABC):
    """Base class of callbacks that log a score of the whole validation set, and may restore the best weights.

    Higher is better. Training is bitwise the same with and without it.

    Args:
        validation_data: arrays `(x, y)` or `(x, y, sample_weight)`, or a data set of such batches that can be
            iterated every epoch.
        name: key in `logs` of the score that determines the best epoch.
        restore_best_weights: whether to restore the weights of the best epoch (of ties, the first) when
            training ends. Weights are unchanged if all scores are NaN.
        batch_size: batch size for arrays.

    Raises:
        ValueError: `validation_data` has another form or can be iterated only once.
    """

    def __init__(
        self, validation_data: Dataset, name: str, restore_best_weights: bool, batch_size: int
    ) -> None:
        super().__init__()
        _check_validation_data(validation_data)
        self.validation_data = validation_data
        self.name = name
        self.restore_best_weights = restore_best_weights
        self.batch_size = batch_size
        self.reset_best()

    @abc.abstractmethod
    def measure(self) -> dict[str, float]:
        """Return the values to log, including `self.name`."""

    def predictions(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield predictions, labels and weights by batch, in one pass and so in the same order."""
        empty = True
        for x, y, weight in _batches(self.validation_data, self.batch_size):
            # Not `predict`, whose loader on PyTorch draws from the generator that training uses.
            output = predict_on_batch(self.model, x)
            if not isinstance(output, np.ndarray):
                raise ValueError(f"The model must have one output. Received a {type(output).__name__}.")
            empty = False
            yield output, y, weight
        if empty:
            raise ValueError("`validation_data` must hold at least one batch. Received none.")

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Reset the state."""
        self.reset_best()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure and log, and keep the weights if they are the best."""
        values = self.measure()
        if logs is not None:
            logs.update(values)
        self.keep_if_best(values[self.name], epoch, self.restore_best_weights)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restore the best weights, if enabled."""
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)

    def get_state(self) -> dict[str, Any]:
        """Return the state for a resumed run: plain values and NumPy arrays."""
        return self.best_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the state of `get_state`, after `on_train_begin`."""
        self.set_best_state(state)


def _check_validation_data(data: Dataset) -> None:
    if isinstance(data, tuple):
        _unpack(data)
        return
    if not isinstance(data, Iterable) or isinstance(data, Iterator | np.ndarray | str):
        raise ValueError(
            "`validation_data` must be (x, y), (x, y, sample_weight), or a data set of such batches that can "
            f"be iterated every epoch. Received {type(data).__name__}."
        )
    length = length_of(data)
    # Keras treats a `PyDataset` without a number of batches as endless.
    if length == sys.maxsize or (length is None and isinstance(data, keras.utils.PyDataset)):
        raise ValueError(f"`validation_data` must be finite. Received an endless {type(data).__name__}.")


def _batches(data: Dataset, batch_size: int) -> Iterator[tuple[Structure, np.ndarray, np.ndarray]]:
    if not isinstance(data, tuple):
        yield from map(_unpack, data)
        return
    arrays = _unpack(data)
    for start in range(0, len(arrays[1]), batch_size):
        rows = slice(start, start + batch_size)
        yield keras.tree.map_structure(lambda array, rows=rows: array[rows], arrays)


def _unpack(batch: Structure) -> tuple[Structure, np.ndarray, np.ndarray]:
    """Return inputs, labels and weights (default 1) as NumPy arrays with the same number of rows."""
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        length = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise ValueError(
            "`validation_data` and each of its batches must be (x, y) or (x, y, sample_weight). "
            f"Received {type(batch).__name__}{length}."
        )
    x = keras.tree.map_structure(as_numpy, batch[0])
    y = as_numpy(batch[1], "labels")
    given = batch[2] if len(batch) == 3 else None
    weight = np.ones(y.shape[:1], "float32") if given is None else np.ravel(as_numpy(given, "weights"))
    rows = [array.shape[:1] for array in [*keras.tree.flatten(x), y, weight]]
    if len(set(rows)) != 1 or rows[0] == ():
        raise ValueError(
            "`validation_data` must have one label, and one weight if any, per input. "
            f"Received rows {rows} (inputs, labels, weights)."
        )
    return x, y, weight
