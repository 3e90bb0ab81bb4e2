"""Losses that bring the views of an image together, without others to keep them apart from."""

from typing import Any

from keras import ops

from keras_ssl.losses.contrastive import unit_vectors


def cosine_regression(predictions: Any, targets: Any) -> Any:
    """Squared distance, between unit vectors, of what is predicted of a view and the other view's target.

    It is 2 less twice their cosine, averaged over the two views of an image. No gradient passes to `targets`.
    BYOL's paper adds the two views up, which is twice as much; SimSiam's takes minus the cosine, which is
    half as steep. All three are least at the same place.

    Args:
        predictions: `(2 * images, dim)`, the two views of each image next to each other.
        targets: the same, of the same views in the same order.

    Returns:
        float32 `(images,)`, from 0 to 4.

    >>> import numpy as np
    >>> views = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> [round(float(cosine_regression(views, other)[0]), 4) for other in (views, views[::-1])]
    [2.0, 0.0]

    References:
        Grill, J.-B. et al. (2020). Bootstrap your own latent. NeurIPS.
        Chen, X., He, K. (2021). Exploring simple siamese representation learning. CVPR.
    """
    predictions, targets = _pairs(predictions), ops.flip(ops.stop_gradient(_pairs(targets)), axis=1)
    return ops.mean(2 - 2 * ops.sum(predictions * targets, axis=-1), axis=1)


def directional_spread(vectors: Any) -> Any:
    """Say how far the directions of a batch of vectors differ, to tell learning from collapse.

    Args:
        vectors: `(n, dim)`.

    Returns:
        float32 scalar: 0 if all point one way, near 1 if they point evenly to all sides. It is the root mean
        square of `metrics.embedding_spread`.

    >>> import numpy as np
    >>> [round(float(directional_spread(np.array(rows))), 3) for rows in ([[1.0], [2.0]], [[1.0], [-1.0]])]
    [0.0, 1.0]
    """
    unit = unit_vectors(vectors)
    return ops.sqrt(ops.sum(ops.var(unit, axis=0)))


def _pairs(vectors: Any) -> Any:
    unit = unit_vectors(vectors)
    return ops.reshape(unit, (-1, 2, unit.shape[-1]))
