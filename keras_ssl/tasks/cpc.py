"""CPCTask: contrastive predictive coding of patches, with causal convolutions."""

import dataclasses
import math

import keras
from keras import ops

from keras_ssl._types import Structure, Tensor
from keras_ssl.encoders.spatial_layers import layers_for
from keras_ssl.layers.pooling import pool_features
from keras_ssl.losses.contrastive import predicted_pairs, predictive_coding
from keras_ssl.metrics.probes import nearest_is_own
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.preprocessing.patches import (
    crop_standardized,
    match_intensity,
    overlapping_corners,
    overlapping_grid,
    overlapping_patch_shape,
)
from keras_ssl.preprocessing.views import ViewMaker, mild_augmentation, random_views
from keras_ssl.tasks.base import PretextTask, check_above

# Smallest number of patches along each axis, by the number of spatial axes.
_MIN_PATCHES = {2: 6, 3: 4}


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CPCTask(PretextTask):
    """Predict the code of a patch from the codes of the patches above it: contrastive predictive coding.

    Images are divided into a grid of patches that overlap by half, each normalized to mean 0 and standard
    deviation 1 per channel. The encoder sees single patches, and its pooled features are mapped to a code.
    Causal convolutions summarize the codes of a row and the rows above it (the context); rows lie along the
    first spatial axis, and are planes in 3D. A linear layer for each step predicts from it the code at the
    same position that many rows below, which is to be found among those of all other positions and images of
    the batch: the papers' InfoNCE, with cosine similarities instead of dot products. The metric `accuracy` is
    the fraction of predictions that are nearer to their target than to any other.

    Patches of empty background are all alike, and cannot be told apart: crop images first. Batch
    normalization lets patches of a batch exchange information, so the first two papers avoid it. The encoder
    must take whole images too, for which it is fine-tuned; one with open sides needs `input_shape`, that of
    the images.

    Args:
        patch_shape: sides of a patch along each axis, at least 2. `None` takes the largest even ones for
            which at least 6 patches fit along an axis in 2D, 4 in 3D: 64 of 224 pixels. The first two papers
            have 7 and 6, the third one's code has 5 in 2D and 4 in 3D.
        patch_views: creates a view of every normalized patch, see `random_views`; `None` for no augmentation.
            The second paper benefits from it.
        steps: row offsets of the predicted codes. 1 is not among the defaults, since that patch shares half
            of its voxels with the last one seen; the first paper has up to 5.
        temperature: temperature of the softmax over cosine similarities, above 0.
        embedding_dim: dimension of the codes; 1024 in the third paper. They are discarded after pretraining,
            as are the layers behind them.
        context_filters: filters of the causal convolutions, each of which sees two rows further up and one
            position further to each side. The first two papers have more, the third a recurrent layer.

    Raises:
        ValueError: an argument is out of range. `encoder_input_shape` checks what depends on the images.

    >>> CPCTask().encoder_input_shape((224, 224, 3)), CPCTask().encoder_input_shape((64, 64, 64, 1))
    ((64, 64, 3), (24, 24, 24, 1))

    References:
        van den Oord, A., Li, Y., Vinyals, O. (2018). Representation learning with contrastive predictive
        coding. arXiv:1807.03748.
        Henaff, O. et al. (2020). Data-efficient image recognition with contrastive predictive coding. ICML.
        Taleb, A. et al. (2020). 3D self-supervised methods for medical imaging. NeurIPS.
    """

    patch_shape: tuple[int, ...] | None = None
    patch_views: ViewMaker | None = None
    steps: tuple[int, ...] = (2, 3)
    temperature: float = 0.1
    embedding_dim: int = 128
    context_filters: tuple[int, ...] = (128, 128)

    def __post_init__(self) -> None:
        if not isinstance(self.steps, tuple) or not self.steps or min(self.steps) < 1:
            raise ValueError(f"`steps` must be a tuple of integers of at least 1. Received {self.steps!r}.")
        if min((self.embedding_dim, *self.context_filters)) < 1:
            raise ValueError(
                "`embedding_dim` and `context_filters` must be at least 1. "
                f"Received {self.embedding_dim} and {self.context_filters}."
            )
        check_above(self, 0, "temperature")

    def base_learning_rate(self) -> float:
        """Return a moderate rate, as in the papers, which use Adam."""
        return 1e-3

    def preprocess(self, images: Tensor, seed: keras.random.SeedGenerator) -> tuple[Structure, Structure]:
        """Return all patches of the first image, then of the second, and no targets."""
        images = ops.convert_to_tensor(images)
        *patch, _ = self.encoder_input_shape(tuple(images.shape[1:]))
        corners = overlapping_corners(images.shape[1:-1], patch)
        # The same corners for all images.
        patches = crop_standardized(images, corners[None], patch)
        if self.patch_views is not None:
            patches = random_views(patches, seed, self.patch_views, count=1)
        return match_intensity(patches, images), {}

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a patch.

        Raises:
            ValueError: images of `input_shape` are too small for the patches or the steps.
        """
        sizes, patch = input_shape[:-1], self.patch_shape
        if patch is None:
            patch = overlapping_patch_shape(sizes, _MIN_PATCHES[len(sizes)])
        rows, *others = overlapping_grid(sizes, patch)
        if (rows - max(self.steps)) * math.prod(others) < 2:
            raise ValueError(
                "`steps` must leave two or more patches of an image to be predicted. Received steps "
                f"{self.steps} and a grid of {(rows, *others)} patches of {patch} in images of sides {sizes}."
            )
        return (*patch, input_shape[-1])

    def default_augmentation(self, input_shape: tuple[int, ...]) -> Augmentation:
        """Return a mild augmentation of the images."""
        return mild_augmentation(input_shape)

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder, codes, context and predictions, from patches `(batch * patches, *patch, channels)`.

        Its outputs, float32: `codes`, `(batch, *grid, embedding_dim)`, and `predictions`,
        `(batch, *grid, steps, embedding_dim)`.
        """
        patch, units = self.encoder_input_shape(input_shape), self.embedding_dim
        grid = overlapping_grid(input_shape[:-1], patch[:-1])
        inputs = keras.Input(patch)
        codes = keras.layers.Dense(units, dtype="float32", name="codes")(pool_features(encoder(inputs)))
        codes = context = ops.reshape(codes, (-1, *grid, units))
        for number, filters in enumerate(self.context_filters, start=1):
            context = _causal_convolution(context, filters, name=f"context_{number}")
        steps = len(self.steps)
        predictions = keras.layers.Dense(steps * units, dtype="float32", name="predictions")(context)
        predictions = ops.reshape(predictions, (-1, *grid, steps, units))
        return keras.Model(inputs, {"codes": codes, "predictions": predictions}, name="cpc")

    def compute_loss(self, targets: Structure, outputs: dict[str, Tensor]) -> Tensor:
        """Compute the mean InfoNCE loss of each step, float32 `(steps,)`; see `predictive_coding`."""
        return predictive_coding(outputs["predictions"], outputs["codes"], self.steps, self.temperature)

    def build_metrics(self) -> list[keras.Metric]:
        """Create the accuracy of the predictions."""
        return [keras.metrics.MeanMetricWrapper(_is_found, name="accuracy", steps=self.steps)]


def _is_found(_: Structure, outputs: dict[str, Tensor], steps: tuple[int, ...]) -> Tensor:
    pairs = predicted_pairs(outputs["predictions"], outputs["codes"], steps)
    return ops.concatenate([nearest_is_own(*pair) for pair in pairs])


def _causal_convolution(
    x: keras.KerasTensor, filters: int, kernel_size: int = 3, *, name: str
) -> keras.KerasTensor:
    """Add a causal convolution with ReLU: an output row depends on its own row and the rows before it.

    Rows are the first spatial axis; along the others the kernel is centered. Zero padding before the first
    row, and around the other axes, keeps the size.

    Args:
        x: symbolic tensor `(batch, rows, *others, channels)`, two or three spatial axes.
        filters: output channels.
        kernel_size: number of rows, the own one included, and of positions along the other axes.
        name: prefix of the layers' names.

    Returns:
        Symbolic tensor `(batch, rows, *others, filters)`.

    References:
        van den Oord, A. et al. (2016). Conditional image generation with PixelCNN decoders. NeurIPS.
    """
    layers = layers_for(x.shape[1:])
    around = (kernel_size // 2, (kernel_size - 1) // 2)
    padding = ((kernel_size - 1, 0), *(around,) * (len(x.shape) - 3))
    padded = layers.zero_pad(padding, name=f"{name}_pad")(x)
    return layers.conv(filters, kernel_size, activation="relu", name=f"{name}_conv")(padded)
