"""Learned replacements of masked patches: mask tokens (MAE), filled pixels (SimMIM)."""

from typing import Any

import keras
from keras import ops

from keras_ssl._types import Config, Tensor
from keras_ssl.preprocessing.masking import hide_where


@keras.saving.register_keras_serializable(package="keras_ssl")
class AppendMaskTokens(keras.Layer):
    """Append copies of one learned mask token to the tokens of every image.

    Args:
        count: number of copies.

    >>> AppendMaskTokens(3)(keras.Input((2, 8))).shape
    (None, 5, 8)

    References:
        He, K. et al. (2022). Masked autoencoders are scalable vision learners. CVPR.
    """

    def __init__(self, count: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the token with small values, as patch embeddings have at first."""
        self.token = self.add_weight(
            shape=(1, 1, input_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="token",
        )

    def call(self, tokens: Tensor) -> Tensor:
        """Return `(batch, tokens + count, dim)`."""
        new = ops.tile(ops.cast(self.token, tokens.dtype), (ops.shape(tokens)[0], self.count, 1))
        return ops.concatenate([tokens, new], axis=1)

    def get_config(self) -> Config:
        """Return the arguments."""
        return {**super().get_config(), "count": self.count}


@keras.saving.register_keras_serializable(package="keras_ssl")
class FillMasked(keras.Layer):
    """Replace masked pixels by the mean of the visible pixels plus a learned value, for each channel.

    The mean suits images of any value range. The learned value starts at 0 and is in standard deviations of
    the filled image; it lets the encoder tell masked from visible pixels.

    >>> image = keras.ops.reshape(keras.ops.arange(3, dtype="float32"), (1, 3, 1, 1))
    >>> filled = FillMasked()(image, keras.ops.reshape([False, False, True], (1, 3, 1, 1)))
    >>> keras.ops.convert_to_numpy(filled).ravel().tolist()
    [0.0, 1.0, 0.5]

    References:
        Xie, Z. et al. (2022). SimMIM: a simple framework for masked image modeling. CVPR.
    """

    def build(self, images_shape: tuple[int | None, ...], masked_shape: tuple[int | None, ...]) -> None:
        """Create the learned value of each channel."""
        self.value = self.add_weight(shape=(images_shape[-1],), initializer="zeros", name="value")

    def call(self, images: Tensor, masked: Tensor) -> Tensor:
        """Return `images` with pixels replaced where `masked`, boolean `(batch, *spatial, 1)`, is true."""
        filled = hide_where(images, masked)
        visible = ops.cast(filled, "float32")
        deviation = ops.std(visible, axis=tuple(range(1, len(visible.shape) - 1)), keepdims=True)
        value = ops.cast(self.value * deviation, images.dtype)
        return filled + value * ops.cast(masked, images.dtype)

    def compute_output_shape(
        self, images_shape: tuple[int | None, ...], masked_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Return the shape of the images."""
        return images_shape
