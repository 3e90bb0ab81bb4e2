"""MultiTask: every task as it would be alone, on one encoder; losses are weighted, metrics named apart."""

import dataclasses

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import (
    BYOLTask,
    ColorizationTask,
    MultiTask,
    PretextTask,
    RotationTask,
    SelfSupervisedModel,
    SimCLRTask,
)
from keras_ssl.preprocessing import Augmentation, Geometry
from keras_ssl.random import ReplaySeeds
from keras_ssl.tasks import multi

RNG = np.random.default_rng(0)
ON_JAX = keras.backend.backend() == "jax"
ROTATION = RotationTask(guards=None)
SIMCLR = SimCLRTask(
    views=Augmentation(geometry=Geometry(flip_axes=(1,))), hidden_units=(4,), projection_dim=4
)


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True, kw_only=True)
class NestedTask(PretextTask):
    """A task of nested inputs and outputs, of inputs that are no images, and without targets."""

    def preprocess(self, images, seed):
        numbers = ops.arange(ops.shape(images)[0])
        return {"views": [images, ops.flip(images, axis=1)], "numbers": numbers}, {}

    def build_network(self, encoder, input_shape):
        views = [keras.Input(input_shape, name=name) for name in ("first", "second")]
        numbers = keras.Input((), dtype="int32", name="numbers")
        features = [keras.layers.GlobalAveragePooling2D()(encoder(view)) for view in views]
        outputs = {"features": features, "numbers": numbers + 1}
        return keras.Model({"views": views, "numbers": numbers}, outputs)

    def compute_loss(self, targets, outputs):
        assert targets == {}
        first, second = outputs["features"]
        return ops.mean(ops.square(first - second), axis=1)


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True, kw_only=True)
class HalvesTask(PretextTask):
    """A task that shows the encoder half of every image."""

    def preprocess(self, images, seed):
        return images[:, : images.shape[1] // 2], images

    def encoder_input_shape(self, input_shape):
        return (input_shape[0] // 2, *input_shape[1:])

    def build_network(self, encoder, input_shape):
        raise NotImplementedError

    def compute_loss(self, targets, outputs):
        raise NotImplementedError


def arrays(structure):
    return keras.tree.map_structure(lambda x: np.array(ops.convert_to_numpy(x)), structure)


def model_of(*tasks, seed=0, dropout=0.3, **options):
    keras.utils.set_random_seed(seed)
    encoder = tiny.functional_encoder(dropout=dropout)
    return SelfSupervisedModel(MultiTask(tasks=tasks, **options), encoder, seed=seed)


def test_tasks_draw_one_after_the_other_from_one_seed():
    images, seeds = tiny.images(4), ReplaySeeds(3)
    expected = [arrays(task.preprocess(images, seeds)) for task in (ROTATION, SIMCLR)]
    made = arrays(MultiTask(tasks=(ROTATION, SIMCLR)).preprocess(images, ReplaySeeds(3)))
    for key, parts in zip(("0", "1"), expected, strict=True):
        for part, whole in zip(parts, made, strict=True):
            np.testing.assert_array_equal(whole[key], part)


def test_loss_is_the_weighted_sum_of_the_mean_losses_by_scale():
    logits, labels, views = RNG.normal(size=(3, 4)), np.array([0, 3, 1]), RNG.normal(size=(6, 5))
    rotation = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(3), labels])
    unit = views / np.linalg.norm(views, axis=1, keepdims=True)
    similar = np.exp(unit @ unit.T / 0.1) * (1 - np.eye(6))
    partners = np.array([1, 0, 3, 2, 5, 4])
    simclr = np.mean(np.log(similar.sum(axis=1)) - np.log(similar[np.arange(6), partners]))
    targets = {"0": labels, "1": partners}
    outputs = {"0": logits.astype("float32"), "1": views.astype("float32"), "scales": np.float32([2, 0.5])}
    for weights, expected in [(None, rotation / 2 + 2 * simclr), ((2.0, 0.5), rotation + simclr)]:
        task = MultiTask(tasks=(ROTATION, SIMCLR), weights=weights)
        loss = task.compute_loss(targets, outputs)
        assert loss.shape == ()
        np.testing.assert_allclose(ops.convert_to_numpy(loss), expected, rtol=1e-5)
    metrics = {metric.name: metric for metric in task.build_metrics()}
    assert list(metrics) == ["rotation_loss", "rotation_accuracy", "simclr_loss", "simclr_accuracy"]
    for metric in metrics.values():
        metric.update_state(targets, outputs)
    np.testing.assert_allclose(float(metrics["rotation_loss"].result()), rotation, rtol=1e-5)
    np.testing.assert_allclose(float(metrics["simclr_loss"].result()), simclr, rtol=1e-5)
    assert float(metrics["rotation_accuracy"].result()) == np.mean(logits.argmax(axis=1) == labels)
    metrics["rotation_loss"].reset_state()
    assert float(metrics["rotation_loss"].result()) == 0


def test_the_network_is_the_tasks_networks_on_one_encoder():
    model = model_of(ROTATION, SIMCLR)
    inputs = {"0": tiny.images(3), "1": tiny.images(4, seed=1)}
    outputs = arrays(model.network(inputs))
    for key, network in zip(("0", "1"), model.network.networks, strict=True):
        np.testing.assert_array_equal(outputs[key], ops.convert_to_numpy(network(inputs[key])))
    heads = [layer for network in model.network.networks for layer in network.layers[2:]]
    of_heads = sum(len(layer.weights) for layer in heads)
    scales = 2
    assert len(model.network.weights) == len(model.encoder.weights) + of_heads + scales


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SumTask(PretextTask):
    """Sums the features: `factor` times a loss between `offset` and 1 above."""

    factor: float = 1.0
    offset: float = 0.0

    def preprocess(self, images, seed):
        return images, ()

    def build_network(self, encoder, input_shape):
        inputs = keras.Input(input_shape)
        return keras.Model(inputs, ops.mean(ops.tanh(encoder(inputs)), axis=(1, 2, 3)))

    def compute_loss(self, targets, outputs):
        return self.factor * (self.offset + ops.square(outputs))


def change_by_one_step(**options):
    """The sum over the encoder's weights of absolute changes in one step of gradient descent."""
    model = model_of(SumTask(), SumTask(factor=500.0), dropout=0.0, **options)
    before = tiny.weights(model.encoder)
    model.compile(keras.optimizers.SGD(1.0), jit_compile=ON_JAX)
    history = model.fit_pretext(tiny.images(4), batch_size=4, verbose=0, epochs=1).history
    # Shown as they are.
    np.testing.assert_allclose(history["sum_2_loss"][0], 500 * history["sum_1_loss"][0], rtol=1e-5)
    trained = {id(weight) for weight in model.trainable_variables}
    changes = zip(model.encoder.weights, tiny.weights(model.encoder), before, strict=True)
    return sum(np.abs(new - old).sum() for weight, new, old in changes if id(weight) in trained)


def test_losses_of_scales_1_and_500_change_the_encoder_alike():
    small, large = change_by_one_step(weights=(1.0, 0.0)), change_by_one_step(weights=(0.0, 1.0))
    assert small > 1e-4
    np.testing.assert_allclose(large, small, rtol=1e-3)
    np.testing.assert_allclose(change_by_one_step(weights=(3.0, 0.0)), 3 * small, rtol=1e-3)


def test_scales_are_those_of_the_first_steps_and_saved(monkeypatch, tmp_path):
    monkeypatch.setattr(multi, "_SCALED_STEPS", 2)
    # One loss is negative, as cosines are, and one is 0.
    tasks = (SumTask(factor=500.0, offset=1.0), SumTask(offset=-0.5), SumTask(factor=0.0))
    model = model_of(*tasks)
    images = tiny.images(4)
    model.compile(jit_compile=ON_JAX)
    before = model.evaluate(images, verbose=0, return_dict=True)
    np.testing.assert_allclose(before["loss"], before["sum_1_loss"] + before["sum_2_loss"], rtol=1e-5)
    squares = []
    for step in range(4):
        outputs = arrays(model(tiny.images(4, seed=step), training=True)["outputs"])
        if step < 2:
            losses = [task.compute_loss((), outputs[str(k)]) for k, task in enumerate(tasks)]
            squares.append([np.mean(np.square(arrays(loss))) for loss in losses])
        expected = np.sqrt(np.mean(squares, axis=0))
        np.testing.assert_allclose(outputs["scales"], [*expected[:2], 1.0], rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    scales = arrays(loaded(images, training=True)["outputs"])["scales"]
    np.testing.assert_array_equal(scales, outputs["scales"])


def test_a_run_interrupted_while_scales_are_measured_ends_like_an_uninterrupted_one(tmp_path):
    found = []
    for folder, epoch in (("whole", None), ("parts", 2)):
        options = {"batch_size": 4, "epochs": 3, "verbose": 0, "backup_dir": tmp_path / folder}
        if epoch:
            with pytest.raises(KeyboardInterrupt):
                model_of(ROTATION, SIMCLR).fit_pretext(
                    tiny.images(4), callbacks=[tiny.stop(epoch)], **options
                )
        model = model_of(ROTATION, SIMCLR)
        model.fit_pretext(tiny.images(4), callbacks=[tiny.stop(None)], **options)
        found.append(tiny.weights(model))
    tiny.assert_same(*found)


def test_what_the_encoder_is_regularized_by_counts_once():
    encoder = keras.Sequential([keras.layers.Conv2D(4, 3, kernel_regularizer="l2")])
    model = SelfSupervisedModel(MultiTask(tasks=(ROTATION, ROTATION)), encoder, input_shape=tiny.SHAPE)
    model(tiny.images(2))
    assert len(model.losses) == 1


def test_two_tasks_of_a_kind_are_told_apart_and_saved(tmp_path):
    model = model_of(SIMCLR, ROTATION, dataclasses.replace(SIMCLR, temperature=0.5))
    model.compile(jit_compile=ON_JAX)
    history = model.fit_pretext(tiny.images(4), batch_size=4, epochs=1, verbose=0).history
    names = ["simclr_1_loss", "simclr_1_accuracy", "simclr_2_loss", "simclr_2_accuracy", "rotation_loss"]
    assert set(history) == {"loss", "rotation_accuracy", *names}
    parts = [history[name][0] for name in ("simclr_1_loss", "rotation_loss", "simclr_2_loss")]
    scales = arrays(model(tiny.images(4))["outputs"])["scales"]
    np.testing.assert_allclose(history["loss"][0], sum(parts / scales), rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.task == model.task
    tiny.assert_same(tiny.weights(model), tiny.weights(loaded))
    # Of one encoder, and no copy for each task.
    assert len(loaded.encoder.weights) + len(model.weights) == len(loaded.weights) + len(
        model.encoder.weights
    )


def test_nested_inputs_and_empty_targets():
    task = MultiTask(tasks=(NestedTask(), ROTATION, NestedTask()), weights=(1.0, 0.0, 1.0))
    images = tiny.images(4)
    inputs, targets = task.preprocess(images, ReplaySeeds())
    assert targets["0"] == targets["2"] == {}
    np.testing.assert_array_equal(arrays(inputs)["2"]["views"][1], images[:, ::-1])
    model = model_of(*task.tasks, weights=task.weights)
    outputs = arrays(model(images)["outputs"])
    np.testing.assert_array_equal(outputs["2"]["numbers"], [1, 2, 3, 4])
    first, second = outputs["0"]["features"]
    model.compile(jit_compile=ON_JAX)
    evaluated = model.evaluate(images, verbose=0, return_dict=True)
    np.testing.assert_allclose(evaluated["loss"], 2 * np.mean((first - second) ** 2), rtol=1e-4)
    assert np.isfinite(model.fit_pretext(images, batch_size=4, epochs=1, verbose=0).history["loss"]).all()


def test_tasks_of_many_tasks():
    model = model_of(MultiTask(tasks=(SIMCLR, ROTATION)), ROTATION)
    outputs = model(tiny.images(4))["outputs"]
    assert outputs["0"]["1"].shape == outputs["1"].shape == (4, 4)
    names = [metric.name for metric in model.task.build_metrics()]
    assert names[:3] == ["multi_loss", "multi_simclr_loss", "multi_simclr_accuracy"]
    assert names[-2:] == ["rotation_loss", "rotation_accuracy"]
    config = keras.saving.serialize_keras_object(model.task)
    assert keras.saving.deserialize_keras_object(config) == model.task


@pytest.mark.slow
def test_all_tasks_are_learned():
    # Brightness rises from top to bottom; images differ in color.
    ramp = np.linspace(-1, 1, 8)[None, :, None, None] * np.ones((16, 1, 8, 1))
    images = (ramp + RNG.uniform(-1, 1, size=(16, 1, 1, 3))).astype("float32")
    simclr = dataclasses.replace(SIMCLR, hidden_units=(16,), projection_dim=8)
    encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    encoder.add(keras.layers.Dense(16, activation="tanh"))
    model = SelfSupervisedModel(MultiTask(tasks=(ROTATION, simclr)), encoder, seed=0)
    model.compile(keras.optimizers.Adam(0.02), jit_compile=ON_JAX)
    history = model.fit_pretext(images, batch_size=16, epochs=60, verbose=0).history
    assert history["rotation_loss"][-1] < 0.5 * history["rotation_loss"][0]
    assert history["simclr_loss"][-1] < 0.5 * history["simclr_loss"][0]
    # By chance one in 4 and one in 31.
    assert history["rotation_accuracy"][-1] > 0.8
    assert history["simclr_accuracy"][-1] > 0.8


def test_random_layers_among_the_settings_of_tasks_are_the_models():
    layer = keras.layers.RandomTranslation(0.3, 0.3, seed=1)
    model = model_of(ROTATION, MultiTask(tasks=(dataclasses.replace(SIMCLR, views=layer),)))
    # On JAX a variable that the model does not know cannot change in training.
    known = {id(variable) for variable in model.variables}
    assert layer.variables
    assert all(id(variable) in known for variable in layer.variables)


def test_batches_are_as_large_as_the_most_demanding_task_needs():
    assert MultiTask(tasks=(ROTATION, SIMCLR)).smallest_batch() == 2
    assert MultiTask(tasks=(ROTATION,)).smallest_batch() == 1


def test_images_are_refused_that_one_of_the_tasks_refuses():
    task = MultiTask(tasks=(ROTATION, ColorizationTask()))
    task.check_images(255 * tiny.images(2))
    with pytest.raises(ValueError, match="value_range"):
        task.check_images(tiny.images(2))


def test_each_teacher_is_loaded_as_itself(tmp_path):
    byol = BYOLTask(hidden_units=(4,), projection_dim=4)
    model = SelfSupervisedModel(MultiTask(tasks=(byol,) * 3), tiny.functional_encoder(), seed=0)
    for number, weight in enumerate(model.weights):
        weight.assign(ops.full(weight.shape, 0.1 + number / 100))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len({id(weight) for weight in loaded.weights}) == len(model.weights)
    tiny.assert_same(tiny.weights(model), tiny.weights(loaded))


def test_images_that_tasks_show_go_by_the_tasks_names():
    task = MultiTask(tasks=(ROTATION, SIMCLR, ROTATION))
    inputs, _ = task.preprocess(tiny.images(2), ReplaySeeds())
    shown = task.shown(inputs)
    assert list(shown) == ["rotation_1", "simclr", "rotation_2"]
    assert shown["simclr"] is inputs["1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ()}, r"`tasks` must be a tuple of one or more pretext tasks. Received \(\)"),
        ({"tasks": [ROTATION]}, r"`tasks` must be a tuple .* Received \[RotationTask"),
        ({"tasks": (ROTATION, "simclr")}, "`tasks` must be a tuple .*'simclr'"),
        ({"weights": (1.0,)}, r"`weights` must be 2 finite numbers .*\(1.0,\)"),
        ({"weights": (1.0, -1.0)}, "`weights` must be .* at least 0"),
        ({"weights": (1.0, float("nan"))}, "`weights` must be .* finite"),
        ({"weights": ()}, "`weights` must be 2 finite numbers"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiTask(**options)


def test_tasks_that_show_the_encoder_images_of_different_shapes_are_refused():
    task = MultiTask(tasks=(ROTATION, HalvesTask()))
    message = r"`tasks` must all .* \(8, 8, 3\), .*'rotation': \(8, 8, 3\), 'halves': \(4, 8, 3\)"
    with pytest.raises(ValueError, match=message):
        SelfSupervisedModel(task, tiny.functional_encoder(), input_shape=tiny.SHAPE)
