"""Cross-entropy over voxels with a weight for each class, alone and beside Dice."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_ssl.losses._classes import checked_weights, one_hot_targets, spatial_axes, weights_of_classes
from keras_ssl.losses._function_loss import FunctionLoss
from keras_ssl.losses.overlap import overlap_settings, soft_dice_loss

# Far below Keras' 1e-7, where clipping takes the gradient from those voxels that are most wrong.
_SMALLEST = 1e-30


def weighted_categorical_crossentropy(
    true: Any, predicted: Any, class_weights: Sequence[float] | None = None
) -> Any:
    """Minus the logarithm of the probability of the true class, weighted by that class, mean over voxels.

    The sum is divided by the number of voxels, not by that of their weights: twice the weights are twice
    the loss.

    Args:
        true: integer label maps `(batch, *spatial)` or `(batch, *spatial, 1)`, or one-hot or soft targets
            of the shape of `predicted`.
        predicted: probabilities `(batch, *spatial, classes)`, rows summing to 1, of any rank. They are not
            divided by their sum.
        class_weights: weight of each class, the background's first. `None` weighs all with 1.

    Returns:
        float32 `(batch,)`, at least 0. NaN where a label is no whole number in 0..classes - 1, which
        cannot be refused in a compiled graph.

    Raises:
        ValueError: shapes do not fit, there is but one class, or `class_weights` are not one a class, at
            least 0 and not all 0.

    >>> predicted = [[[0.5, 0.5], [0.25, 0.75]]]
    >>> loss = weighted_categorical_crossentropy([[0, 0]], predicted, class_weights=[2, 1])
    >>> round(float(loss[0]), 4)  # (log(2) + log(4)) * 2 / 2
    2.0794
    """
    true, predicted = one_hot_targets(true, predicted)
    weights = ops.convert_to_tensor(weights_of_classes(class_weights, predicted.shape[-1]))
    voxels = -ops.sum(weights * true * ops.log(ops.maximum(predicted, _SMALLEST)), axis=-1)
    return ops.mean(voxels, axis=spatial_axes(predicted))


def dice_crossentropy(
    true: Any,
    predicted: Any,
    class_weights: Sequence[float] | None = None,
    include_background: bool = False,
    smooth: float = 1.0,
) -> Any:
    """Soft Dice loss plus cross-entropy, the usual loss of medical segmentation.

    Cross-entropy tells every voxel by how much it is wrong, Dice keeps small structures from drowning in
    the background. For another ratio than one to one, see `weighted_sum`.

    Args:
        true: as in `soft_dice_loss`.
        predicted: as in `soft_dice_loss`.
        class_weights: of both, the background's first.
        include_background: whether class 0 is part of the Dice loss; it always is of the cross-entropy.
        smooth: as in `soft_dice_loss`.

    Returns:
        float32 `(batch,)`, at least 0; NaN as in `soft_dice_loss`.

    Raises:
        ValueError: as `soft_dice_loss`.

    >>> true, predicted = [[0, 1]], [[[0.5, 0.5], [0.25, 0.75]]]
    >>> both = soft_dice_loss(true, predicted) + weighted_categorical_crossentropy(true, predicted)
    >>> float(dice_crossentropy(true, predicted)[0]) == float(both[0])
    True

    References:
        Isensee, F. et al. (2021). nnU-Net: a self-configuring method for deep learning-based biomedical
        image segmentation. Nature Methods 18.
    """
    true, predicted = one_hot_targets(true, predicted)
    dice = soft_dice_loss(true, predicted, class_weights, include_background, smooth)
    return dice + weighted_categorical_crossentropy(true, predicted, class_weights)


@keras.saving.register_keras_serializable(package="keras_ssl")
class WeightedCategoricalCrossentropy(FunctionLoss):
    """`weighted_categorical_crossentropy` as a Keras loss, averaged over the images of a batch.

    Args:
        class_weights: weight of each class, the background's first. `None` weighs all with 1.
        name: name of the loss.
        reduction: how Keras reduces over the images of a batch; `sample_weight` is one number an image.

    Raises:
        ValueError: see `weighted_categorical_crossentropy`.

    >>> import numpy as np
    >>> loss = WeightedCategoricalCrossentropy([1, 2])
    >>> round(float(loss(np.array([[1, 1]]), np.full((1, 2, 2), 0.5))), 4)
    1.3863
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        name: str = "weighted_categorical_crossentropy",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__({"class_weights": checked_weights(class_weights)}, name=name, reduction=reduction)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one number an image."""
        return weighted_categorical_crossentropy(y_true, y_pred, **self.settings)


@keras.saving.register_keras_serializable(package="keras_ssl")
class DiceCrossentropy(FunctionLoss):
    """`dice_crossentropy` as a Keras loss, averaged over the images of a batch.

    Args:
        class_weights: see `dice_crossentropy`.
        include_background: see `dice_crossentropy`.
        smooth: see `dice_crossentropy`.
        name: name of the loss.
        reduction: how Keras reduces over the images of a batch; `sample_weight` is one number an image.

    Raises:
        ValueError: see `soft_dice_loss`.

    >>> import numpy as np
    >>> true = np.array([[0, 1, 1, 2]])
    >>> float(DiceCrossentropy()(true, np.eye(3)[true]))
    0.0
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        include_background: bool = False,
        smooth: float = 1.0,
        name: str = "dice_crossentropy",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(
            overlap_settings(class_weights, include_background, smooth), name=name, reduction=reduction
        )

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one number an image."""
        return dice_crossentropy(y_true, y_pred, **self.settings)
