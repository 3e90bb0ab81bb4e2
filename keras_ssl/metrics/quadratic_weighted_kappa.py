"""Quadratic weighted kappa: how far a grader agrees with another, the measure of grading studies."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_ssl._checks import check_grades
from keras_ssl._keras_private import set_direction
from keras_ssl.metrics.grades import (
    GradeForm,
    decode_grades,
    grade_confusion,
    grade_thresholds,
)


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
        name: str = "qw_kappa",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        # Where Keras' own metrics say that more is better, so that `mode="auto"` of a callback knows.
        set_direction(self, "up")
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


def fit_thresholds(
    true_grades: npt.ArrayLike, scores: npt.ArrayLike, num_grades: int = 5
) -> tuple[float, ...]:
    """Find the cut points of a score that maximise quadratic weighted kappa on these images.

    Fit them on validation images, never on test images: they are parameters, and a kappa on the images
    that they were fitted to is too high.

    From rounding on, one cut point after the other is moved to where kappa is highest, the others fixed,
    until none moves. Every position that makes a difference is tried, so the result is never worse than
    rounding; it may be a local maximum. A moved cut point lies midway between two scores. Those that
    stay where they were keep the value of rounding, as do all for grades that do not occur if kappa gains
    nothing by them.

    Args:
        true_grades: whole numbers in 0..`num_grades` - 1, shape `(n,)`; not all need occur.
        scores: continuous grades, such as the outputs of a `RegressionHead`, shape `(n,)` or `(n, 1)`,
            compared in float32 as `decode_grades` does.
        num_grades: how many grades K there are, at least 2.

    Returns:
        K - 1 strictly ascending cut points, for `RegressionHead(thresholds=...)` or
        `decode_grades(..., "score")`.

    Raises:
        ValueError: an argument is not as described, or `scores` are not finite.

    >>> fit_thresholds([0, 0, 1, 1, 2], [0.0, 0.25, 0.5, 1.0, 1.25], num_grades=3)
    (0.375, 1.125)
    """
    default = np.array(grade_thresholds("score", num_grades))
    true = check_grades(true_grades, num_grades, several=False, name="true_grades")
    given = np.asarray(scores, dtype="float32")
    if given.shape not in ((len(true),), (len(true), 1)) or not np.isfinite(given).all():
        raise ValueError(
            f"`scores` must be {len(true)} finite numbers of shape (n,) or (n, 1). "
            f"Received shape {given.shape}{'' if np.isfinite(given).all() else ' with NaN or infinity'}."
        )
    distinct, position = np.unique(given.ravel(), return_inverse=True)
    # Column c: how many images of each grade are among the c lowest distinct scores.
    below = np.zeros((num_grades, len(distinct) + 1))
    np.add.at(below, (true, position + 1), 1)
    below = below.cumsum(axis=1)
    start = np.searchsorted(distinct, default, side="right")
    cuts = _best_cuts(below, start)
    return tuple(_placed(cuts, start, default, distinct.astype("float64")).tolist())


def _best_cuts(below: np.ndarray, start: np.ndarray) -> np.ndarray:
    """How many distinct scores lie below each cut, by coordinate search."""
    last = below.shape[1] - 1
    cuts, best = start.copy(), _kappas(below, start[None])[0]
    moved = True
    while moved:
        moved = False
        for k in range(len(cuts)):
            low, high = (cuts[k - 1] if k else 0), (cuts[k + 1] if k + 1 < len(cuts) else last)
            tried = np.repeat(cuts[None], high - low + 1, axis=0)
            tried[:, k] = np.arange(low, high + 1)
            kappas = _kappas(below, tried)
            # More than rounding errors, or equal positions would take turns for ever.
            if kappas.max() > best + 1e-12:
                cuts, best, moved = tried[kappas.argmax()], kappas.max(), True
    return cuts


def _kappas(below: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Kappa for each row of `cuts`."""
    counted = np.moveaxis(below[:, cuts], 0, -2)
    none, all_ = np.zeros_like(counted[..., :1]), np.broadcast_to(below[:, -1:], (*counted.shape[:-1], 1))
    return quadratic_weighted_kappa(np.diff(np.concatenate([none, counted, all_], axis=-1), axis=-1))


def _placed(cuts: np.ndarray, start: np.ndarray, default: np.ndarray, distinct: np.ndarray) -> np.ndarray:
    """Numbers for the cuts: those of one gap between scores share it evenly."""
    edges = np.concatenate([[distinct[0] - 1], distinct, [distinct[-1] + 1]])
    placed = default.copy()
    for cut in np.unique(cuts):
        here = cuts == cut
        if (start[here] == cut).all():
            continue
        low, high = edges[cut], edges[cut + 1]
        share = np.arange(1, here.sum() + 1) / (here.sum() + 1)
        # Between neighbors in float32, what lies midway may be rounded up, onto the higher one.
        neighbors = np.nextafter(np.float32(low), np.float32(high)) >= high
        placed[here] = low + (high - low) * share * (0.25 if neighbors else 1)
    return placed
