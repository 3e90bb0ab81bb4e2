"""How far a reconstruction is from the image, where it counts."""

from typing import Any

from keras import ops


def weighted_squared_error(targets: Any, outputs: Any, weights: Any) -> Any:
    """Mean over voxels of the squared error, averaged over channels, with a weight for each voxel.

    The sum is divided by that of the weights, so that twice the weights are the same loss.

    Args:
        targets: `(batch, *spatial, channels)`.
        outputs: of the shape of `targets`.
        weights: `(batch, *spatial, 1)`, at least 0; 0 leaves a voxel out.

    Returns:
        float32 `(batch,)`; 0 where all weights are.

    >>> import numpy as np
    >>> image, weights = np.array([[1.0, 2.0, 9.0]]), np.array([[3.0, 1.0, 0.0]])
    >>> loss = weighted_squared_error(image[..., None], np.zeros((1, 3, 1)), weights[..., None])
    >>> float(loss[0])  # (3 * 1 + 1 * 4) / 4
    1.75
    """
    targets, outputs = ops.cast(targets, "float32"), ops.cast(outputs, "float32")
    return weighted_mean(ops.square(targets - outputs), weights)


def weighted_mean(errors: Any, weights: Any) -> Any:
    """Mean over voxels of errors, averaged over channels, with a weight for each voxel.

    Args:
        errors: float32 `(batch, *spatial, channels)`.
        weights: `(batch, *spatial, 1)`, boolean or numbers of at least 0.

    Returns:
        float32 `(batch,)`; 0 where all weights are.

    >>> import numpy as np
    >>> float(weighted_mean(np.array([[[1.0], [5.0]]], "float32"), np.array([[[3], [1]]]))[0])
    2.0
    """
    weights = ops.cast(weights, "float32")
    errors = ops.mean(errors, axis=-1, keepdims=True)
    axes = tuple(range(1, len(errors.shape)))
    total = ops.sum(weights, axis=axes)
    return ops.sum(weights * errors, axis=axes) / ops.where(total > 0, total, 1.0)
