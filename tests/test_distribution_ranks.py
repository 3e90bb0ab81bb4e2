"""Rank, world size and sharding of batches, without starting processes."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny

from keras_ssl import distribution
from keras_ssl.data.batches import ArrayBatches
from keras_ssl.distribution import (
    ShardedBatches,
    check_processes_agree,
    num_replicas,
    pad_batch,
    predict,
    predict_on_batch,
    rank_and_world_size,
    write_on_rank_0,
)

ON_TENSORFLOW = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TF_CONFIG is TensorFlow's"
)


@pytest.mark.parametrize(("rows", "multiple"), [(8, 4), (5, 4), (3, 8), (1, 2)])
def test_pad_batch_repeats_the_first_rows(rows, multiple):
    array = np.arange(rows)
    padded = pad_batch(array, multiple)
    np.testing.assert_array_equal(padded, np.resize(array, -(-rows // multiple) * multiple))


def test_the_shards_of_all_ranks_are_the_batch():
    arrays = np.arange(10), np.arange(10) * 2
    whole = ArrayBatches(arrays, batch_size=6, seed=1)
    parts = [ShardedBatches(whole, replicas=4, rank=rank, world_size=2) for rank in range(2)]
    assert len(parts[0]) == len(whole) == 2
    for index in range(2):
        joined = [np.concatenate(found) for found in zip(*(part[index] for part in parts), strict=True)]
        for array, found in zip(whole[index], joined, strict=True):
            np.testing.assert_array_equal(found, np.resize(array, len(found)))
            assert len(found) % 4 == 0


def test_shards_follow_the_epochs_of_the_data_set():
    whole = ArrayBatches((np.arange(10),), batch_size=5, seed=1)
    part = ShardedBatches(whole, replicas=1, rank=0, world_size=1)
    first = part[0][0]
    part.on_epoch_end()
    assert whole.epoch == 1
    assert not np.array_equal(part[0][0], first)


def test_a_single_process_has_rank_0_of_1():
    assert rank_and_world_size() == (0, 1)
    assert num_replicas() == 1


@ON_TENSORFLOW
@pytest.mark.parametrize(
    ("task", "expected"), [(("chief", 0), (0, 3)), (("worker", 0), (1, 3)), (("worker", 1), (2, 3))]
)
def test_tensorflow_workers_are_ranked_after_the_chief(monkeypatch, task, expected):
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
    # TF_CONFIG without a strategy has no effect.
    assert rank_and_world_size() == (0, 1)
    monkeypatch.setattr(distribution, "_strategy", lambda model: Strategy())
    assert rank_and_world_size() == expected


def test_only_rank_0_writes_to_the_paths_of_callbacks(monkeypatch, tmp_path):
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        keras.callbacks.CSVLogger(tmp_path / "log"),
        keras.callbacks.EarlyStopping(),
    ]
    found = []
    for index in range(2):
        monkeypatch.setattr(distribution, "rank_and_world_size", lambda model, index=index: (index, 2))
        model = tiny.pretext_model()
        model.compile("sgd", jit_compile=False)
        with write_on_rank_0(callbacks, model) as own:
            model.fit(tiny.images(4), epochs=1, verbose=0, callbacks=own)
            found.append((sorted(path.name for path in tmp_path.iterdir()), own))
            for path in tmp_path.iterdir():
                path.unlink()
    assert [names for names, _ in found] == [["best.keras", "log"], []]
    assert found[0][1] is callbacks
    assert found[1][1][2] is callbacks[2]
    assert not Path(found[1][1][0].filepath).parent.exists()


def test_backup_and_restore_is_refused_with_several_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(distribution, "rank_and_world_size", lambda model: (1, 2))
    callbacks = [keras.callbacks.BackupAndRestore(tmp_path / "backup")]
    with (
        pytest.raises(ValueError, match="Use `backup_dir`"),
        write_on_rank_0(callbacks, tiny.pretext_model()),
    ):
        pass


def test_arguments_that_differ_across_processes_raise(monkeypatch):
    monkeypatch.setattr(distribution, "rank_and_world_size", lambda model: (0, 2))
    monkeypatch.setattr(distribution, "_all_gather", lambda number, model, count: [number] * count)
    check_processes_agree(None, seed=1, epochs=2)
    monkeypatch.setattr(distribution, "_all_gather", lambda number, model, count: [number, number + 1])
    with pytest.raises(ValueError, match="same data, epochs and `seed`"):
        check_processes_agree(None, seed=1, epochs=2)


def test_predictions_have_one_row_per_image():
    inputs = {name: keras.Input((2,), name=name) for name in "ab"}
    outputs = keras.layers.Add()([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, {"sum": outputs})
    a, b = np.ones((3, 2), "float32"), np.arange(6, dtype="float32").reshape(3, 2)
    np.testing.assert_array_equal(predict_on_batch(model, {"a": a, "b": b})["sum"], a + b)
    doubling = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(2.0)])
    np.testing.assert_array_equal(predict(doubling, ArrayBatches((b,), 2, shuffle=False)), 2 * b)
