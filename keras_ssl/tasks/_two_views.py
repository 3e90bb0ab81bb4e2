"""Common parts of tasks that compare two random views of every image."""

import abc
import dataclasses
from typing import ClassVar

import keras

from keras_ssl._types import Structure, Tensor
from keras_ssl.layers.pooling import pool_features
from keras_ssl.layers.projection_heads import projection_head
from keras_ssl.preprocessing.views import ViewMaker, describe_default_views, random_views
from keras_ssl.tasks.base import PretextTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoViewTask(PretextTask, abc.ABC):
    """Base class of tasks that compare two random views of every image.

    The views are all inputs there are. A subclass adds network, loss and one metric.

    Args:
        views: creates a view, see `random_views`; `None` chooses an augmentation by the shape of the images.
    """

    metric_name: ClassVar[str]
    min_images: ClassVar[int] = 2

    views: ViewMaker | None = None

    def preprocess(self, images: Tensor, seed: keras.random.SeedGenerator) -> tuple[Structure, Structure]:
        """Return two views of every image, next to each other, and no targets."""
        return random_views(images, seed, self.views), {}

    def smallest_batch(self) -> int:
        """Return the number of images that the loss or batch normalization compares."""
        return self.min_images

    def notes(self, input_shape: tuple[int, ...]) -> list[str]:
        """Describe the views if they are chosen by the shape of the images."""
        return [describe_default_views((None, *input_shape))] if self.views is None else []

    def build_metrics(self) -> list[keras.Metric]:
        """Create the metric of the task, a mean over batches."""
        return [keras.metrics.MeanMetricWrapper(self._metric, name=self.metric_name)]

    @abc.abstractmethod
    def _metric(self, targets: Structure, outputs: Structure) -> Tensor:
        """Compute the values that the metric averages."""


def projection_network(
    encoder: keras.Model | keras.Layer,
    input_shape: tuple[int, ...],
    hidden_units: tuple[int, ...],
    projection_dim: int,
    name: str,
) -> keras.Model:
    """Build encoder, global pooling and projection head: float32 `(views, projection_dim)`."""
    views = keras.Input(input_shape)
    projections = projection_head(
        pool_features(encoder(views)), hidden_units, projection_dim, name="projector"
    )
    return keras.Model(views, projections, name=name)
