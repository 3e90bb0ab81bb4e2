"""Mask tokens and learned pixels in place of masked patches."""

from typing import Any

import keras
from keras import ops

from keras_ssl.preprocessing.masking import hide_where


@keras.saving.register_keras_serializable(package="keras_ssl")
class AppendMaskTokens(keras.Layer):
    """Put copies of one learned token behind those of every image.

    Args:
        count: how many.

    >>> AppendMaskTokens(3)(keras.Input((2, 8))).shape
    (None, 5, 8)

    References:
        He, K. et al. (2022). Masked autoencoders are scalable vision learners. CVPR.
    """

    def __init__(self, count: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the token, small as those of the patches are."""
        self.token = self.add_weight(
            shape=(1, 1, input_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="token",
        )

    def call(self, tokens: Any) -> Any:
        """Return `(batch, tokens + count, dim)`."""
        new = ops.tile(ops.cast(self.token, tokens.dtype), (ops.shape(tokens)[0], self.count, 1))
        return ops.concatenate([tokens, new], axis=1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "count": self.count}


@keras.saving.register_keras_serializable(package="keras_ssl")
class FillMasked(keras.Layer):
    """Replace masked pixels by the mean of the image's other pixels plus a learned value, channel by channel.

    The mean makes the first guess at home in images of any range; the learned value, 0 at the start and in
    standard deviations of the image so filled, lets the encoder tell masked pixels from others.

    >>> image = keras.ops.reshape(keras.ops.arange(3, dtype="float32"), (1, 3, 1, 1))
    >>> filled = FillMasked()(image, keras.ops.reshape([False, False, True], (1, 3, 1, 1)))
    >>> keras.ops.convert_to_numpy(filled).ravel().tolist()
    [0.0, 1.0, 0.5]

    References:
        Xie, Z. et al. (2022). SimMIM: a simple framework for masked image modeling. CVPR.
    """

    def build(self, images_shape: tuple[int | None, ...], masked_shape: tuple[int | None, ...]) -> None:
        """Make the learned value."""
        self.value = self.add_weight(shape=(images_shape[-1],), initializer="zeros", name="value")

    def call(self, images: Any, masked: Any) -> Any:
        """Return `images` with pixels replaced where `masked`, boolean `(batch, *spatial, 1)`, is true."""
        filled = hide_where(images, masked)
        visible = ops.cast(filled, "float32")
        deviation = ops.std(visible, axis=tuple(range(1, len(visible.shape) - 1)), keepdims=True)
        value = ops.cast(self.value * deviation, images.dtype)
        return filled + value * ops.cast(masked, images.dtype)

    def compute_output_shape(self, images_shape: Any, masked_shape: Any) -> Any:
        """Return the shape of the images."""
        return images_shape
