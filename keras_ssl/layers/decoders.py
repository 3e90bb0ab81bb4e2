"""Decoders from feature maps or tokens to pixels (MAE, SimMIM, inpainting, colorization)."""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_ssl.encoders.spatial_layers import RankLayers, convolution_block, layers_for, positive_integers
from keras_ssl.encoders.tokens import arrange_tokens
from keras_ssl.encoders.vit import add_sine_positions, transformer_block
from keras_ssl.layers.pooling import describe_output
from keras_ssl.preprocessing.patches import join_patches

_FEWEST_CHANNELS = 16


def upsampling_decoder(
    features: keras.KerasTensor,
    spatial_shape: Sequence[int],
    channels: int,
    *,
    filters: int = 128,
    name: str = "decoder",
) -> keras.KerasTensor:
    """Upsample a feature map by factors of 2, with convolutions, to `spatial_shape`.

    Each upsampling is followed by a convolution 3 wide, batch normalization and ReLU; a map that is large
    enough gets one convolution. A side that results from strides of 2, such as 4 of 25, is doubled and
    cropped at its end, where the encoder had padded. Any other, such as 16 patches of 224 pixels, is doubled
    and finally resized by linear interpolation, as if features were spaced evenly over the image.

    Args:
        features: symbolic feature map `(batch, *small, channels)` of an encoder, two or three spatial axes.
        spatial_shape: spatial shape of the output, usually that of the images.
        channels: output channels, without activation.
        filters: filters of the first convolution, halved at every upsampling, down to 16.
        name: prefix of the layers' names.

    Returns:
        Symbolic tensor `(batch, *spatial_shape, channels)`, float32.

    Raises:
        ValueError: `features` is not a feature map of the rank of `spatial_shape`, or a number is below 1.

    >>> import keras
    >>> upsampling_decoder(keras.Input((4, 3, 3, 64)), (25, 24, 20), 2).shape
    (None, 25, 24, 20, 2)

    References:
        Pathak, D. et al. (2016). Context encoders: feature learning by inpainting. CVPR.
    """
    shape, sides = getattr(features, "shape", None), positive_integers("spatial_shape", tuple(spatial_shape))
    positive_integers("channels", (channels,))
    positive_integers("filters", (filters,))
    if shape is None or len(shape) != len(sides) + 2 or None in shape[1:]:
        raise ValueError(
            "The task needs a feature map: the encoder must give (batch, *spatial, channels) of "
            f"{len(sides)} spatial axes of fixed sizes, before any pooling. Received "
            f"{describe_output(features)}"
        )
    make, small = layers_for(shape[1:]), shape[1:-1]
    doublings = [max(0, math.ceil(math.log2(side / have))) for side, have in zip(sides, small, strict=True)]
    strided = [
        have == -(-side // 2**count) for side, have, count in zip(sides, small, doublings, strict=True)
    ]
    x = features
    for number, level in enumerate(reversed(range(max(1, *doublings)))):
        wanted = [
            side if level == 0 else have if level >= count else _side_at(level, side, have, count, exact)
            for side, have, count, exact in zip(sides, small, doublings, strided, strict=True)
        ]
        x = _enlarge(x, make, wanted, strided, name=f"{name}_{number + 1}")
        width = max(filters >> number, min(filters, _FEWEST_CHANNELS))
        x = convolution_block(x, width, name=f"{name}_{number + 1}")
    return make.conv(channels, 1, dtype="float32", name=f"{name}_output")(x)


def _side_at(level: int, side: int, small: int, doublings: int, strided: bool) -> int:
    """Size of an axis that is still to be doubled `level` times."""
    return -(-side // 2**level) if strided else small * 2 ** (doublings - level)


def _enlarge(
    x: keras.KerasTensor, make: RankLayers, wanted: Sequence[int], strided: Sequence[bool], name: str
) -> keras.KerasTensor:
    """Double the axes that are to grow, then crop or resize them to the sides `wanted`."""
    factors = [
        2 if have < want and (exact or 2 * have <= want) else 1
        for have, want, exact in zip(x.shape[1:-1], wanted, strided, strict=True)
    ]
    if max(factors) > 1:
        x = make.upsample(tuple(factors), name=f"{name}_up")(x)
    excess = [
        have - want if exact else 0 for have, want, exact in zip(x.shape[1:-1], wanted, strided, strict=True)
    ]
    if any(excess):
        x = make.crop([(0, more) for more in excess], name=f"{name}_crop")(x)
    for axis, want in enumerate(wanted, start=1):
        if x.shape[axis] != want:
            x = _resize_axis(x, axis, want)
    return x


def _resize_axis(x: keras.KerasTensor, axis: int, size: int) -> keras.KerasTensor:
    """Interpolate linearly along one axis; Keras resizes images only, not volumes."""
    have = x.shape[axis]
    positions = np.clip((np.arange(size) + 0.5) * have / size - 0.5, 0, have - 1)
    weights = np.maximum(0, 1 - abs(positions - np.arange(have)[:, None]))
    weights = ops.cast(ops.convert_to_tensor(weights.astype("float32")), x.dtype)
    return ops.moveaxis(ops.tensordot(x, weights, axes=[[axis], [0]]), -1, axis)


# Where features are not spaced evenly over the image. Decoding to full size would cost more than most
# encoders.
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
    """Predict, by a linear layer at each position of a feature map, the square of pixels that it covers.

    With `stride`, the map is first upsampled until a position covers `stride` pixels a side. Squares that
    extend beyond the end of the image, where the encoder had padded, are cropped.

    Args:
        features: symbolic feature map `(batch, *small, channels)` of an encoder, two or three spatial axes,
            or tokens `(batch, tokens, channels)`, see `encoders.tokens_to_map`.
        spatial_shape: spatial shape of the images.
        channels: channels of the images.
        stride: side of the squares of pixels, at least 1; 1 decodes to full size. `None` adds no upsampling:
            squares are as large as the map requires. Where it does not cover the image evenly, such as 6
            positions along 13 pixels, `None` means 4.
        filters: filters of the first convolution, see `upsampling_decoder`.
        name: prefix of the layers' names.

    Returns:
        Symbolic tensor `(batch, *spatial_shape, channels)`, float32.

    Raises:
        ValueError: `features` is not a feature map of the rank of `spatial_shape`, or a number is below 1.

    >>> pixel_head(keras.Input((4, 3, 64)), (32, 24), 3).shape
    (None, 32, 24, 3)

    References:
        Xie, Z. et al. (2022). SimMIM: a simple framework for masked image modeling. CVPR.
        Shi, W. et al. (2016). Real-time single image and video super-resolution using an efficient sub-pixel
        convolutional neural network. CVPR.
    """
    sides, patch = tuple(spatial_shape), None
    if len(getattr(features, "shape", ())) == 3:
        features = arrange_tokens(features, sides)
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
    """Sides of the squares by which a map covers an image, the last cropped; None if it does not."""
    counts = tuple(count for count in small if count)
    if len(counts) != len(sides):
        return None
    patch = tuple(-(-side // count) for side, count in zip(sides, counts, strict=True))
    needed = tuple(-(-side // step) for side, step in zip(sides, patch, strict=True))
    return patch if needed == small else None


def token_decoder(
    tokens: keras.KerasTensor,
    grid: tuple[int, ...],
    *,
    depth: int,
    num_heads: int,
    mlp_ratio: int = 4,
    name: str = "decoder",
) -> keras.KerasTensor:
    """Transformer decoder: sine-cosine position embedding, transformer blocks, layer normalization.

    Args:
        tokens: symbolic tensor `(batch, tokens, dim)`.
        grid: number of tokens along each spatial axis.
        depth: number of transformer blocks.
        num_heads: number of self-attention heads.
        mlp_ratio: hidden units of a block's MLP, in multiples of `dim`.
        name: prefix of the layers' names.

    Returns:
        Symbolic tensor of the shape of `tokens`.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads` and of twice the number of spatial axes.

    >>> token_decoder(keras.Input((6, 24)), (2, 3), depth=1, num_heads=3).shape
    (None, 6, 24)

    References:
        He, K. et al. (2022). Masked autoencoders are scalable vision learners. CVPR.
    """
    dim = tokens.shape[-1]
    if dim % num_heads or dim % (2 * len(grid)):
        raise ValueError(
            f"`{name}_dim` must be a multiple of the number of heads and of twice that of spatial axes. "
            f"Received {dim}, {num_heads} heads and {len(grid)} spatial axes."
        )
    x = keras.layers.Reshape((*grid, dim), name=f"{name}_map")(tokens)
    x = keras.layers.Reshape((-1, dim), name=f"{name}_sequence")(add_sine_positions(x, grid))
    for number in range(1, depth + 1):
        x = transformer_block(x, num_heads, mlp_ratio * dim, name=f"{name}_block{number}")
    return keras.layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm")(x)
