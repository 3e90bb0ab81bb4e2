"""A backup answers for its own run only, and says by name what differs."""

import dataclasses
import re

import keras
import numpy as np
import pytest
from tiny import SHAPE, assert_same, differ, grades, images, sequential_encoder, weights

import keras_ssl


class Batches(keras.utils.PyDataset):
    def __init__(self, pictures, labels):
        super().__init__()
        self.pictures, self.labels = pictures, labels

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(4 * index, 4 * index + 4)
        return self.pictures[rows], self.labels[rows]


def mirrored(batch, generator):
    return batch[:, :, ::-1]


def brighter(batch, generator):
    return batch + 0.1


def stopping(patience):
    return keras.callbacks.EarlyStopping("loss", patience=patience)


def schedule(factor):
    return keras.callbacks.LearningRateScheduler(lambda epoch, rate: factor * rate)


@dataclasses.dataclass
class Run:
    start: int = 1
    frozen: int = 0
    units: int = 4
    rate: float = 0.01
    images: np.ndarray = dataclasses.field(default_factory=images)
    labels: np.ndarray = dataclasses.field(default_factory=grades)
    arguments: dict = dataclasses.field(default_factory=dict)
    as_dataset: bool = False

    def make(self):
        keras.utils.set_random_seed(self.start)
        conv = keras.layers.Conv2D(self.units, 3, activation="relu")
        encoder = keras.Sequential([keras.Input(SHAPE), conv, keras.layers.Conv2D(4, 1)])
        encoder.layers[0].trainable = not self.frozen
        optimizer = keras.optimizers.Adam(self.rate)
        return keras_ssl.FineTuner(encoder, keras_ssl.OrdinalHead(3), optimizer=optimizer, seed=0)

    def fit(self, folder, epochs=1):
        tuner = self.make()
        arguments = {"epochs": epochs, "verbose": 0, "backup_dir": folder, **self.arguments}
        if self.as_dataset:
            tuner.fit(Batches(self.images, self.labels), **arguments)
        else:
            tuner.fit(self.images, self.labels, batch_size=4, **arguments)
        return weights(tuner.model)


def changed(array, row, by=1):
    array = array.copy()
    array[row] = (array[row] + by) % 3
    return array


OTHERS = {
    "starting weights": Run(start=2),
    "trainable weights": Run(frozen=1),
    "architecture": Run(units=5),
    "learning rate": Run(rate=0.02),
    "labels": Run(labels=changed(grades(), 11)),
    "images": Run(images=changed(images(), (11, 7, 7, 2), 0.5)),
    "sample_weight": Run(arguments={"sample_weight": np.arange(12.0)}),
    "augment": Run(arguments={"augment": mirrored}),
    "validation_data": Run(arguments={"validation_data": (images(4), grades(4))}),
    "callbacks": Run(arguments={"callbacks": [stopping(50)]}),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, Run().fit(folder)


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("epochs", [1, 2], ids=["finished", "longer"])
def test_another_run_raises_by_name(what, epochs, finished):
    with pytest.raises(ValueError, match=re.escape("differs in: ") + f".*{what}"):
        OTHERS[what].fit(finished[0], epochs)


def test_the_same_run_is_recognized(finished):
    assert_same(Run().fit(finished[0]), finished[1])


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("callbacks", {"callbacks": [stopping(0)]}, {"callbacks": [stopping(50)]}),
        ("callbacks", {"callbacks": [schedule(0.5)]}, {"callbacks": [schedule(0.9)]}),
        ("augment", {"augment": mirrored}, {"augment": brighter}),
        ("sample_weight", {"sample_weight": np.ones(12)}, {"sample_weight": changed(np.ones(12), 11)}),
        (
            "validation_data",
            {"validation_data": (images(4), grades(4))},
            {"validation_data": (images(4), changed(grades(4), 3))},
        ),
    ],
)
def test_settings_of_a_kind_are_distinguished(name, one, other, tmp_path):
    Run(arguments=one).fit(tmp_path)
    Run(arguments=one).fit(tmp_path)
    with pytest.raises(ValueError, match=f"differs in: .*{name}"):
        Run(arguments=other).fit(tmp_path)


def test_batches_of_a_data_set_are_compared(tmp_path):
    Run(as_dataset=True).fit(tmp_path)
    Run(as_dataset=True).fit(tmp_path)
    for other in ({"labels": changed(grades(), 11)}, {"images": images(seed=9)}):
        with pytest.raises(ValueError, match=r"differs in: .*batch"):
            Run(as_dataset=True, **other).fit(tmp_path)


class RandomBatches(Batches):
    def __getitem__(self, index):
        pictures, labels = super().__getitem__(index)
        return pictures + np.random.default_rng().normal(size=pictures.shape), labels


def test_labels_are_compared_where_images_are_random(tmp_path):
    def run(labels):
        Run().make().fit(RandomBatches(images(), labels), epochs=1, verbose=0, backup_dir=tmp_path)

    run(grades())
    run(grades())
    with pytest.raises(ValueError, match=r"differs in: batch 2"):
        run(changed(grades(), 11))


def test_streams_are_compared_where_they_can_be_read_again(tmp_path):
    torch_data = pytest.importorskip("torch.utils.data")
    import torch

    def run(pictures, name, **arguments):
        data = torch_data.TensorDataset(torch.tensor(pictures), torch.tensor(grades()))
        loader = torch_data.DataLoader(data, batch_size=4)
        folder = {"epochs": 1, "verbose": 0, "backup_dir": tmp_path / name}
        if name == "training":
            Run().make().fit(loader, **folder)
        else:
            Run().make().fit(images(), grades(), batch_size=4, validation_data=loader, **folder)

    for name, differing in (("training", r"batch 0"), ("validation", r"validation_data\.batch 0")):
        run(images(), name)
        run(images(), name)
        with pytest.raises(ValueError, match=f"differs in: .*{differing}"):
            run(images(seed=9), name)


def test_metrics_count_since_the_history_holds_them(finished):
    tuner = Run().make()
    settings = {"optimizer": keras.optimizers.Adam(0.01), "metrics": ["accuracy"], "seed": 0}
    with_metrics = keras_ssl.FineTuner(tuner.encoder, keras_ssl.OrdinalHead(3), **settings)
    with pytest.raises(ValueError, match=r"differs in: .*metrics"):
        with_metrics.fit(images(), grades(), batch_size=4, verbose=0, backup_dir=finished[0])


def test_an_augmentation_that_counts_resumes_in_the_same_process(tmp_path):
    class Counting:
        count = 0

        def __call__(self, batch, generator):
            self.count += 1
            return batch

    interrupt, tuner, augment = Interrupt(), Run().make(), Counting()
    arguments = {"epochs": 2, "batch_size": 4, "verbose": 0, "backup_dir": tmp_path, "augment": augment}
    interrupt.armed = True
    with pytest.raises(KeyboardInterrupt):
        tuner.fit(images(), grades(), callbacks=[interrupt], **arguments)
    interrupt.armed = False
    tuner.fit(images(), grades(), callbacks=[interrupt], **arguments)


def test_a_task_that_holds_a_function_or_a_layer(tmp_path):
    def run(views, name):
        keras.utils.set_random_seed(0)
        task = keras_ssl.SimCLRTask(views=views, hidden_units=(4,), projection_dim=4)
        model = keras_ssl.SelfSupervisedModel(task, sequential_encoder(), seed=0)
        model.fit_pretext(images(8), batch_size=4, backup_dir=tmp_path / name, verbose=0, epochs=1)

    def noisy(strength):
        return lambda x, seed: x + strength * keras.random.normal(keras.ops.shape(x), seed=seed)

    def flip(mode):
        return keras.layers.RandomFlip(mode, name="flip", seed=3)

    for name, one, same, other in (
        ("function", noisy(0.1), noisy(0.1), noisy(0.2)),
        ("layer", flip("horizontal"), flip("horizontal"), flip("vertical")),
    ):
        run(one, name)
        run(same, name)
        with pytest.raises(ValueError, match=r"differs in: .*task\.views"):
            run(other, name)


class Interrupt(keras.callbacks.Callback):
    armed = False

    def on_epoch_begin(self, epoch, logs=None):
        if self.armed and epoch == 1:
            raise KeyboardInterrupt


def test_the_same_model_resumes_after_an_interrupt_but_not_with_other_weights(tmp_path):
    interrupt, tuner = Interrupt(), Run().make()
    arguments = {"batch_size": 4, "epochs": 2, "verbose": 0, "callbacks": [interrupt]}
    interrupt.armed = True
    with pytest.raises(KeyboardInterrupt):
        tuner.fit(images(), grades(), backup_dir=tmp_path, **arguments)
    left = weights(tuner.model)
    tuner.model.set_weights([weight + 1 for weight in left])
    with pytest.raises(ValueError, match="differs in: starting weights"):
        tuner.fit(images(), grades(), backup_dir=tmp_path, **arguments)
    tuner.model.set_weights(left)
    interrupt.armed = False
    tuner.fit(images(), grades(), backup_dir=tmp_path, **arguments)
    whole = Run().make()
    whole.fit(images(), grades(), **arguments)
    assert_same(weights(tuner.model), weights(whole.model))


def averaging(armed, folder):
    keras.utils.set_random_seed(0)
    optimizer = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5)
    tuner = keras_ssl.FineTuner(sequential_encoder(), keras_ssl.OrdinalHead(3), optimizer=optimizer, seed=0)
    interrupt = Interrupt()
    interrupt.armed = armed
    tuner.fit(
        images(),
        grades(),
        batch_size=4,
        epochs=3,
        verbose=0,
        callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True), interrupt],
        backup_dir=folder,
    )
    return weights(tuner.model)


def test_averages_swapped_in_at_epochs_resume_bitwise(tmp_path):
    whole = averaging(False, None)
    with pytest.raises(KeyboardInterrupt):
        averaging(True, tmp_path)
    assert_same(averaging(False, tmp_path), whole)


class Counter(keras.callbacks.Callback):
    steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1


class Carried(Counter):
    def get_state(self):
        return {"steps": self.steps}

    def set_state(self, state):
        self.steps = state["steps"]


def test_state_that_is_not_carried_warns(tmp_path):
    with pytest.warns(UserWarning, match=r"does not save.*Counter \(steps\).*`get_state\(\)`") as told:
        Run(arguments={"callbacks": [Counter()]}).fit(tmp_path / "not", epochs=2)
    assert len([one for one in told if "does not save" in str(one.message)]) == 1
    with pytest.warns(UserWarning, match=r"does not save.*Counter \(steps\)"):
        Run(arguments={"callbacks": [Counter()]}).fit(tmp_path / "not", epochs=3)
    callback = Carried()
    Run(arguments={"callbacks": [Carried()]}).fit(tmp_path / "carried", epochs=2)
    Run(arguments={"callbacks": [callback]}).fit(tmp_path / "carried", epochs=3)
    assert callback.steps == 9


def test_stored_images_are_identified_by_files_and_samples(tmp_path):
    def stored(value, files=(1, 2)):
        def read(row):
            return np.full(SHAPE, row * value, "uint8")

        return keras_ssl.data.LazyImages(read, (8, *SHAPE), files=files)

    def run(data):
        keras.utils.set_random_seed(0)
        task = keras_ssl.RotationTask(guards=None)
        model = keras_ssl.SelfSupervisedModel(task, sequential_encoder(), seed=0)
        model.fit_pretext(data, batch_size=4, backup_dir=tmp_path, verbose=0, epochs=1)
        return weights(model)

    first = run(stored(2))
    assert not differ(run(stored(2)), first)
    for other in (stored(3), stored(2, files=(1, 3))):
        with pytest.raises(ValueError, match=r"differs in: images\."):
            run(other)
