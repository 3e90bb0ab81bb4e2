"""The contracting path of a U-Net, for photographs and volumes."""

import keras
from keras import layers

from keras_ssl.encoders.feature_pyramid import with_pyramid
from keras_ssl.encoders.spatial_layers import RankLayers, layers_for, positive_integers, rescaled

# With Keras' 0.99 the moving statistics need about 500 steps to forget where they started; runs on a few
# volumes are shorter, and evaluation would judge another network than was trained.
_MOMENTUM = 0.9


def unet_encoder(
    input_shape: tuple[int | None, ...],
    filters: tuple[int, ...] = (16, 32, 64, 128),
    name: str = "unet_encoder",
    value_range: tuple[float, float] | None = None,
) -> keras.Model:
    """Build the contracting path of a U-Net for images or volumes of any size.

    Each level has two 3-wide convolutions, each normalized and followed by a ReLU; the first is at full
    resolution, and maximum pooling halves every spatial axis (rounding up) before each of the others.
    Convolutions are padded, so that maps keep their sides. Made of core layers only: a saved
    `.keras` file loads where keras-ssl is not installed.

    Args:
        input_shape: `(*spatial, channels)` with two or three spatial axes, which may be `None`.
        filters: channels of each level, the finest first.
        name: name of the model.
        value_range: values of black and white in the images as they are stored, such as `(0, 255)`: a
            `Rescaling` layer behind the input maps them to [-1, 1]. `None` takes values as they are, such
            as those of prepared volumes.

    Returns:
        A functional `keras.Model` from `(batch, *input_shape)` to a feature map
        `(batch, *ceil(spatial / 2 ** (len(filters) - 1)), filters[-1])`, not negative (it ends in a ReLU).
        Its pyramid has one level per entry of `filters`, from `"P0"` on.

    Raises:
        ValueError: `input_shape` has not two or three spatial axes and a number of channels, or
            `filters` is empty or holds a number below one.

    >>> encoder = unet_encoder((35, 51, 35, 1), filters=(8, 16, 32))
    >>> encoder.output_shape
    (None, 9, 13, 9, 32)
    >>> list(encoder.pyramid_outputs)
    ['P0', 'P1', 'P2']

    References:
        Ronneberger, O., Fischer, P., Brox, T. (2015). U-Net: convolutional networks for biomedical image
        segmentation. MICCAI.
        Çiçek, Ö. et al. (2016). 3D U-Net: learning dense volumetric segmentation from sparse annotation.
        MICCAI.
    """
    make = layers_for(input_shape)
    inputs = keras.Input(input_shape, name="images")
    x = rescaled(inputs, value_range)
    for level, channels in enumerate(positive_integers("filters", filters)):
        if level:
            x = make.max_pool(2, strides=2, padding="same", name=f"level{level}_pool")(x)
        for number in (1, 2):
            x = _convolve(x, make, channels, name=f"level{level}_{number}")
    return with_pyramid(keras.Model(inputs, x, name=name))


def _convolve(x: keras.KerasTensor, make: RankLayers, filters: int, name: str) -> keras.KerasTensor:
    # No bias: the normalization that follows would take it away again.
    x = make.conv(filters, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
