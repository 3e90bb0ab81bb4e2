"""What WarmupFreeze does to the model: who trains when, in which mode, and what is left behind."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_ssl.callbacks.warmup_freeze import WarmupFreeze

BACKEND = keras.backend.backend()
KINDS = ("nested", "flat", "sequential", "subclassed")


@keras.saving.register_keras_serializable("tests")
class Grader(keras.Model):
    def __init__(self, encoder, head, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.head = head

    def call(self, images, training=None):
        return self.head(self.encoder(images, training=training))


def make_encoder():
    images = keras.Input((4, 4, 1))
    features = keras.layers.Conv2D(3, 3, name="first")(images)
    features = keras.layers.BatchNormalization()(features)
    features = keras.layers.GaussianNoise(0.5)(features)
    block = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Conv2D(3, 1), keras.layers.Dropout(0.5)])
    features = keras.layers.GlobalAveragePooling2D()(block(features))
    return keras.Model(images, features, name="encoder")


def dense_encoder():
    """Compiles faster, for what does not depend on the kinds of layers."""
    return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])


def make_model(kind, encoder):
    head = keras.layers.Dense(2, name="head")
    if kind == "nested":
        images = keras.Input((4, 4, 1))
        return keras.Model(images, head(encoder(images)))
    if kind == "flat":
        return keras.Model(encoder.input, head(encoder.output))
    if kind == "sequential":
        return keras.Sequential([encoder, head])
    return Grader(encoder, head)


def make_data():
    generator = np.random.default_rng(0)
    images = generator.normal(size=(8, 4, 4, 1)).astype("float32")
    return images, generator.normal(size=(8, 2)).astype("float32")


def fit(model, epochs, callbacks, **kwargs):
    images, labels = make_data()
    return model.fit(images, labels, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks, **kwargs)


def compiled(kind="nested", make=make_encoder, **kwargs):
    encoder = make()
    model = make_model(kind, encoder)
    # XLA on the TensorFlow CPU only takes longer to compile.
    model.compile(keras.optimizers.Adam(0.01), "mse", **{"jit_compile": BACKEND == "jax", **kwargs})
    return encoder, model


def same(before, after):
    return [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]


class Weights(keras.callbacks.Callback):
    """Keeps the weights of a layer at the start of training and after each epoch."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.seen = []

    def on_train_begin(self, logs=None):
        self.seen.append(self.layer.get_weights())

    def on_epoch_end(self, epoch, logs=None):
        # `self.model` syncs JAX's state into the variables.
        assert self.model is not None
        self.seen.append(self.layer.get_weights())


class DuringEpoch(keras.callbacks.Callback):
    """Keeps what `look(model)` returns at the end of each epoch."""

    def __init__(self, look):
        super().__init__()
        self.look = look
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.look(self.model))


@pytest.mark.compiled
@pytest.mark.parametrize("kind", KINDS)
def test_encoder_is_frozen_as_in_inference_then_trains_and_head_trains_throughout(kind):
    encoder, model = compiled(kind)
    images, _ = make_data()

    def differs_in_training(model):
        outputs = [keras.ops.convert_to_numpy(model(images, training=mode)) for mode in (True, False)]
        return not np.allclose(*outputs, atol=1e-6)

    encoder_weights, outputs = Weights(encoder), DuringEpoch(lambda model: model.layers[-1].get_weights()[0])
    modes = DuringEpoch(differs_in_training)
    history = fit(model, 4, [WarmupFreeze(encoder, 2), encoder_weights, outputs, modes])
    assert history.epoch == [0, 1, 2, 3]
    start, *epochs = encoder_weights.seen
    assert all(same(start, epochs[0]))
    assert all(same(start, epochs[1]))
    assert not any(same(epochs[1], epochs[2]))
    assert not any(same(epochs[2], epochs[3]))
    for earlier, later in zip(outputs.seen, outputs.seen[1:], strict=False):
        assert not np.array_equal(earlier, later)
    assert modes.seen == [False, False, True, True]


def test_dropout_in_the_head_stays_on():
    encoder = dense_encoder()
    model = keras.Sequential([encoder, keras.layers.Dropout(0.5), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    images, _ = make_data()
    twice = DuringEpoch(
        lambda model: [keras.ops.convert_to_numpy(model(images, training=True)) for _ in range(2)]
    )
    fit(model, 1, [WarmupFreeze(encoder, 1), twice])
    assert not np.allclose(*twice.seen[0])


@pytest.mark.compiled
def test_no_backward_pass_runs_through_the_frozen_encoder():
    """Three dense layers, the last one the head: four products when frozen, eight when not.

    Forward three. Backward one for the gradient of each kernel and one for what goes into it, if needed.
    """
    encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(5)])
    model = keras.Sequential([encoder, keras.layers.Dense(2)])
    model.compile("adam", "mse")
    data = (np.ones((8, 3), "float32"), np.ones((8, 2), "float32"))
    counts = DuringEpoch(lambda model: matrix_products(model, *data))
    model.fit(*data, epochs=2, verbose=0, callbacks=[WarmupFreeze(encoder, 1), counts])
    assert counts.seen == ([1, 3] if BACKEND == "torch" else [4, 8])


def matrix_products(model, x, y):
    """Matrix products in the graph of one training step; on PyTorch, of its backward pass."""
    if BACKEND == "jax":
        import jax

        state = model._get_jax_state(
            trainable_variables=True,
            non_trainable_variables=True,
            optimizer_variables=True,
            metrics_variables=True,
        )
        return str(jax.make_jaxpr(model.train_step)(state, (x, y))).count("dot_general[")
    if BACKEND == "torch":
        return backward_products(model(x, training=True).grad_fn)
    return reachable_products(model, x, y)


def backward_products(node):
    seen, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(after for after, _ in node.next_functions)
    return sum(node.name().startswith(("Addmm", "Mm")) for node in seen)


def reachable_products(model, x, y):
    # What TensorFlow runs of a function: all that its outputs and its side effects depend on.
    import tensorflow as tf

    step = tf.function(model.train_step).get_concrete_function((tf.constant(x), tf.constant(y)))
    seen, waiting = set(), [*(t.op for t in step.graph.outputs), *step.graph.control_outputs]
    while waiting:
        op = waiting.pop()
        if op not in seen:
            seen.add(op)
            waiting.extend([*(t.op for t in op.inputs), *op.control_inputs])
    return sum(op.type == "MatMul" for op in seen)


def test_layers_frozen_by_the_user_stay_frozen():
    encoder, model = compiled("flat")
    encoder.get_layer("first").trainable = False
    encoder.layers[2].beta.trainable = False
    flags = [v.trainable for v in encoder.weights]
    before = encoder.get_weights()
    model.compile("adam", "mse")
    fit(model, 3, [WarmupFreeze(encoder, 1)])
    assert [v.trainable for v in encoder.weights] == flags
    moving = [v.path.endswith(("moving_mean", "moving_variance")) for v in encoder.weights]
    expected = [not (flag or statistic) for flag, statistic in zip(flags, moving, strict=True)]
    assert same(before, encoder.get_weights()) == expected


def test_model_is_ordinary_after_a_fit_that_ended_in_the_warm_up():
    encoder, model = compiled()
    before = encoder.get_weights()
    flags = [v.trainable for v in model.weights]
    fit(model, 2, [WarmupFreeze(encoder, 2)])
    assert all(same(before, encoder.get_weights()))
    assert [v.trainable for v in model.weights] == flags
    assert not [layer for layer in model._flatten_layers() if "call" in vars(layer)]
    fit(model, 1, [])
    assert not any(same(before, encoder.get_weights()))


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.parametrize("repair", ["unfreeze", "fit"])
def test_interrupted_fit_can_be_unfrozen_by_hand_or_by_the_next_fit(repair):
    encoder, model = compiled(make=dense_encoder)
    before = encoder.get_weights()
    flags = [v.trainable for v in model.weights]
    warmup = WarmupFreeze(encoder, 2)
    with pytest.raises(KeyboardInterrupt):
        fit(model, 2, [warmup, Interrupt()])
    if repair == "unfreeze":
        warmup.unfreeze()
        fit(model, 1, [])
    else:
        fit(model, 3, [warmup], initial_epoch=2)
    assert [v.trainable for v in model.weights] == flags
    assert not [layer for layer in model._flatten_layers() if "call" in vars(layer)]
    assert not any(same(before, encoder.get_weights()))


def test_warm_up_counts_from_epoch_zero_and_comes_again_with_the_next_fit():
    encoder, model = compiled(make=dense_encoder)
    warmup, weights = WarmupFreeze(encoder, 2), Weights(encoder)
    fit(model, 3, [warmup, weights], initial_epoch=1)
    assert [all(same(a, b)) for a, b in zip(weights.seen, weights.seen[1:], strict=False)] == [True, False]
    weights.seen.clear()
    fit(model, 3, [warmup, weights])
    assert [all(same(a, b)) for a, b in zip(weights.seen, weights.seen[1:], strict=False)] == [
        True,
        True,
        False,
    ]
    weights.seen.clear()
    fit(model, 4, [warmup, weights], initial_epoch=2)
    assert not any(all(same(a, b)) for a, b in zip(weights.seen, weights.seen[1:], strict=False))


@pytest.mark.parametrize(("epochs", "initial_epoch"), [(0, 0), (1, 1)])
def test_without_a_warm_up_nothing_is_touched(epochs, initial_epoch):
    encoder, model = compiled(make=dense_encoder)
    optimizer = model.optimizer
    fit(model, 2, [WarmupFreeze(encoder, epochs)], initial_epoch=initial_epoch)
    assert model.optimizer is optimizer


@pytest.mark.compiled
@pytest.mark.parametrize(
    "options",
    [
        {"run_eagerly": True, "jit_compile": False},
        {"jit_compile": False},
        {"jit_compile": True},
        {"steps_per_execution": 2},
    ],
    ids=str,
)
def test_every_way_of_running(options):
    if BACKEND == "torch" and (options.get("jit_compile") or "steps_per_execution" in options):
        pytest.skip("PyTorch would need a C++ compiler, or refuses several steps per execution")
    encoder, model = compiled(make=dense_encoder, **options)
    weights = Weights(encoder)
    fit(model, 2, [WarmupFreeze(encoder, 1), weights], validation_data=make_data())
    assert [all(same(a, b)) for a, b in zip(weights.seen, weights.seen[1:], strict=False)] == [True, False]


@pytest.mark.slow
def test_checkpoints_of_both_phases_load_where_this_library_is_missing(tmp_path):
    encoder, model = compiled()
    path = str(tmp_path / "{epoch}.keras")
    fit(model, 2, [WarmupFreeze(encoder, 1), keras.callbacks.ModelCheckpoint(path)])
    images, _ = make_data()
    np.save(tmp_path / "images.npy", images)
    script = """
import sys; sys.modules["keras_ssl"] = None
import keras, numpy as np, warnings; warnings.simplefilter("ignore")
for epoch in (1, 2):
    model = keras.saving.load_model(f"{sys.argv[1]}/{epoch}.keras")
    assert model.optimizer.__class__.__name__ == "Adam" and len(model.trainable_variables) == 8
    outputs = model.predict(np.load(f"{sys.argv[1]}/images.npy"), verbose=0)
np.save(f"{sys.argv[1]}/outputs.npy", outputs)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("encoder", 1), TypeError, "`encoder` must be a Keras layer or model. Received 'encoder'"),
        ((keras.layers.Dense(1), 1.5), TypeError, "`epochs` must be an integer. Received 1.5"),
        ((keras.layers.Dense(1), True), TypeError, "`epochs` must be an integer. Received True"),
        ((keras.layers.Dense(1), -1), ValueError, "`epochs` must not be negative. Received -1"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        WarmupFreeze(*arguments)


def test_encoder_must_be_a_part_of_the_model():
    _, model = compiled()
    with pytest.raises(ValueError, match="Received an encoder with 8 that are not"):
        fit(model, 1, [WarmupFreeze(make_encoder(), 1)])


def test_an_encoder_that_the_user_froze_stays_frozen():
    encoder, model = compiled()
    encoder.trainable = False
    model.compile("adam", "mse")
    before = [np.array(weight) for weight in encoder.trainable_weights + encoder.non_trainable_weights]
    fit(model, 3, [WarmupFreeze(encoder, 1)])
    after = encoder.trainable_weights + encoder.non_trainable_weights
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new))


def test_encoder_must_have_weights():
    encoder = keras.layers.Flatten()
    model = keras.Sequential([encoder, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="`encoder` must be built and have weights"):
        model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0, callbacks=[WarmupFreeze(encoder, 1)])


def test_something_else_must_be_trainable():
    encoder = make_encoder()
    model = keras.Sequential([encoder, keras.layers.Flatten()])
    model.compile("adam", "mse")
    images, _ = make_data()
    with pytest.raises(ValueError, match="must have trainable weights outside"):
        model.fit(images, np.ones((8, 3)), verbose=0, callbacks=[WarmupFreeze(encoder, 1)])
