"""Weighted sum of losses, as a function and as a Keras loss."""

from collections.abc import Callable, Sequence
from typing import Self

import keras
import numpy as np
from keras import ops

from keras_ssl._types import Config, Tensor


def weighted_sum(
    true: Tensor, predicted: Tensor, terms: Sequence[tuple[float, Callable[[Tensor, Tensor], Tensor]]]
) -> Tensor:
    """Weighted sum of losses of the same truth and prediction.

    Args:
        true: labels or targets, first argument of every function of `terms`.
        predicted: predictions, second argument of every function of `terms`.
        terms: pairs of a weight, at least 0, and a function `(true, predicted)` that returns one value per
            image, shape `(batch,)`, or per voxel, `(batch, *spatial)`, which is then averaged over voxels.

    Returns:
        float32 `(batch,)`.

    Raises:
        ValueError: there are no terms, or a weight is negative or not finite.

    >>> from keras_ssl.losses.segmentation import jaccard_distance, soft_dice_loss
    >>> true, predicted = [[0, 1]], [[[0.5, 0.5], [0.25, 0.75]]]
    >>> total = weighted_sum(true, predicted, [(1.0, soft_dice_loss), (0.5, jaccard_distance)])
    >>> parts = soft_dice_loss(true, predicted) + 0.5 * jaccard_distance(true, predicted)
    >>> float(total[0]) == float(parts[0])
    True
    """
    _check_weights([weight for weight, _ in terms])
    return sum(weight * _by_image(loss(true, predicted)) for weight, loss in terms)


@keras.saving.register_keras_serializable(package="keras_ssl")
class WeightedSum(keras.losses.Loss):
    """`weighted_sum` of Keras losses, averaged over the images of a batch.

    Args:
        terms: pairs of a weight, at least 0, and a Keras loss. The losses' own reductions are ignored.
        name: name of the loss.
        reduction: reduction over the images of a batch; `sample_weight` is one number per image.

    Raises:
        ValueError: there are no terms, or a weight is negative or not finite.
        TypeError: a loss is not a `keras.losses.Loss`.

    >>> from keras_ssl.losses import SoftDice
    >>> loss = WeightedSum([(1.0, SoftDice()), (0.5, keras.losses.SparseCategoricalCrossentropy())])
    >>> round(float(loss(np.array([[1, 1]]), np.full((1, 2, 2), 0.5))), 4)  # 1 - 3 / 4 + log(2) / 2
    0.5966
    """

    def __init__(
        self,
        terms: Sequence[tuple[float, keras.losses.Loss]],
        name: str = "weighted_sum",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype="float32")
        _check_weights([weight for weight, _ in terms])
        for _, loss in terms:
            if not isinstance(loss, keras.losses.Loss):
                raise TypeError(f"Each loss of `terms` must be a keras.losses.Loss. Received {loss!r}.")
        self.terms = [(float(weight), loss) for weight, loss in terms]

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Compute the loss, one value per image."""
        return weighted_sum(y_true, y_pred, [(weight, loss.call) for weight, loss in self.terms])

    def get_config(self) -> Config:
        """Return the arguments."""
        terms = [[weight, keras.saving.serialize_keras_object(loss)] for weight, loss in self.terms]
        return {**super().get_config(), "terms": terms}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Create the loss from its config."""
        terms = [(weight, keras.saving.deserialize_keras_object(loss)) for weight, loss in config["terms"]]
        return cls(**{**config, "terms": terms})


def _check_weights(weights: Sequence[float]) -> None:
    if not weights:
        raise ValueError("`terms` must hold at least one pair of a weight and a loss. Received none.")
    if not all(np.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"Weights of `terms` must be finite and at least 0. Received {list(weights)}.")


def _by_image(values: Tensor) -> Tensor:
    values = ops.cast(values, "float32")
    voxel_axes = tuple(range(1, len(values.shape)))
    return ops.mean(values, axis=voxel_axes) if voxel_axes else values
