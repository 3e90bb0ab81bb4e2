import itertools

import numpy as np
import pytest

from keras_ssl.data import labeled_subset, stratified_split
from keras_ssl.data.splits import stratified_folds

pytestmark = pytest.mark.no_backend

SHARES = [0.45, 0.12, 0.20, 0.17, 0.06]


@pytest.fixture
def patients():
    """Grades of 500 eyes of patients with one to three photographs, whose grades may differ by one."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(250), rng.integers(1, 4, 250))
    worst = rng.choice(5, 250, p=SHARES)
    grades = np.maximum(worst[groups] - (rng.random(len(groups)) < 0.2), 0)
    order = rng.permutation(len(groups))
    return grades[order], np.array([f"patient {group}" for group in groups])[order]


def shares(grades):
    return np.bincount(grades, minlength=5) / len(grades)


def test_split_takes_of_each_grade_the_nearest_whole_number():
    grades = np.repeat([0, 1, 2], [50, 21, 3])
    train, test = stratified_split(grades, 0.2)
    assert np.bincount(grades[test]).tolist() == [10, 4, 1]
    assert sorted([*train, *test]) == list(range(74))


def test_split_keeps_groups_whole_and_grades_in_proportion(patients):
    grades, groups = patients
    train, test = stratified_split(grades, 0.2, groups)
    assert not set(groups[train]) & set(groups[test])
    assert len(test) / len(grades) == pytest.approx(0.2, abs=0.02)
    np.testing.assert_allclose(shares(grades[test]), shares(grades), atol=0.05)


def test_a_split_depends_on_the_seed_alone(patients):
    grades, groups = patients
    same = [stratified_split(grades, 0.3, groups, seed=4)[1].tolist() for _ in range(2)]
    other = stratified_split(grades, 0.3, groups, seed=5)[1].tolist()
    assert same[0] == same[1] != other


@pytest.mark.parametrize("grouped", [False, True])
def test_folds_test_each_image_once_in_proportion(patients, grouped):
    grades, groups = patients
    folds = stratified_folds(grades, 5, groups if grouped else None, seed=1)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(grades)))
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(len(grades)))
        assert not grouped or not set(groups[train]) & set(groups[test])
        np.testing.assert_allclose(shares(grades[test]), shares(grades), atol=0.03)


@pytest.mark.parametrize("grouped", [False, True])
def test_subsets_of_a_seed_are_nested(patients, grouped):
    grades, groups = patients
    subsets = [
        labeled_subset(grades, fraction, groups if grouped else None, seed=3)
        for fraction in (0.001, 0.05, 0.1, 0.25, 0.5, 0.9, 1.0)
    ]
    for few, more in itertools.pairwise(subsets):
        assert set(few) < set(more)
    assert len(subsets[-1]) == len(grades)
    for subset in subsets:
        assert set(grades[subset]) == set(range(5))
        assert not grouped or not set(groups[subset]) & set(np.delete(groups, subset))


def test_subset_rounds_each_grade_and_leaves_none_out():
    grades = np.repeat([0, 1, 2, 3], [100, 35, 14, 3])
    counts = np.bincount(grades[labeled_subset(grades, 0.1)])
    assert counts.tolist() == [10, 4, 1, 1]


def test_subset_of_groups_comes_near_its_fraction_in_proportion(patients):
    grades, groups = patients
    subset = labeled_subset(grades, 0.3, groups)
    assert len(subset) / len(grades) == pytest.approx(0.3, abs=0.03)
    np.testing.assert_allclose(shares(grades[subset]), shares(grades), atol=0.04)


def test_subset_is_no_prefix_and_differs_between_seeds():
    grades = np.tile([0, 1], 100)
    subsets = [labeled_subset(grades, 0.1, seed=seed) for seed in range(20)]
    assert len({tuple(subset) for subset in subsets}) == 20
    # Twenty of two hundred drawn twenty times reach 1 - 0.9^20 = 88 % of all; prefixes would reach 10 %.
    assert 0.75 < len(np.unique(np.concatenate(subsets))) / 200 < 0.97


def test_a_grade_that_is_no_groups_highest_is_still_in_every_subset():
    grades = [0, 2, 1, 2, 0, 2, 2, 2]
    groups = [0, 0, 1, 1, 2, 2, 3, 4]
    for seed in range(10):
        few = labeled_subset(grades, 0.01, groups, seed)
        assert set(np.array(grades)[few]) == {0, 1, 2}
        assert set(few) <= set(labeled_subset(grades, 0.6, groups, seed))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, np.nan])
def test_bad_fractions_are_refused(fraction):
    with pytest.raises(ValueError, match=r"`fraction` must lie in \(0, 1\]. Received"):
        labeled_subset([0, 1], fraction)
    with pytest.raises(ValueError, match=r"`test_fraction` must lie between 0 and 1. Received"):
        stratified_split([0, 0, 1, 1], fraction)
    with pytest.raises(ValueError, match="`test_fraction`"):
        stratified_split([0, 0, 1, 1], 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stratified_split([1, 1, 1], 0.5), "more than one grade"),
        (lambda: labeled_subset([1, 1, 1], 0.5), "more than one grade"),
        (lambda: stratified_folds([1, 1, 1], 2), "more than one grade"),
        (lambda: labeled_subset([0, np.nan], 0.5), "Received nan in row 1"),
        (lambda: stratified_split([0, 0, 1], 0.5), "both in training and in test. Received 1 of grade 1"),
        (
            lambda: stratified_folds([0, 0, 0, 1, 1], 3),
            "at least 3 .* in each of 3 folds. Received 2 of grade 1",
        ),
        (
            lambda: stratified_folds([0, 0, 1, 1], 2, groups=[0, 1, 2, 2]),
            "at least 2 images .or groups.* 1 of grade 1",
        ),
        (lambda: stratified_folds([0, 1], 1), "`folds` must be at least 2. Received 1"),
        (
            lambda: stratified_folds([0, 1], 2, groups=[0]),
            r"`groups` must have shape \(2,\).* Received \(1,\)",
        ),
        (lambda: labeled_subset([0, 1], 0.5, groups=[0, np.nan]), "`groups` must not be NaN"),
        (
            lambda: (
                stratified_split([0, 1, 0, 1], 0.5, groups=[0, 0, 1, 1], seed=0)
                and stratified_split([0, 1, 2, 0, 2], 0.5, groups=[0, 0, 0, 1, 1])
            ),
            "both in training and in test. Received 1 of grade 1",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
