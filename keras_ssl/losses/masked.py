"""The absolute error of what a mask hides."""

from typing import Any

from keras import ops

from keras_ssl.losses.reconstruction import weighted_mean


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
    targets, outputs = ops.cast(targets, "float32"), ops.cast(outputs, "float32")
    return weighted_mean(ops.abs(targets - outputs), masked)
