"""RelativePatchTask: find out on which side of an image's center a patch lies."""

import dataclasses
import math
from typing import Any, Literal

import keras
from keras import ops

from keras_ssl.layers.pooling import mlp, pool_features
from keras_ssl.preprocessing.color import drop_colors, project_colors
from keras_ssl.preprocessing.patches import (
    cell_patch_shape,
    crop_normalized,
    random_cell_corners,
    rescale_like,
)
from keras_ssl.tasks.base import PretextTask

_GRID = 3


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RelativePatchTask(PretextTask):
    """Take the center of an image or volume and one of the cells around it; learn which of them it is.

    Images are cut into 3 cells a side. Neighbors are numbered from 0 in the order of their places, the
    center left out: in 2D 0 is up to the left, 1 up, 2 up to the right, 3 left, 4 right, 5 to 7 below.
    Patches are smaller than cells and jittered, so that no edge goes on from one into the other, and each
    is normalized on its own. The encoder sees single patches: it takes images of `encoder_input_shape`. The
    features of both, side by side, go through dense layers to one logit for each neighbor.

    Args:
        patch_fraction: fraction of the cell's side that a patch takes, in (0, 1]; rounded down, 2 voxels must
            be left. 96 of 144 pixels in the paper, which cuts anywhere in large photographs instead.
        jitter: how much of the room that is left in a cell a patch moves in, from 0 to 1; the rest is a gap
            that there always is. 14 of 48 pixels in the paper, a gap of 34.
        color: what is done against chromatic aberration, by which lenses color edges towards the border.
            `"drop"` keeps one random channel of each patch and puts noise in place of the others,
            `"project"` takes the difference between green and magenta out, `None` does nothing. `"auto"` for
            `"drop"` on photographs, that is 2D images of three channels, and nothing on others.
        hidden_units: units of the dense ReLU layers between features and logits; 4096 in the paper.

    Raises:
        ValueError: a value is out of range. What depends on the images is checked by `encoder_input_shape`.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, labels = RelativePatchTask().preprocess(np.ones((4, 24, 24, 3), "float32"), ReplaySeeds())
    >>> tuple(inputs.shape), tuple(labels.shape)
    ((8, 5, 5, 3), (4,))

    References:
        Doersch, C., Gupta, A., Efros, A. A. (2015). Unsupervised visual representation learning by context
        prediction. ICCV.
        Taleb, A. et al. (2020). 3D self-supervised methods for medical imaging. NeurIPS.
    """

    patch_fraction: float = 2 / 3
    jitter: float = 0.3
    color: Literal["auto", "drop", "project"] | None = "auto"
    hidden_units: tuple[int, ...] = (512,)

    def __post_init__(self) -> None:
        if not 0 < self.patch_fraction <= 1:
            raise ValueError(f"`patch_fraction` must be in (0, 1]. Received {self.patch_fraction!r}.")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"`jitter` must be from 0 to 1. Received {self.jitter!r}.")
        if self.color not in ("auto", "drop", "project", None):
            raise ValueError(f'`color` must be "auto", "drop", "project" or None. Received {self.color!r}.')

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Cut center and neighbor; return `(patches, labels)`, labels int32 `(batch,)`.

        Args:
            images: tensor `(batch, *spatial, channels)`.
            seed: what neighbors, places and colors are drawn from.

        Returns:
            Patches `(batch * 2, *patch, channels)`, center and neighbor of the first image first, and the
            number of each neighbor.
        """
        images = ops.convert_to_tensor(images)
        sizes = tuple(images.shape[1:-1])
        patch_shape = cell_patch_shape(sizes, _GRID, self.patch_fraction)
        center = _neighbors(sizes) // 2
        labels = keras.random.randint((ops.shape(images)[0],), 0, _neighbors(sizes), seed=seed)
        neighbors = labels + ops.cast(labels >= center, labels.dtype)
        cells = ops.stack([ops.full_like(labels, center), neighbors], axis=1)
        corners = random_cell_corners(cells, sizes, _GRID, patch_shape, seed, self.jitter)
        patches = self._guard(crop_normalized(images, corners, patch_shape), seed)
        return rescale_like(patches, images), labels

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a patch.

        Raises:
            ValueError: images of `input_shape` are too small, or have no such colors.
        """
        channels = input_shape[-1]
        if (self.color == "project" and channels != 3) or (self.color == "drop" and channels < 2):
            needed = "3 channels" if self.color == "project" else "2 channels or more"
            raise ValueError(f'`color="{self.color}"` needs images of {needed}. Received {input_shape}.')
        return (*cell_patch_shape(input_shape[:-1], _GRID, self.patch_fraction), channels)

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder and pooling of each patch, dense layers on pairs, and float32 logits.

        Args:
            encoder: gives a feature vector or a feature map of a patch.
            input_shape: `(*spatial, channels)` of the images.

        Raises:
            ValueError: as `encoder_input_shape`, or the encoder gives something else than features.
        """
        inputs = keras.Input(self.encoder_input_shape(input_shape))
        features = pool_features(encoder(inputs))
        joined = ops.reshape(features, (-1, 2 * features.shape[-1]))
        hidden = mlp(joined, self.hidden_units, name="relative_patch")
        units = _neighbors(input_shape[:-1])
        logits = keras.layers.Dense(units, dtype="float32", name="relative_patch_logits")(hidden)
        return keras.Model(inputs, logits, name="relative_patch")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return the cross-entropy of labels and logits, float32 `(batch,)`."""
        return keras.losses.sparse_categorical_crossentropy(
            targets, ops.cast(outputs, "float32"), from_logits=True
        )

    def chance_loss(self, input_shape: tuple[int, ...]) -> float:
        """Return the cross-entropy of guessing one of the neighbors."""
        return math.log(_neighbors(input_shape[:-1]))

    def build_metrics(self) -> list[keras.Metric]:
        """Make the share of neighbors that are recognized."""
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

    def _guard(self, patches: Any, seed: keras.random.SeedGenerator) -> Any:
        photographs = len(patches.shape) == 4 and patches.shape[-1] == 3
        if self.color == "project":
            return project_colors(patches)
        if self.color == "drop" or (self.color == "auto" and photographs):
            shape = ops.shape(patches)
            kept = keras.random.randint(shape[:1], 0, shape[-1], seed=seed)
            return drop_colors(patches, kept, keras.random.normal(shape, dtype="float32", seed=seed))
        return patches


def _neighbors(sizes: tuple[int, ...]) -> int:
    return _GRID ** len(sizes) - 1
