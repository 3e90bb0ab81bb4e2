"""Regression of one view on the other against NumPy, where its gradient goes, and the spread of views."""

import keras
import numpy as np
from keras import ops

from keras_ssl.losses import cosine_regression, directional_spread
from keras_ssl.metrics import embedding_spread

RNG = np.random.default_rng(0)
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
