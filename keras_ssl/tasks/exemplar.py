"""ExemplarTask: triplet loss, two views of an image nearer to each other than to other images."""

import dataclasses
from typing import ClassVar, Literal

import keras
from keras import ops

from keras_ssl._types import Structure, Tensor
from keras_ssl.losses.contrastive import triplet_margin
from keras_ssl.metrics.probes import nearest_is_own
from keras_ssl.tasks._two_views import TwoViewTask, projection_network
from keras_ssl.tasks.base import check_above


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExemplarTask(TwoViewTask):
    """Make embeddings of two views of an image more similar than those of other images, by a triplet loss.

    The first view is the anchor, the second its positive, and the second views of all other images of the
    batch are its negatives. The loss is `max(0, d(anchor, positive) - d(anchor, negative) + margin)` with
    Euclidean distances of normalized embeddings, from 0 to 2. The embedding layer is discarded after
    pretraining. The metric `accuracy` is the fraction of images whose positive is nearer than all negatives.

    In the first paper every image is a class of a softmax, which grows with the number of images. The triplet
    loss, its margin of 1 and the embedding of 1024 are those of Taleb et al., who sample one negative per
    image and do not normalize embeddings.

    Args:
        views: creates a view, see `random_views`; `None` chooses an augmentation by the shape of the images.
        margin: margin by which negatives shall be further away than the positive, above 0. Above 2 it cannot
            be reached.
        negatives: `"all"` for the mean over all negatives, `"hardest"` for the nearest to each anchor. The
            mean becomes small once most images are far apart, above all in large batches.
        hidden_units: units of hidden layers between encoder and embedding; none in the papers.
        embedding_dim: embedding dimension.

    Raises:
        ValueError: `margin` is not above 0, or `negatives` is unknown. `build_network` checks what depends
            on the encoder.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, _ = ExemplarTask().preprocess(np.ones((3, 8, 8, 3), "float32"), ReplaySeeds())
    >>> tuple(inputs.shape)
    (6, 8, 8, 3)

    References:
        Dosovitskiy, A. et al. (2014). Discriminative unsupervised feature learning with convolutional neural
        networks. NeurIPS.
        Taleb, A. et al. (2020). 3D self-supervised methods for medical imaging. NeurIPS.
    """

    metric_name: ClassVar[str] = "accuracy"

    margin: float = 1.0
    negatives: Literal["all", "hardest"] = "all"
    hidden_units: tuple[int, ...] = ()
    embedding_dim: int = 1024

    def __post_init__(self) -> None:
        check_above(self, 0, "margin")
        if self.negatives not in ("all", "hardest"):
            raise ValueError(f'`negatives` must be "all" or "hardest". Received {self.negatives!r}.')

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder, pooling and embedding, float32 `(views, embedding_dim)`."""
        return projection_network(encoder, input_shape, self.hidden_units, self.embedding_dim, "exemplar")

    def compute_loss(self, targets: Structure, outputs: Tensor) -> Tensor:
        """Compute the triplet loss of each image, float32 `(images,)`; see `triplet_margin`."""
        return triplet_margin(*_anchors_and_positives(outputs), self.margin, self.negatives)

    def _metric(self, targets: Structure, outputs: Tensor) -> Tensor:
        return nearest_is_own(*_anchors_and_positives(outputs))


def _anchors_and_positives(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    pairs = ops.reshape(embeddings, (-1, 2, embeddings.shape[-1]))
    return pairs[:, 0], pairs[:, 1]
