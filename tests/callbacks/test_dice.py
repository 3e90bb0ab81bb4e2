"""Dice of a validation set during training, against scikit-learn on each volume."""

import keras
import numpy as np
import pytest
from sklearn.metrics import f1_score

from keras_ssl.callbacks import DiceCallback
from keras_ssl.losses import SoftDice

SIDES = (4, 5, 3)


def volumes(count=6, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, *SIDES, 1)).astype("float32")
    return x, np.digitize(x, [-0.5, 0.5])[..., 0].astype("uint8")


def segmenter(seed=0):
    """Dropout and batch normalization: what training and prediction do differently."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Conv3D(4, 1, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        keras.layers.Conv3D(3, 1, activation="softmax"),
    ]
    model = keras.Sequential([keras.Input((*SIDES, 1)), *layers])
    model.compile(keras.optimizers.Adam(0.05), SoftDice())
    return model


def fit(model, *callbacks, epochs=2):
    x, y = volumes()
    return model.fit(x, y, epochs=epochs, batch_size=3, verbose=0, callbacks=callbacks).history


def reference(model, x, y):
    """Mean foreground Dice of each volume."""
    predicted = model.predict(x, verbose=0).argmax(axis=-1)
    settings = {"labels": [1, 2], "average": "macro", "zero_division": np.nan}
    return [f1_score(a.ravel(), b.ravel(), **settings) for a, b in zip(y, predicted, strict=True)]


class Scripted(DiceCallback):
    """The callback in a run whose values are told, with a record of the weights of every epoch."""

    def __init__(self, values, **arguments):
        super().__init__(volumes(), 3, **arguments)
        self.values, self.seen = values, []

    def measure(self):
        self.seen.append([np.array(weight) for weight in self.model.get_weights()])
        return {self.name: self.values[len(self.seen) - 1]}


def measured(callback, model=None):
    callback.set_model(model or segmenter())
    logs = {}
    callback.on_epoch_end(0, logs)
    return logs[callback.name]


def test_logged_value_is_the_mean_of_each_volume_by_scikit_learn():
    x, y = volumes(5, seed=1)
    model = segmenter()
    dice = DiceCallback((x, y), num_classes=3, batch_size=2)
    history = fit(model, dice)
    expected = np.mean(reference(model, x, y))
    assert 0 < expected < 1
    assert history["val_dice"][-1] == pytest.approx(expected, abs=1e-6)
    assert dice.best_value == max(history["val_dice"])


def test_every_kind_of_validation_data_gives_the_same():
    x, y = volumes(5, seed=1)
    model = segmenter()
    scores = reference(model, x, y)
    batches = [(x[:2], y[:2]), (x[2:], y[2:])]
    for data in ((x, y), (x, y[..., None]), (x, np.eye(3)[y]), batches):
        assert measured(DiceCallback(data, 3), model) == pytest.approx(np.mean(scores), abs=1e-6)
    weight = np.array([1.0, 0.0, 2.0, 0.5, 3.0])
    weighted = measured(DiceCallback((x, y, weight), 3), model)
    assert weighted == pytest.approx(np.average(scores, weights=weight), abs=1e-6)


def test_volumes_without_foreground_are_left_out():
    inputs = keras.Input((*SIDES, 3))
    model = keras.Model(inputs, keras.layers.Softmax()(inputs))
    y = np.random.default_rng(0).integers(0, 3, (3, *SIDES))
    y[1] = 0
    found = np.eye(3)[np.random.default_rng(1).integers(0, 3, (3, *SIDES))].astype("float32")
    found[1] = np.eye(3)[0]
    expected = np.mean(np.array(reference(model, found, y))[[0, 2]])
    assert measured(DiceCallback((found, y), 3), model) == pytest.approx(expected, abs=1e-6)
    assert np.isnan(measured(DiceCallback((found[1:2], y[1:2]), 3), model))
    # A finding where there is none is a Dice of 0.
    found[1] = np.eye(3)[1]
    expected = np.mean([*np.array(reference(model, found, y))[[0, 2]], 0])
    assert measured(DiceCallback((found, y), 3), model) == pytest.approx(expected, abs=1e-6)


def test_training_is_the_same_bitwise_with_and_without():
    def trained(*callbacks):
        model = segmenter()
        keras.utils.set_random_seed(1)
        return fit(model, *callbacks)["loss"], model.get_weights()

    expected_loss, expected_weights = trained()
    loss, weights = trained(DiceCallback(volumes(seed=1), 3))
    assert loss == expected_loss
    for one, other in zip(weights, expected_weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_best_weights_are_restored_at_the_end_and_state_is_restored():
    model = segmenter()
    first = Scripted([0.2, 0.6, np.nan, 0.6], restore_best_weights=True)
    fit(model, first, epochs=4)
    assert (first.best_value, first.best_epoch) == (0.6, 1)
    for one, other in zip(model.get_weights(), first.seen[1], strict=True):
        np.testing.assert_array_equal(one, other)
    second = Scripted([0.5], restore_best_weights=True)
    second.set_model(segmenter(1))
    second.on_train_begin()
    second.set_state(first.get_state())
    second.on_epoch_end(0, {})
    second.on_train_end()
    assert (second.best_value, second.best_epoch) == (0.6, 1)
    for one, other in zip(second.model.get_weights(), first.seen[1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_diverged_model_logs_nan():
    model = segmenter()
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([np.full_like(kernel, np.nan), bias])
    assert np.isnan(measured(DiceCallback(volumes(), 3), model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y + 1), r"`validation_data` must be whole numbers in 0\.\.2\. Received 3"),
        (lambda x, y: (x, y[:, :3]), r"Labels in `validation_data` must have shape \(1, 4, 5, 3\)"),
        (lambda x, y: (x, np.eye(4)[y]), r"Labels in `validation_data`.*Received shape \(1, 4, 5, 3, 4\)"),
    ],
)
def test_labels_that_do_not_fit_raise(change, message):
    with pytest.raises(ValueError, match=message):
        measured(DiceCallback(change(*volumes()), 3))


def test_invalid_arguments():
    with pytest.raises(ValueError, match=r"\(n, \*spatial, 4\).*\(1, 4, 5, 3, 3\)"):
        measured(DiceCallback(volumes(), 4))
    with pytest.raises(ValueError, match=r"`num_classes` must be at least 2. Received 1"):
        DiceCallback(volumes(), 1)
    with pytest.raises(ValueError, match=r"`validation_data` must be .*Received ndarray"):
        DiceCallback(volumes()[0], 3)
