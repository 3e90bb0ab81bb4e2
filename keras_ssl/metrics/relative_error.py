"""How far a reconstruction is from the image, beside the simplest one."""

from typing import Any

from keras import ops

from keras_ssl.losses.reconstruction import weighted_squared_error


def relative_error(targets: Any, outputs: Any, weights: Any) -> Any:
    """Divide the squared error of a batch by that of answering 0 everywhere.

    For targets that are standardised, 0 is their mean. So 0 is perfect and 1 no better than the mean.

    Args:
        targets: `(batch, *spatial, channels)`.
        outputs: of the shape of `targets`.
        weights: `(batch, *spatial, 1)`, such as a mask; 0 leaves a voxel out.

    Returns:
        float32 scalar; 1 where there is nothing to find out.

    >>> import numpy as np
    >>> image, masked = np.array([[1.0, 2.0, 9.0]]), np.array([[True, True, False]])
    >>> float(relative_error(image[..., None], 0.5 * image[..., None], masked[..., None]))
    0.25
    """
    error = ops.sum(weighted_squared_error(targets, outputs, weights))
    # Of the whole batch: a dark corner of one image may be its mean already.
    baseline = ops.sum(weighted_squared_error(targets, ops.zeros_like(targets), weights))
    return ops.where(baseline > 0, error / ops.where(baseline > 0, baseline, 1.0), 1.0)
