"""Common parts of tasks that classify which transformation was applied, such as a rotation or permutation."""

import abc
import dataclasses
import math
from typing import Literal

import keras
from keras import ops

from keras_ssl._types import Tensor
from keras_ssl.layers.pooling import dense_layers, pool_features
from keras_ssl.tasks.base import PretextTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformationTask(PretextTask, abc.ABC):
    """Base class of tasks that classify which transformation was applied: cross-entropy and accuracy.

    Targets are int32 class labels `(batch,)`, outputs are logits `(batch, classes)`.
    """

    @abc.abstractmethod
    def num_classes(self, input_shape: tuple[int, ...]) -> int:
        """Return the number of transformations of images `(*spatial, channels)`."""

    def compute_loss(self, targets: Tensor, outputs: Tensor) -> Tensor:
        """Compute the cross-entropy of labels and logits, float32 `(batch,)`."""
        return keras.losses.sparse_categorical_crossentropy(
            targets, ops.cast(outputs, "float32"), from_logits=True
        )

    def chance_loss(self, input_shape: tuple[int, ...]) -> float:
        """Return the cross-entropy of guessing."""
        return math.log(self.num_classes(input_shape))

    def build_metrics(self) -> list[keras.Metric]:
        """Create the accuracy."""
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


def transformation_classifier(
    encoder: keras.Model | keras.Layer,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    num_patches: int = 1,
    hidden_units: tuple[int, ...],
    batch_norm: bool = False,
    dropout: float = 0.0,
    pooling: Literal["average", "max"] = "average",
    name: str,
) -> keras.Model:
    """Build encoder, global pooling, dense layers and float32 logits.

    Args:
        encoder: returns a feature vector or a feature map.
        input_shape: `(*spatial, channels)` of the encoder's inputs.
        num_classes: number of logits.
        num_patches: inputs of each image, whose features are concatenated.
        hidden_units: units of the dense ReLU layers before the logits.
        batch_norm: whether batch normalization follows each of them.
        dropout: dropout rate after each of them, in [0, 1).
        pooling: `"average"` or `"max"`.
        name: name of the model and prefix of the layers' names.

    Raises:
        ValueError: a value is out of range, or the encoder does not return features.
    """
    inputs = keras.Input(input_shape)
    features = pool_features(encoder(inputs), pooling)
    if num_patches > 1:
        features = ops.reshape(features, (-1, num_patches * features.shape[-1]))
    hidden = dense_layers(features, hidden_units, batch_norm=batch_norm, dropout=dropout, name=name)
    logits = keras.layers.Dense(num_classes, dtype="float32", name=f"{name}_logits")(hidden)
    return keras.Model(inputs, logits, name=name)
