"""Building blocks of networks: Keras layers by spatial rank (2D or 3D), rescaling, convolution block."""

import functools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import keras

# Momentum of batch normalization in encoders, heads and decoders. With Keras' 0.99 the moving statistics
# need about 500 steps to forget their initial values, more than short runs on small batches of volumes
# have; evaluation, and an EMA teacher that reads them, would then see another network than was trained.
BATCH_NORM_MOMENTUM = 0.9


class RankLayers(NamedTuple):
    """Constructors of the layers of one spatial rank, channels last."""

    conv: Callable[..., keras.Layer]
    max_pool: Callable[..., keras.Layer]
    average_pool: Callable[..., keras.Layer]
    zero_pad: Callable[..., keras.Layer]
    upsample: Callable[..., keras.Layer]
    crop: Callable[..., keras.Layer]


_CLASSES = {
    2: (
        keras.layers.Conv2D,
        keras.layers.MaxPooling2D,
        keras.layers.AveragePooling2D,
        keras.layers.ZeroPadding2D,
        keras.layers.UpSampling2D,
        keras.layers.Cropping2D,
    ),
    3: (
        keras.layers.Conv3D,
        keras.layers.MaxPooling3D,
        keras.layers.AveragePooling3D,
        keras.layers.ZeroPadding3D,
        keras.layers.UpSampling3D,
        keras.layers.Cropping3D,
    ),
}


def layers_for(input_shape: tuple[int | None, ...]) -> RankLayers:
    """Return the constructors of the layers for images of `input_shape`.

    Args:
        input_shape: `(*spatial, channels)` with two or three spatial axes, which may be `None`.

    Raises:
        ValueError: `input_shape` has another number of axes or no number of channels.

    >>> layers_for((28, 28, 28, 1)).conv(8, 3).kernel_size
    (3, 3, 3)
    """
    rank = len(input_shape) - 1
    if rank not in _CLASSES or input_shape[-1] is None:
        raise ValueError(
            "`input_shape` must be (*spatial, channels) with two or three spatial axes and a number of "
            f"channels. Received {input_shape}."
        )
    return RankLayers(*(functools.partial(layer, data_format="channels_last") for layer in _CLASSES[rank]))


def rescale(images: keras.KerasTensor, value_range: tuple[float, float] | None) -> keras.KerasTensor:
    """Add a `Rescaling` layer that maps `value_range` to [-1, 1]; `None` adds nothing.

    Raises:
        ValueError: `value_range` is not two increasing, finite numbers.

    >>> rescale(keras.Input((8, 8, 3)), (0, 255)).shape
    (None, 8, 8, 3)
    """
    if value_range is None:
        return images
    if len(value_range) != 2 or not -math.inf < value_range[0] < value_range[1] < math.inf:
        raise ValueError(
            f"`value_range` must be two increasing numbers such as (0, 255), or None. Received {value_range}."
        )
    low, high = value_range
    scale = 2 / (high - low)
    return keras.layers.Rescaling(scale, offset=-1 - scale * low, name="rescaling")(images)


def positive_integers(argument: str, values: tuple[int, ...]) -> tuple[int, ...]:
    """Return `values` as a tuple of Python integers, at least one of them and none below 1.

    >>> positive_integers("filters", [16, 32])
    (16, 32)
    """
    integers = tuple(operator.index(value) for value in values)
    if not integers or min(integers) < 1:
        raise ValueError(f"`{argument}` must hold one or more integers of at least 1. Received {values}.")
    return integers


def convolution_block(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """Add a padded convolution 3 wide, batch normalization and ReLU.

    >>> convolution_block(keras.Input((8, 8, 8, 1)), 4, name="block").shape
    (None, 8, 8, 8, 4)
    """
    conv = layers_for(x.shape[1:]).conv
    # No bias: the normalization would cancel it.
    x = conv(filters, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
