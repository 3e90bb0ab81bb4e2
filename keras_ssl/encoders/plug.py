"""How anybody's Keras model is plugged in as an encoder."""

import keras

from keras_ssl.encoders.densenet import densenet121


def default_encoder(input_shape: tuple[int, ...]) -> keras.Model:
    """Build DenseNet121 without top and without pretrained weights, of `keras.applications` in 2D.

    Args:
        input_shape: `(*spatial, channels)` with two or three spatial axes; at least 32 pixels a side in 2D.

    Raises:
        ValueError: `input_shape` is too small, or of another rank.
    """
    if len(input_shape) == 3:
        return keras.applications.DenseNet121(include_top=False, weights=None, input_shape=input_shape)
    return densenet121(input_shape)


def resolve_input_shape(
    encoder: keras.Model | keras.Layer | None, input_shape: tuple[int | None, ...] | None
) -> tuple[int, ...]:
    """Find the shape of the images that an encoder is to be used on.

    Args:
        encoder: Keras model or layer; `None` stands for the default encoder.
        input_shape: `(*spatial, channels)`; `None` takes that of the encoder, where it has a fixed one.

    Returns:
        `(*spatial, channels)`, all of them numbers.

    Raises:
        TypeError: `encoder` is no Keras model or layer.
        ValueError: the shape is unknown, not fixed, not of two or three spatial axes, or not the encoder's.

    >>> import keras
    >>> resolve_input_shape(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)]), None)
    (8, 8, 3)
    """
    if encoder is not None and not isinstance(encoder, keras.Layer):
        raise TypeError(f"`encoder` must be a Keras model or layer. Received {encoder!r}.")
    own = _own_input_shape(encoder)
    if input_shape is None:
        input_shape = own if encoder is not None else (224, 224, 3)
    if not is_fixed_shape(input_shape):
        raise ValueError(
            "`input_shape` must be (*spatial, channels), two or three spatial axes, all fixed numbers, "
            f"and be given where the encoder has no such shape itself. Received {input_shape}, "
            f"for an encoder of input shape {own}."
        )
    assert input_shape is not None
    shape = tuple(int(size) for size in input_shape if size is not None)
    if own is not None and (
        len(own) != len(shape)
        or any(mine is not None and mine != given for mine, given in zip(own, shape, strict=True))
    ):
        raise ValueError(f"`input_shape` must suit the encoder, which takes {own}. Received {shape}.")
    return shape


def is_fixed_shape(shape: tuple[int | None, ...] | None) -> bool:
    """Tell whether a shape is `(*spatial, channels)` of two or three spatial axes, all of them numbers."""
    return shape is not None and None not in shape and len(shape) in (3, 4)


def _own_input_shape(encoder: keras.Layer | None) -> tuple[int | None, ...] | None:
    """Return what functional and built sequential models know of themselves; others raise on asking."""
    try:
        shape = encoder.input_shape  # type: ignore[union-attr]
    except AttributeError:
        return None
    if not isinstance(shape, tuple) or not all(size is None or isinstance(size, int) for size in shape):
        raise ValueError(f"`encoder` must take one tensor of images. Received one that takes {shape}.")
    return shape[1:]
