import keras
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from keras_ssl.metrics.grades import decode_grades, grade_confusion, grade_thresholds

GRADES = np.array([0, 1, 2, 3, 4, 2, 0])
ENCODED = {
    "grades": GRADES,
    "one_hot": np.eye(5)[GRADES],
    "probabilities": np.eye(5)[GRADES] * 0.3 + 0.14,
    "logits": np.eye(5)[GRADES] * 9 - 12,
    "cumulative": (GRADES[:, None] > np.arange(4)) * 0.8 + 0.1,
    "multi_hot": (GRADES[:, None] >= np.arange(5)) * 0.8 + 0.1,
    "score": GRADES + np.array([0.4, -0.4, 0.1, 0.3, 7.0, -0.2, -8.0]),
}


@pytest.mark.parametrize("form", ENCODED)
def test_every_form_gives_the_grades_that_were_written(form):
    decoded = decode_grades(ENCODED[form], form)
    assert isinstance(decoded, np.ndarray)
    assert decoded.dtype == "int32"
    np.testing.assert_array_equal(decoded, GRADES)


@pytest.mark.parametrize("form", ENCODED)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_of_any_precision_stay_on_the_device(form, dtype):
    tensor = keras.ops.cast(keras.ops.convert_to_tensor(ENCODED[form]), dtype)
    decoded = decode_grades(tensor, form)
    assert keras.ops.is_tensor(decoded)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(decoded), GRADES)


@pytest.mark.parametrize("form", ["grades", "score"])
def test_one_column_is_one_number_a_row(form):
    np.testing.assert_array_equal(decode_grades(ENCODED[form][:, None], form), GRADES)


@pytest.mark.parametrize("form", ["cumulative", "multi_hot"])
def test_a_row_below_every_threshold_is_grade_0_and_not_dropped(form):
    width = 4 if form == "cumulative" else 5
    np.testing.assert_array_equal(decode_grades(np.full((3, width), 0.2), form), [0, 0, 0])


@pytest.mark.parametrize("form", ["probabilities", "logits", "cumulative", "multi_hot", "score"])
def test_any_numbers_at_all_decode_to_a_grade(form):
    width = {"cumulative": 4, "score": 1}.get(form, 5)
    garbage = np.random.default_rng(0).normal(scale=3, size=(500, width))
    garbage[0], garbage[1] = np.inf, -np.inf
    decoded = decode_grades(garbage, form)
    assert decoded.min() == 0
    assert decoded.max() == 4


def test_rows_that_contradict_themselves_are_counted():
    np.testing.assert_array_equal(decode_grades([[0.9, 0.2, 0.8, 0.1]], "cumulative"), [2])
    np.testing.assert_array_equal(decode_grades([[0.1, 0.9, 0.2, 0.8, 0.1]], "multi_hot"), [1])


def test_thresholds_are_what_must_be_exceeded():
    logits = [[2.0, 0.3, -1.0, -2.0]]
    assert decode_grades(logits, "cumulative", thresholds=0.0).tolist() == [2]
    assert decode_grades(logits, "cumulative", thresholds=[0.0, 0.5, 0.0, 0.0]).tolist() == [1]
    scores = [0.5, 0.51, 2.2, 2.21, 3.9]
    assert decode_grades(scores, "score", thresholds=(0.5, 2.2, 2.9, 4.0)).tolist() == [0, 1, 1, 2, 3]


def test_what_is_no_grade_is_marked():
    unreadable = [0, 5, -1, 2.5, np.nan, np.inf, 4]
    assert decode_grades(unreadable, "grades").tolist() == [0, -1, -1, -1, -1, -1, 4]
    assert decode_grades([np.nan, 1.2], "score").tolist() == [-1, 1]
    rows = np.full((2, 5), 0.9)
    rows[0, 3] = np.nan
    for form in ("probabilities", "multi_hot"):
        assert decode_grades(rows, form)[0] == -1
        assert decode_grades(rows, form)[1] >= 0


@pytest.mark.parametrize(
    ("form", "shape", "message"),
    [
        ("probabilities", (3, 4), r"5 grades in the form 'probabilities' must have shape \(n, 5\).*\(3, 4\)"),
        ("one_hot", (3,), r"must have shape \(n, 5\). Received shape \(3,\)"),
        ("cumulative", (3, 5), r"must have shape \(n, 4\)"),
        ("multi_hot", (3, 4), r"must have shape \(n, 5\)"),
        ("grades", (3, 5), r"must have shape \(n,\) or \(n, 1\)"),
        ("score", (3, 2, 1), r"Received shape \(3, 2, 1\)"),
        ("grades", (), r"Received shape \(\)"),
    ],
)
def test_invalid_shapes(form, shape, message):
    with pytest.raises(ValueError, match=message):
        decode_grades(np.zeros(shape), form)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("softmax", 5), "must be one of .*Received 'softmax'"),
        (("grades", 1), "`num_grades` must be at least 2. Received 1"),
        (("probabilities", 5, 0.5), "`thresholds` must be None for the form 'probabilities'"),
        (("cumulative", 5, [0.5] * 5), "`thresholds` must be 4 finite numbers"),
        (("multi_hot", 5, [0.5] * 4), "`thresholds` must be 5 finite numbers"),
        (("score", 5, 0.5), "`thresholds` must be 4 finite numbers"),
        (("score", 3, [0.5, np.nan]), "`thresholds` must be 2 finite numbers"),
        (("score", 3, [1.5, 0.5]), "`thresholds` of a score must ascend"),
    ],
)
def test_invalid_thresholds(arguments, message):
    with pytest.raises(ValueError, match=message):
        grade_thresholds(*arguments)


@pytest.mark.parametrize("weight_shape", [None, (), (200,), (200, 1)])
def test_confusion_is_that_of_scikit_learn(weight_shape):
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 5, (2, 200))
    weight = None if weight_shape is None else rng.uniform(0, 3, weight_shape)
    expected = confusion_matrix(
        true,
        predicted,
        labels=range(5),
        sample_weight=None if weight is None else np.broadcast_to(np.ravel(weight), 200),
    )
    confusion = grade_confusion(true, predicted, 5, weight)
    assert isinstance(confusion, np.ndarray)
    np.testing.assert_allclose(confusion, expected, rtol=1e-5)


@pytest.mark.parametrize(("true", "predicted"), [([0, -1], [0, 1]), ([0, 1], [0, 3])])
def test_what_is_no_grade_makes_the_confusion_nan_unless_it_weighs_nothing(true, predicted):
    assert np.isnan(grade_confusion(true, predicted, 3)).all()
    np.testing.assert_array_equal(grade_confusion(true, predicted, 3, [1.0, 0.0]), np.diag([1, 0, 0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0], 3), r"must both be of shape \(n,\). Received shapes \(2,\) and \(1,\)"),
        (([[0], [1]], [0, 1], 3), r"Received shapes \(2, 1\) and \(2,\)"),
        (([0, 1], [0, 1], 3, [1.0, 1.0, 1.0]), r"one weight per row, here 2 rows. Received shape \(3,\)"),
        (([0, 1], [0, 1], 3, [[1.0, 1.0]]), r"`sample_weight` must be.*Received shape \(1, 2\)"),
    ],
)
def test_invalid_confusions(arguments, message):
    with pytest.raises(ValueError, match=message):
        grade_confusion(*arguments)
