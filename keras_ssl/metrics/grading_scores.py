"""Grading scores by name: kappa, accuracy, AUC, sensitivity, calibration."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from keras_ssl._checks import check_grades
from keras_ssl.metrics.grades import decode_grades, grade_confusion
from keras_ssl.metrics.quadratic_weighted_kappa import quadratic_weighted_kappa

ScoreName = Literal[
    "qw_kappa",
    "accuracy",
    "balanced_accuracy",
    "macro_auc",
    "grade_mae",
    "referable_sensitivity",
    "referable_specificity",
    "calibration_error",
    "element_accuracy",
    "qw_kappa_kaggle",
    "cat_acc_kaggle",
]

_OF_PROBABILITIES: tuple[ScoreName, ...] = ("macro_auc", "calibration_error")
_CALIBRATION_BINS = 10


def grading_scores(
    true_grades: npt.ArrayLike,
    predicted_grades: npt.ArrayLike,
    probabilities: npt.ArrayLike | None = None,
    *,
    num_grades: int,
    referable_from: int = 2,
    multi_hot: npt.ArrayLike | None = None,
    names: Sequence[ScoreName] | None = None,
) -> dict[str, float]:
    """Compute scores of predicted grades.

    | name | definition |
    | --- | --- |
    | `qw_kappa` | `quadratic_weighted_kappa` |
    | `accuracy` | fraction of images graded correctly |
    | `balanced_accuracy` | mean recall over the true grades that occur |
    | `macro_auc` | one-vs-rest area under the ROC curve, averaged over the grades that occur; nan if only \
one does |
    | `grade_mae` | mean absolute error of the grade |
    | `referable_sensitivity` | recall of grades of `referable_from` or above; nan if there are none |
    | `referable_specificity` | recall of grades below `referable_from`; nan if there are none |
    | `calibration_error` | expected calibration error (ECE) of the highest probability, 10 bins of equal \
width |
    | `element_accuracy` | fraction of correct elements of the multi-hot code, thresholded at 0.5 |
    | `qw_kappa_kaggle` | kappa of the grades decoded from `multi_hot` |
    | `cat_acc_kaggle` | accuracy of the grades decoded from `multi_hot` |

    `element_accuracy` is what Keras shows as "accuracy" for multi-hot targets. It is optimistic: an image has
    K elements, most of them easy, and a grade that is off by one has only one wrong element. With an
    `element_accuracy` of 0.87, 64 % of the images may be graded correctly. Do not compare it with accuracies.

    The last two decode outputs as several Kaggle solutions do: the number of elements above 0.5, minus one.
    Some solutions exclude rows without such an element from the kappa; here they are grade 0, as in
    `decode_grades`. Without `multi_hot`, the code of `predicted_grades` replaces it, and the two equal
    `qw_kappa` and `accuracy`.

    Args:
        true_grades: whole numbers in 0..`num_grades` - 1, shape `(n,)`.
        predicted_grades: whole numbers in 0..`num_grades` - 1, shape `(n,)`.
        probabilities: probability of each grade, shape `(n, num_grades)`, rows summing to 1 within 0.001.
            `calibration_error` and `macro_auc` use only these, not `predicted_grades`.
        num_grades: number of grades K, at least 2.
        referable_from: lowest grade that requires referral, at least 1. If it is above all grades, as 2 is
            for two classes, both referable scores are nan.
        multi_hot: outputs of a `MultiHotHead`, shape `(n, num_grades)`.
        names: names of the scores; by default all that do not need missing `probabilities`.

    Returns:
        The scores in the order of `names`, as plain floats.

    Raises:
        ValueError: an argument is invalid, a name is unknown, or a score that needs `probabilities` is named
            without them.

    >>> scores = grading_scores([0, 1, 2, 3], [0, 1, 2, 1], num_grades=4)
    >>> scores["accuracy"], scores["grade_mae"], scores["referable_sensitivity"]
    (0.75, 0.5, 0.5)

    References:
        Guo, C. et al. (2017). On calibration of modern neural networks. ICML.
    """
    if num_grades < 2:
        raise ValueError(f"`num_grades` must be at least 2. Received {num_grades}.")
    if referable_from < 1:
        raise ValueError(f"`referable_from` must be at least 1. Received {referable_from}.")
    true = check_grades(true_grades, num_grades, several=False, name="true_grades")
    predicted = check_grades(
        predicted_grades, num_grades, several=False, name="predicted_grades", rows=len(true)
    )
    code = predicted[:, None] >= np.arange(num_grades) if multi_hot is None else multi_hot
    grading = _Grading(
        true,
        predicted,
        None if probabilities is None else _checked_probabilities(probabilities, len(true), num_grades),
        _checked_outputs("multi_hot", code, len(true), num_grades),
        num_grades,
        referable_from,
    )
    chosen = _chosen_names(names, probabilities is None)
    return {name: float(_SCORES[name](grading)) for name in chosen}


@dataclasses.dataclass(frozen=True)
class _Grading:
    true: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray | None
    multi_hot: np.ndarray
    num_grades: int
    referable_from: int

    @property
    def decoded(self) -> np.ndarray:
        """Grades decoded from the multi-hot outputs."""
        return decode_grades(self.multi_hot, "multi_hot", self.num_grades)


def _kappa(true: np.ndarray, predicted: np.ndarray, num_grades: int) -> float:
    return quadratic_weighted_kappa(grade_confusion(true, predicted, num_grades))


def _balanced_accuracy(grading: _Grading) -> float:
    from sklearn.metrics import recall_score

    # Not balanced_accuracy_score, which warns of each predicted grade that is not among the true ones.
    occur = np.unique(grading.true)
    return recall_score(grading.true, grading.predicted, labels=occur, average="macro")


def _macro_auc(grading: _Grading) -> float:
    from sklearn.metrics import roc_auc_score

    assert grading.probabilities is not None
    occur = np.unique(grading.true)
    if len(occur) < 2:
        return np.nan
    return np.mean([roc_auc_score(grading.true == grade, grading.probabilities[:, grade]) for grade in occur])


def _grade_mae(grading: _Grading) -> float:
    from sklearn.metrics import mean_absolute_error

    return mean_absolute_error(grading.true, grading.predicted)


def _referable_recall(grading: _Grading, referable: bool) -> float:
    from sklearn.metrics import recall_score

    if grading.referable_from >= grading.num_grades:
        return np.nan
    true, predicted = (grades >= grading.referable_from for grades in (grading.true, grading.predicted))
    return recall_score(true, predicted, pos_label=referable, zero_division=np.nan)


def _calibration_error(grading: _Grading) -> float:
    assert grading.probabilities is not None
    confidence = grading.probabilities.max(axis=1)
    correct = grading.probabilities.argmax(axis=1) == grading.true
    bins = np.digitize(confidence, np.linspace(0, 1, _CALIBRATION_BINS + 1)[1:-1], right=True)
    return np.abs(np.bincount(bins, weights=correct - confidence)).sum() / len(correct)


def _element_accuracy(grading: _Grading) -> float:
    code = grading.true[:, None] >= np.arange(grading.num_grades)
    return np.mean(code == (grading.multi_hot > 0.5))


_SCORES: dict[ScoreName, Callable[[_Grading], float]] = {
    "qw_kappa": lambda grading: _kappa(grading.true, grading.predicted, grading.num_grades),
    "accuracy": lambda grading: np.mean(grading.true == grading.predicted),
    "balanced_accuracy": _balanced_accuracy,
    "macro_auc": _macro_auc,
    "grade_mae": _grade_mae,
    "referable_sensitivity": lambda grading: _referable_recall(grading, referable=True),
    "referable_specificity": lambda grading: _referable_recall(grading, referable=False),
    "calibration_error": _calibration_error,
    "element_accuracy": _element_accuracy,
    "qw_kappa_kaggle": lambda grading: _kappa(grading.true, grading.decoded, grading.num_grades),
    "cat_acc_kaggle": lambda grading: np.mean(grading.true == grading.decoded),
}


def _chosen_names(names: Sequence[ScoreName] | None, no_probabilities: bool) -> Sequence[ScoreName]:
    if names is None:
        return [name for name in _SCORES if not (no_probabilities and name in _OF_PROBABILITIES)]
    unknown = [name for name in names if name not in _SCORES]
    if unknown:
        raise ValueError(f"`names` must be among {get_args(ScoreName)}. Received {unknown[0]!r}.")
    missing = [name for name in names if no_probabilities and name in _OF_PROBABILITIES]
    if missing:
        raise ValueError(f"`probabilities` must be given for the score {missing[0]!r}. Received None.")
    return names


def _checked_outputs(name: str, values: npt.ArrayLike, rows: int, num_grades: int) -> np.ndarray:
    outputs = np.asarray(values, dtype="float64")
    if outputs.shape != (rows, num_grades):
        raise ValueError(f"`{name}` must have shape {(rows, num_grades)}. Received shape {outputs.shape}.")
    if not np.isfinite(outputs).all():
        row = int(np.argmin(np.isfinite(outputs).all(axis=1)))
        raise ValueError(f"`{name}` must be finite. Received {outputs[row].tolist()} in row {row}.")
    return outputs


def _checked_probabilities(values: npt.ArrayLike, rows: int, num_grades: int) -> np.ndarray:
    probabilities = _checked_outputs("probabilities", values, rows, num_grades)
    bad = (probabilities < 0).any(axis=1) | (np.abs(probabilities.sum(axis=1) - 1) > 1e-3)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            "`probabilities` must not be negative and must sum to 1 in every row. "
            f"Received {probabilities[row].tolist()} in row {row}."
        )
    return probabilities
