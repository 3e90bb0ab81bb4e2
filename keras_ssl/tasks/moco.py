"""MoCoTask: contrastive learning with a momentum encoder (EMA teacher) and a queue of negatives."""

import dataclasses
from typing import ClassVar

import keras
from keras import ops

from keras_ssl._types import Structure, Tensor
from keras_ssl.layers.ema_teacher import EMATeacher
from keras_ssl.layers.feature_queue import FeatureQueue
from keras_ssl.layers.pooling import dense_layers, pool_features
from keras_ssl.losses.contrastive import info_nce, unit_vectors
from keras_ssl.tasks._two_views import TwoViewTask
from keras_ssl.tasks.base import check_above, check_at_least, check_momentum


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCoTask(TwoViewTask):
    """Tell the second view of an image, given the first, from a queue of other images.

    The student, encoder and projection head, computes a query from the first view; an EMA teacher of it, the
    momentum encoder, computes a key from the second. Keys of earlier batches are the negatives: their number
    does not depend on the batch size. Projection head, teacher and queue are discarded after pretraining. The
    metric `accuracy` is the fraction of queries that are nearer to their own key than to any in the queue.

    The teacher uses the moving statistics of batch normalization, so that a key reveals nothing of its batch,
    and the paper's shuffling is not needed, see `layers.EMATeacher`. As in version 2 the projection head has
    a hidden layer and no normalization, and the temperature is 0.2.

    Args:
        views: creates a view, see `random_views`; `None` chooses an augmentation by the shape of the images.
        temperature: temperature of the softmax over cosine similarities, above 0.
        momentum: EMA momentum of the teacher, in [0, 1]. 0.99 averages over about the last 100 steps, for
            runs of hundreds to thousands; 0.999 in the paper.
        queue_size: number of keys in the queue, at least 1. 256 are eight batches of 32, for hundreds to
            thousands of images; 65 536 in the paper, for 1.3 million. If an image's own key of the previous
            epoch is still in the queue, it is a false negative: in half of the cases for a queue as long as
            the data set, in an eighth for one half as long, and never quite avoided.
        hidden_units: units of the hidden layers of the projection head; 2048 in the paper.
        projection_dim: dimension of the projections that are compared.

    Raises:
        ValueError: an argument is out of range. `build_network` checks what depends on the encoder.

    >>> import keras, numpy as np
    >>> network = MoCoTask(queue_size=8).build_network(keras.layers.Flatten(), (4, 4, 3))
    >>> outputs = network(np.ones((6, 4, 4, 3), "float32"))
    >>> [tuple(outputs[name].shape) for name in ("queries", "keys", "negatives")]
    [(3, 128), (3, 128), (8, 128)]

    References:
        He, K. et al. (2020). Momentum contrast for unsupervised visual representation learning. CVPR.
        Chen, X. et al. (2020). Improved baselines with momentum contrastive learning. arXiv:2003.04297.
    """

    metric_name: ClassVar[str] = "accuracy"
    # Images of a batch are not compared with each other.
    min_images: ClassVar[int] = 1

    temperature: float = 0.2
    momentum: float = 0.99
    queue_size: int = 256
    hidden_units: tuple[int, ...] = (512,)
    projection_dim: int = 128

    def __post_init__(self) -> None:
        check_above(self, 0, "temperature")
        check_momentum(self)
        check_at_least(self, 1, "queue_size", "projection_dim")

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build student, teacher and queue: float32 `queries`, `keys` and `negatives`, the earlier keys.

        Raises:
            ValueError: a number of units is below 1, or the encoder does not return features.
        """
        images = keras.Input(input_shape)
        hidden = dense_layers(pool_features(encoder(images)), self.hidden_units, name="projector")
        output = keras.layers.Dense(self.projection_dim, dtype="float32", name="projector_output")
        student = keras.Model(images, output(hidden), name="student")
        views = keras.Input(input_shape)
        pairs = ops.reshape(views, (-1, 2, *input_shape))
        keys = EMATeacher(student, self.momentum, name="teacher")(pairs[:, 1])
        negatives = FeatureQueue(self.queue_size, name="queue")(keys)
        outputs = {"queries": student(pairs[:, 0]), "keys": keys, "negatives": negatives}
        return keras.Model(views, outputs, name="moco")

    def compute_loss(self, targets: Structure, outputs: dict[str, Tensor]) -> Tensor:
        """Compute the InfoNCE loss of each query, float32 `(images,)`; see `losses.info_nce`."""
        return info_nce(outputs["queries"], outputs["keys"], outputs["negatives"], self.temperature)

    def _metric(self, targets: Structure, outputs: dict[str, Tensor]) -> Tensor:
        queries, keys, negatives = (unit_vectors(outputs[name]) for name in ("queries", "keys", "negatives"))
        own = ops.sum(queries * keys, axis=1)
        return ops.cast(own > ops.max(ops.matmul(queries, ops.transpose(negatives)), axis=1), "float32")
