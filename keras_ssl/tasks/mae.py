"""MAETask: masked autoencoder, to predict most patches from the few visible ones."""

import dataclasses
import math

import keras
from keras import ops

from keras_ssl._types import Structure, Tensor
from keras_ssl.encoders.spatial_layers import positive_integers
from keras_ssl.encoders.vit import token_parts
from keras_ssl.layers.decoders import token_decoder
from keras_ssl.layers.mask_tokens import AppendMaskTokens
from keras_ssl.losses.reconstruction import weighted_squared_error
from keras_ssl.metrics.probes import relative_error
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.preprocessing.color import standardize
from keras_ssl.preprocessing.masking import (
    count_masked,
    hide_where,
    mask_lowest,
    patch_mask_to_pixels,
)
from keras_ssl.preprocessing.patches import patch_grid, split_patches
from keras_ssl.preprocessing.views import mild_augmentation
from keras_ssl.tasks.base import PretextTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MAETask(PretextTask):
    """Mask most patches of an image and predict their pixels with a vision transformer.

    Patches are those of the encoder, which sees the visible ones only: with three quarters masked, a step
    costs little more than a quarter. A small transformer decoder gets the encoder's output tokens, and a
    learned mask token at each masked position, and predicts pixels; it is discarded after pretraining. Images
    are standardized first, then each patch. The metric `relative_error` is the squared error of masked pixels
    divided by that of predicting their mean, of the patch or else of the image: 1 is no better than the mean.

    The decoder is lighter than the paper's, of 8 blocks with 16 heads: it suits the size of `vit_encoder`. In
    the paper 2 blocks did as well for fine-tuning, though not for a linear probe.

    Args:
        mask_fraction: fraction of the patches that is masked, in (0, 1), rounded to whole patches.
        normalize_patches: whether target pixels are normalized to mean 0 and variance 1 in each patch, over
            all channels; better for fine-tuning in the paper.
        decoder_dim: dimension of the decoder's tokens, a multiple of `decoder_heads` and of twice the number
            of spatial axes. `None` takes half of the encoder's, as the paper does for ViT-Large, rounded up.
        decoder_depth: number of transformer blocks of the decoder.
        decoder_heads: number of their self-attention heads.

    Raises:
        ValueError: an argument is out of range. In `build_network`: the encoder has no tokens, see
            `token_parts`, or too few.

    >>> import keras_ssl
    >>> encoder = keras_ssl.encoders.vit_encoder((32, 32, 3), patch_size=8, embedding_dim=24, depth=1)
    >>> task = keras_ssl.MAETask(decoder_dim=24)
    >>> {name: output.shape for name, output in task.build_network(encoder, (32, 32, 3)).output.items()}
    {'patches': (None, 16, 8, 8, 3), 'masked': (None, 16)}

    References:
        He, K. et al. (2022). Masked autoencoders are scalable vision learners. CVPR.
    """

    mask_fraction: float = 0.75
    normalize_patches: bool = True
    decoder_dim: int | None = None
    decoder_depth: int = 2
    decoder_heads: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.mask_fraction < 1:
            raise ValueError(f"`mask_fraction` must lie in (0, 1). Received {self.mask_fraction}.")
        for name in ("decoder_dim", "decoder_depth", "decoder_heads"):
            if getattr(self, name) is not None:
                positive_integers(name, (getattr(self, name),))

    def base_learning_rate(self) -> float:
        """Return the rate of the paper, for batches of 256 by the square root."""
        return 6e-4

    def preprocess(
        self, images: Tensor, seed: keras.random.SeedGenerator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return `({"images", "noise"}, images)`.

        The noise, float32 `(batch, *spatial)` in [0, 1), determines the mask within the network, which knows
        the encoder's patch size: patches with the lowest noise at their first pixel stay visible.
        """
        images = ops.convert_to_tensor(images)
        noise = keras.random.uniform(ops.shape(images)[:-1], dtype="float32", seed=seed)
        return {"images": images, "noise": noise}, images

    def default_augmentation(self, input_shape: tuple[int, ...]) -> Augmentation:
        """Return a mild augmentation of the images."""
        return mild_augmentation(input_shape)

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build the encoder, on visible patches only, and the decoder.

        Args:
            encoder: a vision transformer, see `token_parts`.
            input_shape: `(*spatial, channels)` of the images.

        Returns:
            Model with outputs `patches`, all patches of the image, float32 `(batch, patches, *patch_shape,
            channels)`, and `masked`, boolean `(batch, patches)`.
        """
        parts = token_parts(encoder)
        count, channels = math.prod(parts.grid), input_shape[-1]
        masked = count_masked(count, self.mask_fraction)
        images, noise = keras.Input(input_shape, name="images"), keras.Input(input_shape[:-1], name="noise")
        first = noise[:, *(slice(None, None, side) for side in parts.patch_shape)]
        order = ops.argsort(ops.reshape(first, (-1, count)), axis=1)
        # A class token and registers are always visible.
        tokens, prefix = parts.embed(images), parts.prefix_tokens
        visible = ops.take_along_axis(tokens[:, prefix:], order[:, : count - masked, None], axis=1)
        dim = self.decoder_dim
        if dim is None:
            multiple = math.lcm(self.decoder_heads, 2 * len(parts.grid))
            dim = multiple * math.ceil(visible.shape[-1] / 2 / multiple)
        visible = parts.blocks(ops.concatenate([tokens[:, :prefix], visible], axis=1))[:, prefix:]
        x = keras.layers.Dense(dim, name="decoder_embed")(visible)
        x = AppendMaskTokens(masked, name="mask_tokens")(x)
        # The inverse permutation: position of each patch in that sequence.
        positions = ops.argsort(order, axis=1)
        x = ops.take_along_axis(x, positions[:, :, None], axis=1)
        x = token_decoder(x, parts.grid, depth=self.decoder_depth, num_heads=self.decoder_heads)
        patch = (*parts.patch_shape, channels)
        x = keras.layers.Dense(math.prod(patch), dtype="float32", name="pixels")(x)
        outputs = {"patches": ops.reshape(x, (-1, count, *patch)), "masked": positions >= count - masked}
        return keras.Model({"images": images, "noise": noise}, outputs, name="mae")

    def compute_loss(self, targets: Tensor, outputs: dict[str, Tensor]) -> Tensor:
        """Compute the mean squared error over masked patches, float32 `(batch,)`."""
        return weighted_squared_error(*self._compared(targets, outputs))

    def build_metrics(self) -> list[keras.Metric]:
        """Create the relative error of masked patches."""
        return [keras.metrics.MeanMetricWrapper(self._relative_error, name="relative_error")]

    def shown(self, inputs: dict[str, Tensor]) -> Structure:
        """Return images with masked patches of an example size, as the encoder's is not known."""
        images, noise = inputs["images"], inputs["noise"]
        sides = tuple(images.shape[1:-1])
        divisors = [[part for part in range(1, side + 1) if side % part == 0] for side in sides]
        patch = [min(parts, key=lambda part: abs(6 * part - max(parts))) for parts in divisors]
        grid = patch_grid(sides, patch)
        count = math.prod(grid)
        first = ops.reshape(noise[:, *(slice(None, None, side) for side in patch)], (-1, count))
        masked = mask_lowest(-first, count_masked(count, self.mask_fraction))
        return {"input (example grid)": hide_where(images, patch_mask_to_pixels(masked, grid, patch))}

    def _relative_error(self, targets: Tensor, outputs: dict[str, Tensor]) -> Tensor:
        return relative_error(*self._compared(targets, outputs))

    def _compared(self, images: Tensor, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return patches and their predictions, `(batch, patches, pixels)`, and which of them are masked."""
        predicted = outputs["patches"]
        patches = split_patches(standardize(images), predicted.shape[2:-1])
        if self.normalize_patches:
            patches = standardize(patches, tuple(range(2, len(patches.shape))), epsilon=1e-6)
        shape = (-1, predicted.shape[1], math.prod(predicted.shape[2:]))
        return ops.reshape(patches, shape), ops.reshape(predicted, shape), outputs["masked"][..., None]
