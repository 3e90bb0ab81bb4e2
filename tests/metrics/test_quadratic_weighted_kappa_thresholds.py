"""Fitted cut points against trying all of them."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from keras_ssl.heads import RegressionHead
from keras_ssl.metrics import fit_thresholds


def _kappa(true, scores, thresholds, num_grades):
    grades = RegressionHead(num_grades, thresholds=thresholds).decode(np.asarray(scores))
    return cohen_kappa_score(true, grades, labels=range(num_grades), weights="quadratic")


def _scored(rows, num_grades, seed):
    """Scores as regression gives them: drawn to the mean, and off."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, num_grades, rows)
    return true, (0.8 + 0.4 * true + rng.normal(0, 0.3, rows)).astype("float32")


@pytest.mark.parametrize("seed", range(5))
def test_single_cut_is_the_best_of_all(seed):
    true, scores = _scored(30, 2, seed)
    cuts = [scores.min() - 1, *(np.sort(scores)[:-1] + np.diff(np.sort(scores)) / 2), scores.max()]
    best = max(_kappa(true, scores, [cut], 2) for cut in cuts)
    assert _kappa(true, scores, fit_thresholds(true, scores, 2), 2) == pytest.approx(best)


def test_several_cuts_come_near_the_best_of_all():
    found, best = [], []
    for seed in range(5):
        true, scores = _scored(14, 3, seed)
        between = np.sort(scores)[:-1] + np.diff(np.sort(scores)) / 2
        best.append(max(_kappa(true, scores, cuts, 3) for cuts in itertools.combinations(between, 2)))
        found.append(_kappa(true, scores, fit_thresholds(true, scores, 3), 3))
    np.testing.assert_allclose(found, best, atol=0.02)
    assert np.mean(np.isclose(found, best)) >= 0.6


@pytest.mark.parametrize("rows", [1, 2, 5, 50, 400])
@pytest.mark.parametrize("seed", range(3))
def test_never_worse_than_rounding(rows, seed):
    true, scores = _scored(rows, 5, seed)
    cuts = fit_thresholds(true, scores)
    assert len(cuts) == 4
    assert (np.diff(cuts) > 0).all()
    if len(np.unique(true)) > 1:
        assert _kappa(true, scores, cuts, 5) >= _kappa(true, scores, None, 5) - 1e-12
    if rows == 400:
        assert _kappa(true, scores, cuts, 5) > _kappa(true, scores, None, 5) + 0.1


def test_separable_scores_are_separated():
    true = [0, 0, 1, 2, 2, 3, 4]
    scores = [[-4.0], [-3.0], [0.0], [1.0], [2.0], [7.0], [8.0]]
    cuts = fit_thresholds(true, scores)
    assert _kappa(true, scores, cuts, 5) == 1
    # Midpoints, but for the one between 2 and 7, where rounding has a cut already.
    assert cuts == (-1.5, 0.5, 2.5, 7.5)


def test_cuts_that_gain_nothing_stay_where_rounding_has_them():
    assert fit_thresholds([0, 1, 1], [0.2, 0.9, 1.3]) == (0.5, 1.5, 2.5, 3.5)
    assert fit_thresholds([2, 2, 2], [0.0, 2.0, 9.0], num_grades=3) == (0.5, 1.5)


def test_absent_grades_share_a_gap():
    true, scores = [0, 0, 4, 4], [1.0, 2.0, 2.5, 2.75]
    cuts = fit_thresholds(true, scores)
    assert _kappa(true, scores, cuts, 5) == 1
    assert (np.diff(cuts) > 0).all()


def test_neighbors_in_float32_are_distinguished():
    low = np.float32(1.0)
    scores = np.array([low, np.nextafter(low, np.float32(2)), low, np.nextafter(low, np.float32(2))])
    for true in ([0, 1, 0, 1], [0, 2, 0, 2]):
        assert _kappa(true, scores, fit_thresholds(true, scores, 3), 3) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0.1]), r"`scores` must be 2 finite numbers.*Received shape \(1,\)"),
        (([0, 1], [[0.1, 0.2]]), r"Received shape \(1, 2\)"),
        (([0, 1], [0.1, np.nan]), r"Received shape \(2,\) with NaN or infinity"),
        (([0, 5], [0.1, 0.2]), r"`true_grades` must be whole numbers in 0\.\.4. Received 5 in row 1"),
        (([0, 1], [0.1, 0.2], 1), "`num_grades` must be at least 2. Received 1"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_thresholds(*arguments)
