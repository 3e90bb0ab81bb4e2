"""SimSiamTask: predict the projection of the other view, with a stopped gradient and no teacher."""

import dataclasses
from typing import ClassVar

import keras

from keras_ssl._types import Structure, Tensor
from keras_ssl.layers.pooling import pool_features
from keras_ssl.layers.projection_heads import projection_head
from keras_ssl.losses.self_distillation import cosine_regression, directional_spread
from keras_ssl.tasks._two_views import TwoViewTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SimSiamTask(TwoViewTask):
    """Predict, from each of two views of an image, the projection of the other view.

    Both views share encoder and projection head. A prediction head predicts the projection of the other view,
    through which no gradient passes. There are no negatives, no teacher and no queue. Projection and
    prediction head are discarded after pretraining.

    Constant outputs would minimize the loss, too; the stopped gradient prevents this collapse. The metric
    `spread`, of the encoder's pooled features, detects it: 0 if all point in one direction, see
    `directional_spread`. Healthy features behind a ReLU are well below 1.

    Args:
        views: creates a view, see `random_views`; `None` chooses an augmentation by the shape of the images.
        hidden_units: units of the hidden layers of the projection head; two of 2048 in the paper.
        projection_dim: dimension of the projections that are compared; 2048 in the paper, like the features
            of its encoder. The projection head ends in batch normalization.
        predictor_dim: units of the hidden layers of the prediction head, a bottleneck of a quarter of
            `projection_dim` as in the paper, where it has 512.

    Raises:
        ValueError: in `build_network`, a number of units is below 1, or the encoder is unsuitable.

    >>> import keras, numpy as np
    >>> network = SimSiamTask().build_network(keras.layers.Flatten(), (4, 4, 3))
    >>> outputs = network(np.ones((6, 4, 4, 3), "float32"))
    >>> tuple(outputs["predictions"].shape), tuple(outputs["targets"].shape)
    ((6, 512), (6, 512))

    References:
        Chen, X., He, K. (2021). Exploring simple siamese representation learning. CVPR.
    """

    metric_name: ClassVar[str] = "spread"

    hidden_units: tuple[int, ...] = (512, 512)
    projection_dim: int = 512
    predictor_dim: tuple[int, ...] = (128,)

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build the network: float32 `predictions` and `targets`, both `(views, projection_dim)`, `features`.

        Raises:
            ValueError: a number of units is below 1, or the encoder does not return features.
        """
        views = keras.Input(input_shape)
        features = pool_features(encoder(views))
        projections = projection_head(
            features, self.hidden_units, self.projection_dim, normalize_output=True, name="projector"
        )
        predictions = projection_head(projections, self.predictor_dim, self.projection_dim, name="predictor")
        outputs = {"predictions": predictions, "targets": projections, "features": features}
        return keras.Model(views, outputs, name="simsiam")

    def compute_loss(self, targets: Structure, outputs: dict[str, Tensor]) -> Tensor:
        """Compute the cosine distance of predictions and targets, float32 `(images,)`.

        No gradient passes through the targets.
        """
        return cosine_regression(outputs["predictions"], outputs["targets"])

    def _metric(self, targets: Structure, outputs: dict[str, Tensor]) -> Tensor:
        # Not of the projections, whose normalization spreads the last trace of a difference.
        return directional_spread(outputs["features"])
