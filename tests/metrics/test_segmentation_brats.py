"""Tumor regions against scikit-learn on masks written out label by label."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from keras_ssl.metrics import brats_regions
from keras_ssl.metrics.segmentation import brats_dice

pytestmark = pytest.mark.no_backend

LABELS = {"whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": [3]}


def test_regions_hold_their_labels():
    labels = np.random.default_rng(0).integers(0, 4, (5, 6, 4))
    regions = brats_regions(labels)
    assert list(regions) == list(LABELS)
    for name, mask in regions.items():
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, np.isin(labels, LABELS[name]))


def test_enhancing_tumor_may_be_written_as_4():
    labels = np.random.default_rng(0).integers(0, 4, (5, 6, 4))
    older = np.where(labels == 3, 4, labels).astype("float32")
    for one, other in zip(brats_regions(labels).values(), brats_regions(older, 4).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert brats_dice(older, older[::-1], 4) == brats_dice(labels, labels[::-1])


def test_dice_of_regions_is_that_of_scikit_learn():
    true, predicted = np.random.default_rng(0).integers(0, 4, (2, 5, 6, 4))
    scores = brats_dice(true, predicted)
    assert list(scores) == list(LABELS)
    for name, score in scores.items():
        masks = (np.isin(labels, LABELS[name]).ravel() for labels in (true, predicted))
        assert type(score) is float
        assert score == pytest.approx(f1_score(*masks))


def test_absent_regions():
    scores = brats_dice([0, 2, 2, 1], [0, 2, 2, 2])
    assert scores["whole_tumor"] == 1
    assert scores["tumor_core"] == 0
    assert np.isnan(scores["enhancing_tumor"])


@pytest.mark.parametrize(
    ("labels", "enhancing", "message"),
    [
        (
            [0, 4],
            3,
            "`label_map` must hold labels 0, 1, 2 and 3 .*Received 4",
        ),
        ([0, 3], 4, "`label_map` must hold labels 0, 1, 2 and 4.*Received 3"),
        ([0, np.nan], 3, "`label_map` must hold.*Received nan"),
        ([0, 1], 1, "`enhancing_label` must be 3 or 4. Received 1"),
    ],
)
def test_invalid_arguments(labels, enhancing, message):
    with pytest.raises(ValueError, match=message):
        brats_regions(labels, enhancing)


def test_invalid_pairs():
    with pytest.raises(ValueError, match="`predicted` must hold labels"):
        brats_dice([0, 1], [0, 9])
    with pytest.raises(ValueError, match="of the same shape"):
        brats_dice([0, 1], [0])
