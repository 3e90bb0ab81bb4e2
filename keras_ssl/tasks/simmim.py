"""SimMIMTask: masked image modeling, to predict masked pixels with any encoder of feature maps."""

import dataclasses
import math

import keras

from keras_ssl._types import Tensor
from keras_ssl.encoders.spatial_layers import positive_integers
from keras_ssl.layers.decoders import pixel_head
from keras_ssl.layers.mask_tokens import FillMasked
from keras_ssl.losses.reconstruction import masked_absolute_error
from keras_ssl.metrics.probes import relative_error
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.preprocessing.color import standardize
from keras_ssl.preprocessing.masking import (
    count_masked,
    default_patch_shape,
    hide_where,
    mask_lowest,
    patch_mask_to_pixels,
)
from keras_ssl.preprocessing.patches import patch_grid
from keras_ssl.preprocessing.views import mild_augmentation
from keras_ssl.tasks.base import PretextTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SimMIMTask(PretextTask):
    """Mask patches of an image and predict their pixels, with any encoder that returns a feature map.

    Before the encoder, masked pixels are replaced by the mean of the others plus a learned value (see
    `FillMasked`); in the paper a learned token replaces patch embeddings, which a convolutional
    network does not have. One linear layer on the encoder's feature map predicts all pixels of the
    standardized image. The metric `relative_error` is the squared error of masked pixels divided by that of
    predicting the image's mean: 1 is no better than the mean.

    Args:
        mask_fraction: fraction of the patches that is masked, in (0, 1), rounded to whole patches.
        patch_size: side of a patch in pixels, one number or one for each spatial axis; `None` takes about a
            sixth of each side, see `default_patch_shape`: 32 of 192 pixels, as in the paper.

    Raises:
        ValueError: an argument is out of range. In `encoder_input_shape`: images cannot be divided into such
            patches. In `build_network`: the encoder returns no feature map.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, _ = SimMIMTask().preprocess(np.ones((1, 20, 20, 3), "float32"), ReplaySeeds())
    >>> int(np.asarray(inputs["masked"]).sum()), 0.6 * 20 * 20
    (240, 240.0)

    References:
        Xie, Z. et al. (2022). SimMIM: a simple framework for masked image modeling. CVPR.
    """

    mask_fraction: float = 0.6
    patch_size: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.mask_fraction < 1:
            raise ValueError(f"`mask_fraction` must lie in (0, 1). Received {self.mask_fraction}.")
        if self.patch_size is not None:
            sides = (self.patch_size,) if isinstance(self.patch_size, int) else self.patch_size
            positive_integers("patch_size", sides)

    def base_learning_rate(self) -> float:
        """Return a rate between the paper's, for transformers, and that of convolutional networks."""
        return 1e-3

    def preprocess(
        self, images: Tensor, seed: keras.random.SeedGenerator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return inputs and targets of `images`, standardized in the targets, and `masked`.

        The mask is boolean, `(batch, *spatial, 1)`.
        """
        images = keras.ops.convert_to_tensor(images)
        patch_shape, grid = self._patches(tuple(images.shape[1:-1]))
        count = math.prod(grid)
        noise = keras.random.uniform((keras.ops.shape(images)[0], count), dtype="float32", seed=seed)
        masked = mask_lowest(noise, count_masked(count, self.mask_fraction))
        pixels = patch_mask_to_pixels(masked, grid, patch_shape)
        return {"images": images, "masked": pixels}, {"images": standardize(images), "masked": pixels}

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return `input_shape`.

        Raises:
            ValueError: images of `input_shape` cannot be divided into patches, or into too few.
        """
        _, grid = self._patches(input_shape[:-1])
        count_masked(math.prod(grid), self.mask_fraction)
        return input_shape

    def default_augmentation(self, input_shape: tuple[int, ...]) -> Augmentation:
        """Return a mild augmentation of the images."""
        return mild_augmentation(input_shape)

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build `FillMasked`, encoder and the linear layer, float32 `(batch, *spatial, channels)`.

        Args:
            encoder: returns a feature map.
            input_shape: `(*spatial, channels)` of the images.

        Raises:
            ValueError: the encoder returns no feature map.
        """
        *sides, channels = self.encoder_input_shape(input_shape)
        images = keras.Input(input_shape, name="images")
        masked = keras.Input((*sides, 1), dtype="bool", name="masked")
        features = encoder(FillMasked(name="fill_masked")(images, masked))
        outputs = pixel_head(features, sides, channels)
        return keras.Model({"images": images, "masked": masked}, outputs, name="simmim")

    def compute_loss(self, targets: dict[str, Tensor], outputs: Tensor) -> Tensor:
        """Compute the mean absolute error over masked pixels, float32 `(batch,)`."""
        return masked_absolute_error(targets["images"], outputs, targets["masked"])

    def chance_loss(self, input_shape: tuple[int, ...]) -> float:
        """Return the loss of predicting the mean of masked pixels, about 1."""
        return 1.0

    def build_metrics(self) -> list[keras.Metric]:
        """Create the relative error of masked pixels."""
        return [keras.metrics.MeanMetricWrapper(_relative_error, name="relative_error")]

    def shown(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return images with masked patches, filled with the mean of the visible pixels."""
        return hide_where(inputs["images"], inputs["masked"])

    def _patches(self, sides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        size = self.patch_size
        if size is None:
            patch_shape = default_patch_shape(sides)
        else:
            patch_shape = (size,) * len(sides) if isinstance(size, int) else tuple(size)
        return patch_shape, patch_grid(sides, patch_shape)


def _relative_error(targets: dict[str, Tensor], outputs: Tensor) -> Tensor:
    return relative_error(targets["images"], outputs, targets["masked"])
