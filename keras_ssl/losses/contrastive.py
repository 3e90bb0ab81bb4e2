"""Contrastive losses: NT-Xent, InfoNCE, triplet margin, contrastive predictive coding."""

from collections.abc import Sequence
from typing import Literal

import keras
from keras import ops

from keras_ssl._types import Tensor

# Added to a logit, removes it from a softmax, and is finite in float32.
_MASKED = -1e9


def nt_xent(projections: Tensor, temperature: float = 0.1) -> Tensor:
    """Normalized temperature-scaled cross-entropy (NT-Xent): find the other view of each view's image.

    Logits are cosine similarities with all other views of the batch, divided by `temperature`.

    Args:
        projections: `(2 * images, dim)`, the two views of each image next to each other.
        temperature: above 0; the smaller, the more the hardest negatives count.

    Returns:
        float32 `(2 * images,)`, at least 0.

    >>> import numpy as np
    >>> views = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> round(float(nt_xent(views, 1.0)[0]), 4)  # -log(e / (e + 1 + 1))
    0.5514

    References:
        Chen, T. et al. (2020). A simple framework for contrastive learning of visual representations. ICML.
    """
    logits = view_similarities(projections, temperature)
    return _crossentropy(logits, partner_rows(ops.shape(logits)[0]))


def partner_rows(views: Tensor) -> Tensor:
    """Row of the other view of the same image, if the two views of an image are next to each other.

    Args:
        views: number of views, even; an integer or, within a graph, a tensor.

    Returns:
        Integers `(views,)`.

    >>> [int(row) for row in partner_rows(4)]
    [1, 0, 3, 2]
    """
    pairs = ops.reshape(ops.arange(views), (-1, 2))
    return ops.reshape(ops.flip(pairs, axis=1), (-1,))


def view_similarities(projections: Tensor, temperature: float = 0.1) -> Tensor:
    """Cosine similarities of all views divided by `temperature`, with about -1e9 on the diagonal.

    Args:
        projections: `(views, dim)`.
        temperature: above 0.

    Returns:
        float32 `(views, views)`.

    >>> import numpy as np
    >>> float(view_similarities(np.array([[3.0, 4.0], [6.0, 8.0]]), 0.5)[0, 1])
    2.0
    """
    unit = unit_vectors(projections)
    logits = ops.matmul(unit, ops.transpose(unit)) / temperature
    return logits + _MASKED * ops.eye(ops.shape(logits)[0])


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor = None, temperature: float = 0.1) -> Tensor:
    """InfoNCE: cross-entropy of finding each query's key among the other queries' keys, or negatives.

    Args:
        queries: `(n, dim)`.
        keys: `(n, dim)`, the positive of each query.
        negatives: `(m, dim)`, shared by all queries; `None` for the keys of the other queries.
        temperature: temperature of the softmax over cosine similarities, above 0.

    Returns:
        float32 `(n,)`, at least 0.

    >>> import numpy as np
    >>> queries = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> round(float(info_nce(queries, queries, temperature=1.0)[0]), 4)  # -log(e / (e + 1))
    0.3133

    References:
        van den Oord, A., Li, Y., Vinyals, O. (2018). Representation learning with contrastive predictive
        coding. arXiv:1807.03748.
        He, K. et al. (2020). Momentum contrast for unsupervised visual representation learning. CVPR.
    """
    queries, keys = unit_vectors(queries), unit_vectors(keys)
    if negatives is None:
        logits = ops.matmul(queries, ops.transpose(keys)) / temperature
        return _crossentropy(logits, ops.arange(ops.shape(logits)[0]))
    own = ops.sum(queries * keys, axis=1, keepdims=True)
    others = ops.matmul(queries, ops.transpose(unit_vectors(negatives)))
    logits = ops.concatenate([own, others], axis=1) / temperature
    return ops.logsumexp(logits, axis=1) - logits[:, 0]


def triplet_margin(
    anchors: Tensor, positives: Tensor, margin: float = 1.0, negatives: Literal["all", "hardest"] = "all"
) -> Tensor:
    """Triplet loss with a margin, whose negatives are the positives of the other anchors.

    `max(0, d(anchor, positive) - d(anchor, negative) + margin)`, with Euclidean distances of normalized
    vectors, from 0 to 2; the mean over all negatives, or of the nearest negative only.

    Args:
        anchors: `(n, dim)`, of at least two images.
        positives: `(n, dim)`, of the same images; those of other images are the negatives.
        margin: margin by which negatives shall be further away, above 0.
        negatives: `"all"` for the mean over all, `"hardest"` for the nearest to each anchor.

    Returns:
        float32 `(n,)`, from 0 to `margin + 2`.

    Raises:
        ValueError: `negatives` is unknown.

    >>> import numpy as np
    >>> anchors = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> [round(float(value), 4) for value in triplet_margin(anchors, anchors[::-1], margin=1.0)]
    [2.4142, 2.4142]

    References:
        Schroff, F., Kalenichenko, D., Philbin, J. (2015). FaceNet. CVPR.
        Hermans, A., Beyer, L., Leibe, B. (2017). In defense of the triplet loss for person re-identification.
        arXiv:1703.07737.
    """
    if negatives not in ("all", "hardest"):
        raise ValueError(f'`negatives` must be "all" or "hardest". Received {negatives!r}.')
    cosines = ops.matmul(unit_vectors(anchors), ops.transpose(unit_vectors(positives)))
    # The gradient of sqrt at 0 is infinite.
    distances = ops.sqrt(ops.maximum(2 - 2 * cosines, 1e-12))
    own = ops.diagonal(distances)
    count = ops.shape(distances)[0]
    if negatives == "hardest":
        # Distances are at most 2: the own positive is never the nearest.
        return ops.relu(own - ops.min(distances + 3.0 * ops.eye(count), axis=1) + margin)
    others = 1.0 - ops.eye(count)
    hinges = ops.relu(own[:, None] - distances + margin) * others
    return ops.sum(hinges, axis=1) / ops.cast(count - 1, "float32")


def unit_vectors(vectors: Tensor) -> Tensor:
    """L2-normalize vectors, in float32; zero vectors stay zero.

    Args:
        vectors: `(..., dim)`.

    Returns:
        float32 tensor of the shape of `vectors`.

    >>> import numpy as np
    >>> [round(float(value), 4) for value in unit_vectors(np.array([3.0, 4.0]))]
    [0.6, 0.8]
    """
    vectors = ops.cast(vectors, "float32")
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squares, 1e-12))


def predictive_coding(
    predictions: Tensor, codes: Tensor, steps: Sequence[int], temperature: float = 0.1
) -> Tensor:
    """Contrastive predictive coding: InfoNCE of predicted codes and the codes some rows below.

    Negatives of a prediction are the targets of all other predictions of the same step, in all images of the
    batch.

    Args:
        predictions: `(batch, rows, *others, steps, dim)`, one for each step.
        codes: `(batch, rows, *others, dim)`.
        steps: row offset of each prediction's target, from 1 to `rows - 1`. Predictions with a target below
            the last row are discarded.
        temperature: temperature of the softmax over cosine similarities, above 0.

    Returns:
        float32 `(steps,)`, the mean over positions and images, at least 0.

    >>> import numpy as np
    >>> codes = np.eye(3)[None, :, None]  # three rows, one column
    >>> predictions = np.eye(3)[[1, 2, 0]][None, :, None, None]  # of the next row; the last has no target
    >>> round(float(predictive_coding(predictions, codes, (1,), 1.0)[0]), 4)  # -log(e / (e + 1))
    0.3133

    References:
        van den Oord, A., Li, Y., Vinyals, O. (2018). Representation learning with contrastive predictive
        coding. arXiv:1807.03748.
    """
    pairs = predicted_pairs(predictions, codes, steps)
    return ops.stack([ops.mean(info_nce(queries, keys, None, temperature)) for queries, keys in pairs])


def predicted_pairs(predictions: Tensor, codes: Tensor, steps: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Pairs, for each step, of predictions and the codes at their targets within the image.

    Args:
        predictions: as in `predictive_coding`.
        codes: as in `predictive_coding`.
        steps: as in `predictive_coding`.

    Returns:
        For each step, predictions and codes, both `(pairs, dim)`.
    """
    dim = codes.shape[-1]
    return [
        (
            ops.reshape(predictions[:, :-step, ..., number, :], (-1, dim)),
            ops.reshape(codes[:, step:], (-1, dim)),
        )
        for number, step in enumerate(steps)
    ]


def _crossentropy(logits: Tensor, labels: Tensor) -> Tensor:
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
