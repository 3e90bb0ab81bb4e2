"""InpaintingTask: reconstruct masked blocks of an image (context encoder)."""

import dataclasses
import math

import keras
from keras import ops

from keras_ssl._types import Tensor
from keras_ssl.layers.decoders import pixel_head
from keras_ssl.losses.reconstruction import weighted_squared_error
from keras_ssl.metrics.probes import relative_error
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.preprocessing.color import standardize
from keras_ssl.preprocessing.masking import box_mask, hide_where, mask_rim
from keras_ssl.preprocessing.views import mild_augmentation
from keras_ssl.tasks.base import PretextTask, check_above, check_at_least


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class InpaintingTask(PretextTask):
    """Mask blocks of every image or volume and reconstruct them from their surroundings.

    Blocks are filled with the mean of the visible part. The target is the image standardized to mean 0 and
    standard deviation 1 over the whole image: in standard deviations of the visible part alone, a block in
    an otherwise empty scan could have any values. The loss is the mean squared error within the blocks, about
    1 for predicting the mean everywhere. A decoder on the encoder's feature map predicts pixels; it is
    discarded after pretraining. The metric `relative_error` is the squared error divided by that of
    predicting the image's mean: 1 is no better than the mean.

    Unlike the paper's method, there is no adversarial loss and no channel-wise fully connected layer. There,
    a rim of each block is visible and weighs more; here it weighs more and is masked, since what can be
    copied need not be learned.

    Args:
        num_blocks: number of masked blocks in each image, at least 1; they may overlap.
        block_size: side of a block as a fraction of the image's, in (0, 1). The defaults mask up to a quarter
            of a 2D image, as in the paper; 0.4 does so in 3D.
        rim: width of the rim of a masked block, next to visible pixels, as a fraction of the block's side,
            from 0 to 0.5; at least one voxel, unless it is 0. 7 of 64 pixels in the paper.
        rim_weight: weight of errors in the rim, above 0; 1 in the rest of a block.
        stride: side of the squares of pixels that are predicted at once, see `pixel_head`, at least 1.
            1 decodes to full size as the paper does, for several times the cost.
        filters: filters of the decoder's first convolution, at least 1.

    Raises:
        ValueError: an argument is out of range. In `encoder_input_shape`: blocks could mask a whole image.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, targets = InpaintingTask().preprocess(np.ones((2, 16, 16, 1), "float32"), ReplaySeeds())
    >>> tuple(inputs.shape), sorted(targets)
    ((2, 16, 16, 1), ['hidden', 'images'])

    References:
        Pathak, D. et al. (2016). Context encoders: feature learning by inpainting. CVPR.
    """

    num_blocks: int = 4
    block_size: float = 0.25
    rim: float = 0.1
    rim_weight: float = 10.0
    stride: int = 4
    filters: int = 64

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_blocks", "stride")
        if not 0 < self.block_size < 1:
            raise ValueError(f"`block_size` must be above 0 and below 1. Received {self.block_size}.")
        if not 0 <= self.rim <= 0.5:
            raise ValueError(f"`rim` must be from 0 to 0.5. Received {self.rim}.")
        check_above(self, 0, "rim_weight")

    def base_learning_rate(self) -> float:
        """Return a moderate rate, as in the papers, which use Adam."""
        return 1e-3

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return `input_shape`.

        Raises:
            ValueError: blocks, side by side, could mask a whole image.
        """
        block = self._block_shape(input_shape[:-1])
        if self.num_blocks * math.prod(block) >= math.prod(input_shape[:-1]):
            raise ValueError(
                "`num_blocks` and `block_size` must leave a part of every image visible. Received "
                f"{self.num_blocks} and {self.block_size}: blocks of {block} for images of shape "
                f"{input_shape}."
            )
        return input_shape

    def preprocess(
        self, images: Tensor, seed: keras.random.SeedGenerator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return images with masked blocks; targets are standardized `images` and the mask, `hidden`."""
        images = ops.convert_to_tensor(images)
        sides = tuple(images.shape[1:-1])
        block = self._block_shape(sides)
        shape = (ops.shape(images)[0], self.num_blocks, len(sides))
        positions = keras.random.uniform(shape, dtype="float32", seed=seed)
        last = ops.convert_to_tensor(
            [side - size for side, size in zip(sides, block, strict=True)], "float32"
        )
        hidden = box_mask(ops.minimum(ops.floor(positions * (last + 1)), last), block, sides)
        return hide_where(images, hidden), {"images": standardize(images), "hidden": hidden}

    def default_augmentation(self, input_shape: tuple[int, ...]) -> Augmentation:
        """Return a mild augmentation of the images."""
        return mild_augmentation(input_shape)

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder and decoder, float32 images.

        Raises:
            ValueError: the encoder returns no feature map.
        """
        inputs = keras.Input(self.encoder_input_shape(input_shape))
        *sides, channels = input_shape
        outputs = pixel_head(
            encoder(inputs), sides, channels, stride=self.stride, filters=self.filters, name="inpainting"
        )
        return keras.Model(inputs, outputs, name="inpainting")

    def compute_loss(self, targets: dict[str, Tensor], outputs: Tensor) -> Tensor:
        """Compute the weighted mean squared error where `hidden`, float32 `(batch,)`."""
        hidden = targets["hidden"]
        block = self._block_shape(hidden.shape[1:-1])
        width = [max(1, round(self.rim * side)) if self.rim else 0 for side in block]
        weights = ops.where(mask_rim(hidden, width), self.rim_weight, 1.0) * ops.cast(hidden, "float32")
        return weighted_squared_error(targets["images"], outputs, weights)

    def chance_loss(self, input_shape: tuple[int, ...]) -> float:
        """Return the loss of predicting the mean of masked blocks, about 1."""
        return 1.0

    def build_metrics(self) -> list[keras.Metric]:
        """Create the relative error of masked blocks."""
        return [keras.metrics.MeanMetricWrapper(_relative_error, name="relative_error")]

    def _block_shape(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(max(1, round(self.block_size * side)) for side in sides)


def _relative_error(targets: dict[str, Tensor], outputs: Tensor) -> Tensor:
    return relative_error(targets["images"], outputs, targets["hidden"])
