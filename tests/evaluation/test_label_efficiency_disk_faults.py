"""A study on a full or read-only disk: early or named errors, and no run is trained twice."""

import dataclasses
import errno

import keras
import numpy as np
import pytest
import tiny
from surroundings import full_disk, read_only, run_clock_backwards

import keras_ssl
from keras_ssl.evaluation import (
    PretextRecipe,
    Protocol,
    label_efficiency,
    read_records,
    records,
    training_runs,
)

IMAGES, GRADES = tiny.images(30), tiny.grades(30)
QUICK = Protocol(folds=1, fractions=(1.0,), steps=2, validations=1, warmup_fraction=0, batch_size=8)
RANDOM = dataclasses.replace(QUICK, arms=("random",))


def run(folder, protocol=RANDOM, recipe=None):
    keras.utils.set_random_seed(1)
    return label_efficiency(
        IMAGES,
        GRADES,
        encoder=tiny.functional_encoder(),
        head=keras_ssl.OrdinalHead(3),
        pretrained={"rotation": recipe} if recipe else {},
        output_dir=folder,
        protocol=protocol,
        verbose=False,
    )


@pytest.fixture
def steps(monkeypatch):
    """The steps that were trained."""
    counted = []

    class Counting(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            counted.append(batch)

    fit = keras.Model.fit

    def counting(model, *rest, callbacks=(), **named):
        return fit(model, *rest, callbacks=[*callbacks, Counting()], **named)

    monkeypatch.setattr(keras.Model, "fit", counting)
    return counted


def test_a_folder_that_cannot_be_written_is_told_when_the_study_is_called(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`output_dir` must be a writable .*file"):
        run(tmp_path / "file")
    with (
        read_only() as folder,
        pytest.raises(PermissionError, match="`output_dir` must be a writable"),
    ):
        run(folder)


def test_a_full_disk_is_told_when_the_study_is_called(tmp_path):
    for room, match in (
        (100, "`output_dir` must be a writable"),
        (5000, r"none.keras could not be written"),
    ):
        with full_disk(room), pytest.raises(OSError, match=match):
            run(tmp_path)
    assert len(list(run(tmp_path))) == 1


def test_a_record_that_finds_no_room_costs_no_training(tmp_path, monkeypatch, steps):
    append = records._append_line

    def refuse(path, line):
        raise OSError(errno.ENOSPC, "No space left on device")

    runs = run(tmp_path)
    monkeypatch.setattr(records, "_append_line", refuse)
    with pytest.raises(OSError, match=r"`output_dir` must be writable.*records.jsonl .*No space left"):
        next(runs)
    assert len(steps) == 2
    assert not (tmp_path / "records.jsonl").exists()
    monkeypatch.setattr(records, "_append_line", append)
    (record,) = run(tmp_path)
    assert len(steps) == 2
    assert record["status"] == "ok"
    assert read_records(tmp_path / "records.jsonl") == [record]


def test_an_encoder_that_finds_no_room_costs_no_pretraining(tmp_path, monkeypatch, steps):
    recipe = PretextRecipe(task=keras_ssl.RotationTask(guards=None), epochs=1, batch_size=8, verbose=0)
    protocol = dataclasses.replace(QUICK, arms=("frozen",))
    write = training_runs.atomic_write

    def refuse(file, fill):
        if file.name == "rotation-f0.keras":
            raise OSError(errno.ENOSPC, f"{file} could not be written. No space left on device")
        write(file, fill)

    with monkeypatch.context() as patch:
        patch.setattr(training_runs, "atomic_write", refuse)
        with pytest.raises(OSError, match=r"rotation-f0.keras could not be written"):
            next(run(tmp_path, protocol, recipe))
    pretrained = len(steps)
    assert pretrained > 0
    assert len(list(run(tmp_path, protocol, recipe))) == 1
    assert len(steps) == pretrained + 2


def test_a_backup_that_finds_no_room_is_named(tmp_path):
    runs = run(tmp_path)
    with full_disk(1000), pytest.raises(OSError, match=r"`backup_dir` must .*none-random-1-r0-f0.*\[Errno"):
        next(runs)
    assert len(list(run(tmp_path))) == 1


def test_a_clock_that_runs_backwards_gives_no_negative_durations(tmp_path, monkeypatch):
    run_clock_backwards(monkeypatch)
    (record,) = run(tmp_path)
    assert record["seconds"] >= 0
    np.testing.assert_array_equal(record["test_grades"], GRADES[record["test_rows"]])
