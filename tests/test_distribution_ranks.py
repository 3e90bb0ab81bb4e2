"""What part of a batch is whose."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny

from keras_ssl import distribution as devices
from keras_ssl.data import ArrayBatches
from keras_ssl.distribution import (
    SharedBatches,
    agree,
    filled_up,
    own_files,
    predict,
    predict_on_batch,
    process,
    sharing_devices,
)

ON_TENSORFLOW = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TF_CONFIG is TensorFlow's"
)


@pytest.mark.parametrize(("rows", "devices"), [(8, 4), (5, 4), (3, 8), (1, 2)])
def test_rows_are_filled_up_by_the_first_ones(rows, devices):
    array = np.arange(rows)
    filled = filled_up(array, devices)
    np.testing.assert_array_equal(filled, np.resize(array, -(-rows // devices) * devices))


def test_parts_of_all_processes_are_the_batch():
    arrays = np.arange(10), np.arange(10) * 2
    whole = ArrayBatches(arrays, batch_size=6, seed=1)
    parts = [SharedBatches(whole, devices=4, part=(index, 2)) for index in range(2)]
    assert len(parts[0]) == len(whole) == 2
    for index in range(2):
        joined = [np.concatenate(found) for found in zip(*(part[index] for part in parts), strict=True)]
        for array, found in zip(whole[index], joined, strict=True):
            np.testing.assert_array_equal(found, np.resize(array, len(found)))
            assert len(found) % 4 == 0


def test_epochs_are_those_of_the_data_set():
    whole = ArrayBatches((np.arange(10),), batch_size=5, seed=1)
    part = SharedBatches(whole, devices=1, part=(0, 1))
    first = part[0][0]
    part.on_epoch_end()
    assert whole.epoch == 1
    assert not np.array_equal(part[0][0], first)


def test_alone_nothing_is_shared():
    assert process() == (0, 1)
    assert sharing_devices() == 1


@ON_TENSORFLOW
@pytest.mark.parametrize(
    ("task", "expected"), [(("chief", 0), (0, 3)), (("worker", 0), (1, 3)), (("worker", 1), (2, 3))]
)
def test_workers_of_tensorflow_are_numbered_after_the_chief(monkeypatch, task, expected):
    import tensorflow as tf

    class Strategy(tf.distribute.MultiWorkerMirroredStrategy):
        def __init__(self):
            """Wait for nobody."""

        @property
        def cluster_resolver(self):
            return tf.distribute.cluster_resolver.TFConfigClusterResolver()

    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    config = {"cluster": cluster, "task": dict(zip(("type", "index"), task, strict=True))}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    # The variable alone says nothing.
    assert process() == (0, 1)
    monkeypatch.setattr(devices, "_strategy", lambda model: Strategy())
    assert process() == expected


def test_callbacks_of_other_processes_write_files_that_go(monkeypatch, tmp_path):
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        keras.callbacks.CSVLogger(tmp_path / "log"),
        keras.callbacks.EarlyStopping(),
    ]
    found = []
    for index in range(2):
        monkeypatch.setattr(devices, "process", lambda model, index=index: (index, 2))
        model = tiny.pretext_model()
        model.compile("sgd", jit_compile=False)
        with own_files(callbacks, model) as own:
            model.fit(tiny.images(4), epochs=1, verbose=0, callbacks=own)
            found.append((sorted(path.name for path in tmp_path.iterdir()), own))
            for path in tmp_path.iterdir():
                path.unlink()
    assert [names for names, _ in found] == [["best.keras", "log"], []]
    assert found[0][1] is callbacks
    assert found[1][1][2] is callbacks[2]
    assert not Path(found[1][1][0].filepath).parent.exists()


def test_backups_of_keras_are_refused_where_several_train(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "process", lambda model: (1, 2))
    callbacks = [keras.callbacks.BackupAndRestore(tmp_path / "backup")]
    with pytest.raises(ValueError, match="Use `backup_dir`"), own_files(callbacks, tiny.pretext_model()):
        pass


def test_processes_that_are_about_to_differ_are_told(monkeypatch):
    monkeypatch.setattr(devices, "process", lambda model: (0, 2))
    monkeypatch.setattr(devices, "_gathered", lambda number, model, count: [number] * count)
    agree(None, seed=1, epochs=2)
    monkeypatch.setattr(devices, "_gathered", lambda number, model, count: [number, number + 1])
    with pytest.raises(ValueError, match="given the same data, epochs and `seed`"):
        agree(None, seed=1, epochs=2)


def test_predictions_have_a_row_for_each_image():
    inputs = {name: keras.Input((2,), name=name) for name in "ab"}
    outputs = keras.layers.Add()([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, {"sum": outputs})
    a, b = np.ones((3, 2), "float32"), np.arange(6, dtype="float32").reshape(3, 2)
    np.testing.assert_array_equal(predict_on_batch(model, {"a": a, "b": b})["sum"], a + b)
    doubling = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(2.0)])
    np.testing.assert_array_equal(predict(doubling, ArrayBatches((b,), 2, shuffle=False)), 2 * b)
