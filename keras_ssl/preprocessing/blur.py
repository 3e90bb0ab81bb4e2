"""Gaussian blur of image batches, each image by its own width."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ssl.preprocessing._compiled import compiled, stored
from keras_ssl.preprocessing._floats import floating_dtype


def gaussian_blur(images: Any, sigmas: Any, radius: int) -> Any:
    """Blur every image along all spatial axes; beyond the border it goes on with the value at the border.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        sigmas: `(batch,)`, standard deviation of the Gaussian in voxels; 0 changes nothing.
        radius: voxels on either side that are looked at, at least 1; the same for all images.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    Raises:
        ValueError: `radius` is no integer of at least 1.

    >>> import numpy as np
    >>> image = np.array([0.0, 0.0, 1.0, 0.0, 0.0]).reshape(1, 5, 1, 1)
    >>> [round(float(value), 3) for value in np.asarray(gaussian_blur(image, [0.5], radius=1)).ravel()]
    [0.0, 0.107, 0.787, 0.107, 0.0]
    """
    if not isinstance(radius, (int, np.integer)) or radius < 1:
        raise ValueError(f"`radius` must be an integer of at least 1. Received {radius!r}.")
    return compiled(_blur, int(radius))(ops.convert_to_tensor(images), ops.cast(sigmas, "float32"))


def _blur(radius: int, images: Any, sigmas: Any) -> Any:
    steps = ops.arange(-radius, radius + 1, dtype="float32")
    # Widths below a thousandth of a voxel are as good as none, and 0 would be divided by.
    weights = ops.exp(-((steps / ops.maximum(sigmas, 1e-3)[:, None]) ** 2) / 2)
    weights = weights / ops.sum(weights, axis=1, keepdims=True)
    values = ops.cast(images, "float32")
    for axis, size in enumerate(images.shape[1:-1], start=1):
        first, last = _part(values, axis, 0, 1), _part(values, axis, size - 1, 1)
        padded = stored(ops.concatenate([*[first] * radius, values, *[last] * radius], axis=axis))
        values = _weighted_sum(
            [_part(padded, axis, start, size) for start in range(2 * radius + 1)],
            [
                ops.reshape(weights[:, k], (-1, *(1,) * (len(images.shape) - 1)))
                for k in range(2 * radius + 1)
            ],
        )
    return ops.cast(values, floating_dtype(images))


def _part(values: Any, axis: int, start: int, size: int) -> Any:
    return values[(*(slice(None),) * axis, slice(start, start + size))]


def _weighted_sum(parts: list[Any], weights: list[Any]) -> Any:
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        # PyTorch would make two new arrays of each step; XLA makes none.
        in_place = keras.backend.backend() == "torch"
        total = total.addcmul_(part, weight) if in_place else total + part * weight
    return total
