"""What WarmupFreeze does to the optimizer: slots, step counts, learning rates, averages, and resuming."""

import warnings

import keras
import numpy as np
import pytest
import tiny

from keras_ssl.callbacks._optimizers import transfer_optimizer
from keras_ssl.callbacks.warmup_freeze import WarmupFreeze

generator = np.random.default_rng(0)
X = generator.normal(size=(8, 3)).astype("float32")
Y = generator.normal(size=(8, 2)).astype("float32")


# XLA on the TensorFlow CPU only takes longer to compile; another test covers it.
JIT = keras.backend.backend() == "jax"


def linear(optimizer):
    """Encoder and head of one matrix each, so that the gradients have a closed form."""
    encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, use_bias=False)], name="encoder")
    model = keras.Sequential([encoder, keras.layers.Dense(2, use_bias=False, name="head")])
    model.compile(optimizer, "mse", jit_compile=JIT)
    return encoder, model


def fit(model, epochs, callbacks, **kwargs):
    """One step per epoch, on the same batch."""
    return model.fit(
        X, Y, batch_size=8, shuffle=False, epochs=epochs, verbose=0, callbacks=callbacks, **kwargs
    )


def gradients(encoder_kernel, head_kernel):
    hidden = X @ encoder_kernel
    error = 2 * (hidden @ head_kernel - Y) / Y.size
    return X.T @ error @ head_kernel.T, hidden.T @ error


class NumPyAdam:
    def __init__(self):
        self.m = self.v = self.steps = 0

    def update(self, gradient, learning_rate):
        self.steps += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        m, v = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        return learning_rate * m / (np.sqrt(v) + 1e-7)


class AfterEpoch(keras.callbacks.Callback):
    def __init__(self, look):
        super().__init__()
        self.look = look
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.look(self.model))


def schedule():
    return keras.optimizers.schedules.ExponentialDecay(0.02, 2, 0.7)


@pytest.mark.compiled
@pytest.mark.parametrize("scaled", [False, True])
def test_two_fits_with_a_schedule_equal_adam_written_out_in_numpy(scaled):
    """Each part with its own step count, both at the head's place in the schedule."""
    optimizer = keras.optimizers.Adam(schedule())
    encoder, model = linear(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer)
    kernels = [kernel.astype("float64") for kernel in model.get_weights()]
    parts = [NumPyAdam(), NumPyAdam()]
    expected = []
    for frozen in [1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0]:
        rate = 0.02 * 0.7 ** (parts[1].steps / 2)
        steps = gradients(*kernels)
        kernels = [
            kernel if frozen and i == 0 else kernel - parts[i].update(steps[i], rate)
            for i, kernel in enumerate(kernels)
        ]
        expected.append(kernels)
    warmup, weights = WarmupFreeze(encoder, 3), AfterEpoch(lambda model: model.get_weights())
    fit(model, 6, [warmup, weights])
    fit(model, 5, [warmup, weights])
    for actual, kernels in zip(weights.seen, expected, strict=True):
        np.testing.assert_allclose(actual[0], kernels[0], atol=1e-4)
        np.testing.assert_allclose(actual[1], kernels[1], atol=1e-4)


def test_first_updates_of_the_encoder_do_not_overshoot():
    """Under the head's step count the first would be 3.2 times the learning rate, and more to come."""
    encoder, model = linear(keras.optimizers.Adam(1e-4))
    kernels = AfterEpoch(lambda model: encoder.get_weights()[0])
    late = AfterEpoch(lambda model: model.optimizer.iterations.assign(10_000))
    fit(model, 2, [WarmupFreeze(encoder, 3), late])
    fit(model, 12, [WarmupFreeze(encoder, 3), kernels], initial_epoch=2)
    updates = np.abs(np.diff(kernels.seen, axis=0))
    np.testing.assert_allclose(updates[0], 1e-4, rtol=0.01)
    assert updates.max() < 1.05e-4
    assert int(model.optimizer.iterations) == 10_010


@pytest.mark.compiled
def test_learning_rate_callbacks_apply_to_both_parts_in_both_phases():
    encoder, model = linear(keras.optimizers.SGD(1.0))
    weights = AfterEpoch(lambda model: model.get_weights())
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=1, min_delta=100.0)
    history = fit(model, 4, [WarmupFreeze(encoder, 2), scheduler, plateau, weights])
    # Halved at the start of each epoch; reduced at the end of each from the second on.
    rates = [0.5, 0.25, 0.0125, 0.000625]
    np.testing.assert_allclose(history.history["learning_rate"], rates, rtol=1e-6)
    for epoch in (1, 2, 3):
        before, after = weights.seen[epoch - 1], weights.seen[epoch]
        of_encoder, of_head = gradients(*before)
        trained = epoch >= 2
        np.testing.assert_allclose(after[0] - before[0], -rates[epoch] * trained * of_encoder, atol=1e-6)
        np.testing.assert_allclose(after[1] - before[1], -rates[epoch] * of_head, atol=1e-6)


def test_learning_rate_set_before_the_fit_is_kept():
    encoder, model = linear(keras.optimizers.SGD(1.0))
    model.optimizer.learning_rate = 0.25
    fit(model, 2, [WarmupFreeze(encoder, 1)])
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == 0.25


@pytest.mark.compiled
def test_loss_scale_and_its_counter_are_kept():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=8.0, dynamic_growth_steps=3
    )
    encoder, model = linear(optimizer)
    state = AfterEpoch(
        lambda model: (int(model.optimizer.step_counter), float(model.optimizer.dynamic_scale))
    )
    fit(model, 7, [WarmupFreeze(encoder, 2), state])
    assert state.seen == [(1, 8.0), (2, 8.0), (0, 16.0), (1, 16.0), (2, 16.0), (0, 32.0), (1, 32.0)]


def separate_rates():
    return tiny.multi_optimizer(keras.optimizers.SGD(0.5), {"dense.*|encoder.*": keras.optimizers.SGD(0.125)})


def one_for_all():
    return tiny.multi_optimizer(keras.optimizers.SGD(0.5))


def one_each():
    return tiny.multi_optimizer(lambda variable: keras.optimizers.SGD(0.5))


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("optimizer", "encoder_rate"), [(separate_rates, 0.125), (one_for_all, 0.5), (one_each, 0.5)]
)
@pytest.mark.parametrize("scaled", [False, True])
def test_several_optimizers_keep_their_variables(optimizer, encoder_rate, scaled):
    optimizer = optimizer()
    encoder, model = linear(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer)
    model.build((None, 3))
    weights = AfterEpoch(lambda model: model.get_weights())
    sizes = AfterEpoch(lambda model: len(model.optimizer.variables))
    warmup = WarmupFreeze(encoder, 1)
    fit(model, 3, [warmup, weights, sizes])
    fit(model, 3, [warmup, weights, sizes])
    assert len(set(sizes.seen)) == 1
    for epoch in (1, 2, 4, 5):
        before, after = weights.seen[epoch - 1], weights.seen[epoch]
        of_encoder, of_head = gradients(*before)
        np.testing.assert_allclose(after[0] - before[0], -encoder_rate * of_encoder, atol=1e-6)
        np.testing.assert_allclose(after[1] - before[1], -0.5 * of_head, atol=1e-6)
    np.testing.assert_array_equal(weights.seen[3][0], weights.seen[2][0])


def test_state_of_several_optimizers_is_saved_in_their_order(tmp_path):
    rates = {"dense.*|encoder.*": keras.optimizers.SGD(0.125, momentum=0.5)}
    default = keras.optimizers.Adam(0.5)
    encoder, model = linear(tiny.multi_optimizer(default, rates))
    model.build((None, 3))
    fit(model, 3, [WarmupFreeze(encoder, 1)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").optimizer
    for expected, actual in zip(model.optimizer.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(actual), keras.ops.convert_to_numpy(expected)
        )


def one_scaled():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5))


def adam():
    return keras.optimizers.Adam(schedule())


def scaled_adam():
    return keras.optimizers.LossScaleOptimizer(adam(), initial_scale=8.0)


@pytest.mark.compiled
@pytest.mark.parametrize("optimizer", [adam, scaled_adam])
def test_a_saved_model_resumes_with_its_optimizer_as_it_was_compiled(optimizer, tmp_path):
    encoder, model = linear(optimizer())
    model.build((None, 3))
    fit(model, 5, [WarmupFreeze(encoder, 2)])
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        states = [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]
        fit(model, 1, [])
        model.load_weights(tmp_path / "model.weights.h5")
    assert type(loaded.optimizer) is type(optimizer())
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    counts = [np.size(state) == 1 for state in states]
    for count, before, after in zip(counts, states, model.optimizer.variables, strict=True):
        if not count:
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(after), before)
    if optimizer is adam:
        # The encoder made three steps, the head five.
        assert int(loaded.optimizer.iterations) == 3
        slots = [part._momentums[0] for part in reversed(model.optimizer.parts())]
        for expected, slot in zip(slots, loaded.optimizer._momentums, strict=True):
            np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (slot, expected)))


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(schedule(), weight_decay=0.1, clipnorm=0.5),
    "sgd": lambda: keras.optimizers.SGD(0.01),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9, gradient_accumulation_steps=2),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "adafactor": lambda: keras.optimizers.Adafactor(0.01),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "muon": lambda: keras.optimizers.Muon(0.01),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "function": lambda: keras.optimizers.Adam(lambda: 0.01),
}
if hasattr(keras.optimizers, "ScheduleFreeAdamW"):
    OPTIMIZERS["schedule_free"] = lambda: keras.optimizers.ScheduleFreeAdamW(0.01, warmup_steps=4)


@pytest.mark.parametrize("name", tiny.cases(*OPTIMIZERS))
def test_built_optimizer_continues_as_if_never_transferred(name):
    """Two parts with the state of one make the updates that the one would have made."""
    draws = np.random.default_rng(0)
    shapes = [(3, 4), (4,), (4, 2), (2,)]
    values = [draws.normal(size=shape).astype("float32") for shape in shapes]
    steps = [[draws.normal(size=shape).astype("float32") for shape in shapes] for _ in range(6)]
    results = []
    for handed_over in (False, True):
        variables = [keras.Variable(value, name=f"v{i}") for i, value in enumerate(values)]
        optimizer = OPTIMIZERS[name]()
        # All of the head's and one of the encoder's.
        optimizer.exclude_from_weight_decay([variables[0], variables[1], variables[3]])
        for number, grads in enumerate(steps):
            if number == 3 and handed_over:
                # The encoder's in the middle: no part is a head or tail of the whole list.
                optimizer = transfer_optimizer(optimizer, [variables[0], variables[3]], variables[1:3])
                optimizer = transfer_optimizer(optimizer, variables, variables[1:3])
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in grads], variables)
        results.append([keras.ops.convert_to_numpy(v) for v in variables])
    for expected, actual in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_state_from_an_earlier_fit_without_warm_up_is_taken_over():
    encoder, model = linear(keras.optimizers.Adam(0.01))
    twin_encoder, twin = linear(keras.optimizers.Adam(0.01))
    twin.set_weights(model.get_weights())
    fit(model, 3, [])
    fit(twin, 3, [])
    fit(model, 4, [WarmupFreeze(encoder, 4)], initial_epoch=3)
    np.testing.assert_array_equal(encoder.get_weights()[0], twin_encoder.get_weights()[0])
    assert [int(part.iterations) for part in model.optimizer.parts()] == [4, 3]
    assert int(model.optimizer.iterations) == 4


def test_moving_averages_start_from_the_weights_and_end_in_them():
    optimizer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)
    encoder, model = linear(optimizer)
    kernels = AfterEpoch(lambda model: encoder.get_weights()[0])
    warmup = WarmupFreeze(encoder, 2)
    start = encoder.get_weights()[0]
    fit(model, 4, [warmup, kernels])
    np.testing.assert_array_equal(kernels.seen[1], start)
    # Keras' average is the first weights that it sees, then moves; in the end it replaces them.
    np.testing.assert_allclose(
        encoder.get_weights()[0], 0.5 * kernels.seen[2] + 0.5 * kernels.seen[3], atol=1e-6
    )
    fit(model, 3, [warmup])


@pytest.mark.parametrize(
    ("wrap", "swap_first"), [("plain", False), ("plain", True), ("scaled", False), ("several", False)]
)
def test_averages_can_be_swapped_in_throughout(wrap, swap_first):
    optimizer = keras.optimizers.SGD(0.125, use_ema=True, ema_momentum=0.5)
    if wrap == "scaled":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    if wrap == "several":
        optimizer = tiny.multi_optimizer(optimizer)
    encoder, model = linear(optimizer)
    model.build((None, 3))
    start = encoder.get_weights()[0]
    swapped = AfterEpoch(lambda model: encoder.get_weights()[0])
    callbacks = [WarmupFreeze(encoder, 2), keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]
    fit(model, 4, [*(reversed(callbacks) if swap_first else callbacks), swapped], validation_data=(X, Y))
    np.testing.assert_allclose(swapped.seen[0], start, atol=1e-6)
    np.testing.assert_allclose(swapped.seen[1], start, atol=1e-6)
    # Zeros swapped in would show as weights of another size.
    assert 0.5 < np.linalg.norm(swapped.seen[2]) / np.linalg.norm(start) < 2
    assert not np.allclose(swapped.seen[3], start, atol=1e-4)


def test_model_that_its_first_batch_builds():
    class Late(keras.Model):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder
            self.head = keras.layers.Dense(2)

        def call(self, x):
            return self.head(self.encoder(x))

    encoder, _ = linear("sgd")
    model = Late(encoder)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    kernels = AfterEpoch(lambda model: [encoder.get_weights()[0], model.head.get_weights()[0]])
    fit(model, 3, [WarmupFreeze(encoder, 2), kernels])
    np.testing.assert_array_equal(kernels.seen[0][0], kernels.seen[1][0])
    assert not np.array_equal(kernels.seen[1][0], kernels.seen[2][0])
    assert not np.array_equal(kernels.seen[0][1], kernels.seen[1][1])
    assert int(model.optimizer.iterations) == 3


def test_another_choice_of_trainable_weights_in_another_warm_up():
    encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model = keras.Sequential([encoder, keras.layers.Dense(2)])
    model.compile("adam", "mse", jit_compile=JIT)
    fit(model, 2, [WarmupFreeze(encoder, 1)])
    encoder.layers[0].bias.trainable = False
    before = [np.array(weight) for weight in encoder.get_weights()]
    fit(model, 2, [WarmupFreeze(encoder, 1)])
    assert [np.array_equal(*pair) for pair in zip(before, encoder.get_weights(), strict=True)] == [
        False,
        True,
    ]


def test_tensorflow_strategy_makes_no_difference():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.distribute is TensorFlow's")
    import tensorflow as tf

    ends = []
    for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0"])):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            encoder, model = linear(keras.optimizers.Adam(0.01, use_ema=True))
        fit(model, 3, [WarmupFreeze(encoder, 1)])
        ends.append(model.get_weights())
        slot = model.optimizer.parts()[-1].variables[-1].value
        assert isinstance(slot, tf.distribute.DistributedValues) == (len(ends) == 2)
    for expected, actual in zip(*ends, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)
