"""ResNet, and a small residual encoder, for images and volumes."""

import functools
from collections.abc import Callable

import keras
from keras import layers

from keras_ssl.encoders.feature_pyramid import with_pyramid
from keras_ssl.encoders.spatial_layers import (
    BATCH_NORM_MOMENTUM,
    RankLayers,
    layers_for,
    positive_integers,
    rescale,
)

_normalize = functools.partial(layers.BatchNormalization, epsilon=1.001e-5)


_Block = Callable[[keras.KerasTensor, RankLayers, int, int, str], keras.KerasTensor]


def resnet18(
    input_shape: tuple[int | None, ...],
    blocks: tuple[int, ...] = (2, 2, 2, 2),
    initial_filters: int = 64,
    name: str = "resnet18",
    value_range: tuple[float, float] | None = None,
) -> keras.Model:
    """Build ResNet-18 without its top, or a smaller or larger variant, for images or volumes.

    Each residual block has two convolutions of kernel size 3. Only core layers are used: the saved `.keras`
    file loads without keras-ssl.

    Args:
        input_shape: `(*spatial, channels)` with two or three spatial axes, which may be `None`.
        blocks: residual blocks in each stage; every stage but the first halves all sides (rounding up) and
            doubles the channels.
        initial_filters: channels of the first convolution and of the first stage.
        name: name of the model.
        value_range: lowest and highest value of the images as stored, such as `(0, 255)`; a `Rescaling`
            layer after the input maps them to [-1, 1]. `None` does not rescale, for prepared volumes.

    Returns:
        A functional `keras.Model` from `(batch, *input_shape)` to a feature map whose sides are
        `2 ** (len(blocks) + 1)` times smaller (rounded up), with
        `initial_filters * 2 ** (len(blocks) - 1)` channels, not negative (after a ReLU).

    Raises:
        ValueError: `input_shape` does not have two or three spatial axes and a number of channels; or one of
            `blocks`, `initial_filters` is below 1.

    >>> encoder = resnet18((40, 32, 32, 1), blocks=(1, 1), initial_filters=8)
    >>> encoder.output_shape
    (None, 5, 4, 4, 16)
    >>> list(encoder.pyramid_outputs)
    ['P1', 'P2', 'P3']

    References:
        He, K. et al. (2016). Deep residual learning for image recognition. CVPR.
    """
    return _resnet(input_shape, blocks, initial_filters, _basic_block, name, value_range)


def resnet34(
    input_shape: tuple[int | None, ...],
    name: str = "resnet34",
    value_range: tuple[float, float] | None = None,
) -> keras.Model:
    """Build ResNet-34 without its top, for images or volumes; 512 channels.

    Arguments and errors are those of `resnet18`.
    """
    return resnet18(input_shape, blocks=(3, 4, 6, 3), name=name, value_range=value_range)


def resnet50(
    input_shape: tuple[int | None, ...],
    blocks: tuple[int, ...] = (3, 4, 6, 3),
    initial_filters: int = 64,
    name: str = "resnet50",
    value_range: tuple[float, float] | None = None,
) -> keras.Model:
    """Build ResNet-50 without its top, or a smaller or larger variant, for images or volumes.

    Each bottleneck block has three convolutions of kernel sizes 1, 3 and 1, the last with four times the
    channels. In 2D, names and weights of layers are those of
    `keras.applications.ResNet50(include_top=False)`: its `get_weights()`, from ImageNet for instance, fit
    into `set_weights()` here. Only core layers are used: the saved `.keras` file loads without keras-ssl.

    Args:
        input_shape: as in `resnet18`.
        blocks: as in `resnet18`.
        initial_filters: channels of the first convolution, and inside the blocks of the first stage.
        name: name of the model.
        value_range: lowest and highest value of the images as stored, such as `(0, 255)`; a `Rescaling`
            layer after the input maps them to [-1, 1]. `None` does not rescale, for prepared volumes.

    Returns:
        A functional `keras.Model` like that of `resnet18` with four times the channels, 2048 by default.

    Raises:
        ValueError: as in `resnet18`.

    >>> resnet50((32, 32, 32, 1), blocks=(1, 1), initial_filters=8).output_shape
    (None, 4, 4, 4, 64)

    References:
        He, K. et al. (2016). Deep residual learning for image recognition. CVPR.
    """
    return _resnet(input_shape, blocks, initial_filters, _bottleneck_block, name, value_range)


def _resnet(
    input_shape: tuple[int | None, ...],
    blocks: tuple[int, ...],
    initial_filters: int,
    block: _Block,
    name: str,
    value_range: tuple[float, float] | None,
) -> keras.Model:
    make = layers_for(input_shape)
    blocks = positive_integers("blocks", blocks)
    (filters,) = positive_integers("initial_filters", (initial_filters,))
    inputs = keras.Input(input_shape, name="images")
    x = make.zero_pad(3, name="conv1_pad")(rescale(inputs, value_range))
    x = make.conv(filters, 7, strides=2, use_bias=block is _bottleneck_block, name="conv1_conv")(x)
    x = layers.Activation("relu", name="conv1_relu")(_normalize(name="conv1_bn")(x))
    x = make.zero_pad(1, name="pool1_pad")(x)
    x = make.max_pool(3, strides=2, name="pool1_pool")(x)
    for stage, depth in enumerate(blocks):
        for number in range(1, depth + 1):
            strides = 2 if stage and number == 1 else 1
            x = block(x, make, filters * 2**stage, strides, f"conv{stage + 2}_block{number}")
    return with_pyramid(keras.Model(inputs, x, name=name))


def _basic_block(
    x: keras.KerasTensor, make: RankLayers, filters: int, strides: int, name: str
) -> keras.KerasTensor:
    # No bias: the normalization would cancel it.
    conv = functools.partial(make.conv, filters, padding="same", use_bias=False)
    shortcut = x
    if strides > 1:
        shortcut = _subsample(x, make, name)
        shortcut = _normalize(name=f"{name}_0_bn")(conv(1, name=f"{name}_0_conv")(shortcut))
    x = _normalize(name=f"{name}_1_bn")(conv(3, strides=strides, name=f"{name}_1_conv")(x))
    x = layers.Activation("relu", name=f"{name}_1_relu")(x)
    x = _normalize(name=f"{name}_2_bn")(conv(3, name=f"{name}_2_conv")(x))
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.Activation("relu", name=f"{name}_out")(x)


def _bottleneck_block(
    x: keras.KerasTensor, make: RankLayers, filters: int, strides: int, name: str
) -> keras.KerasTensor:
    # With a bias, although the normalization cancels it: the weights of Keras Applications have one.
    if strides > 1:
        x = _subsample(x, make, name)
    shortcut = x
    if name.endswith("_block1"):
        shortcut = _normalize(name=f"{name}_0_bn")(make.conv(4 * filters, 1, name=f"{name}_0_conv")(x))
    x = _normalize(name=f"{name}_1_bn")(make.conv(filters, 1, name=f"{name}_1_conv")(x))
    x = layers.Activation("relu", name=f"{name}_1_relu")(x)
    x = _normalize(name=f"{name}_2_bn")(make.conv(filters, 3, padding="same", name=f"{name}_2_conv")(x))
    x = layers.Activation("relu", name=f"{name}_2_relu")(x)
    x = _normalize(name=f"{name}_3_bn")(make.conv(4 * filters, 1, name=f"{name}_3_conv")(x))
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.Activation("relu", name=f"{name}_out")(x)


def _subsample(x: keras.KerasTensor, make: RankLayers, name: str) -> keras.KerasTensor:
    # Instead of a convolution of kernel size 1 and stride 2, which crashes PyTorch 2.13 on a CPU if it has
    # few channels.
    return make.max_pool(1, strides=2, name=f"{name}_every_other")(x)


def small_encoder(
    input_shape: tuple[int | None, ...],
    filters: tuple[int, ...] = (16, 32, 64),
    name: str = "small_encoder",
    value_range: tuple[float, float] | None = None,
) -> keras.Model:
    """Build a small residual encoder for images or volumes of about 28 to 64 pixels a side.

    A convolution of kernel size 3 at full resolution, then one residual block per entry of `filters`, each
    halving every spatial axis (rounding up). Only core layers are used: the saved `.keras` file loads
    without keras-ssl.

    Args:
        input_shape: `(*spatial, channels)` with two or three spatial axes, which may be `None`.
        filters: channels of each residual block; the first is also that of the first convolution.
        name: name of the model.
        value_range: lowest and highest value of the images as stored, such as `(0, 255)`; a `Rescaling`
            layer after the input maps them to [-1, 1]. `None` does not rescale, for prepared volumes.

    Returns:
        A functional `keras.Model` from `(batch, *input_shape)` to a feature map
        `(batch, *ceil(spatial / 2 ** len(filters)), filters[-1])`, not negative (after a ReLU).

    Raises:
        ValueError: `input_shape` does not have two or three spatial axes and a number of channels, or
            `filters` is empty or has a number below 1.

    >>> small_encoder((28, 28, 3)).output_shape
    (None, 4, 4, 64)
    >>> small_encoder((28, 28, 28, 1), filters=(8, 16)).output_shape
    (None, 7, 7, 7, 16)

    References:
        He, K. et al. (2016). Deep residual learning for image recognition. CVPR.
    """
    make = layers_for(input_shape)
    filters = positive_integers("filters", filters)
    inputs = keras.Input(input_shape, name="images")
    x = _convolve(rescale(inputs, value_range), make, filters[0], width=3, strides=1, name="stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, channels in enumerate(filters, start=1):
        x = _residual_block(x, make, channels, name=f"stage{stage}")
    return with_pyramid(keras.Model(inputs, x, name=name))


def _residual_block(x: keras.KerasTensor, make: RankLayers, filters: int, name: str) -> keras.KerasTensor:
    # Instead of a convolution of kernel size 1 and stride 2, which crashes PyTorch 2.13 on a CPU if it has
    # few channels.
    shortcut = make.max_pool(1, strides=2, padding="same", name=f"{name}_every_other")(x)
    shortcut = _convolve(shortcut, make, filters, width=1, strides=1, name=f"{name}_shortcut")
    x = _convolve(x, make, filters, width=3, strides=2, name=f"{name}_1")
    x = layers.ReLU(name=f"{name}_1_relu")(x)
    x = _convolve(x, make, filters, width=3, strides=1, name=f"{name}_2")
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.ReLU(name=f"{name}_relu")(x)


def _convolve(
    x: keras.KerasTensor, make: RankLayers, filters: int, *, width: int, strides: int, name: str
) -> keras.KerasTensor:
    # No bias: the normalization would cancel it.
    conv = make.conv(filters, width, strides=strides, padding="same", use_bias=False, name=f"{name}_conv")
    return layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=f"{name}_bn")(conv(x))
