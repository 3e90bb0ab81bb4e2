"""A study of segmentation: equal treatment of arms, metrics of records, resuming, invalid arguments."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_ssl
from keras_ssl import encoders, reports
from keras_ssl.evaluation import PretextRecipe, Protocol, label_efficiency
from keras_ssl.evaluation.protocol import make_splits
from keras_ssl.evaluation.scoring import scorer_for
from keras_ssl.metrics.segmentation import dice_scores, jaccard_scores, label_confusion

HEAD = keras_ssl.SegmentationHead(3)
SHAPE = (6, 6, 6, 1)
QUICK = Protocol(folds=1, fractions=(0.5, 1.0), steps=4, validations=2, warmup_fraction=0.5, batch_size=4)


def volumes(count=20):
    rng = np.random.default_rng(0)
    masks = np.zeros((count, *SHAPE[:-1]), "uint8")
    for number, mask in enumerate(masks):
        mask[: 1 + number % 3, 1:4] = 1
        mask[: 1 + number % 3, 3:5] = 2
    return (masks[..., None] + 0.2 * rng.normal(size=(count, *SHAPE))).astype("float32"), masks


def run(folder, protocol=QUICK, **settings):
    images, masks = volumes()
    recipe = PretextRecipe(task=keras_ssl.RotationTask(), epochs=1, batch_size=8, verbose=0)
    keras.utils.set_random_seed(1)
    given = {"encoder": encoders.unet_encoder(SHAPE, (2, 4)), "pretrained": {"rotation": recipe}}
    labels = settings.pop("labels", masks)
    return label_efficiency(
        settings.pop("images", images),
        labels,
        head=HEAD,
        output_dir=folder,
        protocol=protocol,
        **{"verbose": False, **given, **settings},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, list(run(folder, save_graders=True))


def test_every_arm_is_treated_alike(whole):
    records = whole[1]
    assert [record["arm"] for record in records] == ["frozen", "initialized", "random"] * 2
    assert {record["status"] for record in records} == {"ok"}
    assert {record["steps"] for record in records} == {4}
    for fraction in (0.5, 1.0):
        runs = [record for record in records if record["fraction"] == fraction]
        for shared in ("labels", "seed", "test_rows", "curve_steps"):
            assert all(record[shared] == runs[0][shared] for record in runs)
    assert records[0]["labels"] < records[3]["labels"] == records[0]["train_images"]
    assert all(len(record["curve_dice"]) == len(record["curve_loss"]) == 2 for record in records)


def test_records_say_how_good_the_kept_model_is(whole):
    folder, records = whole
    images, masks = volumes()
    record = next(r for r in records if (r["arm"], r["fraction"]) == ("initialized", 1.0))
    model = keras.saving.load_model(folder / "graders" / "rotation-initialized-1-r0-f0.keras", compile=False)
    rows = record["test_rows"]
    predicted = HEAD.decode(model.predict(images[rows], verbose=0))
    counts = [label_confusion(true, ours, 3) for true, ours in zip(masks[rows], predicted, strict=True)]
    foreground = np.array([dice_scores(each)[1:] for each in counts])
    np.testing.assert_allclose(record["test_dice"], np.nanmean(foreground, axis=1))
    assert record["dice"] == pytest.approx(np.mean(record["test_dice"]))
    assert record["dice_2"] == pytest.approx(np.nanmean(foreground[:, 1]))
    jaccard = [np.nanmean(jaccard_scores(each)[1:]) for each in counts]
    assert record["jaccard"] == pytest.approx(np.mean(jaccard))


def test_little_and_much_foreground_is_in_every_part():
    masks = volumes()[1]
    strata = scorer_for(HEAD).strata(masks)
    sizes = [np.count_nonzero(mask) for mask in masks]
    assert np.bincount(strata).tolist() == [10, 10]
    assert max(np.array(sizes)[strata == 0]) <= min(np.array(sizes)[strata == 1])
    for split in make_splits(strata, np.arange(len(masks)), dataclasses.replace(QUICK, folds=3)):
        for part in (split.train, split.validation, split.test):
            assert set(strata[part]) == {0, 1}


def test_nothing_recorded_is_run_again_and_the_report_speaks_of_dice(whole, tmp_path):
    folder, records = whole
    assert list(run(folder)) == records
    page = reports.report_study(records, folder, metric="dice").read_text()
    assert "Dice, mean of the foreground" in page
    assert "kappa" not in page


def test_a_frozen_encoder_stays_as_it_was_pretrained(whole):
    folder, _ = whole
    encoder = keras.saving.load_model(folder / "encoders" / "rotation-f0.keras", compile=False)

    def held_by(arm):
        file = folder / "graders" / f"rotation-{arm}-1-r0-f0.keras"
        values = keras.saving.load_model(file, compile=False).get_weights()
        return [any(np.array_equal(weight, value) for value in values) for weight in encoder.get_weights()]

    assert all(held_by("frozen"))
    assert not all(held_by("initialized"))


def test_a_stronger_rate_is_chosen_on_validation(tmp_path):
    protocol = dataclasses.replace(
        QUICK, steps=20, arms=("random",), fractions=(1.0,), tune=True, rate_factors=(1e-9, 30.0)
    )
    (record,) = run(tmp_path, protocol)
    assert record["status"] == "ok"
    assert record["learning_rate"] == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": volumes()[1][:-1]}, r"`labels` must have shape \(20, 6, 6, 6\).* Received shape \(19"),
        ({"labels": volumes()[1][:, :-1]}, r"`labels` must have shape \(20, 6, 6, 6\)"),
        ({"labels": volumes()[1] + 1}, r"`masks` must be whole numbers in 0\.\.2"),
        ({"labels": 0 * volumes()[1]}, "more than background"),
    ],
)
def test_what_is_refused(changed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **changed)
    assert not list(tmp_path.iterdir())


def test_an_encoder_without_a_pyramid_is_refused_before_pretraining(tmp_path):
    flat = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="`encoder` must"):
        run(tmp_path, encoder=flat)
    assert not list(tmp_path.iterdir())


def test_what_is_nowhere_has_no_dice_and_stops_no_study(tmp_path, capsys):
    """Foreground in two training volumes alone: nothing to find in the test part."""
    masks = 0 * volumes()[1]
    masks[:2, 0, 0, 0] = 1
    protocol = dataclasses.replace(QUICK, arms=("random",), fractions=(1.0,), steps=2, learning_rate=1e-9)
    scorer = scorer_for(HEAD)
    found = scorer.test_scores(HEAD, masks[5:7], 0 * masks[5:7], np.arange(2), 0)
    assert found["dice"] is None
    assert found["test_dice"] == [None, None]
    assert np.isnan(scorer.measure("dice", HEAD, masks[5:7], 0 * masks[5:7]))
    records = list(run(tmp_path, protocol, labels=masks, test_rows=[5, 6, 7], verbose=True))
    assert records[0]["status"] == "ok"
    assert "dice" in capsys.readouterr().out


def test_other_labels_are_another_study(whole):
    masks = volumes()[1].copy()
    masks[0, 0, 0, 0] = 2
    with pytest.raises(ValueError, match="labels: "):
        run(whole[0], labels=masks)
