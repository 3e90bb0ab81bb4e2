"""Heads: grades there and back, probabilities that are some and agree with the grade, what is refused."""

import itertools

import keras
import numpy as np
import pytest

from keras_ssl import ClassificationHead, MultiHotHead, OrdinalHead, RegressionHead

SIGMOIDS = [OrdinalHead, MultiHotHead]


def as_outputs(head, grades):
    """What a network that knew the grades would give."""
    targets = head.encode(grades)
    return np.eye(head.grade_count)[targets] if isinstance(head, ClassificationHead) else targets


@pytest.mark.parametrize("make", [*SIGMOIDS, ClassificationHead, RegressionHead])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_grade_comes_back(make, count):
    head, grades = make(count), np.arange(count)
    outputs = as_outputs(head, grades)
    assert outputs.shape == (count, head.output_units)
    np.testing.assert_array_equal(head.decode(outputs), grades)
    np.testing.assert_array_equal(head.encode(grades[:, None]), head.encode(grades))
    if make is not RegressionHead:
        np.testing.assert_array_equal(head.probabilities(outputs), np.eye(count))


@pytest.mark.parametrize("make", SIGMOIDS)
def test_every_combination_of_sigmoids_is_a_grade(make):
    head = make(3)
    outputs = np.array(list(itertools.product([0.0, 0.3, 0.5, 0.7, 1.0], repeat=head.output_units)))
    above = (outputs > 0.5).sum(axis=1)
    expected = above if make is OrdinalHead else np.maximum(above - 1, 0)
    np.testing.assert_array_equal(head.decode(outputs), expected)
    probabilities = head.probabilities(outputs)
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("make", SIGMOIDS)
def test_probabilities_of_falling_sigmoids_are_differences_around_the_grade(
    make,
):
    head = make(5)
    above = -np.sort(-np.random.default_rng(0).random((200, 4)), axis=1)
    outputs = above if make is OrdinalHead else np.hstack([np.ones((200, 1)), above])
    probabilities = head.probabilities(outputs)
    for grade in range(5):
        np.testing.assert_allclose(
            probabilities[:, grade + 1 :].sum(axis=1), above[:, grade : grade + 1].sum(1)
        )
    # The grade is the median: as much as half lies at or above it, and less than half above.
    below_or_at = np.cumsum(probabilities, axis=1)
    np.testing.assert_array_equal(head.decode(outputs), (below_or_at < 0.5).sum(axis=1))


def test_softmax_is_its_own_probabilities():
    head, outputs = ClassificationHead(3), np.random.default_rng(0).dirichlet(np.ones(3), 50)
    np.testing.assert_array_equal(head.probabilities(outputs), outputs)
    np.testing.assert_array_equal(head.decode(outputs), head.probabilities(outputs).argmax(axis=1))


def test_regression_cuts_where_told_and_is_a_value():
    head = RegressionHead(3, thresholds=np.array([0.4, 1.1]))
    assert head.decode([[0.3], [0.45], [1.2], [9.0]]).tolist() == [0, 1, 2, 2]
    assert head == RegressionHead(3, thresholds=[0.4, 1.1])
    assert hash(head) == hash(RegressionHead(3, thresholds=(0.4, 1.1)))
    assert RegressionHead.from_config(head.get_config()) == head


def test_regression_without_grades_takes_any_finite_numbers():
    head, labels = RegressionHead(), [-2.5, 0.0, 71.25]
    assert head.encode(labels).shape == (3, 1)
    assert head.decode(head.encode(labels)).tolist() == labels


@pytest.mark.parametrize("shape", [(8,), (3, 3, 8), (2, 3, 3, 8)])
def test_built_on_vectors_and_maps(shape):
    features = keras.Input(shape)
    outputs = OrdinalHead(4, hidden_units=(6,)).build(features)
    assert (outputs.shape, outputs.dtype) == ((None, 3), "float32")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: OrdinalHead(1), "`num_grades` must be an integer of at least 2. Received 1"),
        (lambda: MultiHotHead(2.5), "`num_grades` must be an integer of at least 2. Received 2.5"),
        (lambda: ClassificationHead(0), "`num_classes` must be an integer of at least 2. Received 0"),
        (lambda: RegressionHead(1), "`num_grades` must be an integer of at least 2. Received 1"),
        (lambda: RegressionHead(thresholds=(0.5,)), "`thresholds` must be None where `num_grades` is None"),
        (lambda: RegressionHead(3, thresholds=(0.5,)), "`thresholds` must be 2 finite numbers"),
        (lambda: RegressionHead(3, thresholds=(1.5, 0.5)), "`thresholds` of a score must ascend"),
        (lambda: RegressionHead(3, thresholds=(0.5, float("nan"))), "`thresholds` must be 2 finite numbers"),
        (lambda: OrdinalHead(3).encode([0, 3]), r"whole numbers in 0\.\.2. Received 3 in row 1"),
        (lambda: MultiHotHead(3).encode([-1]), r"whole numbers in 0\.\.2. Received -1"),
        (lambda: ClassificationHead(3).encode([0.5]), r"whole numbers in 0\.\.2. Received 0.5"),
        (lambda: RegressionHead(3).encode([3]), r"whole numbers in 0\.\.2. Received 3"),
        (lambda: RegressionHead().encode([0.0, float("inf")]), "`labels` must be finite numbers"),
        (lambda: RegressionHead(3).probabilities([[1.0]]), "no probabilities. Use OrdinalHead"),
        (lambda: OrdinalHead(3).decode([[0.1, 0.2, 0.3]]), r"must have shape \(n, 2\)"),
    ],
)
def test_wrong_values_are_refused(action, message):
    with pytest.raises(ValueError, match=message):
        action()
