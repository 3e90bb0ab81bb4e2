"""Base classes of task heads."""

import abc
import dataclasses
import math
from typing import ClassVar

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_ssl._checks import check_grades
from keras_ssl._serialization import Configurable
from keras_ssl._types import Labels, Tensor
from keras_ssl.layers.pooling import dense_layers, pool_features
from keras_ssl.metrics.grades import GradeForm, decode_grades

_LOSSES = {
    "sigmoid": keras.losses.BinaryCrossentropy,
    "softmax": keras.losses.SparseCategoricalCrossentropy,
    None: keras.losses.MeanSquaredError,
}


class Head(Configurable, abc.ABC):
    """Base class of task heads: layers, loss and label encoding for one kind of label.

    A head is a frozen dataclass of plain values and adds core Keras layers only, so that the model loads
    without keras-ssl. Users pass plain labels: `encode` converts them to targets in the data pipeline,
    `decode` and `probabilities` convert outputs.

    >>> from keras_ssl.heads import OrdinalHead
    >>> encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    >>> images = keras.Input((8, 8, 3))
    >>> OrdinalHead(3, hidden_units=(16,)).attach(encoder, images).shape
    (None, 2)
    """

    @abc.abstractmethod
    def attach(self, encoder: keras.Model | keras.Layer, images: keras.KerasTensor) -> keras.KerasTensor:
        """Call an encoder on symbolic images `(batch, *spatial, channels)` and add the head.

        Raises:
            ValueError: the encoder's output is unsuitable, or a field is out of range.
        """

    @abc.abstractmethod
    def loss(self) -> keras.losses.Loss:
        """Create the loss of targets and outputs."""

    @abc.abstractmethod
    def chance_loss(self) -> float | None:
        """Return the approximate loss of guessing; `None` where it is not known."""

    @abc.abstractmethod
    def for_metrics(self, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Convert targets and outputs to labels and probabilities, as Keras' metrics take them."""

    @abc.abstractmethod
    def encode(self, labels: Labels) -> np.ndarray:
        """Convert labels, one per row, to targets; raise ValueError for labels out of range."""

    @abc.abstractmethod
    def check_training_labels(self, labels: Labels) -> None:
        """Raise ValueError for labels out of range, or all the same."""

    @abc.abstractmethod
    def decode(self, outputs: npt.ArrayLike) -> np.ndarray:
        """Convert outputs to labels, one per row."""

    @abc.abstractmethod
    def probabilities(self, outputs: npt.ArrayLike) -> np.ndarray:
        """Convert outputs to probabilities of grades or classes, which sum to 1 over the last axis."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledHead(Head, abc.ABC):
    """Base class of heads for one label per image: pooling, dense layers, a float32 output layer.

    A feature map is pooled, a feature vector is used as it is.

    Args:
        hidden_units: units of the dense ReLU layers before the output layer.
        batch_norm: whether batch normalization follows each of them.
        dropout: dropout rate after each of them, in [0, 1).
        pooling: `"average"` or `"max"`, over all spatial axes of a feature map.

    Raises:
        ValueError: a number of grades or classes is below 2; in `build`, any other argument is out of range.

    >>> from keras_ssl.heads import OrdinalHead
    >>> head = OrdinalHead(3, hidden_units=(16,), dropout=0.5)
    >>> head.build(keras.Input((7, 7, 64))).shape
    (None, 2)
    """

    hidden_units: tuple[int, ...] = ()
    batch_norm: bool = False
    dropout: float = 0.0
    pooling: str = "average"

    def attach(self, encoder: keras.Model | keras.Layer, images: keras.KerasTensor) -> keras.KerasTensor:
        """Call an encoder on symbolic images and add the head to its features."""
        return self.build(encoder(images))

    def build(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Add the head to symbolic features `(batch, channels)` or `(batch, *spatial, channels)`."""
        x = dense_layers(
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
        """Units of the output layer."""

    @property
    @abc.abstractmethod
    def form(self) -> GradeForm | None:
        """Encoding of grades in the outputs, for `decode_grades`; `None` where labels are not grades."""

    @property
    @abc.abstractmethod
    def grade_count(self) -> int:
        """Number of grades or classes; 0 where labels are neither."""

    @property
    def target_form(self) -> GradeForm:
        """Encoding of grades in the targets, for `decode_grades`."""
        return self.form if self.form in ("cumulative", "multi_hot") else "grades"

    def loss(self) -> keras.losses.Loss:
        """Create the Keras loss of targets and outputs."""
        return _LOSSES[self.activation]()

    def chance_loss(self) -> float | None:
        """Return the cross-entropy of equal probabilities; `None` for regression."""
        return {"sigmoid": math.log(2), "softmax": math.log(self.output_units)}.get(self.activation or "")

    def for_metrics(self, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return labels `(n,)` and probabilities `(n, K)`; for regression both unchanged, `(n, 1)`."""
        if self.activation is None:
            return targets, outputs
        if self.form in ("cumulative", "multi_hot"):
            first = 0 if self.form == "cumulative" else 1
            targets, outputs = ops.sum(targets[:, first:], axis=-1), grade_probabilities(outputs[:, first:])
        return ops.reshape(targets, (-1,)), outputs

    def check_training_labels(self, labels: Labels) -> None:
        """Raise ValueError for grades out of range or all the same."""
        if self.form is not None:
            check_grades(labels, self.grade_count)

    def decode(self, outputs: npt.ArrayLike) -> np.ndarray:
        """Convert outputs to labels, shape `(n,)`; see `decode_grades`."""
        outputs = np.asarray(outputs)
        if self.form is None:
            return outputs.reshape(-1)
        return decode_grades(outputs, self.form, self.grade_count, getattr(self, "thresholds", None))


def grade_probabilities(above: Tensor) -> Tensor:
    """Probabilities of K grades from K - 1 probabilities of being above each, monotonic or not."""
    library = ops if ops.is_tensor(above) else np
    # Sorting keeps the number of those above one half, which `decode` counts.
    falling = -library.sort(-above, axis=1)
    edges = library.ones_like(falling[:, :1]), library.zeros_like(falling[:, :1])
    return library.concatenate([edges[0], falling], axis=1) - library.concatenate([falling, edges[1]], axis=1)
