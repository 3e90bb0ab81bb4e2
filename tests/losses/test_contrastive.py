"""Contrastive losses and predictive coding: against NumPy, in half precision, with zero or equal vectors."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.losses import info_nce, nt_xent
from keras_ssl.losses.contrastive import (
    predicted_pairs,
    predictive_coding,
    triplet_margin,
    unit_vectors,
    view_similarities,
)

RNG = np.random.default_rng(0)
ROWS, OTHERS, NEGATIVES = (RNG.normal(size=(count, 5)).astype("float32") for count in (6, 6, 9))

# Each as a function of one set of vectors; the halves are those of two sides.
LOSSES = {
    "nt_xent": nt_xent,
    "info_nce": lambda rows: info_nce(rows[:3], rows[3:]),
    "info_nce with negatives": lambda rows: info_nce(rows[:2], rows[2:4], rows[4:]),
    "triplet_margin": lambda rows: triplet_margin(rows[:3], rows[3:]),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def unit(rows):
    return rows.astype("float64") / np.linalg.norm(rows.astype("float64"), axis=1, keepdims=True)


def crossentropy(logits, label):
    return np.log(np.exp(logits).sum()) - logits[label]


def found(values):
    assert keras.backend.standardize_dtype(values.dtype) == "float32"
    return ops.convert_to_numpy(values)


def slopes(loss, tables):
    """The derivative of the sum of a loss in the vectors of each table: what a step of SGD takes from it."""
    layer = keras.layers.Dense(5, use_bias=False)
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(keras.optimizers.SGD(1.0), lambda _, vectors: ops.sum(loss(vectors)), jit_compile=False)
    for table in tables:
        layer.set_weights([table])
        model.train_on_batch(np.eye(6, dtype="float32"), np.zeros_like(table))
        yield table - layer.get_weights()[0]


def test_unit_vectors_are_numpys_and_zeros_stay():
    np.testing.assert_allclose(found(unit_vectors(ROWS)), unit(ROWS), rtol=1e-5)
    np.testing.assert_array_equal(found(unit_vectors(np.zeros((2, 3)))), 0)


@pytest.mark.parametrize("scale", [1e-4, 6e4])
def test_lengths_that_half_precision_cannot_square(scale):
    lengths = np.linalg.norm(found(unit_vectors(np.full((1, 3), scale, "float16"))), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def test_view_similarities_are_cosines_but_never_with_oneself():
    similar = found(view_similarities(ROWS, 0.5))
    others = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(similar[others], (unit(ROWS) @ unit(ROWS).T / 0.5)[others], rtol=1e-5)
    assert (np.diag(similar) < -1e8).all()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent_is_numpys(temperature):
    logits = unit(ROWS) @ unit(ROWS).T / temperature
    np.fill_diagonal(logits, -np.inf)
    expected = [crossentropy(logits[view], view ^ 1) for view in range(6)]
    np.testing.assert_allclose(found(nt_xent(ROWS, temperature)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_info_nce_is_numpys(temperature):
    logits = unit(ROWS) @ unit(OTHERS).T / temperature
    expected = [crossentropy(logits[query], query) for query in range(6)]
    np.testing.assert_allclose(
        found(info_nce(ROWS, OTHERS, None, temperature)), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_info_nce_with_negatives_is_numpys(temperature):
    expected = [
        crossentropy(np.append(query @ key, unit(NEGATIVES) @ query) / temperature, 0)
        for query, key in zip(unit(ROWS), unit(OTHERS), strict=True)
    ]
    loss = found(info_nce(ROWS, OTHERS, NEGATIVES, temperature))
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_triplet_margin_is_numpys(margin):
    # A second side near the first, so that some triplets are outside of the margin.
    positives = ROWS + 0.3 * OTHERS
    distances = np.linalg.norm(unit(ROWS)[:, None] - unit(positives)[None], axis=2)
    hinges = np.maximum(0, np.diag(distances)[:, None] - distances + margin)
    expected = [np.mean(np.delete(hinges[row], row)) for row in range(6)]
    np.testing.assert_allclose(found(triplet_margin(ROWS, positives, margin)), expected, rtol=1e-5, atol=1e-6)


@every_loss
def test_loss_does_not_depend_on_lengths(loss):
    lengths = np.array([[0.1], [1], [10], [100], [3], [0.5]], "float32")
    np.testing.assert_allclose(found(loss(lengths * ROWS)), found(loss(ROWS)), rtol=1e-4)


@every_loss
def test_half_precision_gives_float32(loss):
    halves = ROWS.astype("float16")
    np.testing.assert_allclose(
        found(loss(ops.convert_to_tensor(halves))), found(loss(halves.astype("float32"))), rtol=1e-5
    )


@every_loss
def test_slope_is_that_of_differences_and_finite_where_vectors_are_zero_or_the_same(loss):
    step, expected = 1e-2, np.zeros_like(ROWS)
    for place in np.ndindex(ROWS.shape):
        up, down = ROWS.copy(), ROWS.copy()
        up[place] += step
        down[place] -= step
        expected[place] = (found(loss(up)).sum() - found(loss(down)).sum()) / (2 * step)
    odd = [np.zeros_like(ROWS), np.ones_like(ROWS), np.eye(5, dtype="float32")[[0, 0, 1, 1, 0, 1]]]
    usual, *others = slopes(loss, [ROWS, *odd])
    np.testing.assert_allclose(usual, expected, rtol=0.02, atol=0.01)
    for table, other in zip(odd, others, strict=True):
        assert np.isfinite(found(loss(table))).all()
        assert np.isfinite(other).all()


def unit_vector(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("grid", [(5, 3), (4, 2, 3)])
@pytest.mark.parametrize("steps", [(1,), (2, 3)])
def test_it_is_the_cross_entropy_of_the_target_among_all_targets_of_the_step(grid, steps):
    predictions = RNG.normal(size=(2, *grid, len(steps), 4))
    codes = RNG.normal(size=(2, *grid, 4))
    places = list(itertools.product(range(2), *map(range, grid)))
    expected = []
    for number, step in enumerate(steps):
        asked = [place for place in places if place[1] + step < grid[0]]
        targets = [(image, row + step, *others) for image, row, *others in asked]
        losses = []
        for place, target in zip(asked, targets, strict=True):
            prediction = unit_vector(predictions[(*place, number)])
            similar = {other: np.exp(prediction @ unit_vector(codes[other]) / 0.2) for other in targets}
            losses.append(-np.log(similar[target] / sum(similar.values())))
        expected.append(np.mean(losses))
    loss = predictive_coding(predictions.astype("float32"), codes.astype("float32"), steps, 0.2)
    np.testing.assert_allclose(ops.convert_to_numpy(loss), expected, rtol=1e-5)


def test_pairs_are_predictions_and_the_codes_so_many_rows_below():
    codes = np.arange(2 * 4 * 2).reshape(2, 4, 2, 1)
    predictions = np.stack([codes, -codes], axis=-2)
    (near, near_codes), (far, far_codes) = predicted_pairs(*map(ops.array, (predictions, codes)), (1, 3))
    # A row holds two codes.
    np.testing.assert_array_equal(ops.convert_to_numpy(near) + 2, ops.convert_to_numpy(near_codes))
    np.testing.assert_array_equal(6 - ops.convert_to_numpy(far), ops.convert_to_numpy(far_codes))
    assert len(near) == 12
    assert len(far) == 4
