"""Confusion matrices and recall from records agree with scikit-learn."""

import numpy as np
import pytest
from records import NAMES, failed, study
from sklearn.metrics import confusion_matrix, recall_score

from keras_ssl.reports import plot_confusion, plot_recall
from keras_ssl.reports.confusion_matrices import confusions

pytestmark = pytest.mark.no_backend

LABELS = ["pretrained, frozen", "pretrained, fine-tuned", "from scratch"]


@pytest.fixture(scope="module")
def records():
    return study()


def runs_of(records, arm, fraction=1.0):
    return [run for run in records if (run["arm"], run["fraction"]) == (arm, fraction)]


@pytest.mark.parametrize(("fraction", "said"), [(None, "100 %"), (0.05, "5 %")])
def test_confusions_are_summed_over_runs(records, fraction, said):
    counted = confusions(records, fraction)
    assert list(counted) == [f"{label} ({said} of the labels)" for label in LABELS]
    for arm, counts in zip(("frozen", "initialized", "random"), counted.values(), strict=True):
        runs = runs_of(records, arm, fraction or 1.0)
        expected = sum(
            confusion_matrix(run["test_grades"], run["test_predictions"], labels=range(5)) for run in runs
        )
        np.testing.assert_array_equal(counts, expected)


def test_failed_runs_and_runs_without_predictions_count_nothing(records):
    some = [failed(run) if run["repetition"] else run for run in records]
    assert confusions(some)["from scratch (100 % of the labels)"].sum() == 150
    with pytest.raises(ValueError, match=r"`fraction` 0\.3\. Received those of \[0\.05"):
        confusions(records, 0.3)
    with pytest.raises(ValueError, match="at least one run with `test_grades`"):
        plot_recall([failed(run) for run in records], NAMES)


def test_more_grades_than_names_are_refused(records):
    with pytest.raises(ValueError, match="Received 4 and grade 4"):
        confusions(records, num_grades=4)
    with pytest.raises(ValueError, match="Received 4 names"):
        plot_recall(records, NAMES[:4])
    assert next(iter(confusions(records, num_grades=7).values())).shape == (7, 7)


def test_confusion_writes_the_counts():
    figure = plot_confusion({"arm": [[5, 1], [0, 3]], "other": [[1, 0], [0, 1]]}, ["none", "some"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["5", "1", "0", "3"]
    # Rows are true grades, from top to bottom, colored by fraction of the row.
    mesh = figure.axes[0].collections[0]
    np.testing.assert_allclose(mesh.get_array().reshape(2, 2), [[5 / 6, 1 / 6], [0, 1]])
    assert figure.axes[0].yaxis_inverted()


def test_confusion_refuses_other_shapes():
    with pytest.raises(ValueError, match="at least one matrix"):
        plot_confusion({}, ["a"])
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        plot_confusion({"arm": [[1, 0], [0, 1]]}, ["a", "b", "c"])


def test_recall_is_the_mean_over_runs_with_their_range(records):
    axes = plot_recall(records, NAMES, 0.25).axes[0]
    names = [text.get_text() for text in axes.figure.legends[0].texts]
    assert names == LABELS
    for number, arm in enumerate(("frozen", "initialized", "random")):
        expected = np.array(
            [
                recall_score(run["test_grades"], run["test_predictions"], average=None, labels=range(5))
                for run in runs_of(records, arm, 0.25)
            ]
        )
        bars = axes.patches[5 * number : 5 * number + 5]
        np.testing.assert_allclose([bar.get_height() for bar in bars], expected.mean(0))
        ends = axes.collections[number].get_segments()
        np.testing.assert_allclose([end[:, 1] for end in ends], np.c_[expected.min(0), expected.max(0)])


def test_recall_of_a_grade_that_no_image_has_is_no_bar():
    run = {"arm": "random", "fraction": 1.0, "test_grades": [0, 2], "test_predictions": [0, 0]}
    heights = [bar.get_height() for bar in plot_recall([run], ["a", "b", "c"]).axes[0].patches]
    np.testing.assert_array_equal(heights, [1, np.nan, 0])
