"""Quadratic weighted kappa of the whole validation set after each epoch, as a logged value."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ssl.metrics.grades import GradeForm, decode_grades, grade_confusion, grade_thresholds
from keras_ssl.metrics.quadratic_weighted_kappa import quadratic_weighted_kappa

_INFINITE = -1  # what the `cardinality` of an endless `tf.data.Dataset` says


class QuadraticWeightedKappaCallback(keras.callbacks.Callback):
    """Log the kappa of a validation set at the end of every epoch, and keep the best weights if asked.

    Put it first in `callbacks`: Keras hands the same `logs` to one callback after the other, so those that
    follow (`EarlyStopping`, `ModelCheckpoint`, `ReduceLROnPlateau`, `CSVLogger`, `TensorBoard`), the history
    and the progress bar see the value, those before do not. Let them watch it with `mode="max"`: Keras does
    not know that more is better. Training itself is the same, bit for bit, with and without it.

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

    >>> import numpy as np
    >>> x, y = np.zeros((4, 8), "float32"), np.array([0, 1, 2, 1])
    >>> kappa = QuadraticWeightedKappaCallback((x, y), num_grades=3)
    >>> stop = keras.callbacks.EarlyStopping("val_qwk", mode="max", patience=5)
    >>> callbacks = [kappa, stop]
    """

    best_value: float | None
    best_epoch: int | None
    best_weights: list[np.ndarray] | None

    def __init__(
        self,
        validation_data: Any,
        num_grades: int = 5,
        prediction: GradeForm = "probabilities",
        truth: GradeForm = "grades",
        thresholds: float | Sequence[float] | None = None,
        name: str = "val_qwk",
        restore_best_weights: bool = False,
        batch_size: int = 32,
        accuracy_name: str | None = None,
    ):
        super().__init__()
        _check_validation_data(validation_data)
        grade_thresholds(truth, num_grades)
        grade_thresholds(prediction, num_grades, thresholds)
        self.validation_data = validation_data
        self.num_grades = num_grades
        self.prediction = prediction
        self.truth = truth
        self.thresholds = thresholds
        self.name = name
        self.restore_best_weights = restore_best_weights
        self.batch_size = batch_size
        self.accuracy_name = accuracy_name
        self._forget()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget an earlier `fit`."""
        self._forget()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log the kappa of this epoch."""
        confusion = self._confusion()
        value = float(quadratic_weighted_kappa(confusion))
        if logs is not None:
            logs[self.name] = value
            if self.accuracy_name is not None:
                logs[self.accuracy_name] = float(np.trace(confusion) / confusion.sum())
        # A NaN is better than nothing in no comparison, and must not become the first best.
        if value > (-np.inf if self.best_value is None else self.best_value):
            self.best_value, self.best_epoch = value, epoch
            if self.restore_best_weights:
                # Copies: on PyTorch the arrays that Keras returns share memory with the weights.
                self.best_weights = [np.array(weight) for weight in self.model.get_weights()]

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Bring the best weights back, if asked to."""
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)

    def get_state(self) -> dict[str, Any]:
        """What a resumed run needs: plain values and NumPy arrays."""
        return {
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Take up what `get_state` gave, after `on_train_begin`, which forgets."""
        self.best_value = state["best_value"]
        self.best_epoch = state["best_epoch"]
        self.best_weights = state["best_weights"]

    def _forget(self) -> None:
        self.best_value = None
        self.best_epoch = None
        self.best_weights = None

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
        """Predictions, labels and weights of the whole set, drawn in one pass, hence in one order."""
        outputs, labels, weights = [], [], []
        for x, y, weight in _batches(self.validation_data, self.batch_size):
            # Not `predict`: on PyTorch its loader draws from the generator that training draws from.
            output = self.model.predict_on_batch(x)
            if not isinstance(output, np.ndarray):
                raise ValueError(f"The model must have one output. Received a {type(output).__name__}.")
            # Under `tf.distribute` each replica predicts the whole batch, and their rows are joined.
            outputs.append(output[: len(y)])
            labels.append(y)
            weights.append(weight)
        if not labels:
            raise ValueError("`validation_data` must hold at least one batch. Received none.")
        return np.concatenate(outputs), np.concatenate(labels), np.concatenate(weights)


def _check_validation_data(data: Any) -> None:
    if isinstance(data, tuple):
        _unpack(data)
        return
    if not isinstance(data, Iterable) or isinstance(data, Iterator | np.ndarray | str):
        raise ValueError(
            "`validation_data` must be (x, y), (x, y, sample_weight), or batches of these that can be gone "
            f"through again every epoch. Received {type(data).__name__}."
        )
    endless = isinstance(data, keras.utils.PyDataset) and data.num_batches is None
    if endless or (hasattr(data, "cardinality") and int(data.cardinality()) == _INFINITE):
        raise ValueError(f"`validation_data` must end. Received an endless {type(data).__name__}.")


def _batches(data: Any, batch_size: int) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    if not isinstance(data, tuple):
        yield from map(_unpack, data)
        return
    arrays = _unpack(data)
    for start in range(0, len(arrays[1]), batch_size):
        rows = slice(start, start + batch_size)
        yield keras.tree.map_structure(lambda array, rows=rows: array[rows], arrays)


def _unpack(batch: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Inputs, labels and weights, 1 where none are given, as NumPy arrays with the same number of rows."""
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        length = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise ValueError(
            "`validation_data` and each of its batches must be (x, y) or (x, y, sample_weight). "
            f"Received {type(batch).__name__}{length}."
        )
    x = keras.tree.map_structure(ops.convert_to_numpy, batch[0])
    y = ops.convert_to_numpy(batch[1])
    given = batch[2] if len(batch) == 3 else None
    weight = np.ones(y.shape[:1], "float32") if given is None else np.ravel(ops.convert_to_numpy(given))
    rows = [array.shape[:1] for array in [*keras.tree.flatten(x), y, weight]]
    if len(set(rows)) != 1 or rows[0] == ():
        raise ValueError(
            "`validation_data` must have one label, and one weight if any, for each input. "
            f"Received rows {rows}, weights last."
        )
    return x, y, weight
