"""Quality of embeddings: linear probe, k-NN, effective rank, collapse; errors of pretext outputs."""

import numpy as np
import numpy.typing as npt
from keras import ops

from keras_ssl._types import Tensor
from keras_ssl.losses.contrastive import unit_vectors
from keras_ssl.losses.reconstruction import weighted_squared_error


def effective_rank(embeddings: npt.ArrayLike) -> float:
    """Compute the effective rank of embeddings (RankMe): a smooth count of the dimensions that they use.

    It is the exponential of the entropy of the normalized singular values; embeddings are not centered. No
    labels are needed. Compare only encoders of the same embedding dimension, on the same images.

    Args:
        embeddings: shape `(n, dim)`, or feature maps `(n, *spatial, dim)`, which are averaged over space;
            at least 2 rows.

    Returns:
        From 1, for embeddings on one line through the origin, to min(n, dim).

    Raises:
        ValueError: `embeddings` have another shape, or are not finite.

    >>> round(effective_rank([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), 3)
    3.0

    References:
        Garrido, Q. et al. (2023). RankMe: assessing the downstream performance of pretrained
        self-supervised representations by their rank. ICML.
    """
    singular = np.linalg.svd(_pooled("embeddings", embeddings), compute_uv=False)
    # The paper's epsilon, for the logarithm of 0.
    fractions = singular / max(singular.sum(), np.finfo("float64").tiny) + 1e-7
    return float(np.exp(-np.sum(fractions * np.log(fractions))))


def embedding_spread(embeddings: npt.ArrayLike) -> np.ndarray:
    """Compute the standard deviation of each dimension of the normalized embeddings, times sqrt(dim).

    Args:
        embeddings: as in `effective_rank`; scaled to unit length first.

    Returns:
        float64, shape `(dim,)`. 1 in every dimension for uniformly distributed directions, 0 for identical
        ones. The mean of its square is 1 minus the mean cosine similarity of all pairs, including each
        embedding with itself.

    Raises:
        ValueError: see `effective_rank`.

    >>> embedding_spread([[3.0, 0.0], [-1.0, 0.0]]).round(3).tolist()
    [1.414, 0.0]

    References:
        Chen, X. & He, K. (2021). Exploring simple siamese representation learning. CVPR.
    """
    vectors = _pooled("embeddings", embeddings)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.maximum(lengths, np.finfo("float64").tiny)
    return directions.std(axis=0) * np.sqrt(vectors.shape[1])


def is_collapsed(embeddings: npt.ArrayLike, min_spread: float = 0.01) -> bool:
    """Return whether the embeddings have collapsed: all images have (nearly) the same embedding.

    The criterion is that the root mean square of `embedding_spread` is below `min_spread`. At 0.01 the mean
    cosine similarity is above 0.9999. The bound is low because normal features after a ReLU, all positive,
    are far more similar than uniformly distributed directions. For collapse into a few dimensions
    (dimensional collapse), see `effective_rank`.

    Args:
        embeddings: as in `effective_rank`.
        min_spread: lower bound of the spread, above 0.

    Raises:
        ValueError: `min_spread` is not above 0, or see `effective_rank`.

    >>> is_collapsed([[1.0, 2.0]] * 8), is_collapsed([[1.0, 2.0], [2.0, 1.0]])
    (True, False)
    """
    if not min_spread > 0:
        raise ValueError(f"`min_spread` must be above 0. Received {min_spread}.")
    return bool(np.sqrt(np.mean(embedding_spread(embeddings) ** 2)) < min_spread)


def knn_predict(
    train_embeddings: npt.ArrayLike,
    train_labels: npt.ArrayLike,
    embeddings: npt.ArrayLike,
    neighbors: int = 20,
) -> np.ndarray:
    """Predict labels with a k-nearest-neighbor (k-NN) classifier on embeddings, by cosine similarity.

    Args:
        train_embeddings: as in `effective_rank`.
        train_labels: classes or grades, shape `(n,)`.
        embeddings: embeddings to predict labels for, `(m, dim)` or `(m, *spatial, dim)`.
        neighbors: number of neighbors k, with equal votes; at most the size of the training set. Ties give
            the lowest label.

    Returns:
        Labels, shape `(m,)`, of the dtype of `train_labels`.

    Raises:
        ValueError: an argument is invalid.

    >>> knn_predict([[1, 0], [2, 0.1], [0, 1]], [4, 4, 2], [[5, 1], [0, 3]], neighbors=1).tolist()
    [4, 2]
    """
    from sklearn.neighbors import KNeighborsClassifier

    train, labels, vectors = _probe_inputs(train_embeddings, train_labels, embeddings)
    if neighbors < 1:
        raise ValueError(f"`neighbors` must be at least 1. Received {neighbors}.")
    classifier = KNeighborsClassifier(min(neighbors, len(train)), metric="cosine")
    return classifier.fit(train, labels).predict(vectors)


def linear_probe_predict(
    train_embeddings: npt.ArrayLike, train_labels: npt.ArrayLike, embeddings: npt.ArrayLike
) -> np.ndarray:
    """Predict labels with a linear probe: multinomial logistic regression on embeddings.

    Embeddings are standardized by the mean and standard deviation of the training set, then fitted by
    scikit-learn with an L2 penalty of C = 1 and up to 1000 steps of L-BFGS.

    Args:
        train_embeddings: as in `effective_rank`.
        train_labels: classes or grades, shape `(n,)`, with at least two distinct values.
        embeddings: embeddings to predict labels for, `(m, dim)` or `(m, *spatial, dim)`.

    Returns:
        Labels, shape `(m,)`, of the dtype of `train_labels`.

    Raises:
        ValueError: an argument is invalid.

    >>> linear_probe_predict([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1], [[0.5], [9.0]]).tolist()
    [0, 1]

    References:
        Alain, G. & Bengio, Y. (2017). Understanding intermediate layers using linear classifier probes. ICLR.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, labels, vectors = _probe_inputs(train_embeddings, train_labels, embeddings)
    if len(np.unique(labels)) < 2:
        raise ValueError(f"`train_labels` must hold at least two classes. Received only {labels[0]}.")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    return probe.fit(train, labels).predict(vectors)


def _probe_inputs(
    train_embeddings: npt.ArrayLike, train_labels: npt.ArrayLike, embeddings: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    train = _pooled("train_embeddings", train_embeddings)
    vectors = _pooled("embeddings", embeddings, at_least=1)
    labels = np.asarray(train_labels)
    if labels.shape != (len(train),):
        raise ValueError(f"`train_labels` must have shape ({len(train)},). Received shape {labels.shape}.")
    if vectors.shape[1] != train.shape[1]:
        raise ValueError(
            f"`embeddings` must have the {train.shape[1]} dimensions of `train_embeddings`. "
            f"Received {vectors.shape[1]}."
        )
    return train, labels, vectors


def _pooled(name: str, embeddings: npt.ArrayLike, at_least: int = 2) -> np.ndarray:
    vectors = np.asarray(embeddings, dtype="float64")
    if vectors.ndim not in (2, 4, 5) or len(vectors) < at_least or 0 in vectors.shape:
        raise ValueError(
            f"`{name}` must have shape (n, dim) or (n, *spatial, dim) with 2 or 3 spatial axes, n at least "
            f"{at_least}. Received shape {vectors.shape}."
        )
    if not np.isfinite(vectors).all():
        raise ValueError(f"`{name}` must be finite. Received NaN or infinity.")
    return vectors.mean(axis=tuple(range(1, vectors.ndim - 1)))


def nearest_is_own(queries: Tensor, keys: Tensor) -> Tensor:
    """Compute top-1 retrieval: whether the nearest key of each query, by cosine similarity, is its own.

    Args:
        queries: `(n, dim)`.
        keys: `(n, dim)`; key i belongs to query i.

    Returns:
        float32 `(n,)`: 1 if the own key is the nearest, 0 if another is as near, so that collapsed embeddings
        give 0.

    >>> import numpy as np
    >>> queries, keys = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[-1.0, 0.0], [0.0, 1.0]])
    >>> [float(found) for found in nearest_is_own(queries, keys)]
    [0.0, 1.0]
    """
    cosines = ops.matmul(unit_vectors(queries), ops.transpose(unit_vectors(keys)))
    as_near = ops.sum(ops.cast(cosines >= ops.diagonal(cosines)[:, None], "int32"), axis=1)
    # Including its own key.
    return ops.cast(as_near == 1, "float32")


def relative_error(targets: Tensor, outputs: Tensor, weights: Tensor) -> Tensor:
    """Compute the squared error of a batch relative to that of predicting 0 everywhere.

    For standardized targets, whose mean is 0, an error of 0 is perfect and 1 is no better than the mean.

    Args:
        targets: `(batch, *spatial, channels)`.
        outputs: of the shape of `targets`.
        weights: `(batch, *spatial, 1)`, such as a mask; 0 excludes a pixel or voxel.

    Returns:
        float32 scalar; 1 if all weighted targets are 0.

    >>> import numpy as np
    >>> image, masked = np.array([[1.0, 2.0, 9.0]]), np.array([[True, True, False]])
    >>> float(relative_error(image[..., None], 0.5 * image[..., None], masked[..., None]))
    0.25
    """
    error = ops.sum(weighted_squared_error(targets, outputs, weights))
    # Over the whole batch: masked patches of a single image may all be 0.
    baseline = ops.sum(weighted_squared_error(targets, ops.zeros_like(targets), weights))
    return ops.where(baseline > 0, error / ops.where(baseline > 0, baseline, 1.0), 1.0)
