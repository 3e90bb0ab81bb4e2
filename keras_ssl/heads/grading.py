"""Heads for grades and classes: ordinal, multi-hot, classification, regression."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import keras
import numpy as np
import numpy.typing as npt

from keras_ssl._checks import check_grades
from keras_ssl._types import Labels
from keras_ssl.heads.base import PooledHead, grade_probabilities
from keras_ssl.metrics.grades import GradeForm, grade_thresholds


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True)
class OrdinalHead(PooledHead):
    """Ordinal regression: K - 1 sigmoids, the k-th for "the grade is above k" (cumulative targets).

    Trained with binary cross-entropy. The grade is the number of sigmoids above one half, so every output
    decodes to a grade. Further arguments are those of `PooledHead`.

    Args:
        num_grades: number of grades K, at least 2; labels are 0 to K - 1.

    >>> head = OrdinalHead(5)
    >>> head.encode([0, 3]).tolist()
    [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]
    >>> head.decode([[0.9, 0.8, 0.2, 0.1]]).tolist()
    [2]

    References:
        Frank, E. & Hall, M. (2001). A simple approach to ordinal classification. ECML.
    """

    num_grades: int

    def __post_init__(self) -> None:
        _check_num_grades("num_grades", self.num_grades)

    @property
    def grade_count(self) -> int:
        """The number of grades."""
        return self.num_grades

    @property
    def output_units(self) -> int:
        """One less than the number of grades."""
        return self.num_grades - 1

    @property
    def form(self) -> GradeForm:
        """Cumulative."""
        return "cumulative"

    def encode(self, labels: Labels) -> np.ndarray:
        """Convert grades, `(n,)` or one-hot `(n, K)`, to cumulative targets, float32 `(n, K - 1)`."""
        grades = check_grades(labels, self.num_grades, several=False)
        return (grades[:, None] > np.arange(self.num_grades - 1)).astype("float32")

    def probabilities(self, outputs: npt.ArrayLike) -> np.ndarray:
        """Return differences of the cumulative probabilities, sorted in descending order first."""
        return grade_probabilities(np.asarray(outputs))


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True)
class MultiHotHead(PooledHead):
    """Ordinal regression with multi-hot targets: K sigmoids, grade g encoded as g + 1 ones.

    The convention of several Kaggle solutions, to reproduce their results. The first target is always one
    and carries no information: prefer `OrdinalHead`. Further arguments are those of `PooledHead`.

    Args:
        num_grades: number of grades K, at least 2; labels are 0 to K - 1.

    >>> head = MultiHotHead(5, hidden_units=(1024,), batch_norm=True, dropout=0.5, pooling="max")
    >>> head.encode([1]).tolist()
    [[1.0, 1.0, 0.0, 0.0, 0.0]]
    >>> head.decode([[0.1, 0.1, 0.1, 0.1, 0.1]]).tolist()
    [0]
    >>> MultiHotHead(3).probabilities([[1.0, 0.75, 0.25]]).tolist()
    [[0.25, 0.5, 0.25]]
    """

    num_grades: int

    def __post_init__(self) -> None:
        _check_num_grades("num_grades", self.num_grades)

    @property
    def grade_count(self) -> int:
        """The number of grades."""
        return self.num_grades

    @property
    def output_units(self) -> int:
        """The number of grades."""
        return self.num_grades

    @property
    def form(self) -> GradeForm:
        """Multi-hot."""
        return "multi_hot"

    def encode(self, labels: Labels) -> np.ndarray:
        """Convert grades, `(n,)` or one-hot `(n, K)`, to multi-hot targets, float32 `(n, K)`."""
        grades = check_grades(labels, self.num_grades, several=False)
        return (grades[:, None] >= np.arange(self.num_grades)).astype("float32")

    def probabilities(self, outputs: npt.ArrayLike) -> np.ndarray:
        """Return differences of the cumulative probabilities, without the first sigmoid."""
        return grade_probabilities(np.asarray(outputs)[:, 1:])


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True)
class ClassificationHead(PooledHead):
    """Classification of unordered classes: a softmax, trained with cross-entropy.

    Further arguments are those of `PooledHead`.

    Args:
        num_classes: number of classes, at least 2; labels are 0 to `num_classes - 1`.

    >>> ClassificationHead(3).decode([[0.2, 0.5, 0.3]]).tolist()
    [1]
    """

    activation: ClassVar[str | None] = "softmax"

    num_classes: int

    def __post_init__(self) -> None:
        _check_num_grades("num_classes", self.num_classes)

    @property
    def grade_count(self) -> int:
        """The number of classes."""
        return self.num_classes

    @property
    def output_units(self) -> int:
        """The number of classes."""
        return self.num_classes

    @property
    def form(self) -> GradeForm:
        """Probabilities."""
        return "probabilities"

    def encode(self, labels: Labels) -> np.ndarray:
        """Convert classes, `(n,)` or one-hot `(n, num_classes)`, to int64 `(n,)`."""
        return check_grades(labels, self.num_classes, several=False)

    def probabilities(self, outputs: npt.ArrayLike) -> np.ndarray:
        """Return the softmax."""
        return np.asarray(outputs)


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True)
class RegressionHead(PooledHead):
    """Regression: one continuous output, trained with the mean squared error.

    Further arguments are those of `PooledHead`.

    Args:
        num_grades: number of grades K if labels are grades 0 to K - 1, which `decode` then returns; `None`
            for any finite numbers.
        thresholds: K - 1 ascending cut points between grades; `None` rounds to the nearest grade.

    Raises:
        ValueError: `num_grades` is below 2, or `thresholds` are not K - 1 ascending numbers, or are given
            without `num_grades`; in `probabilities`, always.

    >>> RegressionHead(5).decode([[1.2], [7.0]]).tolist()
    [1, 4]
    >>> RegressionHead(3, thresholds=(0.4, 1.1)).decode([[0.45], [1.2]]).tolist()
    [1, 2]
    """

    activation: ClassVar[str | None] = None

    num_grades: int | None = None
    thresholds: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.num_grades is not None:
            _check_num_grades("num_grades", self.num_grades)
        if self.thresholds is not None:
            if self.num_grades is None:
                raise ValueError(
                    f"`thresholds` must be None where `num_grades` is None. Received {self.thresholds}."
                )
            cuts = grade_thresholds("score", self.num_grades, self.thresholds)
            object.__setattr__(self, "thresholds", cuts)

    @property
    def grade_count(self) -> int:
        """The number of grades."""
        return self.num_grades or 0

    @property
    def output_units(self) -> int:
        """One."""
        return 1

    @property
    def form(self) -> GradeForm | None:
        """A score if labels are grades."""
        return None if self.num_grades is None else "score"

    def encode(self, labels: Labels) -> np.ndarray:
        """Return the labels as float32 `(n, 1)`."""
        if self.num_grades is not None:
            return check_grades(labels, self.num_grades, several=False).astype("float32")[:, None]
        values = np.asarray(labels, dtype="float32")
        if values.size != len(values) or not np.isfinite(values).all():
            raise ValueError(
                f"`labels` must be finite numbers of shape (n,) or (n, 1). Received shape {values.shape}"
                f"{'' if np.isfinite(values).all() else ' with NaN or infinity'}."
            )
        return values.reshape(-1, 1)

    def probabilities(self, outputs: npt.ArrayLike) -> np.ndarray:
        """Raise ValueError: a regression has no probabilities."""
        raise ValueError(
            "A RegressionHead predicts one number per image and no probabilities. Use OrdinalHead."
        )


def _check_num_grades(name: str, number: int) -> None:
    if not isinstance(number, (int, np.integer)) or number < 2:
        raise ValueError(f"`{name}` must be an integer of at least 2. Received {number!r}.")
