"""The segmentation example: synthetic volumes, folders of NIfTI files, new scans, invalid files."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from keras_ssl import data, evaluation

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[1] / "examples" / "hippocampus_segmentation.py"
SMALL = [
    *("--filters", "2", "4", "--pretext-epochs", "1", "--fractions", "1", "--repetitions", "1"),
    *("--steps", "4", "--validations", "2", "--warmup-fraction", "0.5"),
]


def run(output, *arguments):
    command = [sys.executable, str(EXAMPLE), "--output", str(output), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Scans of different sizes and orientations with their label volumes."""
    root = tmp_path_factory.mktemp("scans")
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    images, masks = data.synthetic_volumes(12, (18, 16, 17))
    for number, (image, mask) in enumerate(zip(images[..., 0], masks, strict=True)):
        affine = np.diag([-1.0 if number % 2 else 1.0, 1.0, 1.0, 1.0])
        for folder, voxels in (("images", image), ("labels", mask)):
            cut = voxels[: 18 - number % 2]
            nibabel.Nifti1Image(cut, affine).to_filename(root / folder / f"scan_{number}.nii.gz")
    return root


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    given = ("--images", str(folders / "images"), "--labels", str(folders / "labels"))
    done = run(output, *given, *SMALL)
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_from_folders_to_a_report(whole):
    output, said = whole
    records = evaluation.read_records(output / "records.jsonl")
    assert [record["arm"] for record in records] == ["initialized", "random"]
    assert "Chance level of 24 rotations: 4.2 %" in said
    for record in records:
        assert f"{record['dice']:.3f}" in said
    assert "Dice, mean of the foreground" in (output / "report.html").read_text()


def test_the_segmenter_it_leaves_labels_new_scans(whole, folders, tmp_path, monkeypatch, capsys):
    scan, model = folders / "images" / "scan_1.nii.gz", whole[0] / "segmenter.keras"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["example", "--predict", str(scan), "--model", str(model)])
    load_example().main()
    written = capsys.readouterr().out.strip().splitlines()[-1]
    assert written == str(Path("predictions", "scan_1_pred.nii.gz"))
    found, given = nibabel.load(written), nibabel.load(scan)
    assert found.shape == given.shape
    np.testing.assert_array_equal(found.affine, given.affine)
    assert set(np.unique(np.asarray(found.dataobj))) <= {0, 1, 2}


def load_example():
    spec = importlib.util.spec_from_file_location("hippocampus_segmentation", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stopped(monkeypatch, *arguments):
    """The line that the example ends with when it cannot do what was asked."""
    monkeypatch.setattr(sys, "argv", ["hippocampus_segmentation.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        load_example().main()
    assert isinstance(stop.value.code, str)
    assert "\n" not in stop.value.code
    return stop.value.code


def test_predictions_replace_nothing_unless_asked(whole, folders, tmp_path, monkeypatch):
    model, scan = whole[0] / "segmenter.keras", folders / "images" / "scan_1.nii.gz"
    by_hand = tmp_path / "scan_1_pred.nii.gz"
    by_hand.write_bytes(b"by hand")
    given = ("--predict", scan, "--model", model, "--output", tmp_path)
    assert "scan_1_pred.nii.gz. Pass --overwrite" in stopped(monkeypatch, *given)
    assert by_hand.read_bytes() == b"by hand"
    monkeypatch.setattr(sys, "argv", ["example", *map(str, given), "--overwrite"])
    load_example().main()
    assert data.read_volume(by_hand).voxels.shape == data.read_volume(scan).voxels.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--predict", "none.nii", "--model", "{model}"), "none.nii"),
        (("--predict", "{scan}", "--model", "none.keras"), "none.keras"),
        (("--predict", "{scan}", "--model", "{scan}"), "Missing: "),
        (("--predict", "{scan}", "--model", "{broken}"), "cannot be loaded"),
        (
            ("--predict", "{scan}", "--model", "{model}", "--output", "{scan}"),
            "--output must be a writable folder",
        ),
        (("--images", "{empty}", "--labels", "{empty}", "--output", "o"), "--images must hold"),
        (("--images", "{images}", "--labels", "{empty}", "--output", "o"), "Received scan_0"),
        (("--images", "{images}", "--labels", "{labels}", "--output", "{scan}"), "scan_1.nii.gz"),
        (("--synthetic", "0", "--output", "o"), "0"),
        (
            ("--shape", "8", "8", "8", "--images", "{images}", "--labels", "{labels}", "--output", "o"),
            "1 % of a class",
        ),
        (
            ("--label-values", "0", "1", "--images", "{images}", "--labels", "{labels}", "--output", "o"),
            "(0, 1)",
        ),
        (("--images", "{images}", "--labels", "{labels}", "--output", "{foreign}"), "holds preparation.json"),
        (("--synthetic", "10", "--output", "{study}"), "holds report.html"),
    ],
)
def test_mistakes_end_with_one_line(whole, folders, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name, file in (("empty", ""), ("foreign", "preparation.json"), ("study", "report.html")):
        (tmp_path / name).mkdir()
        if file:
            (tmp_path / name / file).write_text("by hand")
    for suffix in (".keras", ".json"):
        (tmp_path / f"broken{suffix}").write_text("{}")
    places = {
        "model": whole[0] / "segmenter.keras",
        "scan": folders / "images" / "scan_1.nii.gz",
        "broken": tmp_path / "broken.keras",
        "images": folders / "images",
        "labels": folders / "labels",
        **{name: tmp_path / name for name in ("empty", "foreign", "study")},
    }
    assert message in stopped(monkeypatch, *(argument.format(**places) for argument in arguments))


def test_errors_of_runs_and_of_memory_end_with_one_line(tmp_path, monkeypatch):
    def records(*_, **__):
        raise MemoryError("scan.nii does not fit\ninto memory")
        yield

    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(evaluation, "label_efficiency", records)
    assert stopped(monkeypatch, "--output", "out") == "scan.nii does not fit into memory"


def test_the_shape_holds_every_volume(folders, tmp_path, capsys):
    example = load_example()
    table = data.VolumeTable.from_folder(folders / "images", folders / "labels")
    fitted = example.fit_shape(data.VolumePreparation(), table, 8)
    assert fitted.shape == (24, 16, 24)  # of 18 x 16 x 17
    assert "Shape 24 x 16 x 24" in capsys.readouterr().out
    assert example.fit_shape(data.VolumePreparation((0.5, 1.0, 1.0)), table, 1).shape == (36, 16, 17)
    data.load_volumes(table, fitted, max_foreground_loss=0.0, verbose=0)
    example.MAX_VOXELS = 1000
    with pytest.raises(ValueError, match=r"--shape or a coarser --spacing must be given .* \(24, 16, 24\)"):
        example.fit_shape(data.VolumePreparation(), table, 8)


def test_synthetic_volumes_need_no_files(tmp_path):
    done = run(tmp_path, "--synthetic", "10", "--shape", "16", "16", "16", *SMALL, "--arms", "random")
    assert done.returncode == 0, done.stderr
    assert len(evaluation.read_records(tmp_path / "records.jsonl")) == 1


def test_bad_files_are_all_named_before_training(folders, tmp_path, monkeypatch):
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder, source in ((images, folders / "images"), (labels, folders / "labels")):
        folder.mkdir()
        for file in sorted(source.glob("*_[0-3].nii.gz")):
            (folder / file.name).write_bytes(file.read_bytes())
    first = images / "scan_0.nii.gz"
    first.write_bytes(first.read_bytes()[:200])
    nibabel.Nifti1Image(np.zeros((5, 5, 5), "uint8"), np.eye(4)).to_filename(labels / "scan_2.nii.gz")
    said = stopped(monkeypatch, "--images", images, "--labels", labels, *SMALL, "--output", tmp_path / "out")
    assert "scan_0.nii.gz" in said
    assert "scan_2.nii.gz" in said
    assert not list((tmp_path / "out").glob("records*"))


def test_scans_without_a_label_volume_join_the_pretraining(folders, tmp_path):
    (tmp_path / "labels").mkdir()
    for number in range(2, 12):
        file = f"scan_{number}.nii.gz"
        (tmp_path / "labels" / file).write_bytes((folders / "labels" / file).read_bytes())
    given = ("--images", str(folders / "images"), "--labels", str(tmp_path / "labels"))
    assert "scan_0 (mask), scan_1 (mask)" in run(tmp_path / "out", *given, *SMALL).stderr
    more = ("--unlabeled", str(folders / "images"), "--tasks", "rotation", "inpainting")
    done = run(tmp_path / "out", *given, *more, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "Unlabeled pool: 2 images without labels; 0 of them left out" in done.stdout
    records = evaluation.read_records(tmp_path / "out" / "records.jsonl")
    assert [(record["task"], record["pretrain_images"] - record["train_images"]) for record in records] == [
        ("inpainting", 2),
        ("rotation", 2),
        ("none", -records[-1]["train_images"]),
    ]
