"""Losses of a student that shall say of a view what a teacher says of another."""

from typing import Any

from keras import ops


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
