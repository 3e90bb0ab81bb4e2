"""JigsawTask: classify by which permutation the patches of an image were shuffled."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_ssl._types import Tensor
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.preprocessing.patches import (
    crop_standardized,
    hamming_permutations,
    match_intensity,
    patch_shape_in_boxes,
    random_corners_in_boxes,
)
from keras_ssl.preprocessing.views import mild_augmentation
from keras_ssl.tasks._classification import TransformationTask, transformation_classifier


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class JigsawTask(TransformationTask):
    """Shuffle patches from the cells of a grid and classify the permutation: a jigsaw puzzle.

    Each cell yields one patch at a random position, so that edges do not continue from patch to patch, and
    each patch is normalized on its own, so that brightness does not reveal its position. The encoder sees
    single patches, of `encoder_input_shape`. The concatenated features of all patches of an image pass dense
    layers to one logit per permutation.

    Args:
        grid: number of cells along each axis, at least 2: 3 for 9 cells in 2D and 27 in 3D.
        patch_fraction: side of a patch as a fraction of the cell's, in (0, 1]; rounded down, at least 2
            voxels must be left. 64 of 75 pixels in the paper; less by default, since in the cells of small
            images and volumes that would leave a patch hardly a voxel to move.
        num_permutations: number of permutations, chosen far from each other by `hamming_permutations`.
        hidden_units: units of the dense ReLU layers between features and logits; 4096 in the paper.
        permutation_seed: seed of the choice of permutations.

    Raises:
        ValueError: an argument is out of range. `encoder_input_shape` checks what depends on the images.

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
    patch_fraction: float = 0.75
    num_permutations: int = 100
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
        """Return the permutations, integers `(num_permutations, cells)`: the cell of each patch.

        Args:
            rank: number of spatial axes.

        Raises:
            ValueError: there are fewer permutations of that many cells.
        """
        return hamming_permutations(self.grid**rank, self.num_permutations, self.permutation_seed)

    def preprocess(self, images: Tensor, seed: keras.random.SeedGenerator) -> tuple[Tensor, Tensor]:
        """Crop and shuffle patches; return them and int32 labels `(batch,)`, rows of `permutations`.

        Args:
            images: tensor `(batch, *spatial, channels)`.
            seed: source of random permutations and positions.

        Returns:
            Patches `(batch * cells, *patch, channels)`, those of the first image first, and labels.
        """
        images = ops.convert_to_tensor(images)
        sizes = tuple(images.shape[1:-1])
        patch_shape = patch_shape_in_boxes(sizes, self.grid, self.patch_fraction)
        labels = keras.random.randint((ops.shape(images)[0],), 0, self.num_permutations, seed=seed)
        orders = ops.take(ops.convert_to_tensor(self.permutations(len(sizes))), labels, axis=0)
        corners = random_corners_in_boxes(orders, sizes, self.grid, patch_shape, seed)
        return match_intensity(crop_standardized(images, corners, patch_shape), images), labels

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a patch.

        Raises:
            ValueError: images of `input_shape` are too small, or their cells have fewer permutations.
        """
        self.permutations(len(input_shape) - 1)
        return (*patch_shape_in_boxes(input_shape[:-1], self.grid, self.patch_fraction), input_shape[-1])

    def default_augmentation(self, input_shape: tuple[int, ...]) -> Augmentation:
        """Return a mild augmentation without flips, which would exchange positions."""
        return mild_augmentation(input_shape, flips=False)

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder and pooling of each patch, dense layers on all patches of an image, float32 logits.

        Args:
            encoder: returns a feature vector or a feature map of a patch.
            input_shape: `(*spatial, channels)` of the images.

        Raises:
            ValueError: as `encoder_input_shape`, or the encoder does not return features.
        """
        return transformation_classifier(
            encoder,
            self.encoder_input_shape(input_shape),
            self.num_permutations,
            num_patches=self.grid ** (len(input_shape) - 1),
            hidden_units=self.hidden_units,
            name="jigsaw",
        )

    def num_classes(self, input_shape: tuple[int, ...]) -> int:
        """Return `num_permutations`."""
        return self.num_permutations
