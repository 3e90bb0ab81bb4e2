"""Losses of overlap: one minus the Dice coefficient, one minus the Jaccard index, of soft predictions."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_ssl.losses._classes import checked_weights, one_hot_targets, spatial_axes, weights_of_classes
from keras_ssl.losses._function_loss import FunctionLoss


def soft_dice_loss(
    true: Any,
    predicted: Any,
    class_weights: Sequence[float] | None = None,
    include_background: bool = False,
    smooth: float = 1.0,
) -> Any:
    """One minus the Dice coefficient of probabilities, averaged over classes.

    Of each class c, with sums over all voxels of one image (not of the batch: what one image holds changes
    no other's loss), t the target and p the probability of a voxel:

        dice[c] = (2 * sum(t * p) + smooth) / (sum(t) + sum(p) + smooth)

    The divisor sums t and p themselves, as in Sudre et al., not their squares, as in Milletari et al.; for
    predictions of 0 and 1 the two are the same.

    A class that an image holds none of, in truth and in prediction, has lost nothing: its term is 0. Where
    it is predicted all the same, the term grows from 0 towards 1 with the number of voxels given to it, and
    is one half at `smooth` voxels.

    Args:
        true: integer label maps `(batch, *spatial)` or `(batch, *spatial, 1)`, or one-hot or soft targets
            of the shape of `predicted`.
        predicted: probabilities `(batch, *spatial, classes)`, rows summing to 1, of any rank.
        class_weights: weight of each class in the average, the background's first, which counts for
            nothing while the background is left out. `None` weighs all alike.
        include_background: whether class 0 is part of the average.
        smooth: voxels added above and below, more than 0.

    Returns:
        float32 `(batch,)`, in [0, 1): 0 where prediction and truth are the same map of zeros and ones.
        NaN where a label is no whole number in 0..classes - 1, which cannot be refused in a compiled graph.

    Raises:
        ValueError: shapes do not fit, there is but one class, `class_weights` are not one a class, at
            least 0 and not all 0 among the classes averaged, or `smooth` is not above 0.

    >>> predicted = [[[0.5, 0.5], [0.0, 1.0]]]
    >>> round(float(soft_dice_loss([[1, 1]], predicted)[0]), 4)  # 1 - (2 * 1.5 + 1) / (2 + 1.5 + 1)
    0.1111

    References:
        Milletari, F., Navab, N. & Ahmadi, S.-A. (2016). V-Net. 3DV.
        Sudre, C. H. et al. (2017). Generalised Dice overlap as a deep learning loss function for highly
        unbalanced segmentations. DLMIA.
    """
    both, total, weights = _overlaps(true, predicted, class_weights, include_background, smooth)
    return ops.sum((1 - (2 * both + smooth) / (total + smooth)) * weights, axis=-1)


def jaccard_distance(
    true: Any,
    predicted: Any,
    class_weights: Sequence[float] | None = None,
    include_background: bool = False,
    smooth: float = 1.0,
) -> Any:
    """One minus the Jaccard index (intersection over union) of probabilities, averaged over classes.

    Of each class c, with sums over all voxels of one image, t the target and p the probability of a voxel:

        jaccard[c] = (sum(t * p) + smooth) / (sum(t) + sum(p) - sum(t * p) + smooth)

    Absent classes are treated as in `soft_dice_loss`.

    Args:
        true: as in `soft_dice_loss`.
        predicted: as in `soft_dice_loss`.
        class_weights: as in `soft_dice_loss`.
        include_background: whether class 0 is part of the average.
        smooth: voxels added above and below, more than 0.

    Returns:
        float32 `(batch,)`, in [0, 1): 0 where prediction and truth are the same map of zeros and ones.
        NaN where a label is no whole number in 0..classes - 1, which cannot be refused in a compiled graph.

    Raises:
        ValueError: as `soft_dice_loss`.

    >>> predicted = [[[0.5, 0.5], [0.0, 1.0]]]
    >>> round(float(jaccard_distance([[1, 1]], predicted)[0]), 4)  # 1 - (1.5 + 1) / (2 + 1.5 - 1.5 + 1)
    0.1667

    References:
        Rahman, M. A. & Wang, Y. (2016). Optimizing intersection-over-union in deep neural networks for
        image segmentation. ISVC.
    """
    both, total, weights = _overlaps(true, predicted, class_weights, include_background, smooth)
    return ops.sum((1 - (both + smooth) / (total - both + smooth)) * weights, axis=-1)


@keras.saving.register_keras_serializable(package="keras_ssl")
class SoftDice(FunctionLoss):
    """`soft_dice_loss` as a Keras loss, averaged over the images of a batch.

    Not `keras.losses.Dice`, which takes one-hot targets only, pools classes or images unless told
    otherwise, and counts the background.

    Args:
        class_weights: see `soft_dice_loss`.
        include_background: see `soft_dice_loss`.
        smooth: see `soft_dice_loss`.
        name: name of the loss.
        reduction: how Keras reduces over the images of a batch; `sample_weight` is one number an image.

    Raises:
        ValueError: see `soft_dice_loss`.

    >>> import numpy as np
    >>> true = np.array([[0, 1, 1, 2]])
    >>> float(SoftDice()(true, np.eye(3)[true]))
    0.0
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        include_background: bool = False,
        smooth: float = 1.0,
        name: str = "soft_dice",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(
            overlap_settings(class_weights, include_background, smooth), name=name, reduction=reduction
        )

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one number an image."""
        return soft_dice_loss(y_true, y_pred, **self.settings)


@keras.saving.register_keras_serializable(package="keras_ssl")
class JaccardDistance(FunctionLoss):
    """`jaccard_distance` as a Keras loss, averaged over the images of a batch.

    Args:
        class_weights: see `soft_dice_loss`.
        include_background: see `soft_dice_loss`.
        smooth: see `soft_dice_loss`.
        name: name of the loss.
        reduction: how Keras reduces over the images of a batch; `sample_weight` is one number an image.

    Raises:
        ValueError: see `soft_dice_loss`.

    >>> import numpy as np
    >>> true = np.array([[0, 1, 1, 2]])
    >>> float(JaccardDistance()(true, np.eye(3)[true]))
    0.0
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        include_background: bool = False,
        smooth: float = 1.0,
        name: str = "jaccard_distance",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(
            overlap_settings(class_weights, include_background, smooth), name=name, reduction=reduction
        )

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one number an image."""
        return jaccard_distance(y_true, y_pred, **self.settings)


def overlap_settings(
    class_weights: Sequence[float] | None, include_background: bool, smooth: float
) -> dict[str, Any]:
    """Arguments of a loss of overlap by name, checked as far as they can be before there are images."""
    weights = checked_weights(class_weights)
    if weights is not None:
        _shares_of_classes(weights, len(weights), include_background)
    _check_smooth(smooth)
    return {"class_weights": weights, "include_background": include_background, "smooth": smooth}


def _overlaps(
    true: Any,
    predicted: Any,
    class_weights: Sequence[float] | None,
    include_background: bool,
    smooth: float,
) -> tuple[Any, Any, Any]:
    """Of each image and class what both hold and what they hold in sum, and the share of each class."""
    _check_smooth(smooth)
    true, predicted = one_hot_targets(true, predicted)
    shares = _shares_of_classes(class_weights, predicted.shape[-1], include_background)
    axes = spatial_axes(predicted)
    both = ops.sum(true * predicted, axis=axes)
    total = ops.sum(true, axis=axes) + ops.sum(predicted, axis=axes)
    return both, total, ops.convert_to_tensor(shares)


def _shares_of_classes(class_weights: Sequence[float] | None, classes: int, include_background: bool) -> Any:
    weights = weights_of_classes(class_weights, classes)
    if not include_background:
        weights[0] = 0
    if not weights.any():
        raise ValueError(
            "`class_weights` must have a weight above 0 for a class other than the background, which "
            f"`include_background=False` leaves out. Received {class_weights}."
        )
    return weights / weights.sum()


def _check_smooth(smooth: float) -> None:
    if not smooth > 0:
        raise ValueError(f"`smooth` must be above 0. Received {smooth}.")
