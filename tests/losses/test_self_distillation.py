"""DINO, Sinkhorn, cosine regression and measures of collapse: against NumPy, and where gradients go."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.losses import dino
from keras_ssl.losses.self_distillation import (
    assignment_information,
    cosine_regression,
    directional_spread,
    sinkhorn,
)
from keras_ssl.metrics.probes import embedding_spread

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("views", [2, 5])
def test_dino_is_the_cross_entropy_of_pairs_of_different_views(views):
    logits = RNG.normal(size=(3, views, 7)).astype("float32")
    assignments = RNG.dirichlet(np.ones(7), (3, 2)).astype("float32")
    expected = []
    for image in range(3):
        terms = []
        for seen in range(2):
            for view in range(views):
                if view != seen:
                    powers = np.exp(logits[image, view].astype("float64") / 0.2)
                    terms.append(-np.sum(assignments[image, seen] * np.log(powers / powers.sum())))
        expected.append(np.mean(terms))
    loss = ops.convert_to_numpy(dino(logits, assignments, 0.2))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_sinkhorn_is_numpys():
    logits = RNG.normal(size=(6, 4)).astype("float32")
    shares = np.exp(logits.astype("float64") / 0.5)
    for _ in range(3):
        shares /= shares.sum(axis=0)
        shares /= shares.sum(axis=1, keepdims=True)
    ours = ops.convert_to_numpy(sinkhorn(logits, 0.5, 3))
    np.testing.assert_allclose(ours, shares, rtol=1e-5)


def test_sinkhorn_shares_prototypes_out():
    # All views prefer the first prototype, by far more than exponentials in float32 could say.
    logits = RNG.normal(size=(8, 4)).astype("float32")
    logits[:, 0] += 30
    shares = ops.convert_to_numpy(sinkhorn(logits, 0.1, 30))
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(shares.sum(axis=0), 2, rtol=0.2)


def test_information_is_0_in_a_collapse_and_the_logarithm_where_images_are_told_apart():
    rows = np.eye(4)[:, None].repeat(2, axis=1)
    one, even = np.eye(4)[[0] * 8].reshape(4, 2, 4), np.full((4, 2, 4), 0.25)
    told = [ops.convert_to_numpy(assignment_information(shares)) for shares in (one, even, rows)]
    np.testing.assert_allclose(told, np.outer([0, 0, np.log(4)], np.ones(4)), atol=1e-6)


def test_information_is_that_of_numpy():
    shares = RNG.dirichlet(np.ones(5), (6, 2))
    own = shares.mean(axis=1)
    joint = own / 6
    expected = np.sum(joint * np.log(joint / np.outer(joint.sum(axis=1), joint.sum(axis=0))))
    ours = ops.convert_to_numpy(assignment_information(shares.astype("float32")))
    assert ours.shape == (6,)
    np.testing.assert_allclose(ours.mean(), expected, rtol=1e-5)


PREDICTIONS, TARGETS = (RNG.normal(size=(6, 5)).astype("float32") for _ in range(2))


def unit(rows):
    return rows.astype("float64") / np.linalg.norm(rows.astype("float64"), axis=1, keepdims=True)


def found(values):
    assert keras.backend.standardize_dtype(values.dtype) == "float32"
    return ops.convert_to_numpy(values)


def test_it_is_the_squared_distance_from_the_other_view():
    predictions, targets = unit(PREDICTIONS), unit(TARGETS)
    of_views = [np.sum((predictions[view] - targets[view ^ 1]) ** 2) for view in range(6)]
    expected = [(of_views[view] + of_views[view + 1]) / 2 for view in (0, 2, 4)]
    np.testing.assert_allclose(found(cosine_regression(PREDICTIONS, TARGETS)), expected, rtol=1e-5)


def test_half_precision_gives_float32():
    halves = [rows.astype("float16") for rows in (PREDICTIONS, TARGETS)]
    loss = found(cosine_regression(*(ops.convert_to_tensor(half) for half in halves)))
    np.testing.assert_allclose(loss, found(cosine_regression(*(half.astype("float32") for half in halves))))


def test_gradient_goes_to_the_predictions_alone_and_is_finite_where_vectors_are_zero_or_the_same():
    # One step of SGD on a table whose first half are predictions, the second targets.
    layer = keras.layers.Dense(5, use_bias=False)
    model = keras.Sequential([keras.Input((12,)), layer])
    model.compile(
        keras.optimizers.SGD(1.0),
        lambda _, rows: ops.sum(cosine_regression(rows[:6], rows[6:])),
        jit_compile=False,
    )

    def slope(table):
        layer.set_weights([table])
        model.train_on_batch(np.eye(12, dtype="float32"), np.zeros_like(table))
        return table - layer.get_weights()[0]

    predictions, targets = unit(PREDICTIONS), unit(TARGETS)[[1, 0, 3, 2, 5, 4]]
    # Of minus the cosine: the target less its share along the prediction, over the prediction's length.
    across = targets - predictions * np.sum(predictions * targets, axis=1, keepdims=True)
    expected = -across / np.linalg.norm(PREDICTIONS, axis=1, keepdims=True)
    got = slope(np.concatenate([PREDICTIONS, TARGETS]))
    np.testing.assert_allclose(got[:6], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got[6:], 0)
    for value in (0.0, 1.0):
        rows = np.full((6, 5), value, "float32")
        np.testing.assert_allclose(found(cosine_regression(rows, rows)), 2 - 2 * value, atol=1e-6)
        assert np.isfinite(slope(np.concatenate([rows, rows]))).all()


def test_spread_is_that_of_embeddings():
    for vectors in (TARGETS, TARGETS + 3, np.ones((4, 3)), np.zeros((4, 3))):
        expected = np.sqrt(np.mean(embedding_spread(vectors) ** 2))
        np.testing.assert_allclose(found(directional_spread(vectors)), expected, rtol=1e-5, atol=1e-6)
