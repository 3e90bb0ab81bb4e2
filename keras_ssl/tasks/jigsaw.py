"""JigsawTask: find out in which order the parts of an image were shuffled."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ssl.layers.pooling import mlp, pool_features
from keras_ssl.preprocessing.patches import (
    cell_patch_shape,
    crop_normalized,
    hamming_permutations,
    random_cell_corners,
    rescale_like,
)
from keras_ssl.tasks.base import PretextTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class JigsawTask(PretextTask):
    """Cut images or volumes into the cells of a grid, shuffle patches of them and learn to tell the order.

    From each cell comes one patch at a random place, so that edges do not go on from one patch into the next,
    and each is normalized on its own, so that brightness does not tell where it was. The encoder sees single
    patches: it takes images of `encoder_input_shape`. The features of all patches of an image, side by side,
    go through dense layers to one logit for each permutation.

    Args:
        grid: number of cells along each axis, at least 2: 3 for 9 cells in 2D and 27 in 3D.
        num_permutations: how many orders there are, chosen far from one another by `hamming_permutations`.
        patch_fraction: side of a patch as a share of the cell's, in (0, 1]; rounded down, at least 2 voxels
            must be left. The paper's is 64 of 75 pixels; less by default, since in the cells of small images
            and volumes that would leave a patch hardly a voxel to move.
        hidden_units: units of the dense ReLU layers between features and logits; 4096 in the paper.
        permutation_seed: what the choice of permutations depends on.

    Raises:
        ValueError: a value is out of range. What depends on the images is checked by `encoder_input_shape`.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, labels = JigsawTask().preprocess(np.ones((2, 24, 24, 1), "float32"), ReplaySeeds())
    >>> tuple(inputs.shape), tuple(labels.shape)
    ((18, 6, 6, 1), (2,))

    References:
        Noroozi, M., Favaro, P. (2016). Unsupervised learning of visual representations by solving jigsaw
        puzzles. ECCV.
        Taleb, A. et al. (2020). 3D self-supervised methods for medical imaging. NeurIPS.
    """

    grid: int = 3
    num_permutations: int = 100
    patch_fraction: float = 0.75
    hidden_units: tuple[int, ...] = (512,)
    permutation_seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.grid, int) or self.grid < 2:
            raise ValueError(f"`grid` must be an integer of at least 2. Received {self.grid!r}.")
        if not isinstance(self.num_permutations, int) or self.num_permutations < 2:
            raise ValueError(
                f"`num_permutations` must be an integer of at least 2. Received {self.num_permutations!r}."
            )
        if not 0 < self.patch_fraction <= 1:
            raise ValueError(f"`patch_fraction` must be in (0, 1]. Received {self.patch_fraction!r}.")
        if not isinstance(self.permutation_seed, int) or not 0 <= self.permutation_seed < 2**32:
            raise ValueError(
                "`permutation_seed` must be an integer from 0 to 2^32 - 1. "
                f"Received {self.permutation_seed!r}."
            )

    def permutations(self, rank: int) -> np.ndarray:
        """Return the orders, integers `(num_permutations, cells)`: which cell each patch is of.

        Args:
            rank: number of spatial axes.

        Raises:
            ValueError: so many cells have fewer permutations.
        """
        return hamming_permutations(self.grid**rank, self.num_permutations, self.permutation_seed)

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Cut and shuffle; return `(patches, labels)`, labels int32 `(batch,)`, rows of `permutations`.

        Args:
            images: tensor `(batch, *spatial, channels)`.
            seed: what permutations and places are drawn from.

        Returns:
            Patches `(batch * cells, *patch, channels)`, all of the first image first, and labels.
        """
        images = ops.convert_to_tensor(images)
        sizes = tuple(images.shape[1:-1])
        patch_shape = cell_patch_shape(sizes, self.grid, self.patch_fraction)
        labels = keras.random.randint((ops.shape(images)[0],), 0, self.num_permutations, seed=seed)
        orders = ops.take(ops.convert_to_tensor(self.permutations(len(sizes))), labels, axis=0)
        corners = random_cell_corners(orders, sizes, self.grid, patch_shape, seed)
        return rescale_like(crop_normalized(images, corners, patch_shape), images), labels

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a patch.

        Raises:
            ValueError: images of `input_shape` are too small, or have fewer permutations of their cells.
        """
        self.permutations(len(input_shape) - 1)
        return (*cell_patch_shape(input_shape[:-1], self.grid, self.patch_fraction), input_shape[-1])

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder and pooling of each patch, dense layers on all of an image, and float32 logits.

        Args:
            encoder: gives a feature vector or a feature map of a patch.
            input_shape: `(*spatial, channels)` of the images.

        Raises:
            ValueError: as `encoder_input_shape`, or the encoder gives something else than features.
        """
        inputs = keras.Input(self.encoder_input_shape(input_shape))
        features = pool_features(encoder(inputs))
        cells = self.grid ** (len(input_shape) - 1)
        joined = ops.reshape(features, (-1, cells * features.shape[-1]))
        hidden = mlp(joined, self.hidden_units, name="jigsaw")
        logits = keras.layers.Dense(self.num_permutations, dtype="float32", name="jigsaw_logits")(hidden)
        return keras.Model(inputs, logits, name="jigsaw")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return the cross-entropy of labels and logits, float32 `(batch,)`."""
        return keras.losses.sparse_categorical_crossentropy(
            targets, ops.cast(outputs, "float32"), from_logits=True
        )

    def chance_loss(self, input_shape: tuple[int, ...]) -> float:
        """Return the cross-entropy of guessing one of the permutations."""
        return math.log(self.num_permutations)

    def build_metrics(self) -> list[keras.Metric]:
        """Make the share of permutations that are recognized."""
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
