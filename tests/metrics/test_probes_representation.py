"""Rank, spread and probes against NumPy and scikit-learn called otherwise, and against closed forms."""

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity

from keras_ssl.metrics import effective_rank, knn_predict, linear_probe_predict
from keras_ssl.metrics.probes import embedding_spread, is_collapsed

pytestmark = pytest.mark.no_backend


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def _orthogonal(rows, columns):
    return np.linalg.qr(_normal(rows, rows))[0][:, :columns]


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rank_of_equal_singular_values_is_their_number(rank):
    embeddings = _orthogonal(40, rank) @ _orthogonal(8, rank).T
    assert effective_rank(embeddings) == pytest.approx(rank, rel=1e-4)
    assert effective_rank(5 * embeddings) == pytest.approx(effective_rank(embeddings))


def test_rank_is_the_exponential_of_scipys_entropy():
    embeddings = _normal(30, 12) * np.linspace(0.1, 3, 12) + 2
    squares = np.linalg.eigvalsh(embeddings.T @ embeddings)
    assert effective_rank(embeddings) == pytest.approx(np.exp(entropy(np.sqrt(squares))), rel=1e-4)
    assert effective_rank(embeddings) < effective_rank(embeddings - embeddings.mean(axis=0))


def test_spread_of_even_directions_is_1_and_its_square_tells_the_mean_cosine():
    assert embedding_spread(_normal(20_000, 16)) == pytest.approx(np.ones(16), abs=0.03)
    embeddings = _normal(50, 6) + 1
    squares = np.mean(embedding_spread(embeddings) ** 2)
    assert squares == pytest.approx(1 - cosine_similarity(embeddings).mean())
    assert embedding_spread(embeddings).shape == (6,)
    np.testing.assert_allclose(embedding_spread(7 * embeddings), embedding_spread(embeddings))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_embeddings(value):
    embeddings = np.full((10, 4), value, "float32")
    assert effective_rank(embeddings) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(embedding_spread(embeddings), 0, atol=1e-12)
    assert is_collapsed(embeddings) is True
    assert knn_predict(embeddings, [0] * 6 + [1] * 4, embeddings).tolist() == [0] * 10
    assert linear_probe_predict(embeddings, [0] * 6 + [1] * 4, embeddings).tolist() == [0] * 10


def test_collapsed_is_a_mean_cosine_above_0_9999():
    # Unit vectors at an angle of +-a to one axis have a mean cosine of cos(a) ** 2 over all pairs.
    for angle, collapsed in ((0.009, True), (0.011, False)):
        pair = np.array([[np.cos(angle), np.sin(angle)], [np.cos(angle), -np.sin(angle)]])
        assert is_collapsed(pair) is collapsed
        assert is_collapsed(pair, min_spread=0.1)
    # Many positive features are all alike, and tell much.
    assert not is_collapsed(1 + 0.1 * _normal(100, 32))


def test_feature_maps_are_averaged():
    flat, volume = _normal(12, 4, 4, 6), _normal(12, 2, 3, 4, 6)
    for maps in (flat, volume):
        vectors = maps.reshape(12, -1, 6).mean(axis=1)
        assert effective_rank(maps) == pytest.approx(effective_rank(vectors))
        np.testing.assert_allclose(embedding_spread(maps), embedding_spread(vectors))
        labels = np.arange(12) % 2
        for predict in (knn_predict, linear_probe_predict):
            assert (predict(maps, labels, maps) == predict(vectors, labels, vectors)).all()


@pytest.mark.parametrize("neighbors", [1, 5, 20, 500])
def test_neighbors_vote_as_in_a_loop(neighbors):
    train, labels, embeddings = (
        _normal(60, 5),
        np.random.default_rng(1).integers(0, 3, 60),
        _normal(25, 5, seed=2),
    )
    nearest = np.argsort(-cosine_similarity(embeddings, train), axis=1)[:, :neighbors]
    expected = [np.bincount(labels[row]).argmax() for row in nearest]
    assert knn_predict(train, labels, embeddings, neighbors).tolist() == expected


def test_linear_probe_standardizes_by_the_training_set():
    train, labels = _normal(80, 4) * [1, 10, 100, 0.1] + 5, np.random.default_rng(1).integers(0, 3, 80)
    embeddings = _normal(30, 4, seed=2) * [1, 10, 100, 0.1] + 6
    mean, std = train.mean(axis=0), train.std(axis=0)
    reference = LogisticRegression(solver="newton-cg", tol=1e-8).fit((train - mean) / std, labels)
    predicted = linear_probe_predict(train, labels, embeddings)
    assert predicted.tolist() == reference.predict((embeddings - mean) / std).tolist()
    one_by_one = [linear_probe_predict(train, labels, embeddings[[i]])[0] for i in range(3)]
    assert predicted[:3].tolist() == one_by_one


def test_probes_find_what_is_there():
    labels = np.repeat([0, 2, 4], 30)
    embeddings = _normal(90, 8) + 4 * np.eye(8)[labels]
    for predict in (knn_predict, linear_probe_predict):
        assert np.mean(predict(embeddings[::2], labels[::2], embeddings[1::2]) == labels[1::2]) > 0.9


@pytest.mark.parametrize("function", [effective_rank, embedding_spread, is_collapsed])
@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.zeros(4), r"`embeddings` must have shape \(n, dim\).*Received shape \(4,\)"),
        (np.zeros((4, 5, 6)), r"Received shape \(4, 5, 6\)"),
        (np.zeros((1, 5)), r"n at least 2. Received shape \(1, 5\)"),
        (np.zeros((4, 0)), r"Received shape \(4, 0\)"),
        ([[1.0, np.nan], [0.0, 0.0]], "`embeddings` must be finite"),
        ([[1.0, np.inf], [0.0, 0.0]], "`embeddings` must be finite"),
    ],
)
def test_invalid_embeddings(function, embeddings, message):
    with pytest.raises(ValueError, match=message):
        function(embeddings)


@pytest.mark.parametrize("predict", [knn_predict, linear_probe_predict])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 2]], [0], [[1, 2]]), r"`train_embeddings` must have shape.*Received shape \(1, 2\)"),
        (([[1, 2], [3, 4]], [0], [[1, 2]]), r"`train_labels` must have shape \(2,\). Received shape \(1,\)"),
        (([[1, 2], [3, 4]], [0, 1], [[1, 2, 3]]), "`embeddings` must have the 2 dimensions.*Received 3"),
        (([[1, 2], [3, 4]], [0, 1], [[1, np.nan]]), "`embeddings` must be finite"),
    ],
)
def test_invalid_by_probes(predict, arguments, message):
    with pytest.raises(ValueError, match=message):
        predict(*arguments)


def test_invalid_settings():
    train = [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match=r"`neighbors` must be at least 1. Received 0"):
        knn_predict(train, [0, 1], train, neighbors=0)
    with pytest.raises(ValueError, match=r"`train_labels` must hold at least two classes. Received only 3"):
        linear_probe_predict(train, [3, 3], train)
    with pytest.raises(ValueError, match=r"`min_spread` must be above 0. Received 0"):
        is_collapsed(train, min_spread=0)
