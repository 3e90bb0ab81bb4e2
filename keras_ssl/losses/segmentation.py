"""Segmentation losses: Dice, Jaccard, weighted cross-entropy, and Dice plus cross-entropy."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ssl._types import Config, Tensor


def one_hot_targets(true: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Convert label maps or targets to the shape of predictions; cast both to float32.

    Args:
        true: integer label maps `(batch, *spatial)` or `(batch, *spatial, 1)`, or one-hot or soft targets
            of the shape of `predicted`.
        predicted: probabilities `(batch, *spatial, classes)`, at least two classes.

    Returns:
        Targets and predictions, both `(batch, *spatial, classes)`, with a spatial axis of 1 if there is none.
        Targets of a label that is not a whole number in 0..classes - 1 are NaN, and so is the loss: a
        compiled graph cannot raise an error, and ignoring the voxel would hide the fault.

    Raises:
        ValueError: `predicted` has fewer than two classes, or `true` another shape.

    >>> targets, _ = one_hot_targets([[0, 2]], [[[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]])
    >>> ops.convert_to_numpy(targets).tolist()
    [[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]
    """
    true = ops.cast(ops.convert_to_tensor(true), "float32")
    # Before any arithmetic: sums over voxels overflow in float16 and saturate in bfloat16.
    predicted = ops.cast(ops.convert_to_tensor(predicted), "float32")
    shape, wanted = tuple(true.shape), tuple(predicted.shape)
    if len(wanted) < 2 or wanted[-1] is None or wanted[-1] < 2:
        raise ValueError(
            "`predicted` must be of shape (batch, *spatial, classes) with at least 2 classes: write one "
            f"foreground and its background as a softmax of 2. Received shape {wanted}."
        )
    if not _fit(shape, wanted):
        true = _one_hot(true, wanted)
    if len(wanted) == 2:
        return ops.expand_dims(true, 1), ops.expand_dims(predicted, 1)
    return true, predicted


def checked_weights(class_weights: Sequence[float] | None) -> tuple[float, ...] | None:
    """Validate class weights; return them as plain numbers."""
    if class_weights is None:
        return None
    weights = np.asarray(class_weights, dtype="float64")
    if weights.ndim != 1 or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ValueError(
            "`class_weights` must be one finite number a class, none below 0 and not all 0. "
            f"Received {class_weights}."
        )
    return tuple(map(float, weights))


def weights_of_classes(class_weights: Sequence[float] | None, classes: int) -> np.ndarray:
    """Validate class weights; return float32 `(classes,)`, all 1 if `class_weights` is `None`."""
    weights = checked_weights(class_weights)
    if weights is None:
        return np.ones(classes, "float32")
    if len(weights) != classes:
        raise ValueError(
            f"`class_weights` must have one weight for each of {classes} classes, the background first. "
            f"Received {len(weights)} weights."
        )
    return np.asarray(weights, "float32")


def spatial_axes(images: Tensor) -> tuple[int, ...]:
    """All axes except the first and the last."""
    return tuple(range(1, len(images.shape) - 1))


def _one_hot(labels: Tensor, wanted: tuple[int | None, ...]) -> Tensor:
    shape = tuple(labels.shape)
    if _fit(shape, wanted[:-1]):
        labels = ops.expand_dims(labels, -1)
    elif not _fit(shape, (*wanted[:-1], 1)):
        raise ValueError(
            f"`true` must be label maps of shape {wanted[:-1]} or {(*wanted[:-1], 1)}, or targets of the "
            f"shape of `predicted`, {wanted}. Received shape {shape}."
        )
    hit = labels == ops.arange(wanted[-1], dtype="float32")
    readable = ops.any(hit, axis=-1, keepdims=True)
    return ops.where(readable, ops.cast(hit, "float32"), np.nan)


def _fit(shape: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    """Return True if two shapes are equal; unknown sizes match any size."""
    return len(shape) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(shape, wanted, strict=True)
    )


class FunctionLoss(keras.losses.Loss, abc.ABC):
    """Base class of Keras losses that wrap a function `(true, predicted, **settings)` of one value per image.

    Float32 under any dtype policy. Keras then reduces over the images of a batch: `sample_weight` is one
    number per image, not per voxel.

    Args:
        settings: keyword arguments of the function, plain values, named like the arguments of the subclass'
            `__init__`.
        name: name of the loss.
        reduction: reduction over the images of a batch.
    """

    def __init__(self, settings: Mapping[str, Any], name: str | None, reduction: str | None) -> None:
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.settings = dict(settings)

    @abc.abstractmethod
    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Compute the loss, one value per image, shape `(batch,)`."""

    def get_config(self) -> Config:
        """Return the arguments."""
        return {**super().get_config(), **self.settings}


def soft_dice_loss(
    true: Tensor,
    predicted: Tensor,
    class_weights: Sequence[float] | None = None,
    include_background: bool = False,
    smooth: float = 1.0,
) -> Tensor:
    """One minus the soft Dice coefficient, averaged over classes.

    For each class c, with sums over all voxels of one image (not of the batch, so that images do not affect
    each other's loss), target t and probability p of a voxel:

        dice[c] = (2 * sum(t * p) + smooth) / (sum(t) + sum(p) + smooth)

    The denominator sums t and p, as in Sudre et al., not their squares, as in Milletari et al.; for
    predictions of 0 and 1 the two are equal.

    A class that is absent from an image, in truth and in prediction, has a loss of 0. If it is predicted
    nevertheless, its loss grows from 0 towards 1 with the number of predicted voxels, and is one half at
    `smooth` voxels.

    Args:
        true: integer label maps `(batch, *spatial)` or `(batch, *spatial, 1)`, or one-hot or soft targets
            of the shape of `predicted`.
        predicted: probabilities `(batch, *spatial, classes)`, rows summing to 1, of any rank.
        class_weights: weight of each class in the mean, the background's first, which is ignored unless
            `include_background`. `None` for equal weights.
        include_background: whether class 0 is part of the mean.
        smooth: voxels added to numerator and denominator, more than 0.

    Returns:
        float32 `(batch,)`, in [0, 1): 0 if prediction and truth are the same map of zeros and ones. NaN if a
        label is not a whole number in 0..classes - 1, since a compiled graph cannot raise an error.

    Raises:
        ValueError: shapes do not match, there is only one class, `class_weights` are not one number per
            class, at least 0 and not all 0 among the averaged classes, or `smooth` is not above 0.

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
    true: Tensor,
    predicted: Tensor,
    class_weights: Sequence[float] | None = None,
    include_background: bool = False,
    smooth: float = 1.0,
) -> Tensor:
    """One minus the soft Jaccard index (intersection over union), averaged over classes.

    For each class c, with sums over all voxels of one image, target t and probability p of a voxel:

        jaccard[c] = (sum(t * p) + smooth) / (sum(t) + sum(p) - sum(t * p) + smooth)

    Absent classes are treated as in `soft_dice_loss`.

    Args:
        true: as in `soft_dice_loss`.
        predicted: as in `soft_dice_loss`.
        class_weights: as in `soft_dice_loss`.
        include_background: whether class 0 is part of the mean.
        smooth: voxels added to numerator and denominator, more than 0.

    Returns:
        float32 `(batch,)`, in [0, 1); 0 and NaN as in `soft_dice_loss`.

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

    Unlike `keras.losses.Dice`, which takes one-hot targets only, pools classes or images by default, and
    includes the background.

    Args:
        class_weights: see `soft_dice_loss`.
        include_background: see `soft_dice_loss`.
        smooth: see `soft_dice_loss`.
        name: name of the loss.
        reduction: reduction over the images of a batch; `sample_weight` is one number per image.

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

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Compute the loss, one value per image."""
        return soft_dice_loss(y_true, y_pred, **self.settings)


@keras.saving.register_keras_serializable(package="keras_ssl")
class JaccardDistance(FunctionLoss):
    """`jaccard_distance` as a Keras loss, averaged over the images of a batch.

    Args:
        class_weights: see `soft_dice_loss`.
        include_background: see `soft_dice_loss`.
        smooth: see `soft_dice_loss`.
        name: name of the loss.
        reduction: reduction over the images of a batch; `sample_weight` is one number per image.

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

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Compute the loss, one value per image."""
        return jaccard_distance(y_true, y_pred, **self.settings)


def overlap_settings(
    class_weights: Sequence[float] | None, include_background: bool, smooth: float
) -> Config:
    """Validate the arguments of an overlap loss as far as possible without images; return them by name."""
    weights = checked_weights(class_weights)
    if weights is not None:
        _normalized_weights(weights, len(weights), include_background)
    _check_smooth(smooth)
    return {"class_weights": weights, "include_background": include_background, "smooth": smooth}


def _overlaps(
    true: Tensor,
    predicted: Tensor,
    class_weights: Sequence[float] | None,
    include_background: bool,
    smooth: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over voxels of products and of totals, per image and class, and normalized class weights."""
    _check_smooth(smooth)
    true, predicted = one_hot_targets(true, predicted)
    weights = _normalized_weights(class_weights, predicted.shape[-1], include_background)
    axes = spatial_axes(predicted)
    both = ops.sum(true * predicted, axis=axes)
    total = ops.sum(true, axis=axes) + ops.sum(predicted, axis=axes)
    return both, total, ops.convert_to_tensor(weights)


def _normalized_weights(
    class_weights: Sequence[float] | None, classes: int, include_background: bool
) -> Tensor:
    weights = weights_of_classes(class_weights, classes)
    if not include_background:
        weights[0] = 0
    if not weights.any():
        raise ValueError(
            "`class_weights` must have a weight above 0 for a class other than the background, which "
            f"`include_background=False` excludes. Received {class_weights}."
        )
    return weights / weights.sum()


def _check_smooth(smooth: float) -> None:
    if not smooth > 0:
        raise ValueError(f"`smooth` must be above 0. Received {smooth}.")


# Far below Keras' 1e-7, at which clipping removes the gradient of the voxels with the largest errors.
_MIN_PROBABILITY = 1e-30


def weighted_categorical_crossentropy(
    true: Tensor, predicted: Tensor, class_weights: Sequence[float] | None = None
) -> Tensor:
    """Cross-entropy weighted by the true class, averaged over voxels.

    The sum is divided by the number of voxels, not by the sum of weights: doubling the weights doubles the
    loss.

    Args:
        true: integer label maps `(batch, *spatial)` or `(batch, *spatial, 1)`, or one-hot or soft targets
            of the shape of `predicted`.
        predicted: probabilities `(batch, *spatial, classes)`, rows summing to 1, of any rank. They are not
            normalized.
        class_weights: weight of each class, the background's first. `None` for 1 each.

    Returns:
        float32 `(batch,)`, at least 0. NaN if a label is not a whole number in 0..classes - 1, since a
        compiled graph cannot raise an error.

    Raises:
        ValueError: shapes do not match, there is only one class, or `class_weights` are not one number per
            class, at least 0 and not all 0.

    >>> predicted = [[[0.5, 0.5], [0.25, 0.75]]]
    >>> loss = weighted_categorical_crossentropy([[0, 0]], predicted, class_weights=[2, 1])
    >>> round(float(loss[0]), 4)  # (log(2) + log(4)) * 2 / 2
    2.0794
    """
    true, predicted = one_hot_targets(true, predicted)
    weights = ops.convert_to_tensor(weights_of_classes(class_weights, predicted.shape[-1]))
    voxels = -ops.sum(weights * true * ops.log(ops.maximum(predicted, _MIN_PROBABILITY)), axis=-1)
    return ops.mean(voxels, axis=spatial_axes(predicted))


def dice_crossentropy(
    true: Tensor,
    predicted: Tensor,
    class_weights: Sequence[float] | None = None,
    include_background: bool = False,
    smooth: float = 1.0,
) -> Tensor:
    """Soft Dice loss plus cross-entropy, the usual loss of medical segmentation.

    Cross-entropy gives a gradient to every voxel, Dice keeps small structures from being dominated by the
    background. For other weights than one to one, see `weighted_sum`.

    Args:
        true: as in `soft_dice_loss`.
        predicted: as in `soft_dice_loss`.
        class_weights: weight of each class in both losses, the background's first.
        include_background: whether class 0 is part of the Dice loss; it is always part of the cross-entropy.
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
        class_weights: weight of each class, the background's first. `None` for 1 each.
        name: name of the loss.
        reduction: reduction over the images of a batch; `sample_weight` is one number per image.

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

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Compute the loss, one value per image."""
        return weighted_categorical_crossentropy(y_true, y_pred, **self.settings)


@keras.saving.register_keras_serializable(package="keras_ssl")
class DiceCrossentropy(FunctionLoss):
    """`dice_crossentropy` as a Keras loss, averaged over the images of a batch.

    Args:
        class_weights: see `dice_crossentropy`.
        include_background: see `dice_crossentropy`.
        smooth: see `dice_crossentropy`.
        name: name of the loss.
        reduction: reduction over the images of a batch; `sample_weight` is one number per image.

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

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Compute the loss, one value per image."""
        return dice_crossentropy(y_true, y_pred, **self.settings)
