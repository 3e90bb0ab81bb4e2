"""Heads that a fine-tuned encoder ends in: how grades are written as targets and read from outputs."""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_ssl.configurable import Configurable
from keras_ssl.data.checks import check_grades
from keras_ssl.layers.mlp import mlp, pool_features
from keras_ssl.metrics import GradeForm, decode_grades, grade_thresholds

_LOSSES = {
    "sigmoid": keras.losses.BinaryCrossentropy,
    "softmax": keras.losses.SparseCategoricalCrossentropy,
    None: keras.losses.MeanSquaredError,
}


class Head(Configurable, abc.ABC):
    """What stands on an encoder for one kind of label, made of core Keras layers only.

    A head is a frozen dataclass of plain values. Users pass plain labels: `encode` makes targets of them
    where the data is prepared, `decode` and `probabilities` read outputs.

    >>> encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    >>> images = keras.Input((8, 8, 3))
    >>> OrdinalHead(3, hidden_units=(16,)).attach(encoder, images).shape
    (None, 2)
    """

    @abc.abstractmethod
    def attach(self, encoder: keras.Model | keras.Layer, images: keras.KerasTensor) -> keras.KerasTensor:
        """Call an encoder on symbolic images `(batch, *spatial, channels)` and put the head on it.

        Raises:
            ValueError: the encoder does not give what the head stands on, or a field is out of range.
        """

    @abc.abstractmethod
    def loss(self) -> keras.losses.Loss:
        """Make the loss that suits targets and outputs."""

    def chance_loss(self) -> float | None:
        """Return about what `loss` is for guessing; `None` where it is not known."""
        return None

    @abc.abstractmethod
    def for_metrics(self, targets: Any, outputs: Any) -> tuple[Any, Any]:
        """Turn targets and outputs, tensors, into labels and probabilities, as Keras' metrics take them."""

    @abc.abstractmethod
    def encode(self, labels: Any) -> np.ndarray:
        """Turn labels, one a row, into targets; raise ValueError on labels out of range."""

    @abc.abstractmethod
    def check_training_labels(self, labels: Any) -> None:
        """Raise ValueError on labels that `encode` refuses, or that leave nothing to be learnt."""

    @abc.abstractmethod
    def decode(self, outputs: Any) -> np.ndarray:
        """Turn outputs into labels, one a row."""

    @abc.abstractmethod
    def probabilities(self, outputs: Any) -> np.ndarray:
        """Turn outputs into the probability of each grade or class, last axis, summing to 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledHead(Head, abc.ABC):
    """A head for one label an image: it pools the encoder's features and ends in a dense layer.

    A feature map is pooled, a feature vector passes; then come `hidden_units` and a float32 layer.

    Args:
        hidden_units: units of the dense ReLU layers before the last one.
        batch_norm: whether batch normalisation follows each of them.
        dropout: share of units dropped before each further layer, in [0, 1).
        pooling: `"average"` or `"max"`, over all spatial axes of a feature map.

    Raises:
        ValueError: a number of grades or classes is below 2; in `build`, any other argument is out of range.

    >>> head = OrdinalHead(3, hidden_units=(16,), dropout=0.5)
    >>> head.build(keras.Input((7, 7, 64))).shape
    (None, 2)
    """

    hidden_units: tuple[int, ...] = ()
    batch_norm: bool = False
    dropout: float = 0.0
    pooling: str = "average"

    def attach(self, encoder: keras.Model | keras.Layer, images: keras.KerasTensor) -> keras.KerasTensor:
        """Call an encoder on symbolic images and put the head on its features."""
        return self.build(encoder(images))

    def build(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Add the head to symbolic features `(batch, channels)` or `(batch, *spatial, channels)`."""
        x = mlp(
            pool_features(features, self.pooling),
            self.hidden_units,
            batch_norm=self.batch_norm,
            dropout=self.dropout,
            name="head",
        )
        return keras.layers.Dense(
            self.output_units, activation=self.activation, dtype="float32", name="head_outputs"
        )(x)

    activation: ClassVar[str | None] = "sigmoid"

    @property
    @abc.abstractmethod
    def output_units(self) -> int:
        """Units of the last layer."""

    @property
    @abc.abstractmethod
    def form(self) -> GradeForm | None:
        """How the outputs write a grade, for `decode_grades`; `None` where they are no grades."""

    @property
    @abc.abstractmethod
    def grade_count(self) -> int:
        """How many grades or classes there are; 0 where labels are none."""

    @property
    def target_form(self) -> GradeForm:
        """How the targets of `encode` write a grade, for `decode_grades`."""
        return self.form if self.form in ("cumulative", "multi_hot") else "grades"

    def loss(self) -> keras.losses.Loss:
        """Make the loss that suits targets and outputs, of Keras' own."""
        return _LOSSES[self.activation]()

    def chance_loss(self) -> float | None:
        """Return the cross-entropy of equal probabilities; `None` for a regression."""
        return {"sigmoid": math.log(2), "softmax": math.log(self.output_units)}.get(self.activation or "")

    def for_metrics(self, targets: Any, outputs: Any) -> tuple[Any, Any]:
        """Return labels `(n,)` and probabilities `(n, K)`; of a regression both as they are, `(n, 1)`."""
        if self.activation is None:
            return targets, outputs
        if self.form in ("cumulative", "multi_hot"):
            first = 0 if self.form == "cumulative" else 1
            targets, outputs = ops.sum(targets[:, first:], axis=-1), _differences(outputs[:, first:])
        return ops.reshape(targets, (-1,)), outputs

    def check_training_labels(self, labels: Any) -> None:
        """Raise ValueError on grades out of range or all the same."""
        if self.form is not None:
            check_grades(labels, self.grade_count)

    def decode(self, outputs: Any) -> np.ndarray:
        """Turn outputs into labels, shape `(n,)`; see `decode_grades` for how grades are read."""
        outputs = np.asarray(outputs)
        if self.form is None:
            return outputs.reshape(-1)
        return decode_grades(outputs, self.form, self.grade_count, getattr(self, "thresholds", None))


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True)
class OrdinalHead(PooledHead):
    """Grades in order, as K - 1 sigmoids of which the k-th says "the grade is above k".

    Trained with binary cross-entropy. The grade is the number of sigmoids above one half, so every
    output is a grade. Further arguments are those of every `PooledHead`.

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
        """One less than there are grades."""
        return self.num_grades - 1

    @property
    def form(self) -> GradeForm:
        """Cumulative."""
        return "cumulative"

    def encode(self, labels: Any) -> np.ndarray:
        """Turn grades, `(n,)` or one-hot `(n, K)`, into cumulative targets, float32 `(n, K - 1)`."""
        grades = check_grades(labels, self.num_grades, several=False)
        return (grades[:, None] > np.arange(self.num_grades - 1)).astype("float32")

    def probabilities(self, outputs: Any) -> np.ndarray:
        """Take differences of the cumulative probabilities, put in falling order first."""
        return _differences(np.asarray(outputs))


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True)
class MultiHotHead(PooledHead):
    """Grades in order, as K sigmoids: grade g is written as g + 1 ones.

    The convention of several Kaggle solutions. Its first sigmoid is always one and
    carries nothing: prefer `OrdinalHead`. It is here to reproduce results that were got with it.
    Further arguments are those of every `PooledHead`.

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
        """As many as there are grades."""
        return self.num_grades

    @property
    def form(self) -> GradeForm:
        """Multi-hot."""
        return "multi_hot"

    def encode(self, labels: Any) -> np.ndarray:
        """Turn grades, `(n,)` or one-hot `(n, K)`, into multi-hot targets, float32 `(n, K)`."""
        grades = check_grades(labels, self.num_grades, several=False)
        return (grades[:, None] >= np.arange(self.num_grades)).astype("float32")

    def probabilities(self, outputs: Any) -> np.ndarray:
        """Take differences of the cumulative probabilities, the first sigmoid left out."""
        return _differences(np.asarray(outputs)[:, 1:])


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True)
class ClassificationHead(PooledHead):
    """Classes without order, as a softmax trained with cross-entropy.

    Further arguments are those of every `PooledHead`.

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
        """As many as there are classes."""
        return self.num_classes

    @property
    def form(self) -> GradeForm:
        """Probabilities."""
        return "probabilities"

    def encode(self, labels: Any) -> np.ndarray:
        """Return the classes, given as `(n,)` or one-hot `(n, num_classes)`, as int64 `(n,)`."""
        return check_grades(labels, self.num_classes, several=False)

    def probabilities(self, outputs: Any) -> np.ndarray:
        """Return the softmax itself."""
        return np.asarray(outputs)


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True)
class RegressionHead(PooledHead):
    """One continuous number, trained with the mean squared error.

    Further arguments are those of every `PooledHead`.

    Args:
        num_grades: where labels are grades 0 to K - 1, their number K: `decode` then gives grades. `None`
            for any finite numbers.
        thresholds: K - 1 ascending cut points between grades; `None` rounds to the nearest grade.

    Raises:
        ValueError: `num_grades` is below 2, or `thresholds` are not K - 1 ascending numbers, or there are
            any without `num_grades`; in `probabilities`, always.

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
        """A score, where labels are grades."""
        return None if self.num_grades is None else "score"

    def encode(self, labels: Any) -> np.ndarray:
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

    def probabilities(self, outputs: Any) -> np.ndarray:
        """Refuse: a single number tells no probabilities."""
        raise ValueError("A RegressionHead gives one number an image and no probabilities. Use OrdinalHead.")


def _differences(above: Any) -> Any:
    """Probabilities of K grades from K - 1 of being above each, which need not fall as they should."""
    library: Any = ops if ops.is_tensor(above) else np
    # Sorting keeps the number above one half, hence agrees with what `decode` counts.
    falling = -library.sort(-above, axis=1)
    edges = library.ones_like(falling[:, :1]), library.zeros_like(falling[:, :1])
    return library.concatenate([edges[0], falling], axis=1) - library.concatenate([falling, edges[1]], axis=1)


def _check_num_grades(name: str, number: int) -> None:
    if not isinstance(number, (int, np.integer)) or number < 2:
        raise ValueError(f"`{name}` must be an integer of at least 2. Received {number!r}.")
