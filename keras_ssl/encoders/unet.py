"""Contracting path of a U-Net, for images and volumes."""

import keras

from keras_ssl.encoders.feature_pyramid import with_pyramid
from keras_ssl.encoders.spatial_layers import convolution_block, layers_for, positive_integers, rescale


def unet_encoder(
    input_shape: tuple[int | None, ...],
    filters: tuple[int, ...] = (16, 32, 64, 128),
    name: str = "unet_encoder",
    value_range: tuple[float, float] | None = None,
) -> keras.Model:
    """Build the contracting path (encoder) of a U-Net for images or volumes of any size.

    Each level has two convolutions of kernel size 3, each followed by batch normalization and ReLU. The
    first level is at full resolution; max pooling halves every spatial axis (rounding up) before each of
    the others. Convolutions are padded. Only core layers are used: the saved `.keras` file loads without
    keras-ssl.

    Args:
        input_shape: `(*spatial, channels)` with two or three spatial axes, which may be `None`.
        filters: channels of each level, the finest first.
        name: name of the model.
        value_range: lowest and highest value of the images as stored, such as `(0, 255)`; a `Rescaling`
            layer after the input maps them to [-1, 1]. `None` does not rescale, for prepared volumes.

    Returns:
        A functional `keras.Model` from `(batch, *input_shape)` to a feature map
        `(batch, *ceil(spatial / 2 ** (len(filters) - 1)), filters[-1])`, not negative (after a ReLU).
        Its pyramid has one level per entry of `filters`, from `"P0"` on.

    Raises:
        ValueError: `input_shape` does not have two or three spatial axes and a number of channels, or
            `filters` is empty or has a number below 1.

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
    x = rescale(inputs, value_range)
    for level, channels in enumerate(positive_integers("filters", filters)):
        if level:
            x = make.max_pool(2, strides=2, padding="same", name=f"level{level}_pool")(x)
        for number in (1, 2):
            x = convolution_block(x, channels, name=f"level{level}_{number}")
    return with_pyramid(keras.Model(inputs, x, name=name))
