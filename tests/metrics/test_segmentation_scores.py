"""Scores by name against the functions they are made of, called one by one."""

import numpy as np
import pytest

from keras_ssl.metrics import segmentation_scores
from keras_ssl.metrics.segmentation import dice_scores, jaccard_scores, label_confusion
from keras_ssl.metrics.surface_distances import average_surface_distance, hausdorff_95

pytestmark = pytest.mark.no_backend

SPACING = (2.0, 1.0, 0.5)


def pair(shape=(7, 6, 5), classes=4, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, shape)
    return true, np.where(rng.random(shape) < 0.7, true, rng.integers(0, classes, shape))


def references(true, predicted, spacing, classes=4):
    """Every score of one volume by name."""
    confusion = label_confusion(true, predicted, classes)
    by_class = {"dice": dice_scores(confusion)[1:], "jaccard": jaccard_scores(confusion)[1:]}
    for name, function in [("hausdorff_95", hausdorff_95), ("surface_distance", average_surface_distance)]:
        by_class[name] = [function(true == c, predicted == c, spacing) for c in range(1, classes)]
    scores = {name: np.mean(values) for name, values in by_class.items()}
    for name, values in by_class.items():
        scores |= {f"{name}_{c}": value for c, value in enumerate(values, start=1)}
    return scores


def test_scores_of_one_volume():
    true, predicted = pair()
    expected = references(true, predicted, SPACING)
    scores = segmentation_scores(true, predicted, num_classes=4, spacing=SPACING, names=list(expected))
    assert list(scores) == list(expected)
    assert all(type(score) is float for score in scores.values())
    assert scores == pytest.approx(expected)


def test_names_by_default_and_by_choice():
    without = ["dice", "dice_1", "dice_2", "dice_3", "jaccard"]
    assert list(segmentation_scores(*pair(), num_classes=4)) == without
    scores = segmentation_scores(*pair(), num_classes=4, spacing=1.0)
    assert list(scores) == [*without, "hausdorff_95", "surface_distance"]
    chosen = segmentation_scores(*pair(), num_classes=4, names=["jaccard_2", "dice"])
    assert list(chosen) == ["jaccard_2", "dice"]


def test_scores_of_a_set_are_means_over_volumes_of_any_shape():
    pairs = [pair((7, 6, 5), seed=1), pair((4, 8, 6), seed=2)]
    spacings = [SPACING, (1.0, 1.0, 3.0)]
    each = [references(*maps, spacing) for maps, spacing in zip(pairs, spacings, strict=True)]
    true, predicted = zip(*pairs, strict=True)
    scores = segmentation_scores(true, predicted, num_classes=4, spacing=spacings, names=list(each[0]))
    assert scores == pytest.approx({name: np.mean([row[name] for row in each]) for name in each[0]})
    alike = segmentation_scores(list(true), list(predicted), num_classes=4, spacing=SPACING)
    assert alike == segmentation_scores(true, predicted, num_classes=4, spacing=[SPACING, SPACING])


@pytest.mark.filterwarnings("error")
def test_absent_classes_and_volumes_without_foreground():
    nothing, something = np.zeros((4, 4), int), np.zeros((4, 4), int)
    something[1:3, 1:3] = 1
    names = ["dice", "dice_1", "dice_2", "hausdorff_95", "surface_distance_2"]
    settings = {"num_classes": 3, "spacing": 1.0, "names": names}
    none = segmentation_scores(nothing, nothing, **settings)
    assert np.isnan(list(none.values())).all()
    right = segmentation_scores(something, something, **settings)
    assert (right["dice"], right["dice_1"], right["hausdorff_95"]) == (1, 1, 0)
    assert np.isnan([right["dice_2"], right["surface_distance_2"]]).all()
    missed = segmentation_scores(something, nothing, **settings)
    assert (missed["dice"], missed["hausdorff_95"]) == (0, np.inf)
    together = segmentation_scores([nothing, something, something], [nothing, something, nothing], **settings)
    assert (together["dice"], together["hausdorff_95"]) == (0.5, np.inf)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["dice_4"]}, r"`names` must be among .*_1 to _3 .*Received 'dice_4'"),
        ({"names": ["kappa"]}, "`names` must be among .*Received 'kappa'"),
        ({"names": ["hausdorff_95_1"]}, "`spacing` must be given for the score 'hausdorff_95_1'"),
        ({"num_classes": 3}, r"`true` must be whole numbers in 0\.\.2"),
        ({"predicted": []}, r"the same number of label maps, at least one\. Received 1 and 0"),
        ({"spacing": [(1, 1, 1), (1, 1, 1)]}, r"one for all volumes or one per volume, 1\. Received 2"),
        ({"spacing": (1, 1)}, "`spacing` must be one finite number above 0 per axis, 3"),
    ],
)
def test_invalid_arguments(arguments, message):
    true, predicted = pair()
    good = {"true": true, "predicted": predicted, "num_classes": 4}
    with pytest.raises(ValueError, match=message):
        segmentation_scores(**{**good, **arguments})
