"""A cross-entropy in which what is rare counts more, by how often it is seen in the batch itself."""

from typing import Any

import keras
from keras import ops


def rebalanced_crossentropy(labels: Any, logits: Any, uniform_share: float = 0.5) -> Any:
    """Cross-entropy of every pixel, weighted by how rare its label is, mean over the pixels of an image.

    Args:
        labels: integers `(batch, *spatial)` in 0..classes - 1.
        logits: `(batch, *spatial, classes)`.
        uniform_share: see `rebalancing_weights`.

    Returns:
        float32 `(batch,)`, at least 0. NaN where a label is not in 0..classes - 1, which cannot be refused in
        a compiled graph.

    >>> import numpy as np
    >>> logits = np.zeros((1, 4, 2), "float32")
    >>> round(float(rebalanced_crossentropy(np.array([[0, 0, 0, 1]]), logits)[0]), 4)  # log(2)
    0.6931
    """
    labels, logits = ops.cast(labels, "int32"), ops.cast(logits, "float32")
    classes = logits.shape[-1]
    known = ops.clip(labels, 0, classes - 1)
    weights = ops.take(rebalancing_weights(known, classes, uniform_share), known)
    losses = weights * keras.losses.sparse_categorical_crossentropy(known, logits, from_logits=True)
    losses = ops.where(ops.equal(known, labels), losses, float("nan"))
    return ops.mean(losses, axis=tuple(range(1, len(labels.shape))))


def rebalancing_weights(labels: Any, num_classes: int, uniform_share: float = 0.5) -> Any:
    """Weigh classes by one over their frequency among `labels`, mixed with a uniform one.

    Args:
        labels: integers of any shape, in 0..`num_classes` - 1.
        num_classes: number of classes.
        uniform_share: how much of the frequency is replaced by that of all classes alike, in (0, 1]: the
            more, the less the weights differ; 1 makes them equal.

    Returns:
        float32 `(num_classes,)`, which are 1 on average over `labels`.

    >>> import numpy as np
    >>> weights = rebalancing_weights(np.array([0, 0, 0, 1]), 2)  # in proportion to 1 / 0.625 and 1 / 0.375
    >>> [round(float(weight), 4) for weight in weights]
    [0.8571, 1.4286]

    References:
        Zhang, R., Isola, P., Efros, A. A. (2016). Colorful image colorization. ECCV.
    """
    labels = ops.reshape(ops.cast(labels, "int32"), (-1,))
    counts = ops.segment_sum(ops.ones_like(labels, dtype="float32"), labels, num_segments=num_classes)
    frequencies = counts / ops.sum(counts)
    weights = 1 / ((1 - uniform_share) * frequencies + uniform_share / num_classes)
    return weights / ops.sum(frequencies * weights)
