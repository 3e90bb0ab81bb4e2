"""BarlowTwinsTask: features of two views of an image agree, and no two features say the same."""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_ssl.layers.pooling import pool_features
from keras_ssl.layers.projection_heads import projector
from keras_ssl.losses.redundancy_reduction import barlow_twins, cross_correlation
from keras_ssl.preprocessing.views import ViewMaker, random_views
from keras_ssl.tasks.base import PretextTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BarlowTwinsTask(PretextTask):
    """Make two views of every image whose features correlate one by one, and with no other.

    Correlations are over the images of a batch. A collapse is ruled out by the loss itself: features that
    are alike for all images correlate with nothing. There is neither a teacher nor a comparison of images, so
    batches may be smaller than those of SimCLR. The projection, in which views are compared, is thrown away.

    The paper's projection is three layers of 8192 units, for batches of 2048. Here it is 512, as correlations
    over a few dozen images are noisy and the more features there are, the more of them are compared.

    Args:
        views: what makes a view, see `random_views`; `None` chooses a recipe by the shape of the images.
        off_diagonal_weight: weight of correlations between different features, at least 0.
        hidden_units: units of the hidden layers of the projection.
        projection_dim: features that are correlated.

    Raises:
        ValueError: `off_diagonal_weight` is below 0. What depends on the encoder is checked by
            `build_network`.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, _ = BarlowTwinsTask().preprocess(np.ones((3, 8, 8, 3), "float32"), ReplaySeeds())
    >>> tuple(inputs.shape)
    (6, 8, 8, 3)

    References:
        Zbontar, J. et al. (2021). Barlow Twins: self-supervised learning via redundancy reduction. ICML.
    """

    views: ViewMaker | None = None
    off_diagonal_weight: float = 0.005
    hidden_units: tuple[int, ...] = (512, 512)
    projection_dim: int = 512

    def __post_init__(self) -> None:
        if not self.off_diagonal_weight >= 0:
            raise ValueError(
                f"`off_diagonal_weight` must be at least 0. Received {self.off_diagonal_weight}."
            )

    def smallest_batch(self) -> int:
        """Return 2: over one image nothing correlates."""
        return 2

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Return two views of every image, next to each other, and no targets."""
        return random_views(images, seed, self.views), {}

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder, pooling and projection, float32 `(views, projection_dim)`."""
        inputs = keras.Input(input_shape)
        features = pool_features(encoder(inputs))
        outputs = projector(features, self.hidden_units, self.projection_dim, name="projector")
        return keras.Model(inputs, outputs, name="barlow_twins")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return the distance of the correlations from the identity, a float32 scalar."""
        return barlow_twins(outputs[::2], outputs[1::2], self.off_diagonal_weight)

    def build_metrics(self) -> list[keras.Metric]:
        """Make the mean correlation of a feature in one view and in the other; 1 is aimed at."""
        return [keras.metrics.MeanMetricWrapper(_correlation, name="correlation")]


def _correlation(targets: Any, outputs: Any) -> Any:
    return ops.diagonal(cross_correlation(outputs[::2], outputs[1::2]))
