"""The absolute error of what a mask hides."""

from typing import Any

from keras import ops


def masked_absolute_error(targets: Any, outputs: Any, masked: Any) -> Any:
    """Mean over masked voxels and channels of the absolute error.

    Args:
        targets: `(batch, *spatial, channels)`.
        outputs: of the shape of `targets`.
        masked: `(batch, *spatial, 1)`, boolean or 0 and 1.

    Returns:
        float32 `(batch,)`; 0 where nothing is masked.

    >>> import numpy as np
    >>> image, masked = np.array([[1.0, 2.0, 9.0]]), np.array([[True, True, False]])
    >>> float(masked_absolute_error(image[..., None], np.zeros((1, 3, 1)), masked[..., None])[0])
    1.5

    References:
        Xie, Z. et al. (2022). SimMIM: a simple framework for masked image modeling. CVPR.
    """
    targets, outputs, masked = (ops.cast(each, "float32") for each in (targets, outputs, masked))
    errors = ops.mean(ops.abs(targets - outputs), axis=-1, keepdims=True)
    axes = tuple(range(1, len(errors.shape)))
    return ops.sum(masked * errors, axis=axes) / ops.maximum(ops.sum(masked, axis=axes), 1.0)
