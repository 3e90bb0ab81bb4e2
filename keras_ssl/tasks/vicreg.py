"""VICRegTask: two views of an image are near each other; features vary, each in a way of its own."""

import dataclasses
from typing import Any

import keras

from keras_ssl.layers.pooling import pool_features
from keras_ssl.layers.projection_heads import projector
from keras_ssl.losses.redundancy_reduction import standard_deviations, vicreg
from keras_ssl.preprocessing.views import ViewMaker, random_views
from keras_ssl.tasks.base import PretextTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class VICRegTask(PretextTask):
    """Make two views of every image whose features are near each other, vary, and do not repeat.

    Invariance brings views together, variance asks every feature for a standard deviation of 1 over the
    batch, covariance keeps features from saying the same. Variance rules a collapse out, so there is neither
    a teacher nor a comparison of images. The projection, in which all this is asked for, is thrown away.

    The paper's projection is three layers of 8192 units, for batches of 2048. Here it is 512, as covariances
    over a few dozen images are noisy.

    Args:
        views: what makes a view, see `random_views`; `None` chooses a recipe by the shape of the images.
        invariance_weight: weight of the distance of views, at least 0.
        variance_weight: weight of what standard deviations are short of 1, at least 0.
        covariance_weight: weight of the covariances between different features, at least 0.
        hidden_units: units of the hidden layers of the projection.
        projection_dim: features of the projection.

    Raises:
        ValueError: a weight is below 0. What depends on the encoder is checked by `build_network`.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, _ = VICRegTask().preprocess(np.ones((3, 8, 8, 3), "float32"), ReplaySeeds())
    >>> tuple(inputs.shape)
    (6, 8, 8, 3)

    References:
        Bardes, A., Ponce, J., LeCun, Y. (2022). VICReg: variance-invariance-covariance regularization for
        self-supervised learning. ICLR.
    """

    views: ViewMaker | None = None
    invariance_weight: float = 25.0
    variance_weight: float = 25.0
    covariance_weight: float = 1.0
    hidden_units: tuple[int, ...] = (512, 512)
    projection_dim: int = 512

    def __post_init__(self) -> None:
        for name in ("invariance_weight", "variance_weight", "covariance_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be at least 0. Received {getattr(self, name)}.")

    def smallest_batch(self) -> int:
        """Return 2: one image has no variance."""
        return 2

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Return two views of every image, next to each other, and no targets."""
        return random_views(images, seed, self.views), {}

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder, pooling and projection, float32 `(views, projection_dim)`."""
        inputs = keras.Input(input_shape)
        features = pool_features(encoder(inputs))
        outputs = projector(features, self.hidden_units, self.projection_dim, name="projector")
        return keras.Model(inputs, outputs, name="vicreg")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return the weighted sum of the three terms, a float32 scalar; see `losses.vicreg`."""
        weights = self.invariance_weight, self.variance_weight, self.covariance_weight
        return vicreg(outputs[::2], outputs[1::2], *weights)

    def build_metrics(self) -> list[keras.Metric]:
        """Make the mean standard deviation of the projection's features; near 0 they have collapsed."""
        return [keras.metrics.MeanMetricWrapper(_deviation, name="deviation")]


def _deviation(targets: Any, outputs: Any) -> Any:
    return standard_deviations(outputs[::2])
