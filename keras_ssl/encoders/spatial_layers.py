"""Keras layers by spatial rank: 2D or 3D according to the input shape."""

import functools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import keras


class RankLayers(NamedTuple):
    """Makers of the layers for one spatial rank, always channels last."""

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
    """Pick the layers that fit images of `input_shape`.

    Args:
        input_shape: `(*spatial, channels)` with two or three spatial axes, which may be `None`.

    Raises:
        ValueError: `input_shape` has another number of axes, or no number of channels.

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


def rescaled(images: keras.KerasTensor, value_range: tuple[float, float] | None) -> keras.KerasTensor:
    """Map symbolic images with values of `value_range` to [-1, 1]; `None` leaves them as they are.

    Raises:
        ValueError: `value_range` is not two rising, finite numbers.

    >>> rescaled(keras.Input((8, 8, 3)), (0, 255)).shape
    (None, 8, 8, 3)
    """
    if value_range is None:
        return images
    if len(value_range) != 2 or not -math.inf < value_range[0] < value_range[1] < math.inf:
        raise ValueError(
            "`value_range` must be (black, white), two rising numbers such as (0, 255), or None. Received "
            f"{value_range}."
        )
    black, white = value_range
    scale = 2 / (white - black)
    return keras.layers.Rescaling(scale, offset=-1 - scale * black, name="rescaling")(images)


def positive_integers(argument: str, values: tuple[int, ...]) -> tuple[int, ...]:
    """Return `values` as a tuple of plain integers, refusing none at all and any below one.

    >>> positive_integers("filters", [16, 32])
    (16, 32)
    """
    integers = tuple(operator.index(value) for value in values)
    if not integers or min(integers) < 1:
        raise ValueError(f"`{argument}` must hold one or more integers of at least 1. Received {values}.")
    return integers
