"""BarlowTwinsTask: redundancy reduction, the cross-correlation of two views made the identity."""

import dataclasses
from typing import ClassVar

import keras
from keras import ops

from keras_ssl._types import Structure, Tensor
from keras_ssl.losses.redundancy_reduction import barlow_twins, cross_correlation
from keras_ssl.tasks._two_views import TwoViewTask, projection_network
from keras_ssl.tasks.base import check_at_least


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BarlowTwinsTask(TwoViewTask):
    """Make the cross-correlation matrix of the features of two views, over a batch, the identity.

    The loss itself rules out a collapse: a feature that is constant over the batch correlates with nothing.
    There are neither negatives nor a teacher, so batches may be smaller than those of SimCLR. The projection
    head is discarded after pretraining. The metric `correlation` is the mean of the diagonal: 1 is the aim.

    The paper's projection head has three layers of 8192 units, for batches of 2048. Here it is 512, since
    correlations over a few dozen images are noisy, and more features have more pairs that are compared.

    Args:
        views: creates a view, see `random_views`; `None` chooses an augmentation by the shape of the images.
        off_diagonal_weight: weight of correlations of different features, at least 0.
        hidden_units: units of the hidden layers of the projection head.
        projection_dim: dimension of the projections.

    Raises:
        ValueError: `off_diagonal_weight` is below 0. `build_network` checks what depends on the encoder.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, _ = BarlowTwinsTask().preprocess(np.ones((3, 8, 8, 3), "float32"), ReplaySeeds())
    >>> tuple(inputs.shape)
    (6, 8, 8, 3)

    References:
        Zbontar, J. et al. (2021). Barlow Twins: self-supervised learning via redundancy reduction. ICML.
    """

    metric_name: ClassVar[str] = "correlation"

    off_diagonal_weight: float = 0.005
    hidden_units: tuple[int, ...] = (512, 512)
    projection_dim: int = 512

    def __post_init__(self) -> None:
        check_at_least(self, 0, "off_diagonal_weight")

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder, pooling and projection head, float32 `(views, projection_dim)`."""
        units = (self.hidden_units, self.projection_dim)
        return projection_network(encoder, input_shape, *units, "barlow_twins")

    def compute_loss(self, targets: Structure, outputs: Tensor) -> Tensor:
        """Compute the distance of the cross-correlation from the identity, a float32 scalar."""
        return barlow_twins(outputs[::2], outputs[1::2], self.off_diagonal_weight)

    def _metric(self, targets: Structure, outputs: Tensor) -> Tensor:
        return ops.diagonal(cross_correlation(outputs[::2], outputs[1::2]))
