"""Self-distillation losses: DINO, Sinkhorn assignment, cosine regression (BYOL, SimSiam)."""

from keras import ops

from keras_ssl._types import Tensor
from keras_ssl.losses.contrastive import unit_vectors


def dino(logits: Tensor, assignments: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of teacher assignments and student predictions, over pairs of different views.

    Args:
        logits: `(images, views, prototypes)` of the student, of two views or more.
        assignments: `(images, global views, prototypes)` of the teacher, probabilities of the prototypes for
            the first of these views.
        temperature: temperature of the student's softmax, above 0.

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


def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Soft assignment of views to prototypes with almost equal totals per prototype (Sinkhorn-Knopp).

    Each iteration normalizes over the views of each prototype, then over the prototypes of each view.

    Args:
        logits: `(views, prototypes)`.
        temperature: divisor of `logits`, above 0; the smaller, the harder the assignment.
        iterations: number of iterations, at least 1.

    Returns:
        float32 `(views, prototypes)`, summing to 1 over prototypes.

    >>> import keras
    >>> assignments = sinkhorn(keras.ops.array([[2.0, 0.0], [1.0, 0.0]]), 0.1)  # both prefer the first
    >>> keras.ops.convert_to_numpy(assignments).argmax(axis=1).tolist()
    [0, 1]

    References:
        Cuturi, M. (2013). Sinkhorn distances: lightspeed computation of optimal transport. NeurIPS.
        Caron, M. et al. (2020). Unsupervised learning of visual features by contrasting cluster assignments.
        NeurIPS.
    """
    # In logarithms, since exponentials of large logits overflow.
    logs = ops.cast(logits, "float32") / temperature
    for _ in range(iterations):
        logs = logs - ops.logsumexp(logs, axis=0, keepdims=True)
        logs = logs - ops.logsumexp(logs, axis=1, keepdims=True)
    return ops.exp(logs)


def assignment_information(assignments: Tensor) -> Tensor:
    """Mutual information of images and prototypes, as a term for each image; detects a collapse.

    0 in either collapse: one prototype for all images, or all prototypes equally likely for each.

    Args:
        assignments: `(images, views, prototypes)`, summing to 1 over prototypes.

    Returns:
        float32 `(images,)`: Kullback-Leibler divergence of each image's mean assignment from that of the
        batch, in nats. The mean is at most the logarithm of the number of images or of prototypes.

    >>> import numpy as np
    >>> round(float(assignment_information(np.eye(2)[:, None])[0]), 4)  # log(2)
    0.6931
    """
    own = ops.mean(ops.cast(assignments, "float32"), axis=1)
    return ops.sum(own * (_log(own) - _log(ops.mean(own, axis=0))), axis=1)


def _log(probabilities: Tensor) -> Tensor:
    return ops.log(ops.maximum(probabilities, 1e-30))


def cosine_regression(predictions: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of normalized predictions of one view and targets of the other (BYOL, SimSiam).

    2 - 2 * cosine, averaged over the two views of an image. No gradient passes to `targets`. BYOL's paper
    sums over the two views, twice as much; SimSiam's takes the negative cosine, with half the gradient. All
    three have the same minimum.

    Args:
        predictions: `(2 * images, dim)`, the two views of each image next to each other.
        targets: `(2 * images, dim)`, of the same views in the same order.

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


def directional_spread(vectors: Tensor) -> Tensor:
    """Spread of the directions of a batch of vectors; detects a collapse.

    Args:
        vectors: `(n, dim)`.

    Returns:
        float32 scalar: 0 if all point in one direction, near 1 if directions are uniform. The root mean
        square of `embedding_spread`.

    >>> import numpy as np
    >>> [round(float(directional_spread(np.array(rows))), 3) for rows in ([[1.0], [2.0]], [[1.0], [-1.0]])]
    [0.0, 1.0]
    """
    unit = unit_vectors(vectors)
    return ops.sqrt(ops.sum(ops.var(unit, axis=0)))


def _pairs(vectors: Tensor) -> Tensor:
    unit = unit_vectors(vectors)
    return ops.reshape(unit, (-1, 2, unit.shape[-1]))
