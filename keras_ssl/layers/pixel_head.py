"""The lightest way from a feature map to pixels: one linear layer."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_ssl.encoders.rank import layers_for
from keras_ssl.layers.decoder import upsampling_decoder
from keras_ssl.preprocessing.patches import join_patches


def pixel_head(
    features: keras.KerasTensor, spatial_shape: Sequence[int], channels: int, *, name: str = "pixels"
) -> keras.KerasTensor:
    """Project each place of a feature map to all the pixels that it stands for.

    Where the map does not tile the image, as 7 places along 25 pixels, `upsampling_decoder` takes over.

    Args:
        features: symbolic tensor `(batch, *small, channels)` of an encoder, two or three spatial axes.
        spatial_shape: size of each spatial axis of the images.
        channels: channels of the images.
        name: beginning of the layers' names.

    Returns:
        Symbolic tensor `(batch, *spatial_shape, channels)`, float32.

    Raises:
        ValueError: `features` is no feature map of the rank of `spatial_shape`.

    >>> pixel_head(keras.Input((4, 3, 64)), (32, 24), 3).shape
    (None, 32, 24, 3)

    References:
        Xie, Z. et al. (2022). SimMIM: a simple framework for masked image modeling. CVPR.
    """
    shape, sides = getattr(features, "shape", ()), tuple(spatial_shape)
    small = tuple(shape[1:-1])
    if len(small) != len(sides) or any(
        side % (size or side + 1) for side, size in zip(sides, small, strict=True)
    ):
        return upsampling_decoder(features, sides, channels, name=name)
    patch = tuple(side // size for side, size in zip(sides, small, strict=True))
    units = math.prod(patch) * channels
    x = layers_for(shape[1:]).conv(units, 1, dtype="float32", name=name)(features)
    return join_patches(ops.reshape(x, (-1, math.prod(small), *patch, channels)), small)
