"""Contrastive losses: NT-Xent, InfoNCE, triplet margin, contrastive predictive coding."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

# Added to a similarity, it leaves nothing of it in a softmax, and is finite in float32.
_NEVER = -1e9


def nt_xent(projections: Any, temperature: float = 0.1) -> Any:
    """Cross-entropy of finding each view's partner among all other views of a batch.

    Similarity is the cosine divided by `temperature`. A view is never compared with itself.

    Args:
        projections: `(2 * images, dim)`, the two views of each image next to each other.
        temperature: above 0; the smaller, the more the nearest negatives count.

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


def partner_rows(views: Any) -> Any:
    """Number the partner of each view where the two views of an image lie next to each other.

    Args:
        views: how many there are, even; an integer or, within a graph, a tensor.

    Returns:
        Integers `(views,)`.

    >>> [int(row) for row in partner_rows(4)]
    [1, 0, 3, 2]
    """
    pairs = ops.reshape(ops.arange(views), (-1, 2))
    return ops.reshape(ops.flip(pairs, axis=1), (-1,))


def view_similarities(projections: Any, temperature: float = 0.1) -> Any:
    """Return the cosines between all views divided by `temperature`, with far less on the diagonal.

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
    return logits + _NEVER * ops.eye(ops.shape(logits)[0])


def info_nce(queries: Any, keys: Any, negatives: Any = None, temperature: float = 0.1) -> Any:
    """Cross-entropy of finding each query's key among the keys of the other queries, or among negatives.

    Args:
        queries: `(n, dim)`.
        keys: `(n, dim)`, the positive of each.
        negatives: `(m, dim)`, which are nobody's keys; `None` for the other queries' keys.
        temperature: above 0; similarity is the cosine divided by it.

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
    anchors: Any, positives: Any, margin: float = 1.0, negatives: Literal["all", "hardest"] = "all"
) -> Any:
    """Hinge on how much nearer each anchor's positive is than the positives of all others.

    Distances are Euclidean, between unit vectors, from 0 to 2:
    `max(0, d(anchor, positive) - d(anchor, negative) + margin)`, averaged over the negatives, or of the
    nearest negative alone.

    Args:
        anchors: `(n, dim)`, of at least two images.
        positives: `(n, dim)`, of the same images; those of other images are the negatives.
        margin: above 0, by how much negatives shall be further away.
        negatives: `"all"` for the mean over all, `"hardest"` for the nearest to each anchor.

    Returns:
        float32 `(n,)`, from 0 to `margin + 2`.

    Raises:
        ValueError: `negatives` is neither.

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
    # The root of zero has no slope.
    distances = ops.sqrt(ops.maximum(2 - 2 * cosines, 1e-12))
    own = ops.diagonal(distances)
    count = ops.shape(distances)[0]
    if negatives == "hardest":
        # No two unit vectors are further apart than 2.
        return ops.relu(own - ops.min(distances + 3.0 * ops.eye(count), axis=1) + margin)
    others = 1.0 - ops.eye(count)
    hinges = ops.relu(own[:, None] - distances + margin) * others
    return ops.sum(hinges, axis=1) / ops.cast(count - 1, "float32")


def unit_vectors(vectors: Any) -> Any:
    """Divide vectors by their length, in float32; those of zeros stay so.

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


def _crossentropy(logits: Any, labels: Any) -> Any:
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def predictive_coding(predictions: Any, codes: Any, steps: Sequence[int], temperature: float = 0.1) -> Any:
    """Cross-entropy of finding the code that lies some rows further down, by what was predicted of it.

    A prediction is compared, by `info_nce`, with the code at its target and with those at the targets of all
    other predictions of the same step, in all images of the batch. The target alone is right.

    Args:
        predictions: `(batch, rows, *others, steps, dim)`, one for each step.
        codes: `(batch, rows, *others, dim)`.
        steps: how many rows below its own each prediction is meant for, from 1 to `rows - 1`. Predictions
            of what lies below the last row are left out.
        temperature: above 0; similarity is the cosine divided by it.

    Returns:
        float32 `(steps,)`, the mean over places and images, at least 0.

    >>> import numpy as np
    >>> codes = np.eye(3)[None, :, None]  # three rows, one column
    >>> predictions = np.eye(3)[[1, 2, 0]][None, :, None, None]  # of the next row; that of the last has none
    >>> round(float(predictive_coding(predictions, codes, (1,), 1.0)[0]), 4)  # -log(e / (e + 1))
    0.3133

    References:
        van den Oord, A., Li, Y., Vinyals, O. (2018). Representation learning with contrastive predictive
        coding. arXiv:1807.03748.
    """
    pairs = predicted_pairs(predictions, codes, steps)
    return ops.stack([ops.mean(info_nce(queries, keys, None, temperature)) for queries, keys in pairs])


def predicted_pairs(predictions: Any, codes: Any, steps: Sequence[int]) -> list[tuple[Any, Any]]:
    """Pair, for each step, all predictions whose target is in the image with the codes at their targets.

    Args:
        predictions: as in `predictive_coding`.
        codes: as in `predictive_coding`.
        steps: as in `predictive_coding`.

    Returns:
        For each step predictions and codes, both `(pairs, dim)`.
    """
    dim = codes.shape[-1]
    return [
        (
            ops.reshape(predictions[:, :-step, ..., number, :], (-1, dim)),
            ops.reshape(codes[:, step:], (-1, dim)),
        )
        for number, step in enumerate(steps)
    ]
