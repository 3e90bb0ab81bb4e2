"""RelativePatchTask: classify where a patch lies relative to the center (context prediction)."""

import dataclasses
from typing import Literal

import keras
from keras import ops

from keras_ssl._types import Tensor
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.preprocessing.color import drop_colors, project_colors
from keras_ssl.preprocessing.patches import (
    crop_standardized,
    match_intensity,
    patch_shape_in_boxes,
    random_corners_in_boxes,
)
from keras_ssl.preprocessing.views import mild_augmentation
from keras_ssl.tasks._classification import TransformationTask, transformation_classifier

_GRID = 3


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RelativePatchTask(TransformationTask):
    """Classify where a patch lies relative to the center patch: spatial arrangement of parts.

    Images are divided into 3 cells a side. Neighbors are numbered from 0 in the order of their positions,
    without the center: in 2D 0 is up to the left, 1 up, 2 up to the right, 3 left, 4 right, 5 to 7 below.
    Patches are smaller than cells and jittered, so that no edge continues from one into the other, and each
    is normalized on its own. The encoder sees single patches, of `encoder_input_shape`. The concatenated
    features of both pass dense layers to one logit per neighbor.

    Args:
        patch_fraction: side of a patch as a fraction of the cell's, in (0, 1]; rounded down, 2 voxels must
            be left. 96 of 144 pixels in the paper, which crops anywhere in large photographs instead.
        jitter: fraction of the space left in a cell in which a patch moves, from 0 to 1; the rest is a
            constant gap. 14 of 48 pixels in the paper, a gap of 34.
        color: guard against chromatic aberration, by which lenses color edges towards the border. `"drop"`
            keeps one random channel of each patch and replaces the others by noise, `"project"` removes the
            green-magenta component, `None` does nothing. `"auto"` is `"drop"` on 2D images of three channels,
            such as photographs, and `None` on others.
        hidden_units: units of the dense ReLU layers between features and logits; 4096 in the paper.

    Raises:
        ValueError: an argument is out of range. `encoder_input_shape` checks what depends on the images.

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

    def preprocess(self, images: Tensor, seed: keras.random.SeedGenerator) -> tuple[Tensor, Tensor]:
        """Crop center and neighbor; return patches and int32 labels `(batch,)`.

        Args:
            images: tensor `(batch, *spatial, channels)`.
            seed: source of random neighbors, positions and colors.

        Returns:
            Patches `(batch * 2, *patch, channels)`, center and neighbor of the first image first, and the
            number of each neighbor.
        """
        images = ops.convert_to_tensor(images)
        sizes = tuple(images.shape[1:-1])
        patch_shape = patch_shape_in_boxes(sizes, _GRID, self.patch_fraction)
        center = _neighbors(sizes) // 2
        labels = keras.random.randint((ops.shape(images)[0],), 0, _neighbors(sizes), seed=seed)
        neighbors = labels + ops.cast(labels >= center, labels.dtype)
        cells = ops.stack([ops.full_like(labels, center), neighbors], axis=1)
        corners = random_corners_in_boxes(cells, sizes, _GRID, patch_shape, seed, self.jitter)
        patches = self._guard_colors(crop_standardized(images, corners, patch_shape), seed)
        return match_intensity(patches, images), labels

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a patch.

        Raises:
            ValueError: images of `input_shape` are too small, or have too few channels for `color`.
        """
        channels = input_shape[-1]
        if (self.color == "project" and channels != 3) or (self.color == "drop" and channels < 2):
            needed = "3 channels" if self.color == "project" else "2 channels or more"
            raise ValueError(f'`color="{self.color}"` needs images of {needed}. Received {input_shape}.')
        return (*patch_shape_in_boxes(input_shape[:-1], _GRID, self.patch_fraction), channels)

    def default_augmentation(self, input_shape: tuple[int, ...]) -> Augmentation:
        """Return a mild augmentation without flips, which would exchange positions."""
        return mild_augmentation(input_shape, flips=False)

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder and pooling of each patch, dense layers on pairs of patches, float32 logits.

        Args:
            encoder: returns a feature vector or a feature map of a patch.
            input_shape: `(*spatial, channels)` of the images.

        Raises:
            ValueError: as `encoder_input_shape`, or the encoder does not return features.
        """
        return transformation_classifier(
            encoder,
            self.encoder_input_shape(input_shape),
            self.num_classes(input_shape),
            num_patches=2,
            hidden_units=self.hidden_units,
            name="relative_patch",
        )

    def num_classes(self, input_shape: tuple[int, ...]) -> int:
        """Return the number of neighbors."""
        return _neighbors(input_shape[:-1])

    def _guard_colors(self, patches: Tensor, seed: keras.random.SeedGenerator) -> Tensor:
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
