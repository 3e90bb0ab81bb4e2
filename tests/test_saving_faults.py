"""Graders and segmenters on full and read-only disks: what was there is kept, and parts are never mixed."""

from pathlib import Path

import keras
import numpy as np
import pytest
from surroundings import full_disk, read_only
from volume_files import save_nifti

from keras_ssl import Grader, OrdinalHead, Segmenter
from keras_ssl.data import Preparation, VolumePreparation


def grader(referable_from):
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(inputs))
    return Grader(
        keras.Model(inputs, outputs), OrdinalHead(5), Preparation(size=8), referable_from=referable_from
    )


def test_a_full_disk_keeps_the_grader_that_was_there(tmp_path):
    path = tmp_path / "grader.keras"
    grader(1).save(path)
    for room in (1000, 10_000):
        with full_disk(room), pytest.raises(OSError, match=r"grader\.keras could not be written.*\[Errno"):
            grader(3).save(path)
    assert Grader.load(path).referable_from == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["grader.json", "grader.keras"]


def test_a_folder_that_is_missing_is_made_and_one_that_is_read_only_is_named(tmp_path):
    grader(1).save(tmp_path / "new" / "grader.keras")
    assert Grader.load(tmp_path / "new" / "grader.keras").referable_from == 1
    with read_only() as folder, pytest.raises(PermissionError, match=r"grader\.keras could not be written"):
        grader(1).save(folder / "grader.keras")


class Killed(BaseException):
    """Stands for a kill."""


def test_a_kill_between_model_and_settings_leaves_no_mixture(tmp_path, monkeypatch):
    """Either the old ones, or the new ones, or none that would load."""
    path, loaded = tmp_path / "grader.keras", []
    replace, unlink = Path.replace, Path.unlink
    for moment in range(4):
        grader(1).save(path)
        acts = iter(range(10))

        def dying(act, acts=acts, moment=moment):
            def do(*given, **named):
                if next(acts) == moment:
                    raise Killed
                return act(*given, **named)

            return do

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", dying(unlink))
            patch.setattr(Path, "replace", dying(replace))
            try:
                grader(3).save(path)
            except Killed:
                assert moment < 3
        try:
            loaded.append(Grader.load(path).referable_from)
        except FileNotFoundError:
            loaded.append(None)
    assert loaded == [1, None, None, 3]


def segmenter():
    inputs = keras.Input((4, 4, 4, 1))
    model = keras.Model(inputs, keras.layers.Conv3D(2, 1, activation="softmax")(inputs))
    return Segmenter(model, VolumePreparation(), ("none", "all"))


def test_a_folder_without_room_for_results_raises_before_anything_is_predicted(tmp_path, monkeypatch):
    scans = [
        save_nifti(tmp_path / f"{number}.nii.gz", np.random.default_rng(number).normal(size=(8, 8, 8)))
        for number in range(2)
    ]
    monkeypatch.setattr(Segmenter, "probabilities", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`output_dir` must be a writable folder .*file"):
        segmenter().segment(scans, tmp_path / "file", verbose=0)
    with full_disk(10), pytest.raises(OSError, match=r"`output_dir` must be a writable folder .*\[Errno"):
        segmenter().segment(scans, tmp_path / "results", verbose=0)
    monkeypatch.undo()
    done = segmenter().segment(scans, tmp_path / "results", verbose=0)
    assert [path.name for path in done] == ["0_pred.nii.gz", "1_pred.nii.gz"]
