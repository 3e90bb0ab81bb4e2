"""Base classes of heads."""

import abc
import dataclasses
import math
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_ssl._checks import check_grades
from keras_ssl._serialization import Configurable
from keras_ssl.layers.pooling import dense_layers, pool_features
from keras_ssl.metrics import GradeForm, decode_grades

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
        """Raise ValueError on labels that `encode` refuses, or that leave nothing to be learned."""

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
        batch_norm: whether batch normalization follows each of them.
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


def _differences(above: Any) -> Any:
    """Probabilities of K grades from K - 1 of being above each, which need not fall as they should."""
    library: Any = ops if ops.is_tensor(above) else np
    # Sorting keeps the number above one half, hence agrees with what `decode` counts.
    falling = -library.sort(-above, axis=1)
    edges = library.ones_like(falling[:, :1]), library.zeros_like(falling[:, :1])
    return library.concatenate([edges[0], falling], axis=1) - library.concatenate([falling, edges[1]], axis=1)
