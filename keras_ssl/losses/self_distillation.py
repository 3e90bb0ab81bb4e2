"""Self-distillation losses: DINO, Sinkhorn assignment, cosine regression (BYOL, SimSiam)."""

from typing import Any

from keras import ops

from keras_ssl.losses.contrastive import unit_vectors


def dino(logits: Any, assignments: Any, temperature: float = 0.1) -> Any:
    """Cross-entropy of the student's views and the teacher's, but for pairs that are one view.

    Args:
        logits: `(images, views, prototypes)` of the student, of two views or more.
        assignments: `(images, global views, prototypes)` of the teacher, adding up to 1 over prototypes:
            what it says of the first of these views.
        temperature: what `logits` are divided by, above 0.

    Returns:
        float32 `(images,)`, the mean over pairs.

    >>> import numpy as np
    >>> logits = np.array([[[2.0, 0.0], [0.0, 0.0]]])
    >>> assignments = np.array([[[1.0, 0.0], [1.0, 0.0]]])
    >>> round(float(dino(logits, assignments, 1.0)[0]), 4)  # (log(2) + log(1 + exp(-2))) / 2
    0.41

    References:
        Caron, M. et al. (2021). Emerging properties in self-supervised vision transformers. ICCV.
    """
    student = ops.log_softmax(ops.cast(logits, "float32") / temperature)
    entropies = -ops.einsum("itp,ivp->itv", ops.cast(assignments, "float32"), student)
    other = 1.0 - ops.eye(*entropies.shape[1:])
    return ops.sum(entropies * other, axis=(1, 2)) / ops.sum(other)


def sinkhorn(logits: Any, temperature: float, iterations: int = 3) -> Any:
    """Assign views to prototypes so that all prototypes get equal shares of a batch, nearly.

    In turns, the shares of the prototypes and then those of the views are made equal (Sinkhorn-Knopp).

    Args:
        logits: `(views, prototypes)`.
        temperature: what `logits` are divided by, above 0; the smaller, the harder the assignment.
        iterations: how many turns, at least 1.

    Returns:
        float32 `(views, prototypes)`, adding up to 1 over prototypes.

    >>> import keras
    >>> shares = sinkhorn(keras.ops.array([[2.0, 0.0], [1.0, 0.0]]), 0.1)  # both prefer the first
    >>> keras.ops.convert_to_numpy(shares).argmax(axis=1).tolist()
    [0, 1]

    References:
        Cuturi, M. (2013). Sinkhorn distances: lightspeed computation of optimal transport. NeurIPS.
        Caron, M. et al. (2020). Unsupervised learning of visual features by contrasting cluster assignments.
        NeurIPS.
    """
    # Of logarithms, since exponentials of large logits overflow.
    logs = ops.cast(logits, "float32") / temperature
    for _ in range(iterations):
        logs = logs - ops.logsumexp(logs, axis=0, keepdims=True)
        logs = logs - ops.logsumexp(logs, axis=1, keepdims=True)
    return ops.exp(logs)


def assignment_information(assignments: Any) -> Any:
    """What the assignments of an image to prototypes tell of which image of the batch it is.

    Their mean is the mutual information of images and prototypes. It is 0 in either collapse: one prototype
    for all images, and all prototypes alike for each.

    Args:
        assignments: `(images, views, prototypes)`, adding up to 1 over prototypes.

    Returns:
        float32 `(images,)`: the divergence of each image's mean from that of all, in nats. On average at
        most the logarithm of the number of images, or of prototypes where those are fewer.

    >>> import numpy as np
    >>> round(float(assignment_information(np.eye(2)[:, None])[0]), 4)  # log(2)
    0.6931
    """
    own = ops.mean(ops.cast(assignments, "float32"), axis=1)
    return ops.sum(own * (_log(own) - _log(ops.mean(own, axis=0))), axis=1)


def _log(shares: Any) -> Any:
    return ops.log(ops.maximum(shares, 1e-30))


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
