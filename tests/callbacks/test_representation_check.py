"""The representation check: what it logs is what was measured."""

import csv
import warnings

import keras
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from keras_ssl import RotationTask, SelfSupervisedModel
from keras_ssl.callbacks import RepresentationCheck, check_representation, representation_check
from keras_ssl.data import stratified_split
from keras_ssl.metrics.probes import effective_rank, embedding_spread, knn_predict, linear_probe_predict
from tests.tiny import (
    SHAPE,
    SubclassedEncoder,
    assert_same,
    functional_encoder,
    grades,
    images,
    quick_model,
    sequential_encoder,
    stop,
    weights,
)

UNLABELED = ["effective_rank", "embedding_spread"]
LABELED = ["knn_accuracy", "knn_qw_kappa", "probe_accuracy", "probe_qw_kappa"]


def fit(model, *callbacks, epochs=2, **options):
    history = model.fit_pretext(
        images(), batch_size=4, epochs=epochs, callbacks=list(callbacks), verbose=0, **options
    )
    return history.history


def constant_model():
    """All images get the same features, and it does not learn."""
    encoder = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()])
    encoder.add(keras.layers.Dense(4, kernel_initializer="zeros"))
    model = SelfSupervisedModel(RotationTask(guards=None), encoder, seed=0)
    model.compile(keras.optimizers.SGD(0.0))
    return model


def expected_values(features, labels, judged, true):
    values = {
        "effective_rank": effective_rank(features),
        "embedding_spread": embedding_spread(features).mean(),
    }
    predictions = {
        "knn": knn_predict(*features_and_labels(features, labels), judged),
        "probe": linear_probe_predict(*features_and_labels(features, labels), judged),
    }
    for judge, predicted in predictions.items():
        values[f"{judge}_accuracy"] = np.mean(predicted == true)
        values[f"{judge}_qw_kappa"] = cohen_kappa_score(true, predicted, weights="quadratic")
    return values


def features_and_labels(features, labels):
    rows = np.asarray(labels) >= 0
    return features[rows], np.asarray(labels)[rows]


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (functional_encoder, SHAPE),
        (lambda: sequential_encoder((6, 6, 6, 1)), (6, 6, 6, 1)),
        (SubclassedEncoder, SHAPE),
        (lambda: keras.layers.Conv2D(4, 3), SHAPE),
    ],
    ids=["functional", "3d", "subclassed", "layer"],
)
def test_any_encoder_is_measured_on_images_to_test_on(make, shape):
    encoder, train, test = make(), images(20, shape), images(9, shape, seed=1)
    labels, true = grades(20), grades(9)
    found = check_representation(
        encoder, train, labels[:, None], test_images=test, test_labels=true, batch_size=4
    )
    features = keras.ops.convert_to_numpy(encoder(np.concatenate([train, test])))
    if features.ndim > 2:
        features = features.mean(axis=tuple(range(1, features.ndim - 1)))
    assert found == pytest.approx(expected_values(features[:20], labels, features[20:], true), rel=1e-4)


def test_labeled_images_are_split_and_rank_is_that_of_all():
    photos, labels, encoder = images(30), grades(30), keras.layers.Flatten()
    found = check_representation(encoder, photos, labels, test_fraction=0.4, seed=3)
    train, test = stratified_split(labels, 0.4, seed=3)
    apart = check_representation(
        encoder, photos[train], labels[train], test_images=photos[test], test_labels=labels[test]
    )
    assert {name: found[name] for name in LABELED} == pytest.approx({name: apart[name] for name in LABELED})
    unlabeled = check_representation(encoder, photos)
    assert unlabeled == pytest.approx({name: found[name] for name in UNLABELED})
    assert check_representation(encoder, photos, labels, test_fraction=0.4, seed=3) == found


def test_a_patient_is_not_on_both_sides():
    # Each patient's images are alike and nothing else is: known patients would be recognized.
    one_each, labels = images(20), np.random.default_rng(0).permutation(20) % 2
    photos, patients = np.repeat(one_each, 4, axis=0), np.repeat(np.arange(20), 4)
    encoder = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()])
    split = check_representation(encoder, photos, labels[patients])
    grouped = check_representation(encoder, photos, labels[patients], groups=patients)
    assert split["probe_accuracy"] > 0.95
    assert grouped["probe_accuracy"] < 0.8


def test_features_that_predict_the_grade_score_high():
    labels = grades(40, 4)
    photos = np.broadcast_to(labels[:, None, None, None], (40, *SHAPE)) + 0.1 * images(40)
    encoder = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(8, "tanh")]
    )
    found = check_representation(encoder, photos.astype("float32"), labels)
    assert found["probe_accuracy"] > 0.9
    assert found["probe_qw_kappa"] > 0.9


def test_logged_is_what_a_check_afterwards_finds_and_healthy_features_raise_no_warning():
    model = quick_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = fit(model, RepresentationCheck(images(), grades(), seed=2))
    found = check_representation(model.encoder, images(), grades(), seed=2)
    assert {name: history[name][-1] for name in found} == pytest.approx(found)
    assert history["effective_rank"][0] != history["effective_rank"][1]


class Watch(keras.callbacks.Callback):
    """Measures every epoch by itself."""

    def on_train_begin(self, logs=None):
        self.ranks = []

    def on_epoch_end(self, epoch, logs=None):
        self.ranks.append(check_representation(self.model.encoder, images())["effective_rank"])


def test_between_measurements_the_latest_is_repeated(tmp_path):
    check, watch = RepresentationCheck(images(), every=3), Watch()
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    stop = keras.callbacks.EarlyStopping("effective_rank", mode="max", patience=99)
    model = quick_model()
    history = fit(model, check, watch, logger, stop, epochs=6)
    expected = [watch.ranks[i] for i in (0, 0, 0, 3, 3, 5)]
    assert history["effective_rank"] == pytest.approx(expected)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [float(row["effective_rank"]) for row in rows] == pytest.approx(expected)
    assert stop.best == pytest.approx(max(expected))
    # The same callback in another fit, which begins with an epoch that is not its turn.
    again = fit(model, check, watch, epochs=4, initial_epoch=1)
    assert again["effective_rank"] == pytest.approx([watch.ranks[i] for i in (0, 0, 2)])


def test_a_collapse_warns_once_per_fit():
    model, check = constant_model(), RepresentationCheck(images(), grades())
    for value in (0.0, 1.0):
        model.encoder.layers[-1].bias.assign(4 * [value])
        with pytest.warns(UserWarning, match="collapsed after epoch 1,") as told:
            history = fit(model, check)
        assert sum("the same features" in str(warning.message) for warning in told) == 1
        assert history["embedding_spread"] == pytest.approx([0.0, 0.0], abs=1e-6)
        assert np.isfinite(history["probe_qw_kappa"]).all()


def test_features_that_are_nan_are_logged_as_nan():
    encoder = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()])
    encoder.add(keras.layers.Dense(4, bias_initializer=keras.initializers.Constant(np.nan)))
    found = check_representation(encoder, images(), grades())
    assert list(found) == [*UNLABELED, *LABELED]
    assert np.isnan(list(found.values())).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": images()[:, 0]}, r"`images` must have shape \(n, \*spatial, channels\)"),
        ({"images": images(1)}, "`images` must be at least 2"),
        ({"labels": grades(5)}, "`labels` must be one per image. Received 5 for 12"),
        ({"labels": np.zeros(12)}, "`labels` must hold more than one grade"),
        ({"test_images": images()}, "`test_images`, `test_labels` and `labels` must be given"),
        ({"test_labels": grades()}, "`test_images`, `test_labels` and `labels` must be given"),
        (
            {"labels": grades(), "test_images": images(), "test_labels": grades(), "groups": grades()},
            "`groups` must be None with `test_images`",
        ),
        (
            {"labels": grades(), "test_images": images(), "test_labels": grades(3)},
            "`test_labels` must be one per image. Received 3 for 12",
        ),
        ({"every": 0}, "`every` must be an integer of at least 1. Received 0"),
        ({"every": True}, "`every` must be an integer of at least 1. Received True"),
    ],
)
def test_bad_arguments_raise_before_training(arguments, message):
    with pytest.raises(ValueError, match=message):
        RepresentationCheck(**{"images": images(), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stop": 0}, "`stop` must be a bool or an integer of at least 1. Received 0"),
        ({"stop": 2.0}, "`stop` must be a bool or an integer of at least 1. Received 2.0"),
        (
            {"stop": True},
            r"`monitor` must be one of .*, without `labels`. Received 'probe",
        ),
        (
            {"restore_best": True, "labels": grades(), "monitor": "loss"},
            r"`monitor` must be one of .*'probe_qw_kappa'\). Received 'loss'",
        ),
    ],
)
def test_bad_choices_of_an_epoch_raise_before_training(arguments, message):
    with pytest.raises(ValueError, match=message):
        RepresentationCheck(**{"images": images(), **arguments})


class Weights(keras.callbacks.Callback):
    """Keeps the weights of every epoch."""

    def on_train_begin(self, logs=None):
        self.found = []

    def on_epoch_end(self, epoch, logs=None):
        self.found.append(weights(self.model))


def script(monkeypatch, model, values):
    """Let checks of `model` find these values of effective rank, one for each epoch."""
    steps = 3

    def measure(embed, sample):
        epoch = int(keras.ops.convert_to_numpy(model.optimizer.iterations)) // steps - 1
        return {"effective_rank": values[epoch], "embedding_spread": 1.0}, False

    monkeypatch.setattr(representation_check, "_measure", measure)


def chooser(**options):
    return RepresentationCheck(images(), monitor="effective_rank", **options)


@pytest.mark.parametrize(
    ("values", "options", "best", "logged", "trained"),
    [
        # Of ties the first.
        ([1.0, 3.0, 3.0, 2.0], {}, 1, [0, 1, 1, 1], 4),
        ([np.nan, 3.0, 2.0, 2.5], {"stop": 2}, 1, [np.nan, 1, 1, 1], 4),
        ([np.nan, np.nan, np.nan], {"stop": 2}, 1, [np.nan, np.nan], 2),
        ([1.0, 3.0, 2.0, 2.5, 4.0], {"stop": 2}, 1, [0, 1, 1, 1], 4),
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 6.0], {"stop": True}, 0, [0] * 6, 6),
        # Measurements are counted, not epochs.
        ([1.0, 9.0, 0.5, 9.0, 0.5, 9.0], {"every": 2, "stop": 2}, 0, [0] * 5, 5),
    ],
)
def test_the_weights_of_the_best_epoch_are_kept(monkeypatch, values, options, best, logged, trained, capsys):
    model, seen = quick_model(), Weights()
    model.compile("sgd")
    script(monkeypatch, model, values)
    history = model.fit_pretext(
        images(),
        batch_size=4,
        epochs=len(values),
        callbacks=[chooser(restore_best=True, **options), seen],
        verbose=2,
    )
    assert len(history.epoch) == trained
    np.testing.assert_array_equal(history.history["best_epoch"], logged)
    assert_same(weights(model), seen.found[best])
    printed = f"Best effective_rank: {values[best]:.3f} after epoch {best + 1}, last"
    assert (printed in capsys.readouterr().out) == np.isfinite(values[best])


def test_without_restoring_the_last_weights_stay(monkeypatch, capsys):
    model, seen = quick_model(), Weights()
    model.compile("sgd")
    script(monkeypatch, model, [3.0, 2.0, 1.0, 0.0])
    history = fit(model, chooser(stop=1), seen, epochs=4)
    assert history["best_epoch"] == [0, 0]
    assert_same(weights(model), seen.found[1])
    assert "Best" not in capsys.readouterr().out


def test_averaged_weights_are_measured_and_restored(monkeypatch):
    model, seen = quick_model(), Weights()
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
    script(monkeypatch, model, [1.0, 3.0, 2.0])
    averages = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    fit(model, averages, chooser(restore_best=True), seen, epochs=3)
    assert_same(weights(model), seen.found[1])


def test_an_interrupted_run_keeps_the_same_epoch(monkeypatch, tmp_path):
    def run(folder, interrupt=None):
        model = quick_model()
        model.compile("sgd")
        script(monkeypatch, model, [1.0, 3.0, 2.0, 2.5, 4.0])
        callbacks = [chooser(stop=2, restore_best=True), stop(interrupt)]
        return fit(model, *callbacks, epochs=5, backup_dir=tmp_path / folder), weights(model)

    history, expected = run("whole")
    assert history["best_epoch"] == [0, 1, 1, 1]
    with pytest.raises(KeyboardInterrupt):
        run("parts", interrupt=3)
    # Resumed, and finished.
    for _ in range(2):
        logged, resumed = run("parts")
        assert logged == history
        assert_same(resumed, expected)


def test_a_backup_of_a_check_on_other_labels_raises(tmp_path):
    for labels in (grades(), grades()[::-1]):
        check = RepresentationCheck(images(), labels, restore_best=True)
        if labels[0]:
            with pytest.raises(ValueError, match=r"differs in: callbacks\[0\].labels"):
                fit(quick_model(), check, epochs=1, backup_dir=tmp_path)
        else:
            fit(quick_model(), check, epochs=1, backup_dir=tmp_path)


def test_images_of_another_shape_raise_when_training_begins():
    with pytest.raises(ValueError, match="`input_shape` must suit the encoder"):
        fit(quick_model(), RepresentationCheck(images(shape=(8, 8, 1))))


def test_a_model_without_an_encoder_raises():
    check = RepresentationCheck(np.zeros((8, 4, 4, 3), "float32"))
    check.set_model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="plain"))
    with pytest.raises(TypeError, match=r"RepresentationCheck.*'plain'"):
        check.on_train_begin()
