"""Callback that validates and keeps moving averages of the weights."""

from typing import Any

import keras
import numpy as np

from keras_ssl._keras_private import averages_of, built_for
from keras_ssl.callbacks._base import array_of


class AveragedWeights(keras.callbacks.Callback):
    """Puts the moving averages that the optimizer keeps into the model for validation and other callbacks.

    Keras itself does so at the end of `fit` only; its `SwapEMAWeights` leaves the averages out of what other
    callbacks see at the end of an epoch, or of a run that is stopped early. First in `callbacks`; `restore`,
    last, continues with the weights of training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.restore = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: self._restore())
        self._trained: list[tuple[keras.Variable, np.ndarray]] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Reset the state."""
        self._trained = []

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Use the averages."""
        self._average()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Use the averages."""
        self._average()

    def _average(self) -> None:
        optimizer = self.model.optimizer
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = optimizer.inner_optimizer
        if not self._trained:
            variables = built_for(optimizer)
            self._trained = [(variable, array_of(variable)) for variable in variables]
            for variable, average in zip(variables, averages_of(optimizer), strict=True):
                variable.assign(array_of(average))

    def _restore(self) -> None:
        for variable, value in self._trained:
            variable.assign(value)
        self._trained = []
