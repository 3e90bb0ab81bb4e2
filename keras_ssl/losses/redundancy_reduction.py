"""Redundancy-reduction losses: Barlow Twins, VICReg."""

from keras import ops

from keras_ssl._types import Tensor
from keras_ssl.preprocessing.color import standardize


def barlow_twins(first: Tensor, second: Tensor, off_diagonal_weight: float = 0.005) -> Tensor:
    """Squared distance of the cross-correlation matrix of two views from the identity.

    Each feature shall correlate with the same feature of the other view and with no other feature.

    Args:
        first: `(images, dim)`, one view of each image, of at least two images.
        second: `(images, dim)`, the other view.
        off_diagonal_weight: weight of the squared correlations of different features.

    Returns:
        float32 scalar, at least 0: a sum over all pairs of features.

    >>> import numpy as np
    >>> views = np.array([[1.0, 1.0], [-1.0, -1.0]])  # two equal features
    >>> round(float(barlow_twins(views, views, 0.5)), 3)
    1.0

    References:
        Zbontar, J. et al. (2021). Barlow Twins: self-supervised learning via redundancy reduction. ICML.
    """
    correlations = cross_correlation(first, second)
    same = ops.sum(ops.square(ops.diagonal(correlations) - 1))
    return same + off_diagonal_weight * ops.sum(ops.square(_off_diagonal(correlations)))


def cross_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Cross-correlation matrix of the features of two views, over the images of a batch.

    Args:
        first: `(images, dim)`.
        second: `(images, dim)`.

    Returns:
        float32 `(dim, dim)`, from -1 to 1; 0 for a feature that is constant over the images.
    """
    # Epsilon as in batch normalization.
    first, second = (standardize(view, (0,), epsilon=1e-5) for view in (first, second))
    return ops.matmul(ops.transpose(first), second) / ops.cast(ops.shape(first)[0], "float32")


def vicreg(
    first: Tensor,
    second: Tensor,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Tensor:
    """Weighted sum of the invariance, variance and covariance terms of VICReg.

    Invariance is the mean squared difference of the two views. Variance is the mean over features of
    `max(0, 1 - standard deviation)`, averaged over both views. Covariance is the sum of the squared
    covariances of different features, divided by the number of features, summed over both views.

    Args:
        first: `(images, dim)`, one view of each image, of at least two images.
        second: `(images, dim)`, the other view.
        invariance_weight: weight of the invariance.
        variance_weight: weight of the variance.
        covariance_weight: weight of the covariance.

    Returns:
        float32 scalar, at least 0.

    >>> import numpy as np
    >>> same = np.ones((4, 2))  # a collapse: the standard deviation is 0.01, the root of 0.0001
    >>> round(float(vicreg(same, same)), 3)
    24.75

    References:
        Bardes, A., Ponce, J., LeCun, Y. (2022). VICReg: variance-invariance-covariance regularization for
        self-supervised learning. ICLR.
    """
    first, second = ops.cast(first, "float32"), ops.cast(second, "float32")
    invariance = ops.mean(ops.square(first - second))
    variances = [ops.mean(ops.relu(1 - standard_deviations(view))) for view in (first, second)]
    covariance = _covariance(first) + _covariance(second)
    return (
        invariance_weight * invariance
        + variance_weight * (variances[0] + variances[1]) / 2
        + covariance_weight * covariance
    )


def standard_deviations(features: Tensor) -> Tensor:
    """Standard deviation of each feature over a batch: the root of the variance plus 0.0001.

    Args:
        features: `(images, dim)`.

    Returns:
        float32 `(dim,)`, at least 0.01.
    """
    centered, freedom = _centered(features)
    # The gradient of sqrt at 0 is infinite.
    return ops.sqrt(ops.sum(ops.square(centered), axis=0) / freedom + 1e-4)


def _centered(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features minus their mean, and the number of images minus one."""
    features = ops.cast(features, "float32")
    freedom = ops.maximum(ops.shape(features)[0] - 1, 1)
    return features - ops.mean(features, axis=0), ops.cast(freedom, "float32")


def _covariance(features: Tensor) -> Tensor:
    centered, freedom = _centered(features)
    covariances = ops.matmul(ops.transpose(centered), centered) / freedom
    return ops.sum(ops.square(_off_diagonal(covariances))) / centered.shape[-1]


def _off_diagonal(matrix: Tensor) -> Tensor:
    """Entries of a square matrix without its diagonal, which is every (n + 1)th of the flat matrix."""
    side = matrix.shape[0]
    return ops.reshape(ops.reshape(matrix, (-1,))[:-1], (side - 1, side + 1))[:, 1:]
