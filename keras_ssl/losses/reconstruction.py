"""Reconstruction losses: weighted squared error, masked absolute error, rebalanced cross-entropy."""

import keras
from keras import ops

from keras_ssl._types import Tensor


def weighted_squared_error(targets: Tensor, outputs: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean squared error over voxels and channels, with a weight for each voxel.

    The sum is divided by the sum of the weights: scaling all weights does not change the loss.

    Args:
        targets: `(batch, *spatial, channels)`.
        outputs: of the shape of `targets`.
        weights: `(batch, *spatial, 1)`, at least 0; 0 excludes a voxel.

    Returns:
        float32 `(batch,)`; 0 if all weights are 0.

    >>> import numpy as np
    >>> image, weights = np.array([[1.0, 2.0, 9.0]]), np.array([[3.0, 1.0, 0.0]])
    >>> loss = weighted_squared_error(image[..., None], np.zeros((1, 3, 1)), weights[..., None])
    >>> float(loss[0])  # (3 * 1 + 1 * 4) / 4
    1.75
    """
    targets, outputs = ops.cast(targets, "float32"), ops.cast(outputs, "float32")
    return weighted_mean(ops.square(targets - outputs), weights)


def weighted_mean(errors: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of errors over voxels and channels, with a weight for each voxel.

    Args:
        errors: float32 `(batch, *spatial, channels)`.
        weights: `(batch, *spatial, 1)`, boolean or numbers of at least 0.

    Returns:
        float32 `(batch,)`; 0 if all weights are 0.

    >>> import numpy as np
    >>> float(weighted_mean(np.array([[[1.0], [5.0]]], "float32"), np.array([[[3], [1]]]))[0])
    2.0
    """
    weights = ops.cast(weights, "float32")
    errors = ops.mean(errors, axis=-1, keepdims=True)
    axes = tuple(range(1, len(errors.shape)))
    total = ops.sum(weights, axis=axes)
    return ops.sum(weights * errors, axis=axes) / ops.where(total > 0, total, 1.0)


def masked_absolute_error(targets: Tensor, outputs: Tensor, masked: Tensor) -> Tensor:
    """Mean absolute error over masked voxels and all channels.

    Args:
        targets: `(batch, *spatial, channels)`.
        outputs: of the shape of `targets`.
        masked: `(batch, *spatial, 1)`, boolean or 0 and 1.

    Returns:
        float32 `(batch,)`; 0 if nothing is masked.

    >>> import numpy as np
    >>> image, masked = np.array([[1.0, 2.0, 9.0]]), np.array([[True, True, False]])
    >>> float(masked_absolute_error(image[..., None], np.zeros((1, 3, 1)), masked[..., None])[0])
    1.5

    References:
        Xie, Z. et al. (2022). SimMIM: a simple framework for masked image modeling. CVPR.
    """
    targets, outputs = ops.cast(targets, "float32"), ops.cast(outputs, "float32")
    return weighted_mean(ops.abs(targets - outputs), masked)


def rebalanced_crossentropy(labels: Tensor, logits: Tensor, uniform_fraction: float = 0.5) -> Tensor:
    """Mean cross-entropy over the pixels of an image, with rare labels weighted more (class rebalancing).

    Args:
        labels: integers `(batch, *spatial)` in 0..classes - 1.
        logits: `(batch, *spatial, classes)`.
        uniform_fraction: see `rebalancing_weights`.

    Returns:
        float32 `(batch,)`, at least 0. NaN if a label is not in 0..classes - 1, since a compiled graph cannot
        raise an error.

    >>> import numpy as np
    >>> logits = np.zeros((1, 4, 2), "float32")
    >>> round(float(rebalanced_crossentropy(np.array([[0, 0, 0, 1]]), logits)[0]), 4)  # log(2)
    0.6931
    """
    labels, logits = ops.cast(labels, "int32"), ops.cast(logits, "float32")
    classes = logits.shape[-1]
    known = ops.clip(labels, 0, classes - 1)
    weights = ops.take(rebalancing_weights(known, classes, uniform_fraction), known)
    losses = weights * keras.losses.sparse_categorical_crossentropy(known, logits, from_logits=True)
    losses = ops.where(ops.equal(known, labels), losses, float("nan"))
    return ops.mean(losses, axis=tuple(range(1, len(labels.shape))))


def rebalancing_weights(labels: Tensor, num_classes: int, uniform_fraction: float = 0.5) -> Tensor:
    """Class weights: the inverse of the frequency among `labels`, smoothed by a uniform distribution.

    Args:
        labels: integers of any shape, in 0..`num_classes` - 1.
        num_classes: number of classes.
        uniform_fraction: fraction of the uniform distribution in the mixture, in (0, 1]: the larger, the less
            the weights differ; 1 makes them equal.

    Returns:
        float32 `(num_classes,)`, with a mean of 1 over `labels`.

    >>> import numpy as np
    >>> weights = rebalancing_weights(np.array([0, 0, 0, 1]), 2)  # proportional to 1 / 0.625 and 1 / 0.375
    >>> [round(float(weight), 4) for weight in weights]
    [0.8571, 1.4286]

    References:
        Zhang, R., Isola, P., Efros, A. A. (2016). Colorful image colorization. ECCV.
    """
    labels = ops.reshape(ops.cast(labels, "int32"), (-1,))
    counts = ops.segment_sum(ops.ones_like(labels, dtype="float32"), labels, num_segments=num_classes)
    frequencies = counts / ops.sum(counts)
    weights = 1 / ((1 - uniform_fraction) * frequencies + uniform_fraction / num_classes)
    return weights / ops.sum(frequencies * weights)
