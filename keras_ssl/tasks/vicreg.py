"""VICRegTask: variance-invariance-covariance regularization of two views."""

import dataclasses
from typing import ClassVar

import keras

from keras_ssl._types import Structure, Tensor
from keras_ssl.losses.redundancy_reduction import standard_deviations, vicreg
from keras_ssl.tasks._two_views import TwoViewTask, projection_network
from keras_ssl.tasks.base import check_at_least


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class VICRegTask(TwoViewTask):
    """Make projections of two views of an image similar, with features that vary and do not correlate.

    Invariance pulls the two views together, variance keeps the standard deviation of every feature over the
    batch at 1 or above, covariance decorrelates features. Variance prevents a collapse, so there are neither
    negatives nor a teacher. The projection head is discarded after pretraining. The metric `deviation` is the
    mean standard deviation of the projected features: near 0 they have collapsed.

    The paper's projection head has three layers of 8192 units, for batches of 2048. Here it is 512, since
    covariances over a few dozen images are noisy.

    Args:
        views: creates a view, see `random_views`; `None` chooses an augmentation by the shape of the images.
        invariance_weight: weight of the distance of the views, at least 0.
        variance_weight: weight of standard deviations below 1, at least 0.
        covariance_weight: weight of the covariances of different features, at least 0.
        hidden_units: units of the hidden layers of the projection head.
        projection_dim: dimension of the projections.

    Raises:
        ValueError: a weight is below 0. `build_network` checks what depends on the encoder.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, _ = VICRegTask().preprocess(np.ones((3, 8, 8, 3), "float32"), ReplaySeeds())
    >>> tuple(inputs.shape)
    (6, 8, 8, 3)

    References:
        Bardes, A., Ponce, J., LeCun, Y. (2022). VICReg: variance-invariance-covariance regularization for
        self-supervised learning. ICLR.
    """

    metric_name: ClassVar[str] = "deviation"

    invariance_weight: float = 25.0
    variance_weight: float = 25.0
    covariance_weight: float = 1.0
    hidden_units: tuple[int, ...] = (512, 512)
    projection_dim: int = 512

    def __post_init__(self) -> None:
        check_at_least(self, 0, "invariance_weight", "variance_weight", "covariance_weight")

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder, pooling and projection head, float32 `(views, projection_dim)`."""
        return projection_network(encoder, input_shape, self.hidden_units, self.projection_dim, "vicreg")

    def compute_loss(self, targets: Structure, outputs: Tensor) -> Tensor:
        """Compute the weighted sum of the three terms, a float32 scalar; see `losses.vicreg`."""
        weights = self.invariance_weight, self.variance_weight, self.covariance_weight
        return vicreg(outputs[::2], outputs[1::2], *weights)

    def _metric(self, targets: Structure, outputs: Tensor) -> Tensor:
        return standard_deviations(outputs[::2])
