"""A small residual encoder for small images and for runs on a CPU."""

import keras
from keras import layers

from keras_ssl.encoders.pyramid import with_pyramid
from keras_ssl.encoders.rank import RankLayers, layers_for, positive_integers, rescaled

# With Keras' 0.99 the moving statistics need about 500 steps to forget where they started, more than
# the short runs this encoder is made for; evaluation would then judge another network than was trained.
_MOMENTUM = 0.9


def small_encoder(
    input_shape: tuple[int | None, ...],
    filters: tuple[int, ...] = (16, 32, 64),
    name: str = "small_encoder",
    value_range: tuple[float, float] | None = None,
) -> keras.Model:
    """Build a small residual encoder for images or volumes of about 28 to 64 pixels a side.

    A 3-wide convolution at full resolution, then one residual block per entry of `filters`, each
    halving every spatial axis (rounding up). Made of core layers only: a saved `.keras` file loads
    where keras-ssl is not installed.

    Args:
        input_shape: `(*spatial, channels)` with two or three spatial axes, which may be `None`.
        filters: channels of each residual block; the first is also that of the opening convolution.
        name: name of the model.
        value_range: values of black and white in the images as they are stored, such as `(0, 255)`: a
            `Rescaling` layer behind the input maps them to [-1, 1]. `None` takes values as they are, such
            as those of prepared volumes.

    Returns:
        A functional `keras.Model` from `(batch, *input_shape)` to a feature map
        `(batch, *ceil(spatial / 2 ** len(filters)), filters[-1])`, not negative (it ends in a ReLU).

    Raises:
        ValueError: `input_shape` has not two or three spatial axes and a number of channels, or
            `filters` is empty or holds a number below one.

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
    x = _convolve(rescaled(inputs, value_range), make, filters[0], width=3, strides=1, name="stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, channels in enumerate(filters, start=1):
        x = _residual_block(x, make, channels, name=f"stage{stage}")
    return with_pyramid(keras.Model(inputs, x, name=name))


def _residual_block(x: keras.KerasTensor, make: RankLayers, filters: int, name: str) -> keras.KerasTensor:
    # What a 1-wide convolution of stride 2 sees; that one, with few channels, crashes PyTorch 2.13 on a CPU.
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
    # No bias: the normalisation that follows would take it away again.
    conv = make.conv(filters, width, strides=strides, padding="same", use_bias=False, name=f"{name}_conv")
    return layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_bn")(conv(x))
