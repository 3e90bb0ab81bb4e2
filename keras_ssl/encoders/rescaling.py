"""Pixel scaling inside of any encoder."""

from collections.abc import Sequence

import keras


def with_rescaling(
    encoder: keras.Model, scale: float | Sequence[float], offset: float | Sequence[float] = 0.0
) -> keras.Model:
    """Put a `Rescaling` layer before an encoder, so that it takes pixels as they are stored.

    For encoders that are not built here; builders of this package take `value_range`. Core layers only: a
    saved `.keras` file loads where keras-ssl is not installed. The weights are the encoder's own.

    Args:
        encoder: model of one input of fixed or open size, such as one of `keras.applications`.
        scale: factor on pixels, one number or one for each channel.
        offset: what is added after that, one number or one for each channel.

    Returns:
        A functional `keras.Model` that computes `encoder(scale * images + offset)`, named as `encoder` with
        `_rescaled`.

    Raises:
        ValueError: the encoder does not know its input shape.

    >>> import keras, keras_ssl
    >>> backbone = keras_ssl.encoders.small_encoder((32, 32, 3))
    >>> with_rescaling(backbone, scale=1 / 127.5, offset=-1.0).output_shape
    (None, 4, 4, 64)

    Weights from ImageNet often want the mean and the deviation of each channel:

    >>> mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    >>> encoder = with_rescaling(
    ...     backbone,
    ...     scale=[1 / (255 * one) for one in deviation],
    ...     offset=[-one / other for one, other in zip(mean, deviation)],
    ... )
    """
    shape = getattr(encoder, "input_shape", None)
    if not isinstance(shape, tuple):
        raise ValueError(f"`encoder` must know the shape of its one input. Received {encoder!r} of {shape}.")
    images = keras.Input(shape[1:], name="images")
    scale, offset = (one if isinstance(one, (int, float)) else list(one) for one in (scale, offset))
    pixels = keras.layers.Rescaling(scale, offset=offset, name="rescaling")(images)
    return keras.Model(images, encoder(pixels), name=f"{encoder.name}_rescaled")
