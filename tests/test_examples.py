"""The example as its users run it: whole, killed and called again, on folders, on new photographs."""

import csv
import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_ssl
from keras_ssl import data, evaluation

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[1] / "examples" / "diabetic_retinopathy.py"
SMALL = [
    *("--synthetic", "60", "--size", "32", "--pretext-epochs", "2", "--fractions", "0.5"),
    *("--repetitions", "1", "--steps", "8", "--validations", "4"),
]


def command(output, *arguments):
    return [sys.executable, str(EXAMPLE), "--output", str(output), *arguments]


def run(output, *arguments):
    return subprocess.run(command(output, *arguments), capture_output=True, text=True, check=False)


def stop_when(number, pattern, output, *arguments):
    """Run until a file of this pattern is there, then send a signal; its exit status and what it said."""
    process = subprocess.Popen(
        command(output, *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not list(output.glob(pattern)):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate()[1]
    return process.returncode, said


def results(output):
    """All that runs have found out, without how long they took."""
    return [{**record, "seconds": 0} for record in evaluation.read_records(output / "records.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    done = run(output, *SMALL)
    assert done.returncode == 0, done.stderr
    return output, done


def test_the_whole_job_writes_all_that_it_promises(whole):
    output, done = whole
    for name in ("label_efficiency.png", "convergence.png", "confusion.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    with open(output / "records.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["fraction"], row["repetition"]) for row in rows] == [
        ("initialized", "0.5", "0"),
        ("random", "0.5", "0"),
    ]
    assert rows[0]["steps"] == rows[1]["steps"] == "8"
    assert rows[0]["labels"] == rows[1]["labels"]
    assert all(-1 <= float(row["qw_kappa"]) <= 1 for row in rows)
    assert "| from scratch | 1 |" in done.stdout
    assert "Too few runs" in done.stdout
    page = (output / "report.html").read_text()
    assert "Patients: none, the images are synthetic" in done.stdout
    assert "none, the images are synthetic" in page
    for part in (
        "Results by fraction of the labels",
        "Label efficiency",
        "inputs of the pretext task",
        "copies",
    ):
        assert part in page
    assert "oneDNN" not in done.stderr
    assert keras.saving.load_model(output / "encoder.keras").output_shape[-1] == 64


def test_killed_and_stopped_in_pretraining_and_in_fine_tuning_it_ends_where_it_would_have(whole, tmp_path):
    stop_when(signal.SIGKILL, "backups/rotation-f0/epoch-000001/state.json", tmp_path, *SMALL)
    stop_when(signal.SIGKILL, "backups/rotation-initialized-*/*/epoch-000001/state.json", tmp_path, *SMALL)
    random = "backups/*-random-*/*/epoch-000001/state.json"
    status, said = stop_when(signal.SIGTERM, random, tmp_path, *SMALL)
    # Killed, if it had ended this run in the meantime.
    assert status in (143, -signal.SIGTERM)
    assert status != 143 or "Stopped by SIGTERM in epoch" in said
    assert run(tmp_path, *SMALL).returncode == 0
    assert results(tmp_path) == results(whole[0])
    models = [keras.saving.load_model(output / "encoder.keras") for output in (tmp_path, whole[0])]
    for resumed, expected in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(resumed, expected)


def test_new_photographs_are_graded(whole, tmp_path):
    images, _ = data.synthetic_fundus(3, size=40, seed=9)
    files = [str(tmp_path / f"{number}.png") for number in range(3)]
    for file, image in zip(files, images, strict=True):
        keras.utils.save_img(file, image, scale=False)
    done = run(tmp_path, "--predict", *files, "--model", str(whole[0] / "grader.keras"))
    lines = done.stdout.splitlines()
    if lines[-1].startswith("The grade is the median"):
        lines.pop()
    assert len(lines) == 3, done.stderr
    for line, file in zip(lines, files, strict=True):
        grade = int(line.removeprefix(f"{file}: grade ").split()[0])
        assert f"({data.GRADE_NAMES[grade]}), {'refer' if grade >= 2 else 'do not refer'};" in line
        probabilities = [float(part) for part in line.split("probabilities ")[1].split()]
        assert sum(probabilities) == pytest.approx(1, abs=0.03)


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("diabetic_retinopathy", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    """A table with the headers of APTOS 2019 and a folder with its photographs."""
    images, grades = data.synthetic_fundus(20, size=32)
    (tmp_path / "images").mkdir()
    rows = ["id_code,diagnosis"]
    for number, (image, grade) in enumerate(zip(images, grades, strict=True)):
        keras.utils.save_img(tmp_path / "images" / f"eye{number}.png", image, scale=False)
        rows.append(f"eye{number},{grade}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path


def load(example, folder, *more):
    arguments = ["--labels", "labels.csv", "--images", "images", "--output", "out", "--size", "32", *more]
    cwd, argv = os.getcwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["diabetic_retinopathy.py", *arguments]
    try:
        parsed = example.parse_arguments()
        return example.load_photographs(parsed, example.chosen_preset(parsed))
    finally:
        os.chdir(cwd)
        sys.argv = argv


def test_photographs_of_a_folder(example, folder):
    photographs = load(example, folder)
    images, grades = data.synthetic_fundus(20, size=32)
    assert photographs.images.shape == images.shape
    np.testing.assert_array_equal(photographs.grades, grades)


def test_patients_are_told_by_column_by_names_or_not_at_all(example, folder):
    assert load(example, folder).patients == example.UNKNOWN_PATIENTS
    rows = (folder / "labels.csv").read_text().splitlines()
    with_column = [f"{rows[0]},who", *(f"{row},{number // 4}" for number, row in enumerate(rows[1:]))]
    (folder / "labels.csv").write_text("\n".join(with_column))
    photographs = load(example, folder, "--group-column", "who")
    assert photographs.patients == "5 with 20 images, by column who"
    for number in range(20):
        (folder / "images" / f"eye{number}.png").rename(
            folder / "images" / f"{number // 2}_{('left', 'right')[number % 2]}.png"
        )
    renamed = (f"{n // 2}_{('left', 'right')[n % 2]},{row.split(',')[1]}" for n, row in enumerate(rows[1:]))
    (folder / "labels.csv").write_text("\n".join(["pic,score", *renamed]))
    with pytest.warns(UserWarning, match="20 images of 10 patients"):
        photographs = load(example, folder, "--image-column", "pic", "--label-column", "score")
    assert photographs.patients == "10 with 20 images, by file names"
    assert len(np.unique(photographs.groups)) == 10


def test_unreadable_photographs_are_all_named_or_skipped(example, folder):
    for name in ("eye3.png", "eye7.png"):
        file = folder / "images" / name
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"eye3\.png.*eye7\.png"):
        load(example, folder)
    with pytest.warns(UserWarning, match=r"eye3\.png.*eye7\.png"):
        photographs = load(example, folder, "--skip-unreadable")
    assert len(photographs.images) == len(photographs.grades) == 18


def test_missing_photographs_are_all_named_or_skipped(example, folder):
    for name in ("eye3.png", "eye7.png"):
        (folder / "images" / name).unlink()
    with pytest.raises(ValueError, match="Received eye3, eye7"):
        load(example, folder)
    with pytest.warns(UserWarning, match="missing from .*: eye3, eye7"):
        photographs = load(example, folder, "--skip-unreadable")
    expected = np.delete(data.synthetic_fundus(20, size=32)[1], [3, 7])
    np.testing.assert_array_equal(photographs.grades, expected)


def stopped(example, monkeypatch, output, *arguments):
    """What the example says when it stops before it trains anything."""

    def train(*_):
        raise AssertionError("began to train")

    monkeypatch.setattr("keras_ssl.evaluation.training_runs.pretrain", train)
    monkeypatch.setattr(sys, "argv", ["diabetic_retinopathy.py", "--output", str(output), *arguments])
    with pytest.raises(SystemExit) as stop:
        example.main()
    return str(stop.value.code)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ((40, 28, 28, 3), [0, 1, 2, 7], r"whole numbers in 0..4. Received 7"),
        ((40, 28, 28), [0, 1, 2, 3], "must have 3 channels"),
        ((5, 28, 28, 3), [0, 0, 0, 0, 1], "at least 2 images"),
    ],
)
def test_bad_files_stop_it_before_pretraining(example, monkeypatch, tmp_path, images, labels, message):
    pixels = np.random.default_rng(0).integers(0, 255, images).astype("uint8")
    grades = np.resize(labels, (len(pixels), 1))
    parts = {
        "train_images": pixels,
        "train_labels": grades,
        "val_images": pixels[:4],
        "val_labels": grades[:4],
    }
    np.savez(tmp_path / "set.npz", **parts)
    said = stopped(example, monkeypatch, tmp_path / "out", "--npz", str(tmp_path / "set.npz"))
    assert re.search(message, said)
    assert not (tmp_path / "out" / "study.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--fractions 0.5 0", r"--fractions must be ascending numbers in .* Received \(0\.5, 0\.0\)"),
        ("--fractions 1.5", "--fractions must be"),
        ("--fractions nan", "--fractions must be"),
        ("--repetitions 0", "--repetitions must be at least 1. Received 0"),
        ("--pretext-epochs 0", "--pretext-epochs must be at least 1. Received 0"),
        ("--warmup-fraction -1", "--warmup-fraction must be at least 0 and below 1. Received -1.0"),
        ("--steps 0", "--steps must be at least 1. Received 0"),
        ("--validations 9", "--validations must be a divisor of --steps, 200. Received 9"),
        ("--imagenet imagenet", "--imagenet requires --encoder densenet121"),
        ("--size 15", "--size must be at least 16. Received 15"),
        ("--size 31 --encoder densenet121", "--size must be at least 32. Received 31"),
        ("--tasks rotation turning", "--tasks must be names of .*'rotation'.* Received 'turning'"),
        ("--tasks rotation rotation", "--tasks must be distinct"),
        ("--encoder resnet", '--encoder must be "small", "densenet121" or a file .keras. Received resnet'),
        ("--encoder nothing.keras", "--encoder must name a saved Keras model. Received nothing.keras"),
        ("--seed -1", "--seed must be at least 0 and below .* Received -1"),
        ("--synthetic 0", "--synthetic must be at least 1. Received 0"),
    ],
)
def test_numbers_out_of_range_stop_it(example, monkeypatch, tmp_path, arguments, message):
    assert re.search(message, stopped(example, monkeypatch, tmp_path, *arguments.split()))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--predict nothing.png --model nothing.keras", "Missing: nothing.keras"),
        ("--predict nothing.png --model {tmp}", "--model must name a saved grader"),
        ("--predict nothing.png --model {tmp}/text.keras", "text.json"),
        ("--predict nothing.png --model {model}", r"Missing 1: nothing\.png"),
        ("--predict {tmp} --model {model}", "cannot be read as an image|not: "),
        ("--labels {tmp} --images {tmp}", "--labels must be a CSV file"),
        ("--labels nothing.csv --images {tmp}", r"--labels must be a CSV file\. nothing\.csv"),
        ("--npz {tmp}", "--npz must name a file"),
        ("--npz {tmp}/text.keras", "must be a whole .npz file"),
        ("--size 0", "--size must be at least 16"),
        ("--synthetic 40 --output {tmp}/text.keras", "--output must be a writable folder"),
    ],
)
def test_a_mistake_is_told_in_a_line(example, monkeypatch, whole, tmp_path, arguments, message):
    (tmp_path / "text.keras").write_text("no model")
    given = arguments.format(tmp=tmp_path, model=whole[0] / "grader.keras").split()
    said = stopped(example, monkeypatch, tmp_path / "out", *given)
    assert re.search(message, said)
    assert "\n" not in said


@pytest.mark.parametrize("error", [ValueError("two\nlines"), OSError("two\nlines"), MemoryError()])
def test_errors_of_runs_are_told_in_a_line(example, monkeypatch, tmp_path, error):
    def fail(*arguments, **options):
        yield {}
        raise error

    monkeypatch.setattr(example.evaluation, "label_efficiency", fail)
    monkeypatch.setattr(sys, "argv", ["diabetic_retinopathy.py", "--output", str(tmp_path), *SMALL])
    with pytest.raises(SystemExit) as stop:
        example.main()
    assert stop.value.code == (" ".join(str(error).split()) or "MemoryError without a message")


@pytest.mark.parametrize("source", ["--npz a.npz", "--labels a.csv --images b"])
def test_drawn_photographs_exclude_others(example, monkeypatch, tmp_path, source, capsys):
    stopped(example, monkeypatch, tmp_path, "--synthetic", "50", *source.split())
    assert "--synthetic must not be combined" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [("--seed 1", "protocol.seed: saved 0, now 1"), ("--synthetic 64", r"images: saved .\(60, 32, 32, 3\)")],
)
def test_other_settings_do_not_mix_with_earlier_results(example, monkeypatch, whole, more, message):
    said = stopped(example, monkeypatch, whole[0], *SMALL, *more.split())
    assert "which holds one with another configuration" in said
    assert re.search(message, said)


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ("", ["rotation", "imagenet", "imagenet+rotation"]),
        ("--tasks scratch+vicreg rotation+vicreg", ["vicreg", "imagenet", "imagenet+rotation+vicreg"]),
    ],
)
def test_imagenet_weights_are_compared_and_continued_from(example, monkeypatch, more, names):
    given = ["example", "--encoder", "densenet121", "--imagenet", "weights.h5", *more.split()]
    monkeypatch.setattr(sys, "argv", given)
    monkeypatch.setattr(example, "build_encoder", lambda *_: keras.Sequential())
    arguments = example.parse_arguments()
    chosen = example.choose_pretraining(arguments, example.chosen_preset(arguments), None, 32)
    assert list(chosen) == names
    assert isinstance(chosen["imagenet"], keras.Model)


def test_tasks_that_compare_views_keep_the_colors(example, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["example", "--tasks", "simclr", "rotation+dino", "--preset", "paper"])
    arguments = example.parse_arguments()
    preset = example.chosen_preset(arguments)
    chosen = example.choose_pretraining(arguments, preset, None, 32)
    rotation, dino = chosen["rotation+dino"].task.tasks
    assert chosen["simclr"].task.views == dino.views == keras_ssl.preprocessing.fundus_views()
    assert rotation == preset.pretext.task
    assert chosen["simclr"].epochs == preset.pretext.epochs


def test_saved_weights_tasks_and_images_without_grades_in_one_study(example, folder, monkeypatch, capsys):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    given = keras.Model(inputs, x)
    given.trainable = False
    given.save(folder / "imagenet.keras")
    rows = [f"eye{number},{number % 3 if number < 16 else ''}" for number in range(20)]
    (folder / "labels.csv").write_text("\n".join(["id_code,diagnosis", *rows]))
    (folder / "others").mkdir()
    new, known = data.synthetic_fundus(3, size=40, seed=7)[0], data.synthetic_fundus(20, size=32)[0]
    for number, image in enumerate([*new, *known[:2]]):
        keras.utils.save_img(folder / "others" / f"{number}.png", image, scale=False)
    monkeypatch.chdir(folder)
    line = (
        "--labels labels.csv --images images --unlabeled others --encoder imagenet.keras --size 32 "
        "--output out --tasks rotation rotation+vicreg scratch+byol --arms frozen random --fractions 1 "
        "--repetitions 1 --steps 4 --validations 2 --pretext-epochs 1"
    )
    monkeypatch.setattr(sys, "argv", ["example", *line.split()])
    with pytest.warns(UserWarning, match="4 of 20 images have no grade"):
        example.main()
    said = capsys.readouterr().out
    assert "imagenet.keras: 1 layers were saved as frozen and are trained here" in said
    assert "9 images without labels; 2 of them left out" in said
    records = evaluation.read_records(folder / "out" / "records.jsonl")
    assert [(record["task"], record["arm"], record["start"]) for record in records] == [
        ("byol", "frozen", "none"),
        ("imagenet", "frozen", "imagenet"),
        ("imagenet+rotation", "frozen", "imagenet"),
        ("imagenet+rotation+vicreg", "frozen", "imagenet"),
        ("none", "random", "none"),
    ]
    for record in records:
        own = record["task"] in ("none", "imagenet")
        assert record["pretrain_images"] == (0 if own else record["train_images"] + 7)
        assert record["pool_left_out"] == (0 if own else 2)
    page = (folder / "out" / "report.html").read_text()
    for part in ("ImageNet + rotation + vicreg, frozen", "inputs of the pretext task: byol", "Embeddings"):
        assert part in page


def test_imagenet_weights_come_from_a_file_into_their_own_scaling(example, tmp_path):
    """Real ones cannot be had without network; a file of their form can."""
    settings = dataclasses.replace(example.PRESETS["demo"], encoder="densenet121")
    plain = keras.applications.DenseNet121(include_top=False, weights=None, input_shape=(32, 32, 3))
    plain.save_weights(tmp_path / "imagenet.weights.h5")
    encoder = example.build_encoder(settings, 32, str(tmp_path / "imagenet.weights.h5"))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    expected = keras.applications.densenet.preprocess_input(pixels.copy())
    scaled = keras.Model(encoder.input, encoder.get_layer("rescaling").output)(pixels)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(scaled), expected, rtol=1e-4, atol=1e-5)
    backbone = encoder.layers[-1]
    for loaded, saved in zip(backbone.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, saved)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("id_code,score\neye0,1", "score"),
        ("id_code,diagnosis\neye0,7\neye1,0", "7"),
        ("id_code,diagnosis\neye0,1\n../labels.csv,0", "labels.csv"),
        ("id_code,diagnosis\nnobody,1\nnoone,0", "nobody.*noone"),
    ],
)
def test_bad_tables_are_refused(example, folder, table, message):
    (folder / "labels.csv").write_text(table)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(example, folder)


def test_paper_settings_are_those_of_the_thesis(example):
    preset = example.PRESETS["paper"]
    pretext, protocol = preset.pretext, preset.protocol
    assert (preset.encoder, preset.size, pretext.epochs) == ("densenet121", 224, 200)
    assert (pretext.learning_rate, pretext.batch_size) == (1e-5, 32)
    assert pretext.task.hidden_units == (2048, 1024)
    assert pretext.task.pooling == "max"
    assert (protocol.validations, protocol.warmup_validations, protocol.learning_rate) == (20, 3, 5e-5)
    assert (protocol.folds, protocol.fractions) == (5, (0.05, 0.1, 0.25, 0.5, 1.0))
    features = keras.Input((7, 7, 1024))
    assert keras.Model(features, preset.head.build(features)).count_params() == 1_058_821


def test_runs_can_be_spread_over_dask(example):
    import joblib
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as workers,
        example.cluster(workers.scheduler_address),
    ):
        backend, _ = joblib.parallel.get_active_backend()
        assert "Dask" in type(backend).__name__
        assert joblib.Parallel()(joblib.delayed(abs)(number) for number in (-1, 2)) == [1, 2]
    with example.cluster(None):
        assert "Dask" not in type(joblib.parallel.get_active_backend()[0]).__name__


@pytest.mark.parametrize("example", sorted(EXAMPLE.parent.glob("*.py")), ids=lambda example: example.name)
def test_help_is_printed_by_a_process_of_its_own(example):
    """A process that imports nothing else: a submodule that no other module imports is then missing."""
    done = subprocess.run([sys.executable, example, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
