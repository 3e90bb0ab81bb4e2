"""SimCLRTask: tell which two views of a batch show the same image."""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_ssl.layers.pooling import pool_features
from keras_ssl.layers.projection_heads import projector
from keras_ssl.losses.contrastive import nt_xent, partner_rows, view_similarities
from keras_ssl.preprocessing.views import ViewMaker, random_views
from keras_ssl.tasks.base import PretextTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLRTask(PretextTask):
    """Make two views of every image and find each view's partner among all views of the batch.

    Views are near one another in a projection behind the encoder if they are of the same image, and far from
    all others, so the more images a batch has, the harder the task. The projection is thrown away.

    Args:
        views: what makes a view, see `random_views`; `None` chooses a recipe by the shape of the images.
        temperature: what cosines are divided by, above 0.
        hidden_units: units of the hidden layers of the projection; 2048 in the paper.
        projection_dim: length of the vectors that are compared.

    Raises:
        ValueError: `temperature` is not above 0. What depends on the encoder is checked by `build_network`.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, _ = SimCLRTask().preprocess(np.ones((3, 8, 8, 3), "float32"), ReplaySeeds())
    >>> tuple(inputs.shape)
    (6, 8, 8, 3)

    References:
        Chen, T. et al. (2020). A simple framework for contrastive learning of visual representations. ICML.
    """

    views: ViewMaker | None = None
    temperature: float = 0.1
    hidden_units: tuple[int, ...] = (512,)
    projection_dim: int = 128

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be above 0. Received {self.temperature}.")

    def smallest_batch(self) -> int:
        """Return 2: of one image there is no other to tell it from."""
        return 2

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Return two views of every image, next to each other, and for each the number of its partner."""
        views = random_views(images, seed, self.views)
        return views, partner_rows(ops.shape(views)[0])

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder, pooling and projection, float32 `(views, projection_dim)`."""
        inputs = keras.Input(input_shape)
        features = pool_features(encoder(inputs))
        outputs = projector(features, self.hidden_units, self.projection_dim, name="projector")
        return keras.Model(inputs, outputs, name="simclr")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return the cross-entropy of each view's partner, float32 `(views,)`; see `losses.nt_xent`."""
        return nt_xent(outputs, self.temperature)

    def build_metrics(self) -> list[keras.Metric]:
        """Make the share of views whose nearest other view is their partner."""
        return [keras.metrics.MeanMetricWrapper(_is_nearest, name="accuracy")]


def _is_nearest(partners: Any, projections: Any) -> Any:
    nearest = ops.argmax(view_similarities(projections), axis=1)
    return ops.cast(ops.equal(ops.cast(partners, "int32"), ops.cast(nearest, "int32")), "float32")
