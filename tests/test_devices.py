"""What part of a batch is whose."""

import json

import keras
import numpy as np
import pytest

from keras_ssl.data import ArrayBatches
from keras_ssl.devices import SharedBatches, filled_up, predict, predict_on_batch, process, sharing_devices


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


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TF_CONFIG is TensorFlow's")
@pytest.mark.parametrize(
    ("task", "expected"), [(("chief", 0), (0, 3)), (("worker", 0), (1, 3)), (("worker", 1), (2, 3))]
)
def test_workers_of_tensorflow_are_numbered_after_the_chief(monkeypatch, task, expected):
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    config = {"cluster": cluster, "task": dict(zip(("type", "index"), task, strict=True))}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert process() == expected


def test_predictions_have_a_row_for_each_image():
    inputs = {"a": keras.Input((2,)), "b": keras.Input((2,))}
    outputs = keras.layers.Add()([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, {"sum": outputs})
    a, b = np.ones((3, 2), "float32"), np.arange(6, dtype="float32").reshape(3, 2)
    np.testing.assert_array_equal(predict_on_batch(model, {"a": a, "b": b})["sum"], a + b)
    doubling = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(2.0)])
    np.testing.assert_array_equal(predict(doubling, ArrayBatches((b,), 2, shuffle=False)), 2 * b)
