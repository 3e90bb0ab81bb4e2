"""Counts and scores of label maps against scikit-learn on flattened ones."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score

from keras_ssl.metrics import segmentation
from keras_ssl.metrics.segmentation import dice_scores, jaccard_scores, label_confusion, mean_dice

pytestmark = pytest.mark.no_backend

SPATIAL = pytest.mark.parametrize("spatial", [(17,), (9, 13), (7, 5, 6)])


def pair(spatial, classes=4, seed=0, dtype="uint8"):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, spatial)
    kept = rng.random(spatial) < 0.6
    return true.astype(dtype), np.where(kept, true, rng.integers(0, classes, spatial)).astype(dtype)


@SPATIAL
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint64", "float32"])
def test_counts_match_scikit_learn(spatial, dtype):
    true, predicted = pair(spatial, dtype=dtype)
    counts = label_confusion(true, predicted, 6)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(
        counts, confusion_matrix(true.ravel().astype(int), predicted.ravel().astype(int), labels=range(6))
    )


@SPATIAL
def test_scores_match_scikit_learn(spatial):
    for seed in range(5):
        true, predicted = pair(spatial, seed=seed)
        # In the true map alone, in the predicted one alone, in neither.
        true[true == 2], predicted[predicted == 3] = 1, 0
        confusion = label_confusion(true, predicted, 5)
        absent = ~np.isin(np.arange(5), [true, predicted])
        assert absent[4]
        for ours, theirs in [(dice_scores, f1_score), (jaccard_scores, jaccard_score)]:
            expected = theirs(true.ravel(), predicted.ravel(), labels=range(5), average=None, zero_division=0)
            np.testing.assert_allclose(ours(confusion), np.where(absent, np.nan, expected))


def test_absent_classes():
    confusion = label_confusion([0, 1, 1, 2], [0, 1, 1, 3], num_classes=5)
    for scores in (dice_scores(confusion), jaccard_scores(confusion)):
        np.testing.assert_array_equal(scores, [1, 1, 0, 0, np.nan])
    assert mean_dice(confusion) == pytest.approx(1 / 3)
    assert mean_dice(confusion, include_background=True) == pytest.approx(2 / 4)


@pytest.mark.filterwarnings("error")
def test_nothing_but_background_has_no_mean():
    confusion = label_confusion(np.zeros((4, 4)), np.zeros((4, 4)), num_classes=3)
    assert np.isnan(mean_dice(confusion))
    assert mean_dice(confusion, include_background=True) == 1


def test_many_matrices_at_once():
    confusions = [label_confusion(*pair((6, 5), seed=seed), 4) for seed in range(4)]
    stacked = np.reshape(confusions, (2, 2, 4, 4))
    np.testing.assert_array_equal(
        mean_dice(stacked), np.reshape([mean_dice(confusion) for confusion in confusions], (2, 2))
    )
    assert jaccard_scores(stacked).shape == (2, 2, 4)


def test_pieces_and_layout_in_memory_make_no_difference(monkeypatch, tmp_path):
    true, predicted = pair((12, 10, 8))
    monkeypatch.setattr(segmentation, "_CHUNK", 7)
    np.save(tmp_path / "true.npy", true)
    for one, other in [
        (true, predicted),
        (np.asfortranarray(true), predicted),
        (np.load(tmp_path / "true.npy", mmap_mode="r"), np.asfortranarray(predicted)),
        (true[::-1, ::2], predicted[::-1, ::2]),
        (true[::-1, 1::2], predicted[::-1, 1::2]),
        (true.T, predicted.T),
    ]:
        wanted = confusion_matrix(np.ravel(one), np.ravel(other), labels=range(4))
        np.testing.assert_array_equal(label_confusion(one, other, 4), wanted)


def test_counts_stay_exact_past_the_end_of_float32():
    voxels = 2**24 + 1
    true = np.broadcast_to(np.uint8(1), voxels)
    counts = label_confusion(true, true, 2)
    assert counts.tolist() == [[0, 0], [0, voxels]]
    assert (counts + counts).tolist() == [[0, 0], [0, 2 * voxels]]


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([0, 3], [0, 1], r"`true` must be whole numbers in 0\.\.2\. Received 3"),
        ([0, 1], [0, -1], r"`predicted` must be whole numbers in 0\.\.2\. Received -1"),
        ([0, 1], [0, 0.5], "`predicted` must be whole.*Received 0.5"),
        ([0, np.nan], [0, 1], "`true` must be whole.*Received nan"),
        ([0, np.inf], [0, 1], "`true` must be whole.*Received inf"),
        (["a", "b"], [0, 1], "`true` must be whole numbers. Received dtype <U1"),
        ([[0, 1]], [0, 1], r"label maps of the same shape. Received shapes \(1, 2\) and \(2,\)"),
    ],
)
def test_invalid_maps(true, predicted, message):
    with pytest.raises(ValueError, match=message):
        label_confusion(true, predicted, 3)


def test_invalid_arguments():
    with pytest.raises(ValueError, match=r"`num_classes` must be at least 2. Received 1"):
        label_confusion([0], [0], 1)
    for function in (dice_scores, jaccard_scores, mean_dice):
        with pytest.raises(ValueError, match=r"`confusion` must be square.*Received shape \(2, 3\)"):
            function(np.zeros((2, 3)))
