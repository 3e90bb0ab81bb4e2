"""The volume example: from synthetic volumes to a report, MedMNIST3D files, invalid arguments."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_ssl import evaluation
from keras_ssl.preprocessing.rotation import quarter_turns

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[1] / "examples" / "volume_classification.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("volume_classification", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(example, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["volume_classification.py", *map(str, arguments)])
    example.main()


def stopped(example, monkeypatch, *arguments):
    """What the example says when it stops before it trains anything."""

    def train(*_):
        raise AssertionError("began to train")

    monkeypatch.setattr("keras_ssl.evaluation.training_runs.pretrain", train)
    with pytest.raises(SystemExit) as stop:
        run(example, monkeypatch, *arguments)
    return str(stop.value.code)


def save(path, shape=(12, 6, 6, 6), labels=2):
    """A file as MedMNIST's, its volumes numbered by their voxels."""
    numbered = np.full(shape, np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)), "uint8")
    classes = (np.arange(shape[0]) % labels)[:, None]
    parts = {"train": slice(2, None), "val": slice(2)}
    arrays = {f"{name}_images": numbered[part] for name, part in parts.items()}
    np.savez(path, **arrays, **{f"{name}_labels": classes[part] for name, part in parts.items()})


def test_the_whole_job_writes_and_says_all_that_it_promises(example, monkeypatch, tmp_path, capsys):
    def tiny_encoder(shape):
        inputs = keras.Input(shape)
        x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
        return keras.Model(inputs, keras.layers.Conv3D(2, 3, strides=4, activation="relu")(x))

    monkeypatch.setattr(example, "build_encoder", tiny_encoder)
    line = (
        f"--output {tmp_path} --synthetic 40 --pretext-epochs 1 --arms frozen random --fractions 1 "
        "--repetitions 1 --steps 4 --validations 4"
    )
    run(example, monkeypatch, *line.split())
    said = capsys.readouterr().out
    assert re.search(r"rotation-f0: accuracy \d+ % in training, \d+ % on held-out", said)
    assert "Chance level of 24 rotations: 4.2 %" in said
    records = [json.loads(text) for text in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [record["arm"] for record in records] == ["frozen", "random"]
    for record in records:
        label = evaluation.records.arm_label(record["arm"])
        assert f"| 100 % ({record['labels']}) | {label} | 1 | {record['macro_auc']:.3f}" in said
    assert "Too few runs" in said
    page = (tmp_path / "report.html").read_text()
    for part in (
        "area under the ROC curve",
        "Middle slices",
        "RotationTask",
        "synthetic: without clinical meaning",
    ):
        assert part in page
    for name in ("label_efficiency.png", "convergence.png", "confusion.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_synthetic_volumes_are_seeded_and_of_two_classes(example):
    volumes, classes = example.synthetic_glands(6, size=12, seed=3)
    assert (volumes.shape, volumes.dtype, classes.tolist()) == ((6, 12, 12, 12, 1), "uint8", [0, 1] * 3)
    np.testing.assert_array_equal(volumes, example.synthetic_glands(6, size=12, seed=3)[0])
    assert not np.array_equal(volumes, example.synthetic_glands(6, size=12, seed=4)[0])


def test_no_rotation_brings_synthetic_volumes_onto_themselves(example):
    """Else the pretext would have no answer."""
    mean = example.synthetic_glands(60, size=12)[0][..., 0].mean(axis=0)
    unlike = []
    for turns in quarter_turns(3, "cube")[1:]:
        turned = mean
        for count, plane in turns:
            turned = np.rot90(turned, count, plane)
        unlike.append(np.corrcoef(turned.ravel(), mean.ravel())[0, 1])
    assert len(unlike) == 23
    assert max(unlike) < 0.8


def test_a_file_is_read_with_both_of_its_parts(example, monkeypatch, tmp_path):
    save(tmp_path / "set.npz")
    monkeypatch.setattr(sys, "argv", ["example", "--npz", str(tmp_path / "set.npz")])
    volumes, classes, source = example.load_volumes(example.parse_arguments())
    assert (volumes.shape, source) == ((12, 6, 6, 6, 1), "set.npz")
    np.testing.assert_array_equal(np.sort(volumes[:, 0, 0, 0, 0]), np.arange(12))
    np.testing.assert_array_equal(classes, volumes[:, 0, 0, 0, 0] % 2)


def test_the_encoder_takes_voxels_as_they_are(example):
    encoder = example.build_encoder((28, 28, 28, 1))
    assert encoder.output_shape == (None, 2, 2, 2, 32)
    scaled = keras.Model(encoder.input, encoder.get_layer("rescaling").output)
    voxels = np.array([0, 255], "uint8").reshape(2, 1, 1, 1, 1) * np.ones((2, 28, 28, 28, 1), "uint8")
    found = keras.ops.convert_to_numpy(scaled(voxels))
    np.testing.assert_allclose(found[:, 0, 0, 0, 0], [-1, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"shape": (12, 6, 6)}, "with 3 spatial axes. Received shape"),
        ({"shape": (12, 6, 6, 3)}, "with 3 spatial axes. Received shape"),
        ({"labels": 1}, "more than one grade"),
        ({"shape": (6, 6, 6, 6), "labels": 5}, "at least 2 images"),
    ],
)
def test_bad_files_stop_it_before_pretraining(example, monkeypatch, tmp_path, file, message):
    save(tmp_path / "set.npz", **file)
    said = stopped(example, monkeypatch, "--npz", tmp_path / "set.npz", "--output", tmp_path / "out")
    assert message in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--pretext-epochs 0", "--pretext-epochs must be at least 1. Received 0"),
        ("--validations 9", "--validations must be a divisor of --steps, 80. Received 9"),
        ("--npz nowhere.npz", "nowhere.npz"),
    ],
)
def test_arguments_out_of_range_stop_it(example, monkeypatch, tmp_path, arguments, message):
    said = stopped(example, monkeypatch, *arguments.split(), "--output", tmp_path / "out", "--synthetic", "4")
    assert message in said
    assert not (tmp_path / "out").exists()


def test_saved_weights_and_volumes_without_classes(example, monkeypatch, tmp_path, capsys):
    inputs = keras.Input((24, 24, 24, 1))
    encoder = keras.Model(inputs, keras.layers.Conv3D(2, 3, strides=6)(keras.layers.Rescaling(0.01)(inputs)))
    encoder.save(tmp_path / "rotation.keras")
    labeled, _ = example.synthetic_glands(12)
    np.save(tmp_path / "pool.npy", np.concatenate([labeled[:3], example.synthetic_glands(4, seed=1)[0]]))
    line = (
        f"--output {tmp_path / 'out'} --synthetic 40 --pretext-epochs 1 --arms frozen --fractions 1 "
        f"--repetitions 1 --steps 4 --validations 4 --encoder {tmp_path / 'rotation.keras'} --tasks vicreg "
        f"--unlabeled {tmp_path / 'pool.npy'}"
    )
    run(example, monkeypatch, *line.split())
    assert "rotation_weights+vicreg-f0: loss " in capsys.readouterr().out
    records = evaluation.read_records(tmp_path / "out" / "records.jsonl")
    assert {record["task"]: record["pool_left_out"] for record in records} == {
        "rotation_weights": 0,
        "rotation_weights+vicreg": 3,
    }
    assert (
        "inputs of the pretext task: rotation_weights+vicreg"
        in (tmp_path / "out" / "report.html").read_text()
    )


def test_a_pool_of_another_form_stops_it(example, monkeypatch, tmp_path):
    said = stopped(example, monkeypatch, "--output", tmp_path / "out", "--unlabeled", tmp_path)
    assert said.startswith("--unlabeled must name images in a .npz or .npy file. Received")
