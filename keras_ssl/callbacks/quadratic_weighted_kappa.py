"""Callback that logs quadratic weighted kappa of the whole validation set after each epoch."""

from collections.abc import Sequence

import numpy as np

from keras_ssl._types import Dataset
from keras_ssl.callbacks._base import ValidationScore
from keras_ssl.metrics.grades import GradeForm, decode_grades, grade_confusion, grade_thresholds
from keras_ssl.metrics.quadratic_weighted_kappa import quadratic_weighted_kappa


class QuadraticWeightedKappaCallback(ValidationScore):
    """Logs the kappa of a validation set at the end of every epoch, and can restore the best weights.

    Put it first in `callbacks`: Keras passes the same `logs` to one callback after another, so those that
    follow (`EarlyStopping`, `ModelCheckpoint`, `ReduceLROnPlateau`, `CSVLogger`, `TensorBoard`), the history
    and the progress bar see the value, those before do not. `FineTuner.fit` sets `mode="max"` of those that
    monitor it; set it yourself for plain `fit`, since Keras does not know that higher is better.

    Training is bitwise the same with and without it. Unlike a compiled metric, it does not become part of the
    saved model, which loads without keras-ssl.

    Args:
        validation_data: arrays `(x, y)` or `(x, y, sample_weight)`, or a data set of such batches that can be
            iterated every epoch: a `PyDataset`, a `tf.data.Dataset`, a `DataLoader`, a list.
        num_grades: number of grades.
        prediction: form of the model's predictions, see `decode_grades`.
        truth: form of `y`: `"grades"`, or the encoding of the loss' targets.
        thresholds: thresholds for predictions, see `decode_grades`.
        name: key in `logs`. Replaces a value of the same name from `fit`'s own validation.
        restore_best_weights: whether to restore the weights of the best epoch (of ties, the first) when
            training ends. Weights are unchanged if all kappas are NaN.
        batch_size: batch size for arrays.
        accuracy_name: key in `logs` of the accuracy of grades; `None` to not log it.

    Attributes:
        best_value: highest kappa so far, or `None`.
        best_epoch: its epoch, counted from 0, or `None`.

    Raises:
        ValueError: `validation_data` has another form or can be iterated only once, or a form of grades is
            invalid (see `grade_thresholds`). At the end of the first epoch: a true grade is outside
            `[0, num_grades)`. Predictions that are NaN do not raise, the value is NaN.

    >>> import keras, numpy as np
    >>> x, y = np.zeros((4, 8), "float32"), np.array([0, 1, 2, 1])
    >>> kappa = QuadraticWeightedKappaCallback((x, y), num_grades=3)
    >>> stop = keras.callbacks.EarlyStopping("val_qw_kappa", mode="max", patience=5)
    >>> callbacks = [kappa, stop]
    """

    def __init__(
        self,
        validation_data: Dataset,
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
        """Return the kappa of the set and, if enabled, the accuracy."""
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
                f"Labels in `validation_data` must be {self.num_grades} grades in the form {self.truth!r}, "
                f"from 0 to {self.num_grades - 1}. Received {y[true < 0][:5].tolist()}."
            )
        predicted = decode_grades(outputs, self.prediction, self.num_grades, self.thresholds)
        return grade_confusion(true, predicted, self.num_grades, weight)

    def _predict(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return predictions, labels and weights of the whole set."""
        outputs, labels, weights = zip(*self.predictions(), strict=True)
        return np.concatenate(outputs), np.concatenate(labels), np.concatenate(weights)
