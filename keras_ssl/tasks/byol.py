"""BYOLTask: predict what a teacher, the average of the network itself, makes of the other view."""

import dataclasses
from typing import Any

import keras

from keras_ssl.layers.ema_teacher import EMATeacher
from keras_ssl.layers.pooling import pool_features
from keras_ssl.layers.projection_heads import projector
from keras_ssl.losses.self_distillation import cosine_regression, directional_spread
from keras_ssl.preprocessing.views import ViewMaker, random_views
from keras_ssl.tasks.base import PretextTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BYOLTask(PretextTask):
    """Make two views of every image and predict from each what a teacher projects the other to.

    The student is the encoder and a projection; the teacher is the moving average of the student and learns
    nothing itself. Behind the student's projection a predictor is trained to give the teacher's projection of
    the other view. No images are told apart, so small batches will do. Projection, predictor and teacher are
    thrown away.

    A constant answer would have no loss either. Predictor and slow teacher keep the network from it; the
    metric `spread` tells whether they did: 0 where all images are projected to one direction, see
    `losses.directional_spread`.

    Args:
        views: what makes a view, see `random_views`; `None` chooses a recipe by the shape of the images.
        momentum: share of the teacher that is kept in each step, in [0, 1]. 0.99 averages over the last 100
            steps or so, for runs of hundreds to thousands; the paper, in runs of 300 000, lets it rise from
            0.996 to 1. Here it is constant.
        hidden_units: units of the hidden layers of the projection and of the predictor; 4096 in the paper.
        projection_dim: length of the vectors that are compared; 256 in the paper.

    Raises:
        ValueError: `momentum` is out of range. What depends on the encoder is checked by `build_network`.

    >>> import keras, numpy as np
    >>> network = BYOLTask().build_network(keras.layers.Flatten(), (4, 4, 3))
    >>> outputs = network(np.ones((6, 4, 4, 3), "float32"))
    >>> tuple(outputs["predictions"].shape), tuple(outputs["targets"].shape)
    ((6, 128), (6, 128))

    References:
        Grill, J.-B. et al. (2020). Bootstrap your own latent: a new approach to self-supervised learning.
        NeurIPS.
    """

    views: ViewMaker | None = None
    momentum: float = 0.99
    hidden_units: tuple[int, ...] = (512,)
    projection_dim: int = 128

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"`momentum` must be within 0 and 1. Received {self.momentum}.")

    def smallest_batch(self) -> int:
        """Return 2: batch normalization compares the images of a batch."""
        return 2

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Return two views of every image, next to each other, and no targets: the network makes them."""
        return random_views(images, seed, self.views), {}

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build the network that gives float32 `predictions` and `targets`, both `(views, projection_dim)`.

        Raises:
            ValueError: a number of units is below one, or the encoder gives something else than features.
        """
        views = keras.Input(input_shape)
        units = (self.hidden_units, self.projection_dim)
        projections = projector(pool_features(encoder(views)), *units, name="projector")
        student = keras.Model(views, projections, name="student")
        # As in the paper. Moving statistics lag behind: with them, runs of a few hundred steps collapsed.
        teacher = EMATeacher(student, self.momentum, batch_statistics=True, name="teacher")
        outputs = {"predictions": projector(projections, *units, name="predictor"), "targets": teacher(views)}
        return keras.Model(views, outputs, name="byol")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return how far predictions are from targets, float32 `(images,)`: `losses.cosine_regression`."""
        return cosine_regression(outputs["predictions"], outputs["targets"])

    def build_metrics(self) -> list[keras.Metric]:
        """Make the spread of the teacher's projections of a batch, 0 where it has collapsed."""
        return [keras.metrics.MeanMetricWrapper(_spread, name="spread")]


def _spread(_: Any, outputs: Any) -> Any:
    return directional_spread(outputs["targets"])
