"""A convolution that does not look ahead, for any number of spatial axes."""

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from keras_ssl.encoders.spatial_layers import layers_for
from keras_ssl.layers.pooling import pool_features
from keras_ssl.losses.contrastive import predicted_pairs, predictive_coding
from keras_ssl.metrics.probes import nearest_is_own
from keras_ssl.preprocessing.patches import (
    crop_normalized,
    overlapping_corners,
    overlapping_grid,
    overlapping_patch_shape,
    rescale_like,
)
from keras_ssl.preprocessing.views import ViewMaker, random_views
from keras_ssl.tasks.base import PretextTask


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


# Patches along each axis, at least, by the number of axes.
_CELLS = {2: 6, 3: 4}


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CPCTask(PretextTask):
    """Predict the code of a patch from those of the patches above it: contrastive predictive coding.

    Images are cut into a grid of patches that overlap by half, each brought to mean 0 and deviation 1 in
    every channel. The encoder sees each patch alone, and its pooled features become a code. Causal
    convolutions sum up the codes of a row and the rows above it; rows lie along the first spatial axis, and
    are planes in 3D. From there, one linear layer a step predicts the code in the same place so many rows
    further down, which is to be found among those of all other places and images of the batch. This is the
    papers' InfoNCE, with cosines for dot products; some implementations have a binary cross-entropy, which is
    not used.

    Patches of empty background are all alike, and cannot be found: crop images to what they show. With batch
    normalization patches of a batch know of each other, so the first two papers avoid it. The encoder takes
    patches, and later whole images if its sides are open, as in `(None, None, 3)`; give `SelfSupervisedModel`
    the shape of the images as `input_shape`.

    Args:
        patch_shape: sides of a patch along each axis, at least 2. `None` takes the largest even ones with
            which at least 6 patches find room along an axis in 2D, 4 in 3D: 64 of 224 pixels. The first two
            papers have 7 and 6, the third one's code has 5 in 2D and 4 in 3D.
        steps: how many rows further down is predicted. 1 is left out, since that patch shares half of its
            voxels with the last one that was seen; the first paper has up to 5.
        patch_views: what is done to every patch on its own once it is normalized, see `random_views`; `None`
            for nothing. The second paper gains from it.
        embedding_dim: length of codes; 1024 in the third paper. They are thrown away, as all that follows.
        context_filters: filters of the causal convolutions, each of which sees two rows further up and one
            place further to each side. The first two papers have more, the third a recurrent layer.
        temperature: what cosines are divided by, above 0.

    Raises:
        ValueError: a value is out of range. What depends on the images is checked by `encoder_input_shape`.

    >>> CPCTask().encoder_input_shape((224, 224, 3)), CPCTask().encoder_input_shape((64, 64, 64, 1))
    ((64, 64, 3), (24, 24, 24, 1))

    References:
        van den Oord, A., Li, Y., Vinyals, O. (2018). Representation learning with contrastive predictive
        coding. arXiv:1807.03748.
        Henaff, O. et al. (2020). Data-efficient image recognition with contrastive predictive coding. ICML.
        Taleb, A. et al. (2020). 3D self-supervised methods for medical imaging. NeurIPS.
    """

    patch_shape: tuple[int, ...] | None = None
    steps: tuple[int, ...] = (2, 3)
    patch_views: ViewMaker | None = None
    embedding_dim: int = 128
    context_filters: tuple[int, ...] = (128, 128)
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.steps, tuple) or not self.steps or min(self.steps) < 1:
            raise ValueError(f"`steps` must be a tuple of integers of at least 1. Received {self.steps!r}.")
        if min((self.embedding_dim, *self.context_filters)) < 1:
            raise ValueError(
                "`embedding_dim` and `context_filters` must be at least 1. "
                f"Received {self.embedding_dim} and {self.context_filters}."
            )
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be above 0. Received {self.temperature}.")

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Return all patches of the first image, then of the second, and no targets: they are patches too."""
        images = ops.convert_to_tensor(images)
        *patch, _ = self.encoder_input_shape(tuple(images.shape[1:]))
        corners = overlapping_corners(images.shape[1:-1], patch)
        # Those of one image serve all.
        patches = crop_normalized(images, corners[None], patch)
        if self.patch_views is not None:
            patches = random_views(patches, seed, self.patch_views, count=1)
        return rescale_like(patches, images), {}

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a patch.

        Raises:
            ValueError: images of `input_shape` are too small for the patches or the steps.
        """
        sizes, patch = input_shape[:-1], self.patch_shape
        if patch is None:
            patch = overlapping_patch_shape(sizes, _CELLS[len(sizes)])
        rows, *others = overlapping_grid(sizes, patch)
        if (rows - max(self.steps)) * math.prod(others) < 2:
            raise ValueError(
                "`steps` must leave two or more patches of an image to be predicted. Received steps "
                f"{self.steps} and a grid of {(rows, *others)} patches of {patch} in images of sides {sizes}."
            )
        return (*patch, input_shape[-1])

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
            context = causal_convolution(context, filters, name=f"context_{number}")
        steps = len(self.steps)
        predictions = keras.layers.Dense(steps * units, dtype="float32", name="predictions")(context)
        predictions = ops.reshape(predictions, (-1, *grid, steps, units))
        return keras.Model(inputs, {"codes": codes, "predictions": predictions}, name="cpc")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return the mean cross-entropy of each step, float32 `(steps,)`; see `losses.predictive_coding`."""
        return predictive_coding(outputs["predictions"], outputs["codes"], self.steps, self.temperature)

    def build_metrics(self) -> list[keras.Metric]:
        """Make the share of predictions that are nearer to their target than to any other."""
        return [keras.metrics.MeanMetricWrapper(_is_found, name="accuracy", steps=self.steps)]


def _is_found(_: Any, outputs: Any, steps: tuple[int, ...]) -> Any:
    pairs = predicted_pairs(outputs["predictions"], outputs["codes"], steps)
    return ops.concatenate([nearest_is_own(*pair) for pair in pairs])
