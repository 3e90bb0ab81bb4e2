"""A study on tiny images: equal treatment of arms, resuming, several processes, failures."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import zlib

import joblib
import keras
import numpy as np
import pytest
import tiny

import keras_ssl
from keras_ssl import data
from keras_ssl.evaluation import (
    PretextRecipe,
    Protocol,
    label_efficiency,
    read_records,
    scoring,
    training_runs,
)
from keras_ssl.evaluation.protocol import make_splits

IMAGES = np.concatenate([tiny.images(58), tiny.images(2)])  # the last two are copies
GRADES = np.concatenate([tiny.grades(58), [2, 2]])
HEAD = keras_ssl.OrdinalHead(3)
QUICK = Protocol(folds=1, fractions=(0.5, 1.0), steps=6, validations=3, warmup_fraction=0.34, batch_size=8)


def encoder():
    keras.utils.set_random_seed(1)
    return tiny.functional_encoder()


def run(folder, protocol=QUICK, **settings):
    given = {"encoder": encoder(), "head": HEAD, "pretrained": {"given": encoder()}, "verbose": False}
    images = settings.pop("images", IMAGES)
    grades = settings.pop("grades", GRADES)
    return label_efficiency(images, grades, output_dir=folder, protocol=protocol, **{**given, **settings})


def found(records):
    """What runs have found out, by name, without how long they took."""
    chosen = ("task", "arm", "fraction", "repetition", "fold", "seed", "status", "test_predictions")
    return sorted(str([record.get(name) for name in chosen]) for record in records)


class Spy:
    """A recipe that notes which images it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, encoder, images, seed, backup_dir):
        self.seen.append({zlib.crc32(image.tobytes()) for image in images})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    recipe = PretextRecipe(task=keras_ssl.RotationTask(), epochs=1, batch_size=16, verbose=0)
    records = list(run(folder, pretrained={"rotation": recipe}, save_graders=True))
    return folder, records


def test_every_arm_is_treated_alike(whole):
    folder, records = whole
    assert len(records) == 6
    assert {record["steps"] for record in records} == {6}
    assert {record["arm"]: record["warmup_steps"] for record in records} == {
        "frozen": 0,
        "initialized": 2,
        "random": 0,
    }
    for fraction in (0.5, 1.0):
        runs = [record for record in records if record["fraction"] == fraction]
        assert [record["arm"] for record in runs] == ["frozen", "initialized", "random"]
        for shared in ("labels", "seed", "test_rows", "test_grades", "curve_steps"):
            assert all(record[shared] == runs[0][shared] for record in runs)
    assert records[0]["labels"] < records[3]["labels"] == records[0]["train_images"]
    assert {record["pretrained_on"] for record in records} == {"fold", "none"}
    assert read_records(folder / "records.jsonl") == records


def test_records_say_what_was_predicted(whole):
    for record in whole[1]:
        true, predicted = record["test_grades"], record["test_predictions"]
        np.testing.assert_array_equal(true, GRADES[record["test_rows"]])
        confusion = keras_ssl.metrics.grades.grade_confusion(true, predicted, 3)
        assert record["qw_kappa"] == pytest.approx(keras_ssl.metrics.quadratic_weighted_kappa(confusion))
        assert record["accuracy"] == np.mean(np.equal(true, predicted))
        # Too few test images for an interval.
        assert record["test_images"] < 30
        assert record["qw_kappa_low"] is record["qw_kappa_high"] is None
        assert record["curve_steps"] == [2, 4, 6]
        assert len(record["curve_qw_kappa"]) == len(record["curve_loss"]) == 3
        assert record["backend"] == keras.backend.backend()


def test_what_is_left_are_ordinary_keras_models(whole):
    folder = whole[0]
    grader = keras.saving.load_model(folder / "graders" / "rotation-initialized-1-r0-f0.keras", compile=False)
    record = next(r for r in whole[1] if (r["arm"], r["fraction"]) == ("initialized", 1.0))
    predicted = HEAD.decode(grader.predict(IMAGES[record["test_rows"]], verbose=0))
    np.testing.assert_array_equal(predicted, record["test_predictions"])
    pretrained = keras.saving.load_model(folder / "encoders" / "rotation-f0.keras", compile=False)
    assert tiny.differ(pretrained.get_weights(), encoder().get_weights())
    assert json.loads((folder / "encoders" / "rotation-f0.json").read_text())["history"]["loss"]
    assert not list((folder / "backups").iterdir())


def test_nothing_recorded_is_run_again_and_more_can_be_added(whole, monkeypatch):
    folder, records = whole
    ran = []

    def spied(one, run):
        ran.append(run.name)
        return run_arm(one, run)

    run_arm = training_runs.run_arm
    monkeypatch.setattr("keras_ssl.evaluation.training_runs.run_arm", spied)
    recipe = PretextRecipe(task=keras_ssl.RotationTask(), epochs=1, batch_size=16, verbose=0)
    again = list(run(folder, pretrained={"rotation": recipe}))
    assert again == records
    assert ran == []
    more = dataclasses.replace(QUICK, fractions=(0.25, 0.5, 1.0), arms=("frozen",))
    grown = list(run(folder, more, pretrained={"rotation": recipe}))
    assert ran == ["rotation-frozen-0.25-r0-f0"]
    assert len(grown) == 3
    with pytest.raises(ValueError, match=r"another configuration \(protocol.batch_size: saved 8, now 4\)"):
        run(folder, dataclasses.replace(QUICK, batch_size=4), pretrained={"rotation": recipe})


def test_a_recipe_sees_training_images_only(tmp_path):
    spy = Spy()
    protocol = dataclasses.replace(QUICK, folds=3, fractions=(1.0,), arms=("frozen",))
    runs = run(tmp_path, protocol, pretrained={"spy": spy})
    records = list(runs)
    assert len(spy.seen) == len(records) == 3
    held_out = [{zlib.crc32(IMAGES[row].tobytes()) for row in record["test_rows"]} for record in records]
    for seen, test, record in zip(spy.seen, held_out, records, strict=True):
        assert not seen & test
        assert record["train_images"] - len(seen) in (0, 1, 2)  # copies look alike
    assert set.union(*held_out) == {zlib.crc32(image.tobytes()) for image in IMAGES}


def test_pretraining_on_all_images_is_said_so(tmp_path):
    spy = Spy()
    protocol = dataclasses.replace(QUICK, folds=3, fractions=(1.0,), arms=("frozen",), pretrain_on="all")
    records = list(run(tmp_path, protocol, pretrained={"spy": spy}))
    assert [len(seen) for seen in spy.seen] == [len({image.tobytes() for image in IMAGES})]
    assert {record["pretrained_on"] for record in records} == {"all"}


def test_head_on_features_equals_head_on_frozen_encoder(tmp_path, monkeypatch):
    """The dropout of the encoder is off in both; what differs is how often its features are computed."""
    protocol = dataclasses.replace(QUICK, fractions=(1.0,), arms=("frozen",))
    (cached,) = run(tmp_path / "cached", protocol)
    augmented = dataclasses.replace(protocol, augment=unchanged)
    (frozen,) = run(tmp_path / "frozen", augmented)
    assert (tmp_path / "cached" / "features" / "given.npy").exists()
    assert not (tmp_path / "frozen" / "features").exists()
    np.testing.assert_allclose(cached["curve_loss"], frozen["curve_loss"], rtol=1e-5)
    assert cached["test_predictions"] == frozen["test_predictions"]


def unchanged(images, generator):
    return images


def test_a_run_that_fails_is_tried_again_then_recorded(tmp_path, monkeypatch):
    tried = []

    def diverge(self, *args, **kwargs):
        tried.append(self.seed)
        raise FloatingPointError("The loss became NaN.")

    protocol = dataclasses.replace(QUICK, fractions=(1.0,), arms=("random",), attempts=3)
    with monkeypatch.context() as patched:
        patched.setattr(keras_ssl.FineTuner, "fit", diverge)
        (record,) = run(tmp_path, protocol)
    assert len(set(tried)) == len(tried) == record["attempts"] == 3
    assert (record["status"], record["qw_kappa"]) == ("failed", None)
    assert list(run(tmp_path, protocol)) == [record]


@pytest.mark.parametrize("head", [keras_ssl.RegressionHead(3), HEAD])
def test_a_loss_that_is_nan_fails(tmp_path, head):
    protocol = dataclasses.replace(
        QUICK, fractions=(1.0,), arms=("random",), learning_rate=1e38, attempts=1, cosine_decay=False
    )
    (record,) = run(tmp_path, protocol, head=head)
    assert record["status"] == "failed"


def test_tuning_keeps_the_rate_that_is_best_on_validation(tmp_path, monkeypatch):
    scores, asked = iter([0.1, 0.4, 0.3]), []

    def score(self, metric, tuner, images, true):
        asked.append((metric, len(images)))
        return next(scores)

    monkeypatch.setattr(scoring._GradingScorer, "score", score)
    protocol = dataclasses.replace(QUICK, fractions=(1.0,), arms=("frozen",), tune=True, tune_by="loss")
    (record,) = run(tmp_path, dataclasses.replace(protocol, rate_factors=(1.0, 2.0, 4.0)))
    assert record["learning_rate"] == 2 * protocol.frozen_learning_rate
    assert asked == [("loss", record["validation_images"])] * 3


STRONG = dataclasses.replace(QUICK, fractions=(1.0,), arms=("random",), learning_rate=0.3, cosine_decay=False)


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    """The record of a run that keeps its last weights."""
    (record,) = run(tmp_path_factory.mktemp("last"), dataclasses.replace(STRONG, select_by=None))
    return record


@pytest.mark.parametrize("metric", ["loss", "accuracy", "macro_auc", "grade_mae"])
def test_weights_of_the_best_validation_are_kept(tmp_path, metric, last):
    """The scores of every validation and of what was kept, by the model that was saved."""
    protocol = dataclasses.replace(STRONG, select_by=metric)
    (record,) = run(tmp_path, protocol, save_graders=True)
    assert (last["selected_step"], last["validation_labels"]) == (6, 0)
    assert record["validation_labels"] == record["validation_images"]
    # Selecting leaves training itself alone.
    assert record["curve_loss"] == last["curve_loss"]
    if metric == "grade_mae":
        return
    (split,) = make_splits(GRADES, data.duplicate_groups(IMAGES), protocol)
    grader = keras.saving.load_model(tmp_path / "graders" / "none-random-1-r0-f0.keras", compile=False)
    outputs = grader.predict(IMAGES[split.validation], verbose=0)
    true = GRADES[split.validation]
    kept = record["curve_steps"].index(record["selected_step"])
    if metric == "loss":
        assert kept == int(np.argmin(record["curve_loss"]))
        found = float(keras.ops.mean(HEAD.loss()(HEAD.encode(true), outputs)))
        assert found == pytest.approx(record["curve_loss"][kept], rel=1e-4)
    if metric == "accuracy":
        assert kept == int(np.argmax(record["curve_accuracy"]))
        assert np.mean(HEAD.decode(outputs) == true) == pytest.approx(record["curve_accuracy"][kept])


@pytest.mark.parametrize(
    ("head", "metric"),
    [(keras_ssl.RegressionHead(3), "macro_auc"), (HEAD, "dice"), (keras_ssl.RegressionHead(3), "jaccard")],
)
def test_metrics_that_a_head_does_not_have_are_refused_with_those_that_it_has(tmp_path, head, metric):
    for settings in ({"select_by": metric}, {"tune_by": metric, "tune": True}):
        with pytest.raises(
            ValueError, match=rf"must be one of \('qw_kappa', .*'loss'\).* Received '{metric}'"
        ):
            run(tmp_path / "new", dataclasses.replace(QUICK, **settings), head=head)
    assert not (tmp_path / "new").exists()


def test_validation_labels_are_counted_where_they_choose_anything(tmp_path):
    one = dataclasses.replace(QUICK, fractions=(1.0,), arms=("random",))
    cases = {
        "nothing": (one, HEAD, False),
        "thresholds": (one, keras_ssl.RegressionHead(3), True),
        "rates": (dataclasses.replace(one, tune=True, rate_factors=(1.0, 2.0)), HEAD, True),
        "one rate": (dataclasses.replace(one, tune=True, rate_factors=(1.0,)), HEAD, False),
    }
    for name, (protocol, head, chosen) in cases.items():
        (record,) = run(tmp_path / name, protocol, head=head)
        assert record["validation_labels"] == (record["validation_images"] if chosen else 0)


def test_thresholds_are_fitted_to_validation_images(tmp_path, monkeypatch):
    fitted = []

    def spied(true, scores, num_grades):
        fitted.append(true)
        return (-1e9, -1e8)

    monkeypatch.setattr(scoring, "fit_thresholds", spied)
    protocol = dataclasses.replace(QUICK, fractions=(1.0,), arms=("frozen",))
    (record,) = run(tmp_path, protocol, head=keras_ssl.RegressionHead(3))
    assert set(record["test_predictions"]) == {2}
    groups = data.duplicate_groups(IMAGES)
    (split,) = make_splits(GRADES, groups, protocol)
    np.testing.assert_array_equal(fitted, [GRADES[split.validation]])
    assert record["macro_auc"] is None


FROZEN = dataclasses.replace(QUICK, arms=("frozen",), repetitions=2)


@pytest.mark.slow
def test_killed_half_way_it_repeats_nothing_and_ends_alike(tmp_path):
    script = f"""
import sys
sys.path[:0] = {[os.path.dirname(tiny.__file__), os.path.dirname(__file__)]!r}
from test_label_efficiency import FROZEN, run
for record in run({str(tmp_path / "killed")!r}, FROZEN):
    print("a run ended", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read_records(tmp_path / "killed" / "records.jsonl")
    assert 1 <= len(before) < 4
    after = list(run(tmp_path / "killed", FROZEN))
    assert after[: len(before)] == before
    assert found(after) == found(run(tmp_path / "whole", FROZEN))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_processes_find_what_one_finds(tmp_path, backend):
    one = found(run(tmp_path / "one", FROZEN))
    if backend == "loky":
        assert found(run(tmp_path / "two", FROZEN, n_jobs=2)) == one
        return
    distributed = pytest.importorskip("distributed")
    path = os.path.dirname(tiny.__file__)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(lambda: sys.path.insert(0, path))
        with joblib.parallel_config(backend="dask"):
            assert found(run(tmp_path / "two", FROZEN)) == one


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"grades": GRADES[:-1]}, ValueError, "`labels` must have shape .60,.*Received shape .59,"),
        ({"grades": GRADES + 1}, ValueError, r"whole numbers in 0..2. Received 3"),
        ({"images": np.full_like(IMAGES, np.nan)}, ValueError, "`images` must be finite"),
        ({"images": IMAGES[..., :2]}, ValueError, "`input_shape` must suit the encoder"),
        ({"pretrained": {}}, ValueError, "`pretrained` must not be empty"),
        ({"pretrained": {"none": Spy()}}, ValueError, "not 'none'"),
        ({"pretrained": {"imagenet+spy": Spy()}}, ValueError, "an encoder 'imagenet' that 'imagenet.spy'"),
        ({"pretrained": {"a/b": Spy()}}, ValueError, "letters, digits"),
        ({"pretrained": {"a": 3}}, TypeError, "a Keras model. Received 3 for 'a'"),
        ({"pretrained": keras.Sequential()}, TypeError, "must map names to recipes"),
        ({"encoder": keras.layers.Dense(3)}, TypeError, "`encoder` must be a Keras model"),
        ({"head": "ordinal"}, TypeError, "`head` must be a Head"),
        ({"head": keras_ssl.RegressionHead()}, ValueError, "`head` must predict grades or classes"),
        ({"groups": GRADES}, ValueError, "at least 2 images"),
        (
            {"groups": np.zeros(60)},
            ValueError,
            r"more than one group\. Received only '0.0'",
        ),
        ({"groups": GRADES[:-1]}, ValueError, r"`groups` must be one per image, shape \(60,\)"),
        ({"groups": [None, *GRADES[1:]]}, ValueError, "for 1 images, the first in row 0"),
        ({"groups": np.full(60, np.nan)}, ValueError, "NaN for 60 images"),
        ({"test_rows": np.arange(3.0)}, ValueError, "row numbers or a boolean mask"),
        ({"protocol": dataclasses.replace(QUICK, fractions=(0.01, 0.02))}, ValueError, "different numbers"),
        ({"test_rows": [58, 3]}, ValueError, "on both sides"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_an_encoder_of_other_weights_is_refused(tmp_path):
    other = tiny.sequential_encoder()
    with pytest.raises(ValueError, match=r"of the same shapes as `encoder`\. Received 'other'"):
        run(tmp_path, pretrained={"other": other})


def test_no_copy_of_a_test_photograph_of_idrid_is_seen_in_pretraining(real_data, tmp_path):
    table = data.ImageTable.from_csv(
        real_data / "idrid" / "labels.csv",
        real_data / "idrid" / "images_128",
        image_column="file",
        label_column="dr_grade",
    )
    images, table = data.load_images(table, data.Preparation(size=16), tmp_path / "cache", verbose=0)
    copies = data.duplicate_groups(table.paths)
    spy = Spy()
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    small = keras.Model(inputs, keras.layers.Conv2D(2, 3, strides=4)(inputs))
    protocol = dataclasses.replace(QUICK, folds=5, arms=("frozen",), fractions=(1.0,))
    records = list(
        run(
            tmp_path / "study",
            protocol,
            images=images,
            grades=table.grades,
            encoder=small,
            pretrained={"spy": spy},
            head=keras_ssl.OrdinalHead(5),
        )
    )
    assert len(np.unique(copies)) == len(images) - 5
    tested = []
    for seen, record in zip(spy.seen, records, strict=True):
        test = record["test_rows"]
        assert not seen & {zlib.crc32(images[row].tobytes()) for row in test}
        rest = np.setdiff1d(np.arange(len(images)), test)
        assert not set(copies[test]) & set(copies[rest])
        tested += test
    assert sorted(tested) == list(range(len(images)))


def test_what_was_adapted_to_data_stays_when_weights_are_drawn_anew(tmp_path):
    """A normalization is not learned by training; and a seed in an initializer must not undo `seed`."""
    normalized = keras.layers.Normalization()
    normalized.adapt(IMAGES)
    inputs = keras.Input(tiny.SHAPE)
    conv = keras.layers.Conv2D(2, 3, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    adapted = keras.Model(inputs, conv(normalized(inputs)))
    run(tmp_path, encoder=adapted, pretrained={"given": adapted})
    groups = data.duplicate_groups(IMAGES)
    splits = make_splits(GRADES, groups, QUICK)
    whole = training_runs.Study(IMAGES, GRADES, groups, HEAD, QUICK, tmp_path, ("given",), False)
    one, other = (whole.load_encoder("none", splits[0], seed) for seed in (1, 2))
    np.testing.assert_array_equal(one.layers[1].mean, normalized.mean)
    assert tiny.differ([one.layers[2].kernel], [other.layers[2].kernel])
    tiny.assert_same(tiny.weights(one), tiny.weights(whole.load_encoder("none", splits[0], seed=1)))


@pytest.mark.parametrize(("head", "rate"), [(HEAD, 1e30), (keras_ssl.ClassificationHead(3), 1e35)])
def test_one_rate_that_diverges_does_not_fail_a_tuned_run(tmp_path, head, rate):
    protocol = dataclasses.replace(
        QUICK, fractions=(1.0,), arms=("random",), attempts=1, tune=True, rate_factors=(1.0, rate)
    )
    (record,) = run(tmp_path, dataclasses.replace(protocol, cosine_decay=False), head=head)
    assert (record["status"], record["learning_rate"]) == ("ok", protocol.learning_rate)


def test_pretraining_that_diverges_fails_its_runs_and_no_others(tmp_path):
    def diverge(encoder, images, seed, backup_dir):
        raise FloatingPointError("The loss became NaN.")

    protocol = dataclasses.replace(QUICK, fractions=(1.0,), arms=("frozen", "random"), attempts=2)
    records = list(run(tmp_path, protocol, pretrained={"bad": diverge}))
    assert [(record["arm"], record["status"]) for record in records] == [
        ("frozen", "failed"),
        ("random", "ok"),
    ]


def test_changed_code_is_noticed_and_another_object_of_the_same_code_is_not(tmp_path):
    def flipped(images, generator):
        return images[:, ::-1]

    run(tmp_path, dataclasses.replace(QUICK, augment=unchanged))
    with pytest.raises(ValueError, match=r"augment: saved .unchanged \[\w+\].*, now .*flipped \[\w+\]"):
        run(tmp_path, dataclasses.replace(QUICK, augment=flipped))
    run(tmp_path / "object", pretrained={"spy": Spy()})
    run(tmp_path / "object", pretrained={"spy": Spy()})
    locked = functools.partial(unchanged, threading.Lock())
    with pytest.raises(ValueError, match=r"`augment` must be identifiable .* lock cannot be distinguished"):
        run(tmp_path / "lock", dataclasses.replace(QUICK, augment=locked))


def test_a_recipe_is_known_by_every_field_but_what_it_prints(tmp_path):
    def study(**changed):
        task = keras_ssl.SimCLRTask(views=unchanged)
        recipe = PretextRecipe(**{"task": task, "epochs": 1, "verbose": 0, **changed})
        run(tmp_path, pretrained={"simclr": recipe})

    study()
    study(verbose=1)
    other = keras_ssl.SimCLRTask(views=lambda images, seed: images)
    for changed in ({"epochs": 2}, {"learning_rate": 0.1}, {"callbacks": list}, {"task": other}):
        with pytest.raises(ValueError, match=r"another configuration \(task simclr: saved .PretextRecipe"):
            study(**changed)


def test_a_folder_without_its_settings_or_with_damaged_ones_is_refused(whole, tmp_path):
    (tmp_path / "records.jsonl").write_text((whole[0] / "records.jsonl").read_text())
    with pytest.raises(ValueError, match=r"records without the study\.json"):
        run(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"study\.json is damaged"):
        run(tmp_path)


class Unregistered(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = keras.layers.Conv2D(2, 3)

    def call(self, inputs):
        return self.conv(inputs)


def test_an_encoder_that_cannot_be_loaded_is_refused_before_any_run(tmp_path):
    with pytest.raises(ValueError, match="must be loadable"):
        run(tmp_path, encoder=Unregistered(), pretrained={"spy": Spy()})


def test_an_error_in_a_run_names_it_and_keeps_the_others(tmp_path, monkeypatch):
    broken = ["none-random-0.5-r0-f0", "none-random-0.5-r1-f0"]
    train = training_runs._train

    def stumble(one, run, *rest):
        if run.name in broken:
            raise KeyError("no such color")
        return train(one, run, *rest)

    protocol = dataclasses.replace(QUICK, arms=("random",), repetitions=2)
    with monkeypatch.context() as patch:
        patch.setattr(training_runs, "_train", stumble)
        with pytest.raises(RuntimeError, match=r"2 of 4 runs .*none-random-0.5-r0-f0: KeyError: 'no such"):
            list(run(tmp_path, protocol))
    kept = read_records(tmp_path / "records.jsonl")
    assert [(record["fraction"], record["repetition"]) for record in kept] == [(1.0, 0), (1.0, 1)]
    made = []
    monkeypatch.setattr(
        training_runs, "_train", lambda one, run, *rest: made.append(run.name) or train(one, run, *rest)
    )
    assert len(list(run(tmp_path, protocol))) == 4
    assert made == broken


def test_an_error_in_pretraining_names_it_and_costs_its_own_runs_only(tmp_path):
    def stumble(encoder, images, seed, backup_dir):
        raise ValueError("`views` must be a function.")

    protocol = dataclasses.replace(QUICK, fractions=(1.0,), arms=("frozen", "random"))
    runs = run(tmp_path, protocol, pretrained={"bad": stumble, "good": Spy()})
    made = [next(runs), next(runs)]
    assert [(record["task"], record["arm"]) for record in made] == [("good", "frozen"), ("none", "random")]
    with pytest.raises(ValueError, match=r"1 of 3 runs .*\(bad-f0: `views` must be a function"):
        next(runs)
    assert len(read_records(tmp_path / "records.jsonl")) == 2
