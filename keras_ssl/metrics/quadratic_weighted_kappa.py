"""Quadratic weighted kappa: how far a grader agrees with another, the measure of grading studies."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ssl.metrics.grades import GradeForm, decode_grades, grade_confusion, grade_thresholds


def quadratic_weighted_kappa(confusion: Any) -> Any:
    """Agreement of two graders beyond chance, disagreement weighted by squared distance.

    Args:
        confusion: counts, shape `(..., grades, grades)`, rows true, columns predicted; may be
            weighted. Leading axes hold further matrices, such as those of a bootstrap.

    Returns:
        Shape `(...)`, a scalar for one matrix; in float64 for NumPy input, in float32 for a backend
        tensor. In [-1, 1]: 1 full agreement, 0 chance level. 0 where one grade alone was ever seen and
        given, or none, since agreement beyond chance is then undefined. NaN where `confusion` holds NaN.

    Raises:
        ValueError: `confusion` is not a square matrix of at least two grades.

    >>> round(float(quadratic_weighted_kappa([[5, 0], [0, 5]])), 3)
    1.0
    >>> quadratic_weighted_kappa([[[5, 0], [0, 5]], [[0, 5], [5, 0]]]).tolist()
    [1.0, -1.0]

    References:
        Cohen, J. (1968). Weighted kappa. Psychological Bulletin 70(4).
    """
    if ops.is_tensor(confusion):
        library, confusion = ops, ops.cast(confusion, "float32")
    else:
        library, confusion = np, np.asarray(confusion, dtype="float64")
    shape = tuple(confusion.shape)
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 2:
        raise ValueError(
            "`confusion` must be square, one row and column for each of 2 or more grades. "
            f"Received shape {shape}."
        )
    grades = library.arange(shape[-1], dtype="float32")
    distance = (grades[:, None] - grades) ** 2
    true = library.sum(confusion, axis=-1)
    predicted = library.sum(confusion, axis=-2)
    observed = library.sum(confusion * distance, axis=(-2, -1)) * library.sum(true, axis=-1)
    by_chance = library.sum(true[..., :, None] * predicted[..., None, :] * distance, axis=(-2, -1))
    # Not `> 0`, which NaN would fail, to come out as a kappa of 0.
    undefined = by_chance == 0
    kappa = 1 - observed / library.where(undefined, 1.0, by_chance)
    return library.where(undefined, 0.0, kappa)


@keras.saving.register_keras_serializable(package="keras_ssl")
class QuadraticWeightedKappa(keras.metrics.Metric):
    """Quadratic weighted kappa of all samples since the last reset.

    Its state is the confusion matrix, in float32 under any precision policy, so that the value after many
    batches is that of the whole set at once (a mean of kappas per batch would not be). No sample is left
    out: truth that is no grade, and predictions that are NaN, make the kappa NaN until the next reset.

    Args:
        num_grades: how many grades there are.
        prediction: how the model writes a grade, see `decode_grades`.
        truth: how `y_true` writes a grade: `"grades"`, or encoded like the targets of the loss.
        thresholds: what predictions are compared with, see `decode_grades`.
        name: name of the metric.
        dtype: as in every Keras metric; counting is float32 all the same.

    Raises:
        ValueError: see `grade_thresholds`; in `update_state`, shapes that are not those of the forms.

    >>> kappa = QuadraticWeightedKappa(num_grades=3, prediction="grades")
    >>> kappa.update_state([0, 1, 2], [0, 1, 1])
    >>> kappa.update_state([2, 0, 1], [2, 0, 1])
    >>> round(float(kappa.result()), 3)
    0.857
    """

    def __init__(
        self,
        num_grades: int = 5,
        prediction: GradeForm = "probabilities",
        truth: GradeForm = "grades",
        thresholds: float | Sequence[float] | None = None,
        name: str = "qwk",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        # Where Keras' own metrics say that more is better, so that `mode="auto"` of a callback knows.
        self._direction = "up"
        grade_thresholds(truth, num_grades)
        cuts = grade_thresholds(prediction, num_grades, thresholds)
        self.num_grades = num_grades
        self.prediction = prediction
        self.truth = truth
        self.thresholds = None if thresholds is None else cuts
        self.confusion = self.add_variable(
            (num_grades, num_grades), "zeros", dtype="float32", name="confusion"
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch; `sample_weight` is a scalar or one number per row."""
        true = decode_grades(y_true, self.truth, self.num_grades)
        predicted = decode_grades(y_pred, self.prediction, self.num_grades, self.thresholds)
        self.confusion.assign(
            self.confusion + grade_confusion(true, predicted, self.num_grades, sample_weight)
        )

    def result(self) -> Any:
        """Kappa of all that was counted; 0 before anything was."""
        return quadratic_weighted_kappa(ops.convert_to_tensor(self.confusion))

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the same metric again."""
        return {
            **super().get_config(),
            "num_grades": self.num_grades,
            "prediction": self.prediction,
            "truth": self.truth,
            "thresholds": self.thresholds,
        }
