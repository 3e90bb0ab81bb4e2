"""Whether each of a batch of vectors finds its own partner among those of all."""

from typing import Any

from keras import ops

from keras_ssl.losses.contrastive import unit_vectors


def nearest_is_own(queries: Any, keys: Any) -> Any:
    """Say which queries are nearer to their own key than to the key of every other.

    Nearness is the cosine, which orders vectors as the distance between them at length 1 does.

    Args:
        queries: `(n, dim)`.
        keys: `(n, dim)`, the own key of each.

    Returns:
        float32 `(n,)`, 1 for yes and 0 for no, and where another is as near: so that vectors which are all
        alike find nothing.

    >>> import numpy as np
    >>> queries, keys = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[-1.0, 0.0], [0.0, 1.0]])
    >>> [float(found) for found in nearest_is_own(queries, keys)]
    [0.0, 1.0]
    """
    cosines = ops.matmul(unit_vectors(queries), ops.transpose(unit_vectors(keys)))
    as_near = ops.sum(ops.cast(cosines >= ops.diagonal(cosines)[:, None], "int32"), axis=1)
    # The own key is one of those.
    return ops.cast(as_near == 1, "float32")
