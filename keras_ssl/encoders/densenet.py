"""DenseNet of Keras Applications, for images and volumes."""

import functools
import warnings

import keras
from keras import layers

from keras_ssl.encoders.feature_pyramid import with_pyramid
from keras_ssl.encoders.spatial_layers import RankLayers, layers_for, positive_integers, rescale

_BLOCKS_121 = (6, 12, 24, 16)
_normalize = functools.partial(layers.BatchNormalization, epsilon=1.001e-5)


def densenet121(
    input_shape: tuple[int | None, ...],
    blocks: tuple[int, ...] = _BLOCKS_121,
    growth_rate: int = 32,
    initial_filters: int = 64,
    name: str = "densenet121",
    value_range: tuple[float, float] | None = None,
) -> keras.Model:
    """Build DenseNet-121 without its top, or a smaller or larger variant, for images or volumes.

    In 2D, layer names and weights are those of `keras.applications.DenseNet121(include_top=False)`: its
    `get_weights()`, from ImageNet for instance, fit into `set_weights()` here. Only core layers are used:
    the saved `.keras` file loads without keras-ssl.

    Args:
        input_shape: `(*spatial, channels)` with two or three spatial axes; a side is `None`, or at least
            `2 ** (len(blocks) + 1) - 3` (29 for four blocks).
        blocks: dense layers in each block; between blocks, channels and sides are halved.
        growth_rate: channels that each dense layer adds.
        initial_filters: channels of the first convolution.
        name: name of the model.
        value_range: lowest and highest value of the images as stored, such as `(0, 255)`; a `Rescaling`
            layer after the input maps them to [-1, 1]. `None` does not rescale, for prepared volumes.

    Returns:
        A functional `keras.Model` from `(batch, *input_shape)` to a feature map whose sides are about
        `2 ** (len(blocks) + 1)` times smaller, with 1024 channels by default.

    Raises:
        ValueError: `input_shape` does not have two or three spatial axes and a number of channels, or a side
            is too short; or one of `blocks`, `growth_rate`, `initial_filters` is below 1.

    >>> encoder = densenet121((32, 32, 32, 1), blocks=(2, 2), growth_rate=8, initial_filters=8)
    >>> encoder.output_shape
    (None, 4, 4, 4, 28)

    References:
        Huang, G. et al. (2017). Densely connected convolutional networks. CVPR.
    """
    make = layers_for(input_shape)
    blocks = positive_integers("blocks", blocks)
    growth_rate, initial_filters = positive_integers(
        "growth_rate` and `initial_filters", (growth_rate, initial_filters)
    )
    shortest = _shortest(len(blocks))
    if any(side is not None and side < shortest for side in input_shape[:-1]):
        raise ValueError(
            f"Each side in `input_shape` must be at least {shortest} for {len(blocks)} `blocks`. "
            f"Received {input_shape}. Enlarge the images or use fewer blocks."
        )
    inputs = keras.Input(input_shape, name="images")
    x = _first_layers(rescale(inputs, value_range), make, initial_filters)
    for stage, depth in enumerate(blocks, start=2):
        if stage > 2:
            x = _transition(x, make, name=f"pool{stage - 1}")
        for layer in range(1, depth + 1):
            x = _dense_layer(x, make, growth_rate, name=f"conv{stage}_block{layer}")
    x = layers.Activation("relu", name="relu")(_normalize(name="bn")(x))
    return with_pyramid(keras.Model(inputs, x, name=name))


def densenet169(
    input_shape: tuple[int | None, ...],
    name: str = "densenet169",
    value_range: tuple[float, float] | None = None,
) -> keras.Model:
    """Build DenseNet-169 without its top, for images or volumes; 1664 channels.

    Arguments, errors and layer names are those of `densenet121`.
    """
    return densenet121(input_shape, blocks=(6, 12, 32, 32), name=name, value_range=value_range)


def densenet201(
    input_shape: tuple[int | None, ...],
    name: str = "densenet201",
    value_range: tuple[float, float] | None = None,
) -> keras.Model:
    """Build DenseNet-201 without its top, for images or volumes; 1920 channels.

    Arguments, errors and layer names are those of `densenet121`.
    """
    return densenet121(input_shape, blocks=(6, 12, 48, 32), name=name, value_range=value_range)


def default_encoder(input_shape: tuple[int, ...], patch_shape: tuple[int, ...] | None = None) -> keras.Model:
    """Build DenseNet-121 with random weights; in 2D, it takes pixels of 0 to 255 and rescales them itself.

    Args:
        input_shape: `(*spatial, channels)` with two or three spatial axes; at least 29 pixels a side.
        patch_shape: `(*spatial, channels)` of patches that it shall take too. Its sides are then open, and
            blocks that the patches are too small for are left out, with a warning.

    Raises:
        ValueError: `input_shape` is too small or of another rank.
    """
    value_range = (0, 255) if len(input_shape) == 3 else None
    if patch_shape is None:
        return densenet121(input_shape, value_range=value_range)
    blocks = list(_BLOCKS_121)
    while len(blocks) > 1 and min(patch_shape[:-1]) < _shortest(len(blocks)):
        blocks.pop()
    if len(blocks) < len(_BLOCKS_121):
        warnings.warn(
            f"Patches of sides {patch_shape[:-1]} are too small for DenseNet-121: the default encoder has "
            f"only the first {len(blocks)} of its {len(_BLOCKS_121)} blocks. Pass larger images, or an "
            "`encoder`.",
            stacklevel=4,
        )
    sides = (None,) * (len(input_shape) - 1)
    return densenet121((*sides, input_shape[-1]), tuple(blocks), value_range=value_range)


def _shortest(blocks: int) -> int:
    """Return the shortest side of images for a number of blocks, each but the first behind a halving."""
    return 2 ** (blocks + 1) - 3


def _first_layers(x: keras.KerasTensor, make: RankLayers, filters: int) -> keras.KerasTensor:
    x = make.zero_pad(3, name="conv1_pad")(x)
    x = make.conv(filters, 7, strides=2, use_bias=False, name="conv1_conv")(x)
    x = layers.Activation("relu", name="conv1_relu")(_normalize(name="conv1_bn")(x))
    x = make.zero_pad(1, name="pool1_pad")(x)
    return make.max_pool(3, strides=2, name="pool1")(x)


def _dense_layer(x: keras.KerasTensor, make: RankLayers, growth_rate: int, name: str) -> keras.KerasTensor:
    new = layers.Activation("relu", name=f"{name}_0_relu")(_normalize(name=f"{name}_0_bn")(x))
    new = make.conv(4 * growth_rate, 1, use_bias=False, name=f"{name}_1_conv")(new)
    new = layers.Activation("relu", name=f"{name}_1_relu")(_normalize(name=f"{name}_1_bn")(new))
    new = make.conv(growth_rate, 3, padding="same", use_bias=False, name=f"{name}_2_conv")(new)
    return layers.Concatenate(name=f"{name}_concat")([x, new])


def _transition(x: keras.KerasTensor, make: RankLayers, name: str) -> keras.KerasTensor:
    x = layers.Activation("relu", name=f"{name}_relu")(_normalize(name=f"{name}_bn")(x))
    x = make.conv(x.shape[-1] // 2, 1, use_bias=False, name=f"{name}_conv")(x)
    return make.average_pool(2, strides=2, name=f"{name}_pool")(x)
