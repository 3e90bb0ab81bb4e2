"""Records agree with the images that training used: each image holds the number of its row."""

import itertools

import keras
import numpy as np
import pytest

import keras_ssl
from keras_ssl.evaluation import Protocol, label_efficiency

COUNT = 120
# In steps that float32 tells apart, and none equal: copies of an image would make one group.
IMAGES = np.ones((COUNT, 4, 4, 3), "float32") * np.arange(COUNT, dtype="float32")[:, None, None, None] / 256
GRADES = np.repeat([0, 1, 2], [60, 36, 24])
PATIENTS = np.arange(COUNT) // 2 + 7
FRACTIONS = (0.1, 0.4, 1.0)


def rows_of(images):
    return np.rint(np.asarray(images)[:, 0, 0, 0] * 256).astype(int).tolist()


class Seen:
    """The rows of each pretraining, and of each run those of training and of validation."""

    def __init__(self):
        self.pretrained, self.trained = [], []

    def recipe(self, encoder, images, seed, backup_dir):
        self.pretrained.append(rows_of(images))

    def fit(self, tuner, images, labels, *, validation_data, **rest):
        np.testing.assert_array_equal(labels, GRADES[rows_of(images)])
        np.testing.assert_array_equal(validation_data[1], GRADES[rows_of(validation_data[0])])
        self.trained.append((rows_of(images), rows_of(validation_data[0])))
        return keras.callbacks.History()


@pytest.fixture(scope="module", params=[(3, 1), (1, 2)], ids=["three folds", "one test part, repeated"])
def whole(request, tmp_path_factory):
    """Records, the protocol, and what was seen; nothing is trained, so that every row can be followed."""
    seen = Seen()
    folds, repetitions = request.param
    inputs = keras.Input((4, 4, 3))
    protocol = Protocol(
        folds=folds,
        repetitions=repetitions,
        fractions=FRACTIONS,
        # With an encoder frozen by features the rows could not be told.
        arms=("initialized", "random"),
        steps=2,
        validations=2,
        warmup_fraction=0.5,
    )
    curves = {"val_qw_kappa": [0.0, 0.0], "val_grade_accuracy": [0.0, 0.0], "val_loss": [1.0, 1.0]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            keras_ssl.FineTuner, "fit", lambda *given, **rest: _with(seen.fit(*given, **rest), curves)
        )
        records = list(
            label_efficiency(
                IMAGES,
                GRADES,
                encoder=keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs)),
                pretrained={"seen": seen.recipe},
                head=keras_ssl.OrdinalHead(3),
                output_dir=tmp_path_factory.mktemp("study"),
                protocol=protocol,
                groups=PATIENTS,
                verbose=False,
            )
        )
    # Runs are made in the order in which they are recorded here: by split, fraction and arm.
    return records, protocol, seen


def _with(history, curves):
    history.history = curves
    return history


def test_training_validation_and_test_share_no_image_and_no_patient(whole):
    records, protocol, seen = whole
    assert len(records) == len(seen.trained) == 6 * max(protocol.folds, protocol.repetitions)
    for record, (trained, validated) in zip(records, seen.trained, strict=True):
        parts = [trained, validated, record["test_rows"]]
        for one, other in itertools.combinations(parts, 2):
            assert not set(one) & set(other)
            assert not set(PATIENTS[one]) & set(PATIENTS[other])
        assert len(set(trained)) == len(trained) == record["labels"]
        assert len(validated) == record["validation_images"]
        assert len(record["test_rows"]) == record["test_images"]
        assert sum(record[f"{part}_images"] for part in ("train", "validation", "test")) == COUNT
        # Groups are numbered anew, but are the same ones.
        assert len(
            set(zip(record["test_groups"], PATIENTS[record["test_rows"]].tolist(), strict=True))
        ) == len(set(record["test_groups"]))
        np.testing.assert_array_equal(record["test_grades"], GRADES[record["test_rows"]])


def test_pretraining_saw_the_training_part_of_its_own_fold_alone(whole):
    records, protocol, seen = whole
    assert len(seen.pretrained) == protocol.folds
    for record, (trained, validated) in zip(records, seen.trained, strict=True):
        pretrained = seen.pretrained[record["fold"]]
        assert not set(PATIENTS[pretrained]) & set(PATIENTS[record["test_rows"]])
        if protocol.repetitions == 1:
            assert sorted(pretrained) == sorted(set(range(COUNT)) - set(validated) - set(record["test_rows"]))
            assert set(trained) <= set(pretrained)


def test_every_image_is_tested_once_in_each_repetition(whole):
    records, protocol, _ = whole
    if protocol.folds == 1:
        assert len({tuple(record["test_rows"]) for record in records}) == 1
        return
    for fraction, arm in itertools.product(FRACTIONS, protocol.arms):
        cell = [record for record in records if (record["fraction"], record["arm"]) == (fraction, arm)]
        assert sorted(row for record in cell for row in record["test_rows"]) == list(range(COUNT))


def test_arms_see_the_same_rows_and_subsets_are_nested_and_stratified(whole):
    records, _, seen = whole
    cells = {}
    for record, parts in zip(records, seen.trained, strict=True):
        key = record["repetition"], record["fold"], record["fraction"]
        cells.setdefault(key, []).append((record, parts))
    for (repetition, fold, fraction), cell in cells.items():
        (first, (trained, validated)), (second, other) = cell
        assert {first["arm"], second["arm"]} == {"initialized", "random"}
        assert (sorted(trained), sorted(validated)) == tuple(map(sorted, other))
        assert first["test_rows"] == second["test_rows"]
        (full, _) = cells[repetition, fold, 1.0][0][1]
        assert len(full) == first["train_images"]
        larger = [share for share in FRACTIONS if share > fraction]
        if larger:
            assert set(trained) < set(cells[repetition, fold, larger[0]][0][1][0])
        # Whole patients of two images: each grade is within one patient of its part, and none is missing.
        counts, wanted = (np.bincount(GRADES[rows], minlength=3) for rows in (trained, full))
        assert (counts > 0).all()
        assert (np.abs(counts - fraction * wanted) <= 2).all()


def test_repetitions_draw_other_subsets(whole):
    records, protocol, seen = whole
    if protocol.repetitions == 1:
        return
    few = {
        record["repetition"]: set(trained)
        for record, (trained, _) in zip(records, seen.trained, strict=True)
        if record["fraction"] == FRACTIONS[0]
    }
    assert few[0] != few[1]
