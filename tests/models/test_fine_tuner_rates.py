"""Learning rates of encoder and layers, decay of kernels: exact, refused where they mean nothing."""

import keras
import numpy as np
import pytest
import tiny

from keras_ssl import FineTuner, OrdinalHead
from keras_ssl.callbacks._optimizers import Rate, with_rates

IMAGES, GRADES = tiny.images(12), tiny.grades(12)
Schedule = keras.optimizers.schedules.CosineDecay


def tuner(encoder=None, **arguments):
    keras.utils.set_random_seed(0)
    encoder = encoder or tiny.functional_encoder(dropout=0.0)
    return FineTuner(encoder, OrdinalHead(3), input_shape=tiny.SHAPE, seed=0, **arguments)


def changes(fine_tuner, **arguments):
    """Change of each trainable weight in a fit of one step."""
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in fine_tuner.model.trainable_variables]
    fine_tuner.fit(IMAGES, GRADES, batch_size=12, verbose=0, **{"epochs": 1, **arguments})
    after = [np.array(keras.ops.convert_to_numpy(v)) for v in fine_tuner.model.trainable_variables]
    return [new - old for old, new in zip(before, after, strict=True)]


# Two groups of the encoder: kernel, bias and normalization, then kernel and bias; two weights of the head.
@pytest.mark.compiled
@pytest.mark.parametrize(
    ("arguments", "factors"),
    [
        ({}, (1, 1, 1)),
        ({"encoder_learning_rate": 0.05}, (0.5, 0.5, 1)),
        ({"layer_decay": 0.5}, (0.5, 1, 1)),
        ({"encoder_learning_rate": Schedule(0.02, 10), "layer_decay": 0.1}, (0.02, 0.2, 1)),
    ],
)
@pytest.mark.parametrize("scaled", [False, True])
def test_each_group_is_trained_at_its_rate(arguments, factors, scaled):
    def optimizer():
        made = keras.optimizers.SGD(0.1)
        return keras.optimizers.LossScaleOptimizer(made, initial_scale=8.0) if scaled else made

    plain = changes(tuner(optimizer=optimizer()))
    found = changes(tuner(optimizer=optimizer(), **arguments))
    for change, expected, factor in zip(found, plain, np.repeat(factors, (4, 2, 2)), strict=True):
        np.testing.assert_allclose(change, factor * expected, atol=1e-6)


@pytest.mark.compiled
def test_rates_with_adamw_equal_one_optimizer_for_each_rate():
    """Also weight decay, which is multiplied with the rate."""
    generator = np.random.default_rng(0)
    values = [generator.normal(size=(3, 2)).astype("float32") for _ in range(3)]
    gradients = [[generator.normal(size=(3, 2)).astype("float32") for _ in values] for _ in range(4)]

    def make(rate):
        schedule = keras.optimizers.schedules.ExponentialDecay(rate, 2, 0.7)
        return keras.optimizers.AdamW(schedule, weight_decay=0.5)

    variables = [keras.Variable(value, name=f"kernel{number}") for number, value in enumerate(values)]
    rates = {id(variables[0]): Rate(0.1), id(variables[1]): Rate(0.5)}
    together = with_rates(make(0.01), rates)
    together.build(variables)
    for step in gradients:
        together.apply([keras.ops.convert_to_tensor(gradient) for gradient in step], variables)
    for number, factor in enumerate((0.1, 0.5, 1.0)):
        alone, variable = make(0.01 * factor), keras.Variable(values[number], name="kernel")
        alone.build([variable])
        for step in gradients:
            alone.apply([keras.ops.convert_to_tensor(step[number])], [variable])
        np.testing.assert_allclose(
            *map(keras.ops.convert_to_numpy, (variables[number], variable)), rtol=1e-5, atol=1e-7
        )


def test_callbacks_set_all_rates_in_proportion():
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.2)
    plain = changes(tuner(optimizer=keras.optimizers.SGD(0.1)), callbacks=[scheduler])
    arguments = {"optimizer": keras.optimizers.SGD(0.1), "encoder_learning_rate": 0.01}
    found = changes(tuner(**arguments), callbacks=[scheduler])
    for change, expected, factor in zip(found, plain, [0.1] * 6 + [1] * 2, strict=True):
        np.testing.assert_allclose(change, factor * expected, atol=1e-6)


def test_a_constant_rate_of_the_encoder_stays_beside_a_schedule():
    fine_tuner = tuner(learning_rate=Schedule(0.1, 1), encoder_learning_rate=0.01)
    fine_tuner.fit(IMAGES, GRADES, batch_size=4, verbose=0)
    parts = fine_tuner.model.optimizer.parts()
    rates = {round(float(keras.ops.convert_to_numpy(part.learning_rate)), 6) for part in parts}
    assert rates == {0.0, 0.01}


def test_kernels_alone_decay():
    weights = {}
    for decay in (0.0, 0.5):
        fine_tuner = tuner(weight_decay=decay, learning_rate=0.1)
        for variable in fine_tuner.model.trainable_variables:
            variable.assign(np.ones(variable.shape))
        changes(fine_tuner)
        variables = fine_tuner.model.trainable_variables
        weights[decay] = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in variables}
    for without, (path, value) in zip(weights[0.0].values(), weights[0.5].items(), strict=True):
        assert (not np.array_equal(without, value)) == path.endswith("kernel"), path


def test_the_layers_nearest_to_the_head_are_unfrozen_first():
    fine_tuner = tuner(warmup_epochs=1, warmup_stages=2)
    moved = []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.before = tiny.weights(fine_tuner.encoder)

        def on_epoch_end(self, epoch, logs=None):
            after = tiny.weights(fine_tuner.encoder)
            moved.append([not np.array_equal(*pair) for pair in zip(self.before, after, strict=True)])

    fine_tuner.fit(IMAGES, GRADES, epochs=3, batch_size=4, callbacks=[Look()], verbose=0)
    # Convolution, normalization, convolution.
    assert moved[0] == [False] * 8
    assert moved[1] == [*[False] * 6, True, True]
    assert moved[2] == [True] * 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be a number above 0"),
        ({"encoder_learning_rate": "fast"}, "`encoder_learning_rate` must be a number above 0"),
        ({"layer_decay": 0.0}, "`layer_decay` must be above 0"),
        ({"layer_decay": 1.5}, "`layer_decay` must be above 0"),
        ({"weight_decay": -1.0}, "`weight_decay` must be at least 0"),
        ({"ema_momentum": 1.0}, "`ema_momentum` must be at least 0 and below 1"),
        (
            {"learning_rate": 0.1, "optimizer": keras.optimizers.SGD()},
            "`learning_rate` must not be given",
        ),
        ({"weight_decay": 0.1, "optimizer": keras.optimizers.SGD()}, "`weight_decay` must not be given"),
        (
            {"layer_decay": 0.5, "encoder_optimizer": keras.optimizers.SGD()},
            "`layer_decay` must not be given with `encoder_optimizer`",
        ),
        ({"layer_decay": 0.5, "encoder": tiny.SubclassedEncoder()}, "`layer_decay` must be 1 for an encoder"),
        ({"warmup_stages": 2}, "`stages` must be at least 1, and 1 if `epochs` is 0"),
        ({"warmup_epochs": 1, "warmup_stages": 3}, "`stages` must be at most"),
    ],
)
def test_what_means_nothing_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tuner(**arguments)
    with pytest.raises(ValueError, match="`restore_best` must be False without"):
        tuner().fit(IMAGES, GRADES, restore_best=True, verbose=0)


def test_rates_of_a_multi_optimizer_are_its_own():
    optimizer = tiny.multi_optimizer(lambda variable: keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="must not be given with a MultiOptimizer"):
        tuner(optimizer=optimizer, layer_decay=0.5)
