"""Brightness, contrast and colour of image batches, whatever range their values have."""

from typing import Any

from keras import ops

from keras_ssl.preprocessing._floats import floating_dtype


def adjust_intensity(images: Any, brightness: Any = None, contrast: Any = None, colour: Any = None) -> Any:
    """Change brightness, contrast and colour by factors, about each image's own mean.

    Only factors are used and nothing is clipped, so that images in [0, 1] and in [0, 255] are changed
    alike. Every pixel of an image is changed in the same way.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        brightness: `(batch,)`, factors for all values of an image; `None` for 1.
        contrast: `(batch,)`, factors for the distance of values from their channel's mean; `None` for 1.
        colour: `(batch, channels)`, factors for the values of a channel; `None` for 1.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([1.0, 3.0]).reshape(1, 2, 1, 1)
    >>> np.asarray(adjust_intensity(image, contrast=[2.0])).ravel().tolist()
    [0.0, 4.0]
    """
    images = ops.convert_to_tensor(images)
    rank = len(images.shape)
    values = ops.cast(images, "float32")
    if contrast is not None:
        mean = ops.mean(values, axis=tuple(range(1, rank - 1)), keepdims=True)
        values = mean + (values - mean) * _per_image(contrast, rank)
    if brightness is not None:
        values = values * _per_image(brightness, rank)
    if colour is not None:
        values = values * ops.reshape(ops.cast(colour, "float32"), (-1, *(1,) * (rank - 2), images.shape[-1]))
    return ops.cast(values, floating_dtype(images))


def _per_image(factors: Any, rank: int) -> Any:
    return ops.reshape(ops.cast(factors, "float32"), (-1, *(1,) * (rank - 1)))
