"""Each fit trains what is trainable when it begins: toggled encoders, single layers, every optimizer."""

import warnings

import keras
import numpy as np
import pytest
import tiny

from keras_ssl import FineTuner, OrdinalHead

IMAGES, GRADES = tiny.images(12), tiny.grades(12)
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "adafactor": lambda: keras.optimizers.Adafactor(0.01),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1),
    "averaged": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=8.0),
}


def encoder():
    keras.utils.set_random_seed(0)
    return tiny.functional_encoder(dropout=0.0)


def fit(tuner, **arguments):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The encoder .* is never trained")
        # Three steps: two of Lion may cancel.
        tuner.fit(IMAGES, GRADES, batch_size=4, verbose=0, **{"epochs": 1, **arguments})


def changed(model, train):
    """Which weights of a model a training changes."""
    before = tiny.weights(model)
    train()
    return [not np.array_equal(*pair) for pair in zip(before, tiny.weights(model), strict=True)]


@pytest.mark.compiled
@pytest.mark.parametrize("own_optimizer", [False, True])
def test_an_encoder_is_trained_in_the_fits_in_which_it_is_trainable(own_optimizer):
    own = {"encoder_optimizer": keras.optimizers.SGD(0.1)} if own_optimizer else {}
    tuner = FineTuner(encoder(), OrdinalHead(3), seed=0, **own)
    first = tuner.encoder.layers[1]
    for trainable in (False, True, False, True):
        tuner.encoder.trainable = trainable
        assert set(changed(tuner.encoder, lambda: fit(tuner))) == {trainable}
    first.trainable = False
    found = changed(tuner.encoder, lambda: fit(tuner))
    # The statistics of what a frozen layer returns are the same as before.
    assert [*found[:4], *found[6:]] == [False, False, *[True] * 4]
    first.trainable = True
    assert all(changed(tuner.encoder, lambda: fit(tuner)))


def test_an_encoder_that_was_frozen_when_the_tuner_was_made_joins_later():
    frozen = encoder()
    frozen.trainable = False
    for own in (None, keras.optimizers.SGD(0.1)):
        tuner = FineTuner(frozen, OrdinalHead(3), encoder_optimizer=own, seed=0)
        assert not any(changed(frozen, lambda t=tuner: fit(t)))
        frozen.trainable = True
        assert all(changed(frozen, lambda t=tuner: fit(t)))
        frozen.trainable = False


def test_state_is_kept_and_what_joins_starts_afresh_with_its_own_step_count():
    def momentums(model):
        parts = model.optimizer.parts() if hasattr(model.optimizer, "parts") else [model.optimizer]
        pairs = (
            pair for part in parts for pair in zip(part._trainable_variables, part._momentums, strict=True)
        )
        return {variable.path: np.array(keras.ops.convert_to_numpy(slot)) for variable, slot in pairs}

    tuner = FineTuner(encoder(), OrdinalHead(3), optimizer=keras.optimizers.Adam(1e-3), seed=0)
    tuner.encoder.trainable = False
    fit(tuner, epochs=3)
    before = momentums(tuner.model)
    tuner.encoder.trainable = True
    # No step changes anything: what is there afterwards is what was carried over.
    tuner.model.optimizer.learning_rate = 0.0
    weights = tiny.weights(tuner.encoder)
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append((momentums(self.model), [int(p.iterations) for p in self.model.optimizer.parts()]))

    fit(tuner, callbacks=[Look()])
    slots, counts = seen[0]
    assert counts == [9, 0]
    for path, slot in before.items():
        np.testing.assert_array_equal(slots.pop(path), slot)
    assert slots
    assert not any(slot.any() for slot in slots.values())
    trained = [index for index, v in enumerate(tuner.encoder.weights) if "moving" not in v.path]
    for index in trained:
        np.testing.assert_array_equal(tiny.weights(tuner.encoder)[index], weights[index])
    assert int(tuner.model.optimizer.iterations) == 12


def test_a_learning_rate_is_changed_between_two_fits():
    tuner = FineTuner(encoder(), OrdinalHead(3), optimizer=keras.optimizers.SGD(0.1), seed=0)
    tuner.encoder.trainable = False
    fit(tuner)
    tuner.encoder.trainable = True
    fit(tuner)
    for rate in (0.0, 0.1):
        tuner.model.optimizer.learning_rate = rate
        head = tuner.model.layers[-1]
        assert set(changed(head, lambda: fit(tuner))) == {rate > 0}


@pytest.mark.compiled
def test_pretraining_follows_as_well():
    model = tiny.pretext_model(encoder(), guards=None)

    def train():
        model.fit_pretext(IMAGES, batch_size=6, verbose=0, epochs=1)

    model.encoder.trainable = False
    with pytest.warns(UserWarning, match="encoder .* is never trained in this fit, because its `trainable`"):
        assert not any(changed(model.encoder, train))
    model.encoder.trainable = True
    assert all(changed(model.encoder, train))


@pytest.mark.compiled
def test_a_fit_after_a_toggle_resumes_bitwise(tmp_path):
    def run(folder, stop=None):
        tuner = FineTuner(encoder(), OrdinalHead(3), seed=0)
        tuner.encoder.trainable = False
        fit(tuner)
        tuner.encoder.trainable = True
        fit(tuner, epochs=3, backup_dir=folder, callbacks=[tiny.stop(stop)])
        return tiny.weights(tuner.model)

    expected = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop=2)
    tiny.assert_same(expected, run(tmp_path / "stopped"))


@pytest.mark.parametrize("name", tiny.cases(*OPTIMIZERS))
def test_every_freeze_holds_against_every_optimizer(name):
    made = {"optimizer": OPTIMIZERS[name](), "seed": 0}
    # A warm-up, then its end.
    tuner = FineTuner(encoder(), OrdinalHead(3), warmup_epochs=2, **made)
    assert not any(changed(tuner.encoder, lambda: fit(tuner, epochs=2)))
    assert all(changed(tuner.encoder, lambda: fit(tuner, epochs=3, initial_epoch=2)))
    # A layer, then the encoder, by the user.
    tuner.encoder.layers[1].trainable = False
    assert changed(tuner.encoder, lambda: fit(tuner, epochs=4, initial_epoch=3))[:2] == [False, False]
    tuner.encoder.trainable = False
    assert not any(changed(tuner.encoder, lambda: fit(tuner, epochs=5, initial_epoch=4)))
    assert any(changed(tuner.model, lambda: fit(tuner, epochs=6, initial_epoch=5)))
    # For ever.
    tuner = FineTuner(
        encoder(), OrdinalHead(3), encoder_trainable=False, optimizer=OPTIMIZERS[name](), seed=0
    )
    assert not any(changed(tuner.encoder, lambda: fit(tuner)))


@pytest.mark.parametrize(
    ("arguments", "epochs", "because"),
    [
        ({"warmup_epochs": 2}, 2, "its warm-up lasts 2 epochs and the fit ends after epoch 2"),
        ({}, 1, "its `trainable` is False"),
        ({"warmup_epochs": 1}, 2, "none of its weights is trainable"),
    ],
)
def test_an_encoder_that_is_never_trained_is_told(arguments, epochs, because):
    tuner = FineTuner(encoder(), OrdinalHead(3), seed=0, **arguments)
    tuner.encoder.trainable = arguments.get("warmup_epochs") == 2
    with pytest.warns(UserWarning, match=f"is never trained in this fit, because {because}"):
        tuner.fit(IMAGES, GRADES, epochs=epochs, verbose=0)


@pytest.mark.parametrize("arguments", [{"encoder_trainable": False}, {"warmup_epochs": 1}, {}])
def test_nothing_is_said_where_it_is_meant_or_trained(arguments):
    tuner = FineTuner(encoder(), OrdinalHead(3), seed=0, **arguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The encoder")
        tuner.fit(IMAGES, GRADES, epochs=2, verbose=0)


def test_layers_of_one_name_are_trained_like_others():
    # On PyTorch, gradients of variables with equal paths added up over all steps.
    found = []
    for name in ("other", "head_dense_1"):
        keras.utils.set_random_seed(0)
        inputs = keras.Input(tiny.SHAPE)
        encoder = keras.Model(inputs, keras.layers.Dense(3, name=name)(keras.layers.Flatten()(inputs)))
        tuner = FineTuner(encoder, OrdinalHead(3, hidden_units=(3,)), seed=0)
        tuner.fit(IMAGES, GRADES, epochs=2, batch_size=4, verbose=0)
        found.append(tuner.model.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
