"""Scores by name against scikit-learn called in other ways, Keras, and arithmetic done by hand."""

from typing import get_args

import keras
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, confusion_matrix, roc_auc_score

from keras_ssl.metrics import grading_scores
from keras_ssl.metrics.grading_scores import ScoreName


@pytest.fixture
def graded():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, 80)
    probabilities = rng.dirichlet(np.ones(5), 80)
    probabilities[np.arange(80), true] += 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return true, np.clip(true + rng.integers(-1, 2, 80), 0, 4), probabilities


def test_scores_match_independent_references(graded):
    true, predicted, probabilities = graded
    scores = grading_scores(true, predicted, probabilities, num_grades=5)
    assert tuple(scores) == get_args(ScoreName)
    assert all(type(score) is float for score in scores.values())
    (low_right, low_wrong), (high_wrong, high_right) = confusion_matrix(true >= 2, predicted >= 2)
    kappa = cohen_kappa_score(true, predicted, weights="quadratic")
    expected = {
        "qw_kappa": kappa,
        "accuracy": np.mean(true == predicted),
        "balanced_accuracy": balanced_accuracy_score(true, predicted),
        "macro_auc": roc_auc_score(true, probabilities, multi_class="ovr"),
        "grade_mae": np.abs(true - predicted).mean(),
        "referable_sensitivity": high_right / (high_right + high_wrong),
        "referable_specificity": low_right / (low_right + low_wrong),
        # A grade that is missed by one is wrong in one element.
        "element_accuracy": 1 - np.abs(true - predicted).mean() / 5,
        "qw_kappa_kaggle": kappa,
        "cat_acc_kaggle": np.mean(true == predicted),
    }
    error = scores.pop("calibration_error")
    assert 0 < error < 1
    assert scores == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
def test_grades_that_do_not_occur_are_no_part_of_a_mean():
    true, predicted = [0, 0, 1, 1], [0, 2, 1, 1]
    probabilities = [[0.6, 0.35, 0.05], [0.3, 0.4, 0.3], [0.2, 0.7, 0.1], [0.4, 0.3, 0.3]]
    scores = grading_scores(true, predicted, probabilities, num_grades=3)
    assert scores["balanced_accuracy"] == 0.75
    # Of 2 x 2 pairs, grade 0 is in order in 3 and grade 1 in 2.
    assert scores["macro_auc"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert np.isnan(scores["referable_sensitivity"])
    assert scores["referable_specificity"] == 0.75


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
def test_scores_that_are_undefined():
    one_grade = grading_scores([2, 2], [2, 1], [[0.2, 0.2, 0.6]] * 2, num_grades=3)
    assert np.isnan(one_grade["macro_auc"])
    assert np.isnan(one_grade["referable_specificity"])
    assert one_grade["referable_sensitivity"] == 0.5
    two_classes = grading_scores([0, 1], [0, 1], num_grades=2)
    assert np.isnan([two_classes["referable_sensitivity"], two_classes["referable_specificity"]]).all()
    assert grading_scores([0, 1], [0, 1], num_grades=2, referable_from=1)["referable_sensitivity"] == 1


def test_calibration_error_done_by_hand():
    # Bins end at 0.6 and 0.9, included: two images at 0.57 on average, one right; two at 0.9, both right.
    probabilities = [[0.6, 0.4], [0.54, 0.46], [0.1, 0.9], [0.9, 0.1]]
    scores = grading_scores([0, 1, 1, 0], [0, 0, 0, 0], probabilities, num_grades=2)
    assert scores["calibration_error"] == pytest.approx((2 * abs(0.5 - 0.57) + 2 * abs(1 - 0.9)) / 4)


def test_calibration_error_of_a_calibrated_grader_is_small():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), 20_000)
    true = (rng.random((20_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    names = ["calibration_error"]
    honest = grading_scores(true, true, probabilities, num_grades=3, names=names)
    vain = grading_scores(true, true, np.eye(3)[probabilities.argmax(axis=1)], num_grades=3, names=names)
    assert honest["calibration_error"] < 0.02
    assert vain["calibration_error"] == pytest.approx(np.mean(probabilities.argmax(axis=1) != true))


def test_scores_of_multi_hot_outputs():
    true = np.random.default_rng(0).integers(0, 5, 60)
    outputs = np.random.default_rng(1).random((60, 5)).astype("float32")
    outputs[:20] = 0.1
    scores = grading_scores(true, true, num_grades=5, multi_hot=outputs)
    spelled = (outputs > 0.5).sum(axis=1) - 1
    assert (spelled == -1).sum() >= 20
    spelled = np.maximum(spelled, 0)
    assert scores["qw_kappa_kaggle"] == pytest.approx(
        cohen_kappa_score(true, spelled, weights="quadratic"), abs=1e-6
    )
    assert scores["cat_acc_kaggle"] == np.mean(true == spelled)
    assert scores["qw_kappa"] == scores["accuracy"] == 1
    shown = keras.metrics.BinaryAccuracy()
    shown.update_state((true[:, None] >= np.arange(5)).astype("float32"), outputs)
    assert scores["element_accuracy"] == pytest.approx(float(shown.result()), abs=1e-6)


def test_element_accuracy_flatters():
    scores = grading_scores([0, 1, 2, 3, 4], [1, 1, 2, 3, 3], num_grades=5)
    assert (scores["element_accuracy"], scores["accuracy"]) == (pytest.approx(0.92), 0.6)


def test_names_choose_and_order():
    assert list(grading_scores([0, 1], [0, 1], num_grades=2, names=["accuracy", "qw_kappa"])) == [
        "accuracy",
        "qw_kappa",
    ]
    assert set(get_args(ScoreName)) - set(grading_scores([0, 1], [0, 1], num_grades=2)) == {
        "macro_auc",
        "calibration_error",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"true_grades": [0, 2]}, r"`true_grades` must be whole numbers in 0\.\.1\. Received 2 in row 1"),
        ({"true_grades": []}, "`true_grades` must not be empty"),
        ({"true_grades": ["a", "b"]}, "`true_grades` must be whole numbers. Received dtype <U1"),
        ({"predicted_grades": [0]}, "`predicted_grades` must be one per image. Received 1 for 2 images"),
        ({"predicted_grades": [0, np.nan]}, "`predicted_grades` must be whole.*Received nan in row 1"),
        ({"predicted_grades": [0.5, 0]}, "`predicted_grades` must be whole.*Received 0.5 in row 0"),
        ({"probabilities": [0.5, 0.5]}, r"`probabilities` must have shape \(2, 2\). Received shape \(2,\)"),
        ({"probabilities": [[0.5, 0.5], [np.nan, 1]]}, "`probabilities` must be finite.*in row 1"),
        ({"probabilities": [[np.inf, 0], [0, 1]]}, "`probabilities` must be finite.*in row 0"),
        ({"probabilities": [[0.5, 0.5], [0.5, 0.6]]}, "sum to 1 in every row.*in row 1"),
        ({"probabilities": [[1.5, -0.5], [0, 1]]}, "`probabilities` must not be negative.*in row 0"),
        ({"multi_hot": [[1, 0, 0], [1, 1, 0]]}, r"`multi_hot` must have shape \(2, 2\)"),
        ({"multi_hot": [[1, np.nan], [1, 1]]}, "`multi_hot` must be finite"),
        ({"names": ["kappa"]}, "`names` must be among .*Received 'kappa'"),
        ({"names": ["macro_auc"]}, "`probabilities` must be given for the score 'macro_auc'"),
        ({"num_grades": 1}, "`num_grades` must be at least 2. Received 1"),
        ({"referable_from": 0}, "`referable_from` must be at least 1. Received 0"),
    ],
)
def test_invalid_arguments(arguments, message):
    good = {"true_grades": [0, 1], "predicted_grades": [0, 1], "num_grades": 2}
    with pytest.raises(ValueError, match=message):
        grading_scores(**{**good, **arguments})
