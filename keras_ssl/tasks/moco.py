"""MoCoTask: tell an image by its other view, as a teacher sees it, among many that were seen before."""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_ssl.layers.ema_teacher import EMATeacher
from keras_ssl.layers.feature_queue import FeatureQueue
from keras_ssl.layers.pooling import mlp, pool_features
from keras_ssl.losses.contrastive import info_nce, unit_vectors
from keras_ssl.preprocessing.views import ViewMaker, random_views
from keras_ssl.tasks.base import PretextTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCoTask(PretextTask):
    """Make two views of every image; find the second by the first among a queue of other images.

    The student, encoder and projection, makes a query of the first view; a teacher, the moving average of the
    student, makes a key of the second. The keys of earlier batches are kept in a queue, which a query must
    tell from its own key. So there are many to tell it from however small the batches are. Projection,
    teacher and queue are thrown away.

    The teacher uses the moving statistics of batch normalization, so a key tells nothing of its batch, and
    nothing is shuffled as in the paper, see `layers.EMATeacher`. As in version 2 the projection has a hidden
    layer, no normalization, and a temperature of 0.2.

    Args:
        views: what makes a view, see `random_views`; `None` chooses a recipe by the shape of the images.
        temperature: what cosines are divided by, above 0.
        momentum: share of the teacher that is kept in each step, in [0, 1]. 0.99 averages over the last 100
            steps or so, for runs of hundreds to thousands; 0.999 in the paper.
        queue_size: keys that are kept, at least 1. 256 are eight batches of 32, for hundreds to thousands of
            images; 65 536 in the paper, for 1.3 million. An image whose own key of the epoch before is still
            in the queue is to be told from itself. That is so half of the time with a queue as long as the
            data set, an eighth of the time with one half as long, and never quite avoided.
        hidden_units: units of the hidden layers of the projection; 2048 in the paper.
        projection_dim: length of the vectors that are compared.

    Raises:
        ValueError: a setting is out of range. What depends on the encoder is checked by `build_network`.

    >>> import keras, numpy as np
    >>> network = MoCoTask(queue_size=8).build_network(keras.layers.Flatten(), (4, 4, 3))
    >>> outputs = network(np.ones((6, 4, 4, 3), "float32"))
    >>> [tuple(outputs[name].shape) for name in ("queries", "keys", "negatives")]
    [(3, 128), (3, 128), (8, 128)]

    References:
        He, K. et al. (2020). Momentum contrast for unsupervised visual representation learning. CVPR.
        Chen, X. et al. (2020). Improved baselines with momentum contrastive learning. arXiv:2003.04297.
    """

    views: ViewMaker | None = None
    temperature: float = 0.2
    momentum: float = 0.99
    queue_size: int = 256
    hidden_units: tuple[int, ...] = (512,)
    projection_dim: int = 128

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be above 0. Received {self.temperature}.")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"`momentum` must be within 0 and 1. Received {self.momentum}.")
        if self.queue_size < 1:
            raise ValueError(f"`queue_size` must be at least 1. Received {self.queue_size}.")
        if self.projection_dim < 1:
            raise ValueError(f"`projection_dim` must be at least 1. Received {self.projection_dim}.")

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Return two views of every image, next to each other, and no targets: the network makes them."""
        return random_views(images, seed, self.views), {}

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build the network that gives float32 `queries`, `keys` and `negatives`, the queue of earlier keys.

        Raises:
            ValueError: a number of units is below one, or the encoder gives something else than features.
        """
        images = keras.Input(input_shape)
        hidden = mlp(pool_features(encoder(images)), self.hidden_units, name="projector")
        projections = keras.layers.Dense(self.projection_dim, dtype="float32", name="projector_output")(
            hidden
        )
        student = keras.Model(images, projections, name="student")
        views = keras.Input(input_shape)
        pairs = ops.reshape(views, (-1, 2, *input_shape))
        keys = EMATeacher(student, self.momentum, name="teacher")(pairs[:, 1])
        negatives = FeatureQueue(self.queue_size, name="queue")(keys)
        outputs = {"queries": student(pairs[:, 0]), "keys": keys, "negatives": negatives}
        return keras.Model(views, outputs, name="moco")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return the cross-entropy of each query's own key, float32 `(images,)`; see `losses.info_nce`."""
        return info_nce(outputs["queries"], outputs["keys"], outputs["negatives"], self.temperature)

    def build_metrics(self) -> list[keras.Metric]:
        """Make the share of queries that are nearer to their own key than to any in the queue."""
        return [keras.metrics.MeanMetricWrapper(_is_nearest, name="accuracy")]


def _is_nearest(_: Any, outputs: Any) -> Any:
    queries, keys, negatives = (unit_vectors(outputs[name]) for name in ("queries", "keys", "negatives"))
    own = ops.sum(queries * keys, axis=1)
    return ops.cast(own > ops.max(ops.matmul(queries, ops.transpose(negatives)), axis=1), "float32")
