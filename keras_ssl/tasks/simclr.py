"""SimCLRTask: contrastive learning, to find the other view of the same image within a batch."""

import dataclasses
from typing import ClassVar

import keras
from keras import ops

from keras_ssl._types import Structure, Tensor
from keras_ssl.losses.contrastive import nt_xent, partner_rows, view_similarities
from keras_ssl.tasks._two_views import TwoViewTask, projection_network
from keras_ssl.tasks.base import check_above


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLRTask(TwoViewTask):
    """Find, for each of two views of every image, the other view among all views of the batch.

    Projections of the two views of an image are pulled together, and pushed away from those of all other
    images, so the task is harder the larger the batch. The projection head is discarded after pretraining.
    The metric `accuracy` is the fraction of views whose nearest neighbor is the other view of their image.

    Args:
        views: creates a view, see `random_views`; `None` chooses an augmentation by the shape of the images.
        temperature: temperature of the softmax over cosine similarities, above 0.
        hidden_units: units of the hidden layers of the projection head; 2048 in the paper.
        projection_dim: dimension of the projections that are compared.

    Raises:
        ValueError: `temperature` is not above 0. `build_network` checks what depends on the encoder.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, _ = SimCLRTask().preprocess(np.ones((3, 8, 8, 3), "float32"), ReplaySeeds())
    >>> tuple(inputs.shape)
    (6, 8, 8, 3)

    References:
        Chen, T. et al. (2020). A simple framework for contrastive learning of visual representations. ICML.
    """

    metric_name: ClassVar[str] = "accuracy"

    temperature: float = 0.1
    hidden_units: tuple[int, ...] = (512,)
    projection_dim: int = 128

    def __post_init__(self) -> None:
        check_above(self, 0, "temperature")

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder, pooling and projection head, float32 `(views, projection_dim)`."""
        return projection_network(encoder, input_shape, self.hidden_units, self.projection_dim, "simclr")

    def compute_loss(self, targets: Structure, outputs: Tensor) -> Tensor:
        """Compute the NT-Xent loss of each view, float32 `(views,)`; see `losses.nt_xent`."""
        return nt_xent(outputs, self.temperature)

    def _metric(self, targets: Structure, outputs: Tensor) -> Tensor:
        similarities = view_similarities(outputs)
        nearest = ops.cast(ops.argmax(similarities, axis=1), "int32")
        partners = ops.cast(partner_rows(ops.shape(similarities)[0]), "int32")
        return ops.cast(ops.equal(partners, nearest), "float32")
