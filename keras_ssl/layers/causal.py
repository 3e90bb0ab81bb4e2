"""A convolution that does not look ahead, for any number of spatial axes."""

import keras

from keras_ssl.encoders.rank import layers_for


def causal_convolution(
    x: keras.KerasTensor, filters: int, kernel_size: int = 3, *, name: str
) -> keras.KerasTensor:
    """Add a convolution with ReLU whose output in a row depends on that row and the rows before it alone.

    Rows are the first spatial axis. Along the others it sees both sides. The feature map keeps its size:
    zeros are put before the first row, and around the others.

    Args:
        x: symbolic tensor `(batch, rows, *others, channels)`, two or three spatial axes.
        filters: channels that come out.
        kernel_size: how many rows are seen, the own one included, and how many places along the other axes.
        name: beginning of the layers' names.

    Returns:
        Symbolic tensor `(batch, rows, *others, filters)`.

    Raises:
        ValueError: `x` has another number of axes.

    >>> import keras
    >>> causal_convolution(keras.Input((6, 5, 8)), 4, name="context").shape
    (None, 6, 5, 4)

    References:
        van den Oord, A. et al. (2016). Conditional image generation with PixelCNN decoders. NeurIPS.
    """
    layers = layers_for(x.shape[1:])
    around = (kernel_size // 2, (kernel_size - 1) // 2)
    padding = ((kernel_size - 1, 0), *(around,) * (len(x.shape) - 3))
    padded = layers.zero_pad(padding, name=f"{name}_pad")(x)
    return layers.conv(filters, kernel_size, activation="relu", name=f"{name}_conv")(padded)
