"""Quadratic weighted kappa of the whole validation set after each epoch, as a logged value."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_ssl.callbacks._base import ValidationScore
from keras_ssl.metrics.grades import GradeForm, decode_grades, grade_confusion, grade_thresholds
from keras_ssl.metrics.quadratic_weighted_kappa import quadratic_weighted_kappa


class QuadraticWeightedKappaCallback(ValidationScore):
    """Log the kappa of a validation set at the end of every epoch, and keep the best weights if asked.

    Put it first in `callbacks`: Keras hands the same `logs` to one callback after the other, so those that
    follow (`EarlyStopping`, `ModelCheckpoint`, `ReduceLROnPlateau`, `CSVLogger`, `TensorBoard`), the history
    and the progress bar see the value, those before do not. `FineTuner.fit` sets `mode="max"` of those that
    monitor it; set it yourself for plain `fit`, since Keras does not know that more is better.

    Training itself is the same, bit for bit, with and without it.

    Unlike the compiled metric it leaves no trace in the saved model, which loads where keras-ssl is not
    installed.

    Args:
        validation_data: `(x, y)` or `(x, y, sample_weight)` in arrays, or batches of these that can be
            gone through again every epoch: a `PyDataset`, a `tf.data.Dataset`, a `DataLoader`, a list.
        num_grades: how many grades there are.
        prediction: how the model writes a grade, see `decode_grades`.
        truth: how `y` writes a grade: `"grades"`, or encoded like the targets of the loss.
        thresholds: what predictions are compared with, see `decode_grades`.
        name: key in `logs`. A value that is already there, from `fit`'s own validation, is replaced.
        restore_best_weights: whether the model ends the training with the weights of its best epoch, the
            first of equals. Left as it is if no epoch gave a kappa that is a number.
        batch_size: rows predicted at a time; batched data keeps its own batches.
        accuracy_name: key in `logs` for the share of samples whose grade is right; `None` logs none.

    Attributes:
        best_value: highest kappa so far, or `None`.
        best_epoch: its epoch, counted from 0, or `None`.

    Raises:
        ValueError: `validation_data` has another form or can be gone through only once, or a form of grades
            is wrong (see `grade_thresholds`). At the end of the first epoch: a true grade lies outside
            `[0, num_grades)`. Predictions that are NaN raise nothing, they log NaN.

    >>> import keras, numpy as np
    >>> x, y = np.zeros((4, 8), "float32"), np.array([0, 1, 2, 1])
    >>> kappa = QuadraticWeightedKappaCallback((x, y), num_grades=3)
    >>> stop = keras.callbacks.EarlyStopping("val_qw_kappa", mode="max", patience=5)
    >>> callbacks = [kappa, stop]
    """

    def __init__(
        self,
        validation_data: Any,
        num_grades: int = 5,
        prediction: GradeForm = "probabilities",
        truth: GradeForm = "grades",
        thresholds: float | Sequence[float] | None = None,
        name: str = "val_qw_kappa",
        restore_best_weights: bool = False,
        batch_size: int = 32,
        accuracy_name: str | None = None,
    ):
        super().__init__(validation_data, name, restore_best_weights, batch_size)
        grade_thresholds(truth, num_grades)
        grade_thresholds(prediction, num_grades, thresholds)
        self.num_grades = num_grades
        self.prediction = prediction
        self.truth = truth
        self.thresholds = thresholds
        self.accuracy_name = accuracy_name

    def measure(self) -> dict[str, float]:
        """Kappa of the set and, if asked for, the share of right grades."""
        confusion = self._confusion()
        values = {self.name: float(quadratic_weighted_kappa(confusion))}
        if self.accuracy_name is not None:
            values[self.accuracy_name] = float(np.trace(confusion) / confusion.sum())
        return values

    def _confusion(self) -> np.ndarray:
        outputs, y, weight = self._predict()
        true = decode_grades(y, self.truth, self.num_grades)
        if (true < 0).any():
            raise ValueError(
                f"Labels in `validation_data` must be {self.num_grades} grades written as {self.truth!r}, "
                f"from 0 to {self.num_grades - 1}. Received {y[true < 0][:5].tolist()}."
            )
        predicted = decode_grades(outputs, self.prediction, self.num_grades, self.thresholds)
        return grade_confusion(true, predicted, self.num_grades, weight)

    def _predict(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predictions, labels and weights of the whole set."""
        outputs, labels, weights = zip(*self.predictions(), strict=True)
        return np.concatenate(outputs), np.concatenate(labels), np.concatenate(weights)
