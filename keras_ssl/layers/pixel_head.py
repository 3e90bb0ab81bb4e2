"""Light ways from a feature map to pixels, which end in one linear layer that paints squares of them."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_ssl.encoders.rank import layers_for
from keras_ssl.layers.decoder import upsampling_decoder
from keras_ssl.preprocessing.patches import join_patches

# Where features do not lie evenly over the image; one of 16 at full size would cost more than most encoders.
_STRIDE = 4


def pixel_head(
    features: keras.KerasTensor,
    spatial_shape: Sequence[int],
    channels: int,
    *,
    stride: int | None = None,
    filters: int = 64,
    name: str = "pixels",
) -> keras.KerasTensor:
    """Project each place of a feature map to all the pixels that it stands for.

    With a `stride`, the map is decoded first, until a place stands for a square so wide. Squares that reach
    beyond the end of the image are cut, where padding of the encoder had been.

    Args:
        features: symbolic tensor `(batch, *small, channels)` of an encoder, two or three spatial axes.
        spatial_shape: size of each spatial axis of the images.
        channels: channels of the images.
        stride: side of the squares of pixels, at least 1; 1 decodes to full size. `None` decodes nothing and
            paints squares as large as the map asks for; where it does not lie evenly over the image, as 6
            places along 13 pixels, it takes 4.
        filters: channels of the decoder's first convolution, see `upsampling_decoder`.
        name: beginning of the layers' names.

    Returns:
        Symbolic tensor `(batch, *spatial_shape, channels)`, float32.

    Raises:
        ValueError: `features` is no feature map of the rank of `spatial_shape`, or a number is below one.

    >>> pixel_head(keras.Input((4, 3, 64)), (32, 24), 3).shape
    (None, 32, 24, 3)

    References:
        Xie, Z. et al. (2022). SimMIM: a simple framework for masked image modeling. CVPR.
        Shi, W. et al. (2016). Real-time single image and video super-resolution using an efficient sub-pixel
        convolutional neural network. CVPR.
    """
    sides, patch = tuple(spatial_shape), None
    if stride is None:
        patch = _patch_of(tuple(getattr(features, "shape", ()))[1:-1], sides)
    if patch is None:
        patch = (stride or _STRIDE,) * len(sides)
        grid = tuple(-(-side // step) for side, step in zip(sides, patch, strict=True))
        x = upsampling_decoder(features, grid, math.prod(patch) * channels, filters=filters, name=name)
    else:
        make, grid = layers_for(features.shape[1:]), features.shape[1:-1]
        x = make.conv(math.prod(patch) * channels, 1, dtype="float32", name=name)(features)
    joined = join_patches(ops.reshape(x, (-1, math.prod(grid), *patch, channels)), grid)
    return joined[:, *(slice(side) for side in sides)]


def _patch_of(small: tuple[int | None, ...], sides: tuple[int, ...]) -> tuple[int, ...] | None:
    """Sides of the squares with which a map covers an image, the last ones cut; None if it does not."""
    counts = tuple(count for count in small if count)
    if len(counts) != len(sides):
        return None
    patch = tuple(-(-side // count) for side, count in zip(sides, counts, strict=True))
    needed = tuple(-(-side // step) for side, step in zip(sides, patch, strict=True))
    return patch if needed == small else None
