"""Redundancy-reduction losses: Barlow Twins, VICReg."""

from typing import Any

from keras import ops

from keras_ssl.preprocessing.color import standardize


def barlow_twins(first: Any, second: Any, off_diagonal_weight: float = 0.005) -> Any:
    """Distance of the correlations between two views' features from the identity.

    A feature of one view shall correlate with the same feature of the other, by 1, and with no other feature.

    Args:
        first: `(images, dim)`, one view of each image, of at least two images.
        second: `(images, dim)`, the other view.
        off_diagonal_weight: what the squares of correlations between different features are weighted by.

    Returns:
        float32 scalar, at least 0: a sum over all pairs of features.

    >>> import numpy as np
    >>> views = np.array([[1.0, 1.0], [-1.0, -1.0]])  # two features that are one
    >>> round(float(barlow_twins(views, views, 0.5)), 3)
    1.0

    References:
        Zbontar, J. et al. (2021). Barlow Twins: self-supervised learning via redundancy reduction. ICML.
    """
    correlations = cross_correlation(first, second)
    same = ops.sum(ops.square(ops.diagonal(correlations) - 1))
    return same + off_diagonal_weight * ops.sum(ops.square(_off_diagonal(correlations)))


def cross_correlation(first: Any, second: Any) -> Any:
    """Correlate each feature of one view with each of the other, over the images of a batch.

    Args:
        first: `(images, dim)`.
        second: `(images, dim)`.

    Returns:
        float32 `(dim, dim)`, from -1 to 1; 0 for a feature that is the same in all images.
    """
    # Epsilon as in batch normalization.
    first, second = (standardize(view, (0,), epsilon=1e-5) for view in (first, second))
    return ops.matmul(ops.transpose(first), second) / ops.cast(ops.shape(first)[0], "float32")


def vicreg(
    first: Any,
    second: Any,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Any:
    """Distance of two views' features, plus what features lack in spread, plus what they repeat.

    Invariance is the mean squared difference of the views. Variance is the mean over features of
    `max(0, 1 - deviation)`, the mean of both views. Covariance is the sum of the squared covariances of
    different features, divided by their number, the sum of both views.

    Args:
        first: `(images, dim)`, one view of each image, of at least two images.
        second: `(images, dim)`, the other view.
        invariance_weight: weight of the first term.
        variance_weight: weight of the second.
        covariance_weight: weight of the third.

    Returns:
        float32 scalar, at least 0.

    >>> import numpy as np
    >>> same = np.ones((4, 2))  # all images alike: the deviation is 0.01, that of the constant in the root
    >>> round(float(vicreg(same, same)), 3)
    24.75

    References:
        Bardes, A., Ponce, J., LeCun, Y. (2022). VICReg: variance-invariance-covariance regularization for
        self-supervised learning. ICLR.
    """
    first, second = ops.cast(first, "float32"), ops.cast(second, "float32")
    invariance = ops.mean(ops.square(first - second))
    spreads = [ops.mean(ops.relu(1 - standard_deviations(view))) for view in (first, second)]
    repeated = _repeated(first) + _repeated(second)
    return (
        invariance_weight * invariance
        + variance_weight * (spreads[0] + spreads[1]) / 2
        + covariance_weight * repeated
    )


def standard_deviations(features: Any) -> Any:
    """Return the standard deviation of each feature over a batch, the root of variance plus 0.0001.

    Args:
        features: `(images, dim)`.

    Returns:
        float32 `(dim,)`, at least 0.01.
    """
    centered, freedom = _centered(features)
    # The root of zero has no slope.
    return ops.sqrt(ops.sum(ops.square(centered), axis=0) / freedom + 1e-4)


def _centered(features: Any) -> tuple[Any, Any]:
    """Features less their mean, and how many images there are less one."""
    features = ops.cast(features, "float32")
    freedom = ops.maximum(ops.shape(features)[0] - 1, 1)
    return features - ops.mean(features, axis=0), ops.cast(freedom, "float32")


def _repeated(features: Any) -> Any:
    centered, freedom = _centered(features)
    covariances = ops.matmul(ops.transpose(centered), centered) / freedom
    return ops.sum(ops.square(_off_diagonal(covariances))) / centered.shape[-1]


def _off_diagonal(matrix: Any) -> Any:
    """All of a square matrix but its diagonal: written out row by row, that is every (n + 1)th number."""
    side = matrix.shape[0]
    return ops.reshape(ops.reshape(matrix, (-1,))[:-1], (side - 1, side + 1))[:, 1:]
