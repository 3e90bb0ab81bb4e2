"""Backups on full, read-only and failing disks: told before training where it can be, and never both lost."""

import errno
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny
from surroundings import full_disk, read_only, run_clock_backwards

from keras_ssl.callbacks.epoch_backup import EpochBackup


class Watch(keras.callbacks.Callback):
    """Counts steps, and does something at the end of the second epoch."""

    act, steps = None, 0

    def on_train_begin(self, logs=None):
        self.steps = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and self.act:
            self.act()


def fit(backup_dir, epochs=3, watch=None):
    model = tiny.quick_model()
    # A constant rate, with which a run can be made longer.
    model.compile("adam")
    watch = watch or Watch()
    settings = {"batch_size": 4, "epochs": epochs, "backup_dir": backup_dir, "verbose": 0}
    model.fit_pretext(tiny.images(8), callbacks=[watch], **settings)
    return tiny.weights(model)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run that nothing disturbed."""
    return fit(tmp_path_factory.mktemp("whole"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Before training ------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_raises_before_training(tmp_path):
    watch = Watch()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`backup_dir` must be a writable folder .*file.*File exists"):
        fit(tmp_path / "file", watch=watch)
    with read_only() as folder:
        for path in (folder, folder / "new"):
            with pytest.raises(PermissionError, match="`backup_dir` must be a writable folder"):
                fit(path, watch=watch)
    assert watch.steps == 0


def test_a_disk_that_cannot_hold_one_backup_raises_before_training(tmp_path):
    watch = Watch()
    with full_disk(300), pytest.raises(OSError, match=r"`backup_dir` must be a writable folder .*\[Errno"):
        fit(tmp_path / "backup", watch=watch)
    assert watch.steps == 0
    size = sum(weight.nbytes for weight in fit(tmp_path / "other", epochs=1))
    backup = EpochBackup(tmp_path / "third")
    backup.set_model(keras.Sequential([keras.Input((1000,)), keras.layers.Dense(100)]))
    backup.model.compile("sgd")
    assert size < 100_000
    with full_disk(100_000), pytest.raises(OSError, match=r"0\.40 MB"):
        backup.on_train_begin()


# In training ----------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_keeps_the_epoch_before_and_the_same_call_resumes(tmp_path, whole):
    limit = full_disk(2000)
    fills_up = Watch()
    fills_up.act = limit.__enter__
    try:
        with pytest.raises(OSError, match=r"must be writable.*epoch-000002 could not be written"):
            fit(tmp_path, watch=fills_up)
    finally:
        limit.__exit__(None, None, None)
    assert names(tmp_path) == ["epoch-000001"]
    tiny.assert_same(fit(tmp_path), whole)
    assert names(tmp_path) == ["epoch-000003", "finished-000003"]


def test_a_disk_that_is_full_at_the_very_end_costs_no_training(tmp_path, whole, monkeypatch):
    saved = np.savez
    with monkeypatch.context() as patch:

        def refuse(file, **arrays):
            if "finished" in str(file):
                raise OSError(errno.ENOSPC, "No space left on device")
            saved(file, **arrays)

        patch.setattr(np, "savez", refuse)
        with pytest.raises(OSError, match=r"finished-000003 could not be written.*No space left on device"):
            fit(tmp_path)
    assert names(tmp_path) == ["epoch-000003"]
    watch = Watch()
    tiny.assert_same(fit(tmp_path, watch=watch), whole)
    assert watch.steps == 0


class Killed(BaseException):
    """Stands for a kill: nothing but a kill ends Python without clearing up."""


SEAMS = [
    *((Path, name) for name in ("mkdir", "write_text", "rename")),
    (os, "fsync"),
    (np, "savez"),
    (shutil, "rmtree"),
]


def kill_at(monkeypatch, moment):
    """Die before the `moment`-th of all acts on files, of which a few die in their midst."""
    acts = iter(range(1, 1000))

    def dying(act, name):
        def do(path, *rest, **named):
            if next(acts) == moment:
                if name == "savez":
                    Path(path).write_bytes(b"PK\3\4")
                if name == "rmtree" and Path(path).is_dir():
                    (Path(path) / "arrays.npz").unlink()
                raise Killed
            return act(path, *rest, **named)

        return do

    for place, name in SEAMS:
        monkeypatch.setattr(place, name, dying(getattr(place, name), name))


def state(epoch):
    return {"epoch": epoch, "settings": {}, "history": {}, "weights": [np.full(9, epoch)]}


def test_a_kill_at_any_moment_of_a_write_leaves_a_whole_backup(tmp_path, monkeypatch):
    ended = False
    for moment in range(1, 100):
        folder = tmp_path / str(moment)
        backup = EpochBackup(folder)
        backup._write("epoch", 1, state(1))
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                backup._write("epoch", 2, state(2))
                ended = True
            except Killed:
                pass
        found = EpochBackup(folder)
        assert found.initial_epoch in ((2,) if ended else (1, 2)), moment
        np.testing.assert_array_equal(found._saved["weights"], [np.full(9, found.initial_epoch)])
        found._write("epoch", 3, state(3))
        assert names(folder) == ["epoch-000003"]
        if ended:
            break
    assert moment > 7


def test_what_another_run_has_saved_meanwhile_is_not_overwritten(tmp_path):
    first, second = EpochBackup(tmp_path), EpochBackup(tmp_path)
    first._write("epoch", 1, state(1))
    before = (tmp_path / "epoch-000001" / "arrays.npz").read_bytes()
    with pytest.raises(OSError, match=r"epoch-000001 could not be written"):
        second._write("epoch", 1, {**state(1), "weights": []})
    assert (tmp_path / "epoch-000001" / "arrays.npz").read_bytes() == before
    assert names(tmp_path) == ["epoch-000001"]


def truncate(folder):
    os.truncate(folder / "arrays.npz", 700)


def zero(folder):
    content = (folder / "arrays.npz").read_bytes()
    (folder / "arrays.npz").write_bytes(bytes(len(content)))


def garble(folder):
    (folder / "state.json").write_text("{")


def lose(folder):
    (folder / "state.json").unlink()


def empty(folder):
    (folder / "arrays.npz").write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, zero, garble, lose, empty])
def test_a_damaged_backup_is_named(tmp_path, damage):
    fit(tmp_path, epochs=1)
    shutil.rmtree(tmp_path / "finished-000001")
    damage(tmp_path / "epoch-000001")
    with pytest.raises(
        ValueError, match=r"`backup_dir` must contain .*epoch-000001, which is damaged.*Delete"
    ):
        fit(tmp_path, epochs=1)
    shutil.rmtree(tmp_path / "epoch-000001")
    fit(tmp_path, epochs=1)


def test_what_the_system_withholds_is_not_reported_as_damage(tmp_path, monkeypatch):
    def refuse(path, *rest, **named):
        raise OSError(errno.EIO, "Input/output error", str(path))

    fit(tmp_path, epochs=1)
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        fit(tmp_path, epochs=2)


def test_other_names_in_the_folder_are_left_alone_and_not_taken_for_backups(tmp_path):
    for name in ("epoch-best", "epoch-000009.partial"):
        (tmp_path / name).mkdir()
    assert EpochBackup(tmp_path).initial_epoch == 0


def test_a_folder_that_cannot_be_cleared_does_not_end_training(tmp_path, monkeypatch, whole):
    removed = shutil.rmtree

    def busy(path, ignore_errors=False, **named):
        if Path(path).name == "epoch-000001" and not ignore_errors:
            raise OSError(errno.EBUSY, "Device or resource busy")
        if Path(path).name != "epoch-000001":
            removed(path, ignore_errors, **named)

    monkeypatch.setattr(shutil, "rmtree", busy)
    tiny.assert_same(fit(tmp_path), whole)
    assert names(tmp_path) == ["epoch-000001", "epoch-000003", "finished-000003"]


# Beside it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "left"),
    [
        ("epoch,loss\n0,2.0\n1,1.5\n", "epoch,loss\n0,2.0\n"),
        ("epoch,loss\n0,2.0\n1", "epoch,loss\n0,2.0\n"),
        ("epoch,loss\n0", "epoch,loss\n"),
        ("epoch,lo", "epoch,lo"),
        ("", ""),
    ],
)
def test_a_log_that_was_cut_off_continues_after_its_last_whole_row(tmp_path, found, left):
    (tmp_path / "log.csv").write_text(found)
    EpochBackup(tmp_path / "backup")._write("epoch", 1, state(1))
    logger = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    EpochBackup(tmp_path / "backup", callbacks=[logger])
    assert (tmp_path / "log.csv").read_text() == left
    # Without a whole line of names the log begins anew.
    assert logger.append == found.startswith("epoch,loss\n")


def test_a_clock_that_runs_backwards_changes_nothing(tmp_path, monkeypatch, whole):
    run_clock_backwards(monkeypatch)
    fit(tmp_path, epochs=2)
    (tmp_path / "finished-000002").rename(tmp_path / "away")
    tiny.assert_same(fit(tmp_path), whole)
