"""ColorizationTask: predict the colors of an image from its lightness."""

import dataclasses
from typing import Literal

import keras
import numpy as np
from keras import ops

from keras_ssl._types import Tensor
from keras_ssl.encoders.tokens import arrange_tokens
from keras_ssl.layers.decoders import upsampling_decoder
from keras_ssl.losses.reconstruction import rebalanced_crossentropy
from keras_ssl.preprocessing._compilation import floating_dtype
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.preprocessing.color import AB_LIMIT, ab_bins, count_ab_bins, rgb_to_lab
from keras_ssl.preprocessing.views import mild_augmentation
from keras_ssl.tasks.base import PretextTask, check_above, check_at_least


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorizationTask(PretextTask):
    """Predict the colors of images from their lightness, as bins of a and b in the CIE Lab color space.

    For 2D RGB images. The lightness is copied to all three channels, in the value range of the images, so
    that the encoder keeps its first layer. A decoder on the encoder's feature map predicts colors at a
    coarser resolution; it is discarded after pretraining.

    As in the paper, bins are the squares of a grid of step 10 that contain sRGB colors, and the loss of a
    pixel is weighted by how rare its bin is (class rebalancing). Unlike there, a pixel belongs to a single
    bin, and frequencies are those of the batch.

    Args:
        value_range: values of black and of white in the images. `fit_pretext` raises an error if images
            exceed it by more than a tenth, or fill less than a fiftieth of it, such as images of 0 to 1 for
            the default of 0 to 255; values slightly out of range are clipped.
        mode: `"bins"` to classify bins, `"regression"` for the squared error of a and b, which tends to
            gray.
        stride: side of the squares of pixels whose mean color is predicted, at least 1; 4 in the paper.
        bin_step: side of a bin, above 0.
        uniform_fraction: smoothing of the bin weights, in (0, 1], see `rebalancing_weights`.
        filters: filters of the decoder's first convolution, see `layers.upsampling_decoder`.

    Raises:
        ValueError: an argument is out of range. In `encoder_input_shape`: images are not 2D with three
            channels.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, bins = ColorizationTask().preprocess(np.ones((2, 16, 16, 3), "uint8"), ReplaySeeds())
    >>> tuple(inputs.shape), tuple(bins.shape)
    ((2, 16, 16, 3), (2, 4, 4))

    References:
        Zhang, R., Isola, P., Efros, A. A. (2016). Colorful image colorization. ECCV.
    """

    value_range: tuple[float, float] = (0.0, 255.0)
    mode: Literal["bins", "regression"] = "bins"
    stride: int = 4
    bin_step: float = 10.0
    uniform_fraction: float = 0.5
    filters: int = 64

    def __post_init__(self) -> None:
        if self.mode not in ("bins", "regression"):
            raise ValueError(f'`mode` must be "bins" or "regression". Received {self.mode!r}.')
        if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"`value_range` must be (black, white), rising. Received {self.value_range}.")
        check_at_least(self, 1, "stride")
        check_above(self, 0, "bin_step")
        if not 0 < self.uniform_fraction <= 1:
            raise ValueError(f"`uniform_fraction` must be in (0, 1]. Received {self.uniform_fraction}.")

    def base_learning_rate(self) -> float:
        """Return a moderate rate, as in the papers, which use Adam."""
        return 1e-3

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return `input_shape`.

        Raises:
            ValueError: images are not 2D with three channels, or smaller than `stride`.
        """
        if len(input_shape) != 3 or input_shape[-1] != 3 or min(input_shape[:-1]) < self.stride:
            raise ValueError(
                "`input_shape` must be (height, width, 3), that is color images, of at least `stride` "
                f"{self.stride} a side. Received {input_shape}."
            )
        return input_shape

    def check_images(self, images: np.ndarray) -> None:
        """Validate that image values lie in `value_range` and fill more than a fiftieth of it."""
        black, white = self.value_range
        low, high, room = images.min(), images.max(), (white - black) / 10
        if low < black - room or high > white + room or high - low < room / 5:
            raise ValueError(
                f"`value_range` must be that of the images, {low:g} to {high:g}. Received {self.value_range}."
            )

    def preprocess(self, images: Tensor, seed: keras.random.SeedGenerator) -> tuple[Tensor, Tensor]:
        """Return the lightness in three channels, and bins `(batch, h, w)` or colors `(batch, h, w, 2)`.

        Colors are a and b divided by 110.
        """
        images = ops.convert_to_tensor(images)
        black, white = self.value_range
        fraction = (ops.cast(images, "float32") - black) / (white - black)
        lab = rgb_to_lab(ops.clip(fraction, 0.0, 1.0))
        lightness = ops.repeat(black + (white - black) * lab[..., :1] / 100, 3, axis=-1)
        square = (self.stride, self.stride)
        colors = ops.average_pool(lab[..., 1:], square, square, data_format="channels_last")
        targets = ab_bins(colors, self.bin_step) if self.mode == "bins" else colors / AB_LIMIT
        return ops.cast(lightness, floating_dtype(images)), targets

    def default_augmentation(self, input_shape: tuple[int, ...]) -> Augmentation:
        """Return a mild augmentation of the images."""
        return mild_augmentation(input_shape)

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder and decoder: float32 logits of bins, or a and b.

        Raises:
            ValueError: `input_shape` is invalid, or the encoder returns no feature map.
        """
        inputs = keras.Input(self.encoder_input_shape(input_shape))
        features = encoder(inputs)
        if len(getattr(features, "shape", ())) == 3:
            features = arrange_tokens(features, input_shape[:-1])
        sides = tuple(size // self.stride for size in input_shape[:-1])
        channels = count_ab_bins(self.bin_step) if self.mode == "bins" else 2
        outputs = upsampling_decoder(features, sides, channels, filters=self.filters, name="colorization")
        return keras.Model(inputs, outputs, name="colorization")

    def compute_loss(self, targets: Tensor, outputs: Tensor) -> Tensor:
        """Compute the rebalanced cross-entropy of bins, or the mean squared error, float32 `(batch,)`."""
        if self.mode == "bins":
            return rebalanced_crossentropy(targets, outputs, self.uniform_fraction)
        return ops.mean(ops.square(ops.cast(outputs, "float32") - targets), axis=(1, 2, 3))

    def build_metrics(self) -> list[keras.Metric]:
        """Create the accuracy of bins, or the mean distance of colors in a and b."""
        if self.mode == "bins":
            return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        return [keras.metrics.MeanMetricWrapper(_color_error, name="color_error")]


def _color_error(targets: Tensor, outputs: Tensor) -> Tensor:
    return AB_LIMIT * ops.norm(ops.cast(outputs, "float32") - targets, axis=-1)
