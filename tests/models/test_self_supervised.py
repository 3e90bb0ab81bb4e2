"""SelfSupervisedModel: any encoder plugs in, fit_pretext takes what fit takes, all of it can be saved."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from tiny import (
    SHAPE,
    SubclassedEncoder,
    assert_same,
    differ,
    functional_encoder,
    grades,
    images,
    pretext_model,
    quick_model,
    sequential_encoder,
    weights,
    without_weights,
)

from keras_ssl import (
    InpaintingTask,
    JigsawTask,
    MultiTask,
    RotationTask,
    SelfSupervisedModel,
    SimCLRTask,
    SimMIMTask,
)
from keras_ssl.preprocessing import Augmentation, Geometry, fundus_views
from keras_ssl.preprocessing.views import mild_augmentation


class Batches(keras.utils.PyDataset):
    """A user's own data set, with labels that the pretext has no use for."""

    def __init__(self, count=3, **workers):
        super().__init__(**workers)
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return images(4, seed=index), grades(4)


@pytest.mark.compiled
@pytest.mark.parametrize("make", [functional_encoder, SubclassedEncoder, sequential_encoder])
def test_any_encoder_is_trained_in_place(make):
    encoder = make()
    model = pretext_model(encoder, guards=None)
    before = weights(encoder)
    history = model.fit_pretext(images(), epochs=2, batch_size=4, verbose=0)
    assert model.encoder is encoder
    assert differ(before, weights(encoder))
    assert set(history.history) == {"loss", "accuracy"}
    assert len(history.epoch) == 2


def test_default_encoder_is_densenet121():
    with without_weights():
        model = SelfSupervisedModel(RotationTask(), input_shape=(32, 32, 3), seed=0)
        unsized = SelfSupervisedModel(RotationTask(), seed=0)
    assert model.encoder.count_params() == 7_037_504
    assert unsized.images_shape == (224, 224, 3)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "kind", ["PyDataset", "workers", "tf.data", "labeled tf.data", "list of torch", "grain"]
)
def test_fit_pretext_takes_what_fit_takes(kind):
    if kind == "PyDataset":
        data = Batches()
    elif kind == "workers":
        data = Batches(workers=2)
    elif "tf.data" in kind:
        tf = pytest.importorskip("tensorflow")
        parts = (images(), grades()) if "labeled" in kind else images()
        data = tf.data.Dataset.from_tensor_slices(parts).batch(4)
    elif kind == "list of torch":
        torch = pytest.importorskip("torch")
        pairs = torch.utils.data.TensorDataset(torch.tensor(images()), torch.tensor(grades()))
        data = torch.utils.data.DataLoader(pairs, batch_size=4)
    else:
        grain = pytest.importorskip("grain")
        data = grain.MapDataset.source(list(images())).batch(4)
    model = quick_model()
    before = weights(model)
    history = model.fit_pretext(data, epochs=1, verbose=0, validation_data=data)
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(history.history)
    assert np.isfinite(history.history["val_loss"]).all()
    assert differ(before, weights(model))


def test_labels_are_ignored():
    class Relabeled(Batches):
        def __getitem__(self, index):
            batch, labels = super().__getitem__(index)
            return batch, labels + 1

    runs = []
    for data in (Batches(), Relabeled()):
        model = quick_model()
        model.fit_pretext(data, epochs=1, verbose=0)
        runs.append(weights(model))
    assert_same(*runs)


@pytest.mark.compiled
def test_one_seed_fixes_everything_and_another_changes_it():
    def run(seed):
        # Random are the first weights, dropout, labels and guards.
        encoder = keras.Sequential([keras.Input(SHAPE), keras.layers.Dropout(0.3), keras.layers.Flatten()])
        encoder.add(keras.layers.Dense(4))
        model = SelfSupervisedModel(RotationTask(), encoder, seed=seed)
        keras.utils.set_random_seed(1)
        return model.fit_pretext(images(), epochs=2, batch_size=4, verbose=0).history["loss"]

    keras.utils.set_random_seed(0)
    first = run(3)
    keras.utils.set_random_seed(0)
    again = run(3)
    keras.utils.set_random_seed(0)
    other = run(4)
    assert first == again
    assert first != other


def test_evaluation_draws_for_each_batch_its_own():
    model = pretext_model(guards=None)
    targets = [int(model(images(12)[i : i + 1])["targets"][0]) for i in range(12)]
    assert len(set(targets)) > 1
    assert targets == [int(model(images(12)[i : i + 1])["targets"][0]) for i in range(12)]


def test_images_that_are_not_square_are_cropped_where_asked_for():
    for encoder in (sequential_encoder(), SubclassedEncoder()):
        task = RotationTask(fit="crop", guards=None)
        model = SelfSupervisedModel(task, encoder, input_shape=(8, 12, 3), seed=0)
        history = model.fit_pretext(images(8, (8, 12, 3)), epochs=1, batch_size=4, verbose=0)
        assert np.isfinite(history.history["loss"]).all()
    with pytest.raises(ValueError, match="square in the rotated plane"):
        SelfSupervisedModel(RotationTask(), SubclassedEncoder(), input_shape=(8, 12, 3))


@pytest.mark.compiled
def test_a_second_fit_uses_new_draws_and_evaluation_repeats_exactly():
    model = pretext_model(sequential_encoder())
    model.compile(keras.optimizers.SGD(0.0))
    # Without learning, the loss tells only the draws.
    fitted, evaluated = [], []
    for _ in range(2):
        fitted += model.fit_pretext(images(), epochs=1, batch_size=4, verbose=0).history["loss"]
        evaluated += [model.evaluate(images(), batch_size=4, return_dict=True, verbose=0) for _ in range(2)]
    assert fitted[0] != fitted[1]
    assert all(results == evaluated[0] for results in evaluated)


def test_round_trip_through_keras_file_and_the_encoder_loads_alone(tmp_path):
    model = pretext_model(SubclassedEncoder())
    model.fit_pretext(images(), epochs=1, batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(weights(model), weights(loaded))
    assert loaded.task == model.task
    assert loaded.seed == model.seed
    assert loaded.evaluate(images(), verbose=0) == pytest.approx(model.evaluate(images(), verbose=0))
    model.encoder.save(tmp_path / "encoder.keras")
    encoder = keras.saving.load_model(tmp_path / "encoder.keras")
    outputs = (keras.ops.convert_to_numpy(part(images())) for part in (encoder, model.encoder))
    np.testing.assert_allclose(*outputs, atol=1e-6)
    loaded.fit_pretext(images(), epochs=1, batch_size=4, verbose=0)


@pytest.mark.parametrize("given", [True, False])
def test_the_dtype_policy_is_saved(given, tmp_path):
    keras.config.set_dtype_policy("float32" if given else "mixed_bfloat16")
    try:
        task = SimCLRTask(hidden_units=(4,), projection_dim=4)
        model = SelfSupervisedModel(task, functional_encoder(), dtype="mixed_bfloat16" if given else None)
    finally:
        keras.config.set_dtype_policy("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert keras.config.dtype_policy().name == "float32"

    def policies(whole):
        # Of what computes: Keras saves the policies neither of functional models nor of their inputs.
        layers = [layer for layer in whole._flatten_layers() if not isinstance(layer, keras.Model)]
        return [(type(layer), layer.dtype_policy.name) for layer in layers if layer.weights]

    assert policies(loaded) == policies(model)
    assert "mixed_bfloat16" in [policy for _, policy in policies(model.network)]
    assert loaded.compute_dtype == "bfloat16"
    assert_same(weights(model), weights(loaded))


def test_keras_callbacks_write_checkpoints_and_logs(tmp_path):
    model = quick_model()
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_loss", save_best_only=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "epoch-{epoch}.weights.h5", save_weights_only=True),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "tensorboard"),
    ]
    model.fit_pretext(
        images(), validation_data=images(4, seed=1), epochs=2, batch_size=4, callbacks=callbacks, verbose=0
    )
    assert keras.saving.load_model(tmp_path / "best.keras").count_params() == model.count_params()
    assert {path.name for path in tmp_path.glob("*.h5")} == {"epoch-1.weights.h5", "epoch-2.weights.h5"}
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert list((tmp_path / "tensorboard").rglob("events*"))


@pytest.mark.compiled
def test_nan_loss_stops_with_the_last_finite_weights(tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.good = weights(self.model)
                self.model.optimizer.learning_rate = float("nan")

    model = quick_model()
    model.compile(keras.optimizers.Adam(1e-3))
    poison = Poison()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True)
    with pytest.raises(FloatingPointError, match="epoch 2, step 2"):
        model.fit_pretext(images(), epochs=3, batch_size=4, callbacks=[poison, checkpoint], verbose=0)
    assert_same(weights(model), poison.good)
    model.load_weights(tmp_path / "2.weights.h5")
    assert all(np.isfinite(weight).all() for weight in weights(model))


def test_weights_made_nan_by_the_very_last_step_are_not_kept():
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.learning_rate = float("nan")

    model = quick_model()
    model.compile(keras.optimizers.Adam(1e-3))
    before = weights(model)
    with pytest.raises(FloatingPointError, match="became NaN or infinite in epoch 1, in its last step"):
        model.fit_pretext(images(), batch_size=len(images()), epochs=1, callbacks=[Poison()], verbose=0)
    model.clock.start(None)
    assert_same(weights(model), before)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full((4, *SHAPE), np.nan, "float32"), "finite"),
        (np.zeros((0, *SHAPE), "float32"), "empty"),
        (np.zeros((4, 8, 8), "float32"), "channels"),
        (np.zeros((4, 8, 8, 1), "float32"), "3 channels"),
        (np.zeros((4, 16, 16, 3), "float32"), r"\(n, 8, 8, 3\)"),
    ],
)
def test_bad_images_raise_before_training(bad, message):
    model = quick_model()
    with pytest.raises(ValueError, match=message):
        model.fit_pretext(bad, verbose=0, epochs=1)
    with pytest.raises(ValueError, match=message):
        model.fit_pretext(images(), validation_data=bad, verbose=0, epochs=1)
    if len(bad):
        tf = pytest.importorskip("tensorflow")
        with pytest.raises(ValueError, match=message):
            model.fit_pretext(tf.data.Dataset.from_tensor_slices(bad).batch(2), verbose=0, epochs=1)


def test_bad_arguments_raise():
    with pytest.raises(TypeError, match="`task` must be a PretextTask"):
        SelfSupervisedModel("rotation", functional_encoder())
    with pytest.raises(TypeError, match="`encoder` must be a Keras model"):
        SelfSupervisedModel(RotationTask(), "densenet")
    with pytest.raises(ValueError, match="`input_shape` must be"):
        SelfSupervisedModel(RotationTask(), SubclassedEncoder())
    with pytest.raises(ValueError, match=r"`input_shape` must be .* Received \(None, 24, 3\)"):
        SelfSupervisedModel(JigsawTask(), SubclassedEncoder(), input_shape=(None, 24, 3))
    with pytest.raises(ValueError, match="must suit the encoder"):
        SelfSupervisedModel(RotationTask(), functional_encoder(), input_shape=(16, 16, 1))


def _interrupted(model, tmp_path, data, stop_at, **kwargs):
    """Train as if killed in the middle of epoch `stop_at`."""
    kill = Kill()
    kill.stop_at = stop_at
    callbacks = [*kwargs.pop("callbacks", []), kill]
    with pytest.raises(KeyboardInterrupt):
        model.fit_pretext(data, backup_dir=tmp_path / "backup", callbacks=callbacks, verbose=0, **kwargs)


class Kill(keras.callbacks.Callback):
    """Is among the callbacks of two runs; in the one it interrupts."""

    stop_at = None

    def on_train_batch_end(self, batch, logs=None):
        if len(self.model.history.epoch) == self.stop_at and batch == 1:
            raise KeyboardInterrupt


def test_no_backup_is_saved_after_a_nan(tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.optimizer.learning_rate = float("nan")

    for _ in range(3):
        model = quick_model()
        model.compile(keras.optimizers.Adam(1e-3))
        with pytest.raises(FloatingPointError, match="epoch 2, step 2"):
            model.fit_pretext(
                images(), epochs=3, batch_size=4, callbacks=[Poison()], backup_dir=tmp_path, verbose=0
            )
        assert all(np.isfinite(weight).all() for weight in weights(model))


def test_another_number_of_epochs_is_another_run_unless_the_rate_is_constant(tmp_path):
    settings = {"batch_size": 4, "backup_dir": tmp_path, "verbose": 0}
    quick_model().fit_pretext(images(), epochs=3, **settings)
    with pytest.raises(ValueError, match="epochs: saved 3, now 4"):
        quick_model().fit_pretext(images(), epochs=4, **settings)
    settings["backup_dir"] = tmp_path / "constant"
    first, second = quick_model(), quick_model()
    first.compile("adam")
    second.compile("adam")
    first.fit_pretext(images(), epochs=3, **settings)
    with pytest.raises(ValueError, match="`epochs` must be at least"):
        second.fit_pretext(images(), epochs=2, **settings)


def test_killed_after_the_last_epoch_it_only_finishes(tmp_path):
    def callbacks():
        return [keras.callbacks.EarlyStopping("loss", patience=1, min_delta=10.0, restore_best_weights=True)]

    settings = {"epochs": 6, "batch_size": 4, "backup_dir": tmp_path, "verbose": 0}
    whole = quick_model()
    history = whole.fit_pretext(images(), callbacks=callbacks(), **settings).history
    assert len(history["loss"]) == 2
    # What a kill between the last backup and the end leaves behind:
    shutil.rmtree(next(tmp_path.glob("finished-*")))
    resumed = quick_model()
    resumed_history = resumed.fit_pretext(images(), callbacks=callbacks(), **settings)
    assert resumed_history.history == history
    assert resumed_history.epoch == [0, 1]
    assert_same(weights(whole), weights(resumed))


def test_the_same_object_resumes_after_an_interrupt(tmp_path):
    whole = quick_model()
    whole.fit_pretext(images(), epochs=3, batch_size=4, verbose=0)
    model = quick_model()
    settings = {"epochs": 3, "batch_size": 4}
    _interrupted(model, tmp_path, images(), 1, **settings)
    model.fit_pretext(images(), backup_dir=tmp_path / "backup", callbacks=[Kill()], verbose=0, **settings)
    assert_same(weights(whole), weights(model))


@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["array", "PyDataset", "part of a PyDataset"])
def test_an_interrupted_run_ends_bitwise_like_an_uninterrupted_one(kind, tmp_path):
    # Dropout, BatchNorm and guards have a state too; once is enough.
    data, make = images(), pretext_model
    if kind != "array":
        data, make = Batches(5 if "part" in kind else 3), quick_model

    def callbacks(folder):
        return [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
            keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=10.0),
            keras.callbacks.CSVLogger(folder / "log.csv"),
        ]

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = make()
    expected = whole.fit_pretext(
        data, epochs=4, batch_size=4, steps_per_epoch=3, callbacks=callbacks(tmp_path / "whole"), verbose=0
    ).history
    settings = {"epochs": 4, "batch_size": 4, "steps_per_epoch": 3}
    parts = tmp_path / "parts"
    _interrupted(make(), parts, data, 2, callbacks=callbacks(parts), **settings)
    keras.utils.set_random_seed(99)
    resumed = make()
    history = resumed.fit_pretext(
        data, backup_dir=parts / "backup", callbacks=[*callbacks(parts), Kill()], verbose=0, **settings
    )
    assert_same(weights(whole), weights(resumed))
    assert history.history == expected
    assert history.epoch == [0, 1, 2, 3]
    logs = [(tmp_path / folder / "log.csv").read_text().splitlines() for folder in ("whole", "parts")]
    assert [row.split(",")[0] for row in logs[0]] == [row.split(",")[0] for row in logs[1]]


def test_a_finished_run_is_not_repeated(tmp_path):
    settings = {"epochs": 2, "batch_size": 4, "backup_dir": tmp_path, "verbose": 0}
    first = quick_model()
    history = first.fit_pretext(images(), **settings)
    again = quick_model()
    repeated = again.fit_pretext(images(), **settings)
    assert_same(weights(first), weights(again))
    assert repeated.history == history.history
    assert int(again.optimizer.iterations) == 0
    shutil.rmtree(tmp_path)
    for epochs in (2, 3):
        # By a constant rate, a run can be made longer.
        longer = quick_model()
        longer.compile("adam")
        history = longer.fit_pretext(images(), **{**settings, "epochs": epochs})
    assert len(history.history["loss"]) == 3
    assert int(longer.optimizer.iterations) == 9


def test_early_stopping_is_remembered(tmp_path):
    def callbacks():
        return [keras.callbacks.EarlyStopping("loss", patience=2, min_delta=10.0, restore_best_weights=True)]

    settings = {"epochs": 6, "batch_size": 4}
    whole = quick_model()
    whole.fit_pretext(images(), callbacks=callbacks(), verbose=0, **settings)
    _interrupted(quick_model(), tmp_path, images(), 2, callbacks=callbacks(), **settings)
    resumed = quick_model()
    history = resumed.fit_pretext(
        images(), backup_dir=tmp_path / "backup", callbacks=[*callbacks(), Kill()], verbose=0, **settings
    )
    assert len(history.history["loss"]) == 3
    assert_same(weights(whole), weights(resumed))


def test_a_backup_of_another_run_raises(tmp_path):
    quick_model().fit_pretext(images(), epochs=1, batch_size=4, backup_dir=tmp_path, verbose=0)
    for changed in ({"batch_size": 6}, {"images": images(seed=5)}):
        settings = {"images": images(), "epochs": 1, "batch_size": 4, **changed}
        with pytest.raises(ValueError, match="`backup_dir` must be empty or contain the same run"):
            quick_model().fit_pretext(**settings, backup_dir=tmp_path, verbose=0)


@pytest.mark.slow
def test_kill_9_in_mid_training_and_again(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, os, signal
            sys.path.insert(0, {os.path.dirname(os.path.dirname(__file__))!r})
            import keras, numpy as np
            from tiny import images, quick_model, weights

            class Kill(keras.callbacks.Callback):
                def on_train_batch_begin(self, batch, logs=None):
                    if sys.argv[2] == "kill" and len(self.model.history.epoch) == 1 and batch == 1:
                        os.kill(os.getpid(), signal.SIGKILL)

            model = quick_model()
            settings = dict(epochs=3, batch_size=4, backup_dir=sys.argv[1], verbose=0)
            model.fit_pretext(images(), callbacks=[Kill()], **settings)
            np.savez(sys.argv[3], *weights(model))
            """
        )
    )

    def run(folder, mode):
        command = [sys.executable, str(script), str(tmp_path / folder), mode, str(tmp_path / f"{folder}.npz")]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert run("whole", "live") == 0
    assert run("parts", "kill") == -signal.SIGKILL
    assert json.loads(next((tmp_path / "parts").glob("epoch-*/state.json")).read_text())["epoch"] == 1
    assert run("parts", "live") == 0
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "parts.npz") as parts:
        assert_same([whole[key] for key in whole], [parts[key] for key in parts])


def test_two_batches_of_accumulated_gradients_are_one_of_both():
    found = []
    for batch_size, steps in ((8, None), (4, 2)):
        # All rotations of each image, so that nothing is left to draws.
        keras.utils.set_random_seed(0)
        task = RotationTask(copies="all", guards=None)
        model = SelfSupervisedModel(task, sequential_encoder(), seed=0)
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps)
        model.compile(optimizer, jit_compile=False)
        model.fit_pretext(images(16), batch_size=batch_size, epochs=2, verbose=0)
        found.append(weights(model.network))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def inpainting_model():
    keras.utils.set_random_seed(0)
    return SelfSupervisedModel(InpaintingTask(filters=4), sequential_encoder(), input_shape=SHAPE, seed=0)


def flip(images, seed):
    return keras.ops.flip(images, axis=1)


@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["array", "PyDataset", "stream"])
def test_images_are_augmented_in_training_alone(kind):
    def black(images, seed):
        return 0 * images

    data = {"array": images(), "PyDataset": Batches(), "stream": [images(4, seed=k) for k in range(3)]}[kind]
    model = inpainting_model()
    model.compile(keras.optimizers.SGD(0.0))
    settings = {"epochs": 1, "batch_size": 4, "verbose": 0}
    losses = [
        model.fit_pretext(data, augment=augment, **settings).history["loss"][0]
        for augment in (None, black, None)
    ]
    # What is constant has the target 0.
    assert losses[1] < 0.1 * min(losses[0], losses[2])
    model.fit_pretext(data, augment=black, **settings)
    other = inpainting_model()
    other.compile()
    other.set_weights(model.get_weights())
    evaluated = [each.evaluate(images(), batch_size=4, verbose=0) for each in (model, other)]
    assert evaluated[0] == evaluated[1]


def test_augmentation_by_default_depends_on_the_task():
    shape = (24, 24, 3)
    mild = mild_augmentation(shape)
    assert SimMIMTask().default_augmentation(shape) == mild
    assert JigsawTask().default_augmentation(shape) == mild_augmentation(shape, flips=False) != mild
    assert RotationTask().default_augmentation(shape) is None
    assert SimCLRTask().default_augmentation(shape) is None
    both = MultiTask(tasks=(SimMIMTask(), JigsawTask()))
    assert both.default_augmentation(shape) == mild_augmentation(shape, flips=False)
    assert MultiTask(tasks=(SimMIMTask(), RotationTask())).default_augmentation(shape) is None

    def run(**augment):
        model = inpainting_model()
        model.fit_pretext(images(), epochs=1, batch_size=4, verbose=0, **augment)
        return weights(model)

    assert_same(run(), run(augment=mild_augmentation(SHAPE)))
    assert differ(run(), run(augment=None))


@pytest.mark.compiled
def test_an_interrupted_augmented_run_ends_bitwise_like_an_uninterrupted_one(tmp_path):
    settings = {"epochs": 3, "batch_size": 4}
    whole = inpainting_model()
    whole.fit_pretext(images(), verbose=0, **settings)
    _interrupted(inpainting_model(), tmp_path, images(), 1, **settings)
    for other in (None, Augmentation(geometry=Geometry(rotation=5.0)), flip):
        with pytest.raises(ValueError, match="augmentation"):
            inpainting_model().fit_pretext(
                images(),
                augment=other,
                backup_dir=tmp_path / "backup",
                callbacks=[Kill()],
                verbose=0,
                **settings,
            )
    resumed = inpainting_model()
    resumed.fit_pretext(images(), backup_dir=tmp_path / "backup", callbacks=[Kill()], verbose=0, **settings)
    assert_same(weights(whole), weights(resumed))


def test_an_augmented_model_is_saved_and_loaded(tmp_path):
    model = inpainting_model()
    model.fit_pretext(images(), augment=flip, epochs=1, batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(weights(model), weights(loaded))
    assert loaded.evaluate(images(), verbose=0) == pytest.approx(model.evaluate(images(), verbose=0))


@pytest.mark.parametrize("augment", ["mild", 0.5, keras.layers.RandomFlip()])
def test_augment_of_another_kind_raises(augment):
    with pytest.raises(ValueError, match=r'`augment` must be "auto", None, an Augmentation or a function'):
        quick_model().fit_pretext(images(), augment=augment, verbose=0, epochs=1)


def test_augment_that_changes_the_shape_raises():
    with pytest.raises(ValueError, match=r"`augment` must keep the shape of images, \(8, 8, 3\)"):
        quick_model().fit_pretext(images(), augment=Augmentation(output_shape=(4, 4)), verbose=0, epochs=1)


def test_choices_are_printed(capsys, monkeypatch):
    def announce(*arguments, announcement, **settings):
        if announcement is not None:
            announcement.on_train_begin()

    # Training, which takes minutes on JAX, is left out.
    monkeypatch.setattr("keras_ssl.models.self_supervised.run_fit", announce)

    def printed(task, verbose=2, **settings):
        model = SelfSupervisedModel(task, sequential_encoder(), input_shape=SHAPE, seed=0)
        model.fit_pretext(images(4), batch_size=4, epochs=1, verbose=verbose, **settings)
        return capsys.readouterr().out

    simclr = SimCLRTask(hidden_units=(4,), projection_dim=4)
    views = "Views: color_views(), chosen for RGB images; for fundus photographs pass views=fundus_views().\n"
    augmented = (
        "Augmentation: Augmentation(geometry=Geometry(flip_axes=(0, 1), rotation=10.0, crop=(0.8, 1.0)), "
        "fill='edge'); augment=None turns it off.\n"
    )
    assert printed(simclr).count(views) == 1
    assert printed(MultiTask(tasks=(simclr, simclr))).count(views) == 1
    assert views not in printed(SimCLRTask(views=fundus_views(), hidden_units=(4,), projection_dim=4))
    assert views not in printed(simclr, verbose=0)
    assert printed(InpaintingTask(filters=4)).count(augmented) == 1
    assert "Augmentation" not in printed(InpaintingTask(filters=4), augment=None)


def test_a_rematerialization_scope_raises():
    with keras.RematScope(mode="full"), pytest.raises(ValueError, match=r"outside of `keras\.RematScope`"):
        SelfSupervisedModel(RotationTask(), sequential_encoder())
