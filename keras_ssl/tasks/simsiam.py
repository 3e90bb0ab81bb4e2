"""SimSiamTask: predict the projection of the other view, which is held still meanwhile."""

import dataclasses
from typing import Any

import keras

from keras_ssl.layers.pooling import pool_features
from keras_ssl.layers.projection_heads import projector
from keras_ssl.losses.self_distillation import cosine_regression, directional_spread
from keras_ssl.preprocessing.views import ViewMaker, random_views
from keras_ssl.tasks.base import PretextTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SimSiamTask(PretextTask):
    """Make two views of every image and predict from each the projection of the other.

    Encoder and projection are the same for both views. A predictor behind the projection is trained to give
    the projection of the other view, through which no gradient passes. There are no other images to tell
    apart, no teacher and no queue. Projection and predictor are thrown away.

    A constant answer would have no loss either. The stopped gradient keeps the network from it; the metric
    `spread` tells whether it did: 0 where all images have features of one direction, see
    `losses.directional_spread`. Behind a ReLU, healthy ones are well below 1.

    Args:
        views: what makes a view, see `random_views`; `None` chooses a recipe by the shape of the images.
        hidden_units: units of the hidden layers of the projection; two of 2048 in the paper.
        projection_dim: length of the vectors that are compared; 2048 in the paper, as long as the
            features of its encoder. The projection ends in batch normalization.
        predictor_dim: units of the hidden layers of the predictor, a bottleneck of a quarter as in the
            paper, where it has 512.

    Raises:
        ValueError: by `build_network`, a number of units is below one, or the encoder does not suit.

    >>> import keras, numpy as np
    >>> network = SimSiamTask().build_network(keras.layers.Flatten(), (4, 4, 3))
    >>> outputs = network(np.ones((6, 4, 4, 3), "float32"))
    >>> tuple(outputs["predictions"].shape), tuple(outputs["targets"].shape)
    ((6, 512), (6, 512))

    References:
        Chen, X., He, K. (2021). Exploring simple siamese representation learning. CVPR.
    """

    views: ViewMaker | None = None
    hidden_units: tuple[int, ...] = (512, 512)
    projection_dim: int = 512
    predictor_dim: tuple[int, ...] = (128,)

    def smallest_batch(self) -> int:
        """Return 2: batch normalization compares the images of a batch."""
        return 2

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Return two views of every image, next to each other, and no targets: the network makes them."""
        return random_views(images, seed, self.views), {}

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build the network that gives float32 `predictions` and `targets`, both `(views, projection_dim)`.

        It gives the encoder's `features`, pooled, too.

        Raises:
            ValueError: a number of units is below one, or the encoder gives something else than features.
        """
        views = keras.Input(input_shape)
        features = pool_features(encoder(views))
        projections = projector(
            features,
            self.hidden_units,
            self.projection_dim,
            normalize_output=True,
            name="projector",
        )
        predictions = projector(projections, self.predictor_dim, self.projection_dim, name="predictor")
        outputs = {"predictions": predictions, "targets": projections, "features": features}
        return keras.Model(views, outputs, name="simsiam")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return how far predictions are from targets, float32 `(images,)`; see `losses.cosine_regression`.

        No gradient passes through the targets.
        """
        return cosine_regression(outputs["predictions"], outputs["targets"])

    def build_metrics(self) -> list[keras.Metric]:
        """Make the spread of the features of a batch, 0 where they have collapsed."""
        return [keras.metrics.MeanMetricWrapper(_spread, name="spread")]


def _spread(_: Any, outputs: Any) -> Any:
    # Not of the projections, whose normalization spreads the last trace of a difference.
    return directional_spread(outputs["features"])
