import csv

import keras
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from keras_ssl.callbacks import QuadraticWeightedKappaCallback
from keras_ssl.metrics import QuadraticWeightedKappa

EPOCHS = 3


def _data(seed=0, rows=45):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6)).astype("float32")
    return x, np.clip(np.round(2 + x[:, 0] + x[:, 1]), 0, 4).astype("int32")


def _classifier(seed=0, metrics=None):
    """Dropout and batch normalization: what training and prediction do differently."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(5, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy", metrics=metrics)
    return model


def _fit(model, *callbacks, epochs=EPOCHS, **arguments):
    x, y = _data()
    return model.fit(x, y, epochs=epochs, batch_size=16, verbose=0, callbacks=callbacks, **arguments).history


def _reference(model, x, y, sample_weight=None):
    predicted = model.predict(x, verbose=0).argmax(axis=1)
    return cohen_kappa_score(y, predicted, labels=range(5), weights="quadratic", sample_weight=sample_weight)


class _Batches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 3

    def __getitem__(self, index):
        # 15 rows, 15 rows, 7 rows.
        return tuple(array[15 * index : 15 * (index + 1)] for array in self.arrays)


class _Scripted(QuadraticWeightedKappaCallback):
    """The callback in a run whose kappas are told, with a record of the weights of every epoch."""

    def __init__(self, values, **arguments):
        super().__init__(_data(), prediction="grades", **arguments)
        self.values, self.seen = values, []

    def _predict(self):
        """Four rows, weighted so that their kappa is the next value."""
        self.seen.append([np.array(weight) for weight in self.model.get_weights()])
        value = self.values[len(self.seen) - 1]
        agree, differ = 1 + value, 1 - value
        return np.array([0, 1, 0, 1]), np.array([0, 1, 1, 0]), np.array([agree, agree, differ, differ])


def _assert_same_weights(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_logged_value_is_that_of_scikit_learn_on_the_whole_set():
    x, y = _data(1, 37)
    model = _classifier()
    kappa = QuadraticWeightedKappaCallback((x, y), batch_size=8)
    history = _fit(model, kappa)
    assert len(history["val_qw_kappa"]) == EPOCHS
    assert history["val_qw_kappa"][-1] == pytest.approx(_reference(model, x, y), abs=1e-6)
    assert kappa.best_value == max(history["val_qw_kappa"])
    assert kappa.best_epoch == int(np.argmax(history["val_qw_kappa"]))


@pytest.mark.parametrize(
    "kind", ["py_dataset", "tf_dataset", "list", "weighted_arrays", "weighted_py_dataset"]
)
def test_every_kind_of_validation_data_gives_the_same(kind):
    x, y = _data(1, 37)
    weight = np.random.default_rng(0).uniform(0, 2, 37).astype("float32")
    if kind == "tf_dataset":
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    else:
        data = {
            "py_dataset": _Batches(x, y),
            "list": [(x[:20], y[:20]), (x[20:], y[20:])],
            "weighted_arrays": (x, y, weight),
            "weighted_py_dataset": _Batches(x, y, weight),
        }[kind]
    model = _classifier()
    history = _fit(model, QuadraticWeightedKappaCallback(data))
    expected = _reference(model, x, y, weight if "weighted" in kind else None)
    assert history["val_qw_kappa"][-1] == pytest.approx(expected, abs=1e-6)


def test_labels_and_outputs_may_be_encoded():
    x, y = _data(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, activation="sigmoid")])
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
    cumulative = (y[:, None] > np.arange(4)).astype("float32")
    kappa = QuadraticWeightedKappaCallback((x, cumulative), prediction="cumulative", truth="cumulative")
    history = model.fit(x, cumulative, verbose=0, epochs=3, callbacks=[kappa]).history
    predicted = (model.predict(x, verbose=0) > 0.5).sum(axis=1)
    expected = cohen_kappa_score(y, predicted, labels=range(5), weights="quadratic")
    assert history["val_qw_kappa"][-1] == pytest.approx(expected, abs=1e-6)


def test_it_agrees_with_the_compiled_metric_and_replaces_it():
    x, y = _data(1)
    compiled = _fit(_classifier(metrics=[QuadraticWeightedKappa()]), validation_data=(x, y))
    kappa = QuadraticWeightedKappaCallback((x, y))
    both = _fit(_classifier(metrics=[QuadraticWeightedKappa()]), kappa, validation_data=(x, y))
    assert both["val_qw_kappa"] == pytest.approx(compiled["val_qw_kappa"], abs=1e-6)
    assert both["qw_kappa"] == compiled["qw_kappa"]


def test_accuracy_of_the_grades_is_logged_on_demand():
    x, y = _data(1)
    kappa = QuadraticWeightedKappaCallback((x, y), accuracy_name="val_grade_accuracy")
    history = _fit(_classifier(metrics=["accuracy"]), kappa, validation_data=(x, y))
    assert history["val_grade_accuracy"] == pytest.approx(history["val_accuracy"], abs=1e-6)
    assert "val_grade_accuracy" not in _fit(_classifier(), QuadraticWeightedKappaCallback((x, y)))


def test_training_is_the_same_bitwise_with_and_without():
    """Arrays are shuffled by a global generator, dropout draws, batch statistics move: all must go on."""

    def trained(*callbacks):
        model = _classifier()
        keras.utils.set_random_seed(1)
        return _fit(model, *callbacks)["loss"], model.get_weights()

    expected_loss, expected_weights = trained()
    for data in (_data(1), _Batches(*_data(1))):
        loss, weights = trained(QuadraticWeightedKappaCallback(data))
        assert loss == expected_loss
        _assert_same_weights(weights, expected_weights)


def test_several_steps_per_execution():
    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch takes one step per execution only")
    x, y = _data(1, 37)
    model = _classifier()
    model.steps_per_execution = 2
    history = _fit(model, QuadraticWeightedKappaCallback((x, y), batch_size=8))
    assert history["val_qw_kappa"][-1] == pytest.approx(_reference(model, x, y), abs=1e-6)


def test_inputs_may_be_named():
    x, y = _data(1)
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    outputs = keras.layers.Dense(5, activation="softmax")(keras.layers.Concatenate()([left, right]))
    model = keras.Model({"left": left, "right": right}, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy")
    named = {"left": x[:, :3], "right": x[:, 3:]}
    history = model.fit(named, y, verbose=0, callbacks=[QuadraticWeightedKappaCallback((named, y))]).history
    assert history["val_qw_kappa"][-1] == pytest.approx(_reference(model, named, y), abs=1e-6)


def test_callbacks_after_it_see_the_value(tmp_path, capsys):
    x, y = _data(1)
    values = [0.1, 0.5, 0.4, 0.3, 0.9]
    kappa = _Scripted(values)
    callbacks = [
        kappa,
        keras.callbacks.EarlyStopping("val_qw_kappa", mode="max", patience=2),
        keras.callbacks.ReduceLROnPlateau("val_qw_kappa", mode="max", factor=0.5, patience=1),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(
            str(tmp_path / "{epoch}_{val_qw_kappa:.1f}.keras"),
            "val_qw_kappa",
            mode="max",
            save_best_only=True,
        ),
    ]
    model = _classifier()
    history = model.fit(x, y, epochs=5, callbacks=callbacks, verbose=2).history
    assert history["val_qw_kappa"] == pytest.approx(values[:4], abs=1e-6), "stopped two epochs after the best"
    assert history["learning_rate"][-1] == pytest.approx(0.025)
    assert sorted(path.name for path in tmp_path.glob("*.keras")) == ["1_0.1.keras", "2_0.5.keras"]
    with open(tmp_path / "log.csv") as file:
        assert [float(row["val_qw_kappa"]) for row in csv.DictReader(file)] == history["val_qw_kappa"]
    assert "val_qw_kappa: 0.5000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "best_epoch"),
    [
        ([0.1, 0.6, 0.6, 0.2], 1),
        ([0.5, 0.1, 0.2, 0.3], 0),
        ([-0.3, -0.2, -0.9, -0.8], 1),
        ([np.nan, 0.1, np.nan, 0.2], 3),
    ],
)
def test_best_weights_are_restored_at_the_end(values, best_epoch):
    model = _classifier()
    kappa = _Scripted(values, restore_best_weights=True)
    _fit(model, kappa, epochs=4)
    assert kappa.best_epoch == best_epoch
    assert kappa.best_value == pytest.approx(values[best_epoch], abs=1e-6)
    _assert_same_weights(model.get_weights(), kappa.seen[best_epoch])
    if best_epoch != 3:
        assert any((a != b).any() for a, b in zip(model.get_weights(), kappa.seen[3], strict=True))


@pytest.mark.parametrize(("values", "restore"), [([0.9, 0.1], False), ([np.nan, np.nan], True)])
def test_last_weights_are_kept_by_default(values, restore):
    model = _classifier()
    kappa = _Scripted(values, restore_best_weights=restore)
    _fit(model, kappa, epochs=2)
    _assert_same_weights(model.get_weights(), kappa.seen[-1])


def test_a_second_fit_resets_the_state():
    model = _classifier()
    kappa = _Scripted([0.9, 0.1, 0.2], restore_best_weights=True)
    _fit(model, kappa, epochs=1)
    _fit(model, kappa, epochs=2)
    assert (kappa.best_value, kappa.best_epoch) == (pytest.approx(0.2, abs=1e-6), 1)
    _assert_same_weights(model.get_weights(), kappa.seen[2])


def test_state_is_restored_to_another_run():
    first = _Scripted([0.3, 0.8], restore_best_weights=True)
    _fit(_classifier(), first, epochs=2)
    second = _Scripted([0.5], restore_best_weights=True)
    resume = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: second.set_state(first.get_state()))
    model = _classifier(seed=5)
    _fit(model, second, resume, epochs=1)
    assert (second.best_value, second.best_epoch) == (pytest.approx(0.8, abs=1e-6), 1)
    _assert_same_weights(model.get_weights(), first.seen[1])


def test_a_diverged_model_logs_nan():
    model = _classifier()
    model.layers[-1].set_weights([np.full((8, 5), np.nan), np.zeros(5)])
    assert np.isnan(_fit(model, QuadraticWeightedKappaCallback(_data(1)), epochs=1)["val_qw_kappa"][0])


def _end_of_epoch(kappa, model=None):
    kappa.set_model(model or _classifier())
    kappa.on_epoch_end(0, {})


def test_labels_that_are_no_grades_raise():
    x, y = _data(1)
    y[3] = 7
    with pytest.raises(
        ValueError, match=r"must be 5 grades in the form 'grades', from 0 to 4. Received \[7\]"
    ):
        _end_of_epoch(QuadraticWeightedKappaCallback((x, y)))


def test_models_of_several_outputs_raise():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, [keras.layers.Dense(5)(inputs), keras.layers.Dense(2)(inputs)])
    with pytest.raises(ValueError, match=r"must have one output\. Received a list"):
        _end_of_epoch(QuadraticWeightedKappaCallback(_data()), model)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((3, 6)), "Received ndarray"),
        ((b for b in [_data()]), "iterated every epoch. Received generator"),
        (None, "Received NoneType"),
        (
            (np.zeros((3, 6)), np.zeros(2)),
            r"one label.*per input. Received rows \[\(3,\), \(2,\), \(2,\)\]",
        ),
        ((np.zeros((3, 6)),), r"must be \(x, y\) or \(x, y, sample_weight\). Received tuple of 1"),
    ],
)
def test_invalid_data(data, message):
    with pytest.raises(ValueError, match=message):
        QuadraticWeightedKappaCallback(data)


def test_endless_data_raises():
    import tensorflow as tf

    class Endless(_Batches):
        num_batches = None

    for data in (tf.data.Dataset.from_tensor_slices(_data()).batch(8).repeat(), Endless(*_data())):
        with pytest.raises(ValueError, match=r"`validation_data` must be finite. Received an endless"):
            QuadraticWeightedKappaCallback(data)


def test_no_batches_and_batches_without_labels_raise():
    with pytest.raises(ValueError, match="must hold at least one batch"):
        _end_of_epoch(QuadraticWeightedKappaCallback([]))
    with pytest.raises(ValueError, match="each of its batches must be"):
        _end_of_epoch(QuadraticWeightedKappaCallback([_data()[0]]))


def test_invalid_forms():
    with pytest.raises(ValueError, match="Received 'softmax'"):
        QuadraticWeightedKappaCallback(_data(), prediction="softmax")
    with pytest.raises(ValueError, match="Received 'labels'"):
        QuadraticWeightedKappaCallback(_data(), truth="labels")
