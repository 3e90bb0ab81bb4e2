"""Predictive coding against a reference in NumPy, which compares one prediction after the other."""

import itertools

import numpy as np
import pytest
from keras import ops

from keras_ssl.losses import predicted_pairs, predictive_coding

RNG = np.random.default_rng(0)


def unit(vector):
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
            prediction = unit(predictions[(*place, number)])
            similar = {other: np.exp(prediction @ unit(codes[other]) / 0.2) for other in targets}
            losses.append(-np.log(similar[target] / sum(similar.values())))
        expected.append(np.mean(losses))
    found = predictive_coding(predictions.astype("float32"), codes.astype("float32"), steps, 0.2)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-5)


def test_pairs_are_predictions_and_the_codes_so_many_rows_below():
    codes = np.arange(2 * 4 * 2).reshape(2, 4, 2, 1)
    predictions = np.stack([codes, -codes], axis=-2)
    (near, near_codes), (far, far_codes) = predicted_pairs(*map(ops.array, (predictions, codes)), (1, 3))
    # A row holds two codes.
    np.testing.assert_array_equal(ops.convert_to_numpy(near) + 2, ops.convert_to_numpy(near_codes))
    np.testing.assert_array_equal(6 - ops.convert_to_numpy(far), ops.convert_to_numpy(far_codes))
    assert len(near) == 12
    assert len(far) == 4
