"""Brightness, contrast, colour, gamma and noise of image batches, whatever range their values have."""

from typing import Any

from keras import ops

from keras_ssl.preprocessing._floats import floating_dtype


def adjust_intensity(
    images: Any, brightness: Any = None, contrast: Any = None, colour: Any = None, offset: Any = None
) -> Any:
    """Change brightness, contrast and colour by factors, about each image's own mean.

    All is relative to the image and nothing is clipped, so that images in [0, 1] and in [0, 255] are changed
    alike. Every pixel of an image is changed in the same way.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        brightness: `(batch,)`, factors for all values of an image; `None` for 1.
        contrast: `(batch,)`, factors for the distance of values from their channel's mean; `None` for 1.
        colour: `(batch, channels)`, factors for the values of a channel; `None` for 1.
        offset: `(batch,)`, what is added to all values, in standard deviations of their channel before any
            change; `None` for 0. Brightness for values that may be negative, as of scans, which a factor
            does not make brighter.

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
    added = None if offset is None else _deviation(values) * _per_image(offset, rank)
    if contrast is not None:
        mean = ops.mean(values, axis=tuple(range(1, rank - 1)), keepdims=True)
        values = mean + (values - mean) * _per_image(contrast, rank)
    if brightness is not None:
        values = values * _per_image(brightness, rank)
    if colour is not None:
        values = values * ops.reshape(ops.cast(colour, "float32"), (-1, *(1,) * (rank - 2), images.shape[-1]))
    if added is not None:
        values = values + added
    return ops.cast(values, floating_dtype(images))


def adjust_gamma(images: Any, gammas: Any) -> Any:
    """Raise values to a power, between the least and the largest value of each channel of an image.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        gammas: `(batch,)`, exponents above 0: below 1 what is dark becomes brighter, 1 changes nothing.

    Returns:
        Tensor of the shape of `images`, with the same least and largest values; floating images keep their
        dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([-1.0, 0.0, 3.0]).reshape(1, 3, 1, 1)
    >>> [round(float(value), 3) for value in np.asarray(adjust_gamma(image, [0.5])).ravel()]
    [-1.0, 1.0, 3.0]
    """
    images = ops.convert_to_tensor(images)
    values, spatial = ops.cast(images, "float32"), tuple(range(1, len(images.shape) - 1))
    low = ops.min(values, axis=spatial, keepdims=True)
    span = ops.max(values, axis=spatial, keepdims=True) - low
    # Where they can be, values are changed in place: on PyTorch, new memory costs more than the sums.
    # XLA may compute a value twice and differently: what lies below the least has no logarithm.
    share = ops.maximum(values - low, 0.0)
    share /= ops.where(span > 0, span, 1.0)
    # A quarter of the time of a power, and the same: the logarithm of 0 gives 0 again.
    powers = ops.log(share)
    powers *= _per_image(gammas, len(images.shape))
    powers = ops.exp(powers)
    powers *= span
    powers += low
    return ops.cast(powers, floating_dtype(images))


def add_noise(images: Any, noise: Any, amounts: Any) -> Any:
    """Add noise in proportion to the standard deviation of each channel of an image.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        noise: of the shape of `images`, of standard deviation 1.
        amounts: `(batch,)`, the standard deviation of the noise in that of the values.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image, noise = np.array([1.0, 5.0]).reshape(1, 2, 1, 1), np.array([1.0, -1.0]).reshape(1, 2, 1, 1)
    >>> [round(float(value), 3) for value in np.asarray(add_noise(image, noise, [0.1])).ravel()]
    [1.2, 4.8]
    """
    images = ops.convert_to_tensor(images)
    values, rank = ops.cast(images, "float32"), len(images.shape)
    noisy = _deviation(values) * _per_image(amounts, rank) * ops.cast(noise, "float32")
    noisy += values
    return ops.cast(noisy, floating_dtype(images))


def _deviation(values: Any) -> Any:
    """Return the standard deviation of each channel; that of `keras.ops` takes two to three times longer."""
    spatial = tuple(range(1, len(values.shape) - 1))
    centred = values - ops.mean(values, axis=spatial, keepdims=True)
    return ops.sqrt(ops.mean(ops.square(centred), axis=spatial, keepdims=True))


def _per_image(factors: Any, rank: int) -> Any:
    return ops.reshape(ops.cast(factors, "float32"), (-1, *(1,) * (rank - 1)))
