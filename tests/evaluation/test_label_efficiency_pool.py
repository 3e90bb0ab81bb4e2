"""Unlabeled pool: images passed to pretraining, by checks that share no code with the splits."""

import json
import zlib

import keras
import numpy as np
import pytest
import tiny

import keras_ssl
from keras_ssl import data
from keras_ssl.evaluation import PretextRecipe, Protocol, label_efficiency, read_records

IMAGES, GRADES = tiny.images(60), tiny.grades(60)
# Patients of two images each; of the pool, rows 0 to 19 are copies, 20 to 39 of the same patients as 0 to 19,
# 40 to 49 of new patients, and 50 to 54 of the patient of another image of the pool that is a copy.
PATIENTS = np.array([f"p{row // 2}" for row in range(60)])
POOL = np.concatenate([IMAGES[:20], tiny.images(35, seed=5)])
POOL_PATIENTS = np.array(
    [f"copy{row}" for row in range(20)]
    + [f"p{row // 2}" for row in range(20)]
    + [f"new{row}" for row in range(10)]
    + [f"copy{row}" for row in range(5)]
)
ONE_ARM = Protocol(arms=("frozen",), fractions=(1.0,), folds=3, steps=4, validations=2, batch_size=8)


def number(image):
    return zlib.crc32(np.ascontiguousarray(image))


class Spy:
    """A recipe that notes which images it was given, and as what."""

    def __init__(self):
        self.seen, self.kinds = [], []

    def __call__(self, encoder, images, seed, backup_dir):
        self.kinds.append(type(images).__name__)
        self.seen.append([number(image) for image in images])

    def get_config(self):
        return {}


def run(folder, pool=POOL, recipe=None, protocol=ONE_ARM, **settings):
    keras.utils.set_random_seed(0)
    settings = {"groups": PATIENTS, "unlabeled_groups": POOL_PATIENTS, "verbose": False, **settings}
    return label_efficiency(
        settings.pop("images", IMAGES),
        GRADES,
        encoder=tiny.functional_encoder(),
        pretrained={"spy": recipe or Spy()},
        head=keras_ssl.OrdinalHead(3),
        output_dir=folder,
        protocol=protocol,
        unlabeled=pool,
        **settings,
    )


def stored(kind, folder):
    if kind == "array":
        return POOL
    np.save(folder / "pool.npy", POOL)
    mapped = np.load(folder / "pool.npy", mmap_mode="r")
    return mapped if kind == "mapped" else data.LazyImages(mapped.__getitem__, POOL.shape, POOL.dtype)


@pytest.mark.parametrize("kind", ["array", "mapped", "lazy"])
def test_no_copy_and_no_patient_of_a_held_out_image_is_pretrained_on(tmp_path, kind):
    spy = Spy()
    records = list(run(tmp_path / "study", stored(kind, tmp_path), spy))
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    assert study["data"]["unlabeled"].startswith("55 images without labels; ")
    assert spy.kinds == ["ndarray" if kind == "array" else "LazyImages"] * 3
    # All that shows a patient: images of the study, and of the pool, also by way of a copy.
    shown = {number(image): {patient} for image, patient in zip(IMAGES, PATIENTS, strict=True)}
    copied = {f"copy{row}": f"p{row // 2}" for row in range(20)}
    for image, patient in zip(POOL[20:], POOL_PATIENTS[20:], strict=True):
        shown[number(image)] = {copied.get(patient, patient)}
    for record, seen in zip(records, spy.seen, strict=True):
        train = {number(IMAGES[row]) for row in range(60)} & set(seen)
        test = record["test_rows"]
        tested = {PATIENTS[row] for row in test}
        pretrained = set().union(*(shown[image] for image in seen))
        assert not tested & pretrained
        assert not {number(IMAGES[row]) for row in test} & set(seen)
        # Validation patients are held out as well: those of the study that are neither trained nor tested on.
        validation = (
            set(PATIENTS) - tested - {PATIENTS[row] for row in range(60) if number(IMAGES[row]) in train}
        )
        assert len(validation) > 1
        assert not validation & pretrained
        # All others are there, each once.
        expected = [image for image in shown if shown[image] <= set(PATIENTS) - tested - validation]
        expected += [number(image) for image in POOL[40:50]]
        assert sorted(seen) == sorted(expected)
        assert record["train_images"] == len(train)
        assert record["pretrain_images"] == len(seen)
        assert record["pool_left_out"] == 55 - (len(seen) - len(train))
    assert read_records(tmp_path / "study" / "records.jsonl") == records


def test_without_patients_copies_are_left_out(tmp_path, capsys):
    spy = Spy()
    records = list(run(tmp_path, recipe=spy, groups=None, unlabeled_groups=None, verbose=True))
    assert "20 of them left out" in capsys.readouterr().out
    assert {record["pool_left_out"] for record in records} == {20}
    for record, seen in zip(records, spy.seen, strict=True):
        assert {number(image) for image in POOL[20:]} <= set(seen)
        assert not {number(IMAGES[row]) for row in record["test_rows"]} & set(seen)
        assert len(seen) == len(set(seen)) == record["train_images"] + 35


def test_patients_of_the_pool_may_be_unknown(tmp_path, capsys):
    list(run(tmp_path, unlabeled_groups=None, verbose=True))
    assert "patients are unknown, so that only copies are recognized" in capsys.readouterr().out


def test_a_pool_that_shows_two_patients_to_be_one_keeps_them_together(tmp_path):
    """Image 0 is of p0 and image 2 of p1; the pool knows copies of both as of one patient."""
    pool, groups = IMAGES[[0, 2]], ["same", "same"]
    spy = Spy()
    records = list(run(tmp_path, pool, spy, unlabeled_groups=groups))
    for record in records:
        assert len({0, 1, 2, 3} & set(record["test_rows"])) in (0, 4)


def test_pretraining_on_all_images_takes_the_whole_pool_but_copies(tmp_path):
    spy, protocol = Spy(), Protocol(**{**vars(ONE_ARM), "pretrain_on": "all"})
    records = list(run(tmp_path, recipe=spy, protocol=protocol))
    assert [len(seen) for seen in spy.seen] == [60 + 35]
    assert {record["pool_left_out"] for record in records} == {20}


def test_arms_without_pretraining_here_have_no_pool(tmp_path):
    protocol = Protocol(**{**vars(ONE_ARM), "folds": 1, "arms": ("random",)})
    (record,) = run(tmp_path, protocol=protocol)
    assert (record["pretrain_images"], record["pool_left_out"]) == (0, 0)


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_a_pretext_task_trains_alike_on_a_pool_in_memory_and_on_disk(tmp_path, fraction):
    recipe = PretextRecipe(
        task=keras_ssl.RotationTask(guards=None),
        epochs=2,
        batch_size=8,
        verbose=0,
        validation_fraction=fraction,
    )
    protocol = Protocol(**{**vars(ONE_ARM), "folds": 1})
    found = []
    for kind in ("array", "lazy"):
        list(run(tmp_path / kind, stored(kind, tmp_path), recipe, protocol))
        encoder = keras.saving.load_model(tmp_path / kind / "encoders" / "spy-f0.keras", compile=False)
        found.append(encoder.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": POOL[:, :4]}, r"`unlabeled` must be of the shape and type .* Received \(55, 4, 8, 3\)"),
        ({"pool": POOL.astype("float64")}, "of float32. Received .* of float64"),
        ({"pool": np.full_like(POOL, np.nan)}, "`unlabeled` must be finite"),
        ({"pool": POOL[:0]}, "`unlabeled` must not be empty"),
        ({"unlabeled_groups": POOL_PATIENTS[:3]}, r"`unlabeled_groups` must be one per image, shape \(55,\)"),
        ({"groups": None}, "`unlabeled_groups` requires `groups`"),
        ({"pool": None}, "`unlabeled_groups` requires `groups` and `unlabeled`"),
        ({"recipe": "model"}, "`unlabeled` requires a recipe"),
    ],
)
def test_what_is_no_pool_is_refused(tmp_path, settings, message):
    if settings.get("recipe"):
        settings = {"recipe": tiny.functional_encoder()}
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_another_pool_is_another_study(tmp_path):
    protocol = Protocol(**{**vars(ONE_ARM), "folds": 1})
    list(run(tmp_path, protocol=protocol))
    with pytest.raises(ValueError, match=r"another configuration .*unlabeled: saved"):
        run(tmp_path, POOL[::-1], protocol=protocol)


def test_patients_are_the_same_as_whole_numbers_and_as_floats(tmp_path):
    numbers = np.arange(60) // 2
    pool = tiny.images(20, seed=5)
    left_out = [
        [
            record["pool_left_out"]
            for record in run(tmp_path / name, pool, groups=numbers, unlabeled_groups=own)
        ]
        for name, own in (("whole", numbers[:20]), ("floats", numbers[:20].astype(float)))
    ]
    assert left_out[0] == left_out[1]
    assert min(left_out[0]) > 0
