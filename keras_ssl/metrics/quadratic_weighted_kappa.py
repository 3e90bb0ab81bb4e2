"""Quadratic weighted kappa: function, metric, and thresholds that maximize it."""

from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_ssl._checks import check_grades
from keras_ssl._keras_private import set_direction
from keras_ssl._types import Config, Tensor
from keras_ssl.metrics.grades import (
    GradeForm,
    decode_grades,
    grade_confusion,
    grade_thresholds,
)


def quadratic_weighted_kappa(confusion: Tensor) -> Tensor:
    """Compute quadratic weighted kappa: agreement of two graders beyond chance, penalizing squared distance.

    Args:
        confusion: confusion matrix, counts of shape `(..., grades, grades)`, rows true, columns predicted;
            may be weighted. Leading axes are batch axes, for example the samples of a bootstrap.

    Returns:
        Shape `(...)`, a scalar for one matrix; in float64 for NumPy input, in float32 for a backend
        tensor. In [-1, 1]: 1 is full agreement, 0 chance level. 0 if truth and prediction hold the same
        single grade, or no grade: agreement beyond chance is then undefined. NaN if `confusion` holds NaN.

    Raises:
        ValueError: `confusion` is not a square matrix of at least 2 grades.

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
            "`confusion` must be square, with a row and a column for each of at least 2 grades. "
            f"Received shape {shape}."
        )
    grades = library.arange(shape[-1], dtype="float32")
    distance = (grades[:, None] - grades) ** 2
    true = library.sum(confusion, axis=-1)
    predicted = library.sum(confusion, axis=-2)
    observed = library.sum(confusion * distance, axis=(-2, -1)) * library.sum(true, axis=-1)
    by_chance = library.sum(true[..., :, None] * predicted[..., None, :] * distance, axis=(-2, -1))
    # Not `> 0`, which is false for NaN and would give a kappa of 0.
    undefined = by_chance == 0
    kappa = 1 - observed / library.where(undefined, 1.0, by_chance)
    return library.where(undefined, 0.0, kappa)


@keras.saving.register_keras_serializable(package="keras_ssl")
class QuadraticWeightedKappa(keras.metrics.Metric):
    """Quadratic weighted kappa of all samples since the last reset.

    Its state is the confusion matrix, in float32 under any precision policy, so that the result after many
    batches is that of the whole set (unlike a mean of the kappas of batches). No sample is left out: invalid
    true grades, and predictions that are NaN, make the kappa NaN until the next reset.

    Args:
        num_grades: number of grades.
        prediction: form of the predictions, see `decode_grades`.
        truth: form of `y_true`: `"grades"`, or the encoding of the loss' targets.
        thresholds: thresholds for predictions, see `decode_grades`.
        name: name of the metric.
        dtype: as in every Keras metric; counts are float32 in any case.

    Raises:
        ValueError: see `grade_thresholds`; in `update_state`, shapes do not match the forms.

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
        dtype: str | keras.DTypePolicy | None = None,
    ):
        super().__init__(name=name, dtype=dtype)
        # For `mode="auto"` of callbacks.
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

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch to the confusion matrix; `sample_weight` is a scalar or one number per row."""
        true = decode_grades(y_true, self.truth, self.num_grades)
        predicted = decode_grades(y_pred, self.prediction, self.num_grades, self.thresholds)
        self.confusion.assign(
            self.confusion + grade_confusion(true, predicted, self.num_grades, sample_weight)
        )

    def result(self) -> Tensor:
        """Return the kappa since the last reset; 0 without any samples."""
        return quadratic_weighted_kappa(ops.convert_to_tensor(self.confusion))

    def get_config(self) -> Config:
        """Return the arguments of the metric."""
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
    """Fit the thresholds of a continuous score that maximize quadratic weighted kappa.

    Fit them on validation images, never on test images: they are parameters, and the kappa on the images
    that they were fitted to is too high.

    Coordinate search, starting from rounding: one threshold after the other is moved to the position of the
    highest kappa, with the others fixed, until none moves. All distinct positions are tried, so the result is
    never worse than rounding; it may be a local maximum. A moved threshold lies midway between two scores.
    Thresholds that no move improves keep the value of rounding.

    Args:
        true_grades: whole numbers in 0..`num_grades` - 1, shape `(n,)`; some grades may be absent.
        scores: continuous grades, such as the outputs of a `RegressionHead`, shape `(n,)` or `(n, 1)`,
            compared in float32 as in `decode_grades`.
        num_grades: number of grades K, at least 2.

    Returns:
        K - 1 strictly ascending thresholds, for `RegressionHead(thresholds=...)` or
        `decode_grades(..., "score")`.

    Raises:
        ValueError: an argument is invalid, or `scores` are not finite.

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
    # Column c: images of each grade among the c lowest distinct scores.
    below = np.zeros((num_grades, len(distinct) + 1))
    np.add.at(below, (true, position + 1), 1)
    below = below.cumsum(axis=1)
    start = np.searchsorted(distinct, default, side="right")
    cuts = _best_cuts(below, start)
    return tuple(_placed(cuts, start, default, distinct.astype("float64")).tolist())


def _best_cuts(below: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Search, coordinate by coordinate, the number of distinct scores below each threshold."""
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
            # By more than rounding errors, or equal positions would alternate forever.
            if kappas.max() > best + 1e-12:
                cuts, best, moved = tried[kappas.argmax()], kappas.max(), True
    return cuts


def _kappas(below: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return the kappa for each row of `cuts`."""
    counted = np.moveaxis(below[:, cuts], 0, -2)
    none, all_ = np.zeros_like(counted[..., :1]), np.broadcast_to(below[:, -1:], (*counted.shape[:-1], 1))
    return quadratic_weighted_kappa(np.diff(np.concatenate([none, counted, all_], axis=-1), axis=-1))


def _placed(cuts: np.ndarray, start: np.ndarray, default: np.ndarray, distinct: np.ndarray) -> np.ndarray:
    """Return the thresholds; those in the same gap between two scores divide it evenly."""
    edges = np.concatenate([[distinct[0] - 1], distinct, [distinct[-1] + 1]])
    placed = default.copy()
    for cut in np.unique(cuts):
        here = cuts == cut
        if (start[here] == cut).all():
            continue
        low, high = edges[cut], edges[cut + 1]
        fractions = np.arange(1, here.sum() + 1) / (here.sum() + 1)
        # Between adjacent float32 numbers, the midpoint may be rounded up to the higher one.
        neighbors = np.nextafter(np.float32(low), np.float32(high)) >= high
        placed[here] = low + (high - low) * fractions * (0.25 if neighbors else 1)
    return placed
