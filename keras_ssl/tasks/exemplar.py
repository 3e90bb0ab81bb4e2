"""ExemplarTask: keep two views of an image nearer to one another than to those of any other image."""

import dataclasses
from typing import Any, Literal

import keras
from keras import ops

from keras_ssl.layers.pooling import pool_features
from keras_ssl.layers.projection_heads import projector
from keras_ssl.losses.contrastive import triplet_margin
from keras_ssl.metrics.probes import nearest_is_own
from keras_ssl.preprocessing.views import ViewMaker, random_views
from keras_ssl.tasks.base import PretextTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExemplarTask(PretextTask):
    """Make two views of every image, and bring them nearer to one another than to views of other images.

    The first view is the anchor, the second its positive, and the second views of all other images of the
    batch are its negatives; no view of the image itself ever is. The loss is the triplet loss with a margin,
    `max(0, d(anchor, positive) - d(anchor, negative) + margin)`, and distances are Euclidean, between
    embeddings of length 1: from 0 to 2. The embedding is thrown away afterwards.

    In the first paper every image is a class of its own for a softmax, which grows with the images. The
    triplet loss, its margin of 1 and the embedding of 1024 are those of Taleb et al. We differ in that they
    draw one negative for each image, and do not bring embeddings to length 1.

    Args:
        views: what makes a view, see `random_views`; `None` chooses a recipe by the shape of the images.
        margin: by how much a negative shall be further away than the positive, above 0. More than 2 cannot
            be had.
        negatives: `"all"` for the mean over all, `"hardest"` for the nearest to each anchor alone. The mean
            fades once most images are far apart, above all in large batches.
        hidden_units: units of hidden layers between encoder and embedding; none in the papers.
        embedding_dim: length of the vectors that are compared.

    Raises:
        ValueError: `margin` is not above 0, or `negatives` unknown. What depends on the encoder is checked by
            `build_network`.

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

    views: ViewMaker | None = None
    margin: float = 1.0
    negatives: Literal["all", "hardest"] = "all"
    hidden_units: tuple[int, ...] = ()
    embedding_dim: int = 1024

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ValueError(f"`margin` must be above 0. Received {self.margin}.")
        if self.negatives not in ("all", "hardest"):
            raise ValueError(f'`negatives` must be "all" or "hardest". Received {self.negatives!r}.')

    def smallest_batch(self) -> int:
        """Return 2: of one image there is no negative."""
        return 2

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Return two views of every image, next to each other, and no targets: their places say all."""
        return random_views(images, seed, self.views), {}

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build encoder, pooling and embedding, float32 `(views, embedding_dim)`."""
        inputs = keras.Input(input_shape)
        features = pool_features(encoder(inputs))
        outputs = projector(features, self.hidden_units, self.embedding_dim, name="embedding")
        return keras.Model(inputs, outputs, name="exemplar")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return the hinge of each image's triplets, float32 `(images,)`; see `losses.triplet_margin`."""
        return triplet_margin(*_anchors_and_positives(outputs), self.margin, self.negatives)

    def build_metrics(self) -> list[keras.Metric]:
        """Make the share of images whose positive is nearer than all negatives."""
        return [keras.metrics.MeanMetricWrapper(_is_nearest, name="accuracy")]


def _anchors_and_positives(embeddings: Any) -> tuple[Any, Any]:
    pairs = ops.reshape(embeddings, (-1, 2, embeddings.shape[-1]))
    return pairs[:, 0], pairs[:, 1]


def _is_nearest(_: Any, embeddings: Any) -> Any:
    return nearest_is_own(*_anchors_and_positives(embeddings))
