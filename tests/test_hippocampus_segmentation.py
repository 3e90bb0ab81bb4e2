"""The example of segmentation as its users run it: drawn volumes, folders of NIfTI, new scans, bad files."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from keras_ssl import data, evaluation

EXAMPLE = Path(__file__).parents[1] / "examples" / "hippocampus_segmentation.py"
SMALL = [
    *("--filters", "2", "4", "--pretext-epochs", "1", "--fractions", "1", "--repetitions", "1"),
    *("--steps", "4", "--validations", "2", "--warmup-share", "0.5", "--shape", "16", "16", "16"),
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
    assert "By chance, 1 of 24 would be told: 4.2 %" in said
    for record in records:
        assert f"{record['dice']:.3f}" in said
    assert "Dice, mean of the foreground" in (output / "report.html").read_text()


def test_the_segmenter_it_leaves_labels_new_scans(whole, folders, tmp_path):
    output, _ = whole
    scan = folders / "images" / "scan_1.nii.gz"
    done = run(tmp_path / "out", "--predict", str(scan), "--model", str(output / "segmenter.keras"))
    assert done.returncode == 0, done.stderr
    found, given = nibabel.load(done.stdout.strip().splitlines()[-1]), nibabel.load(scan)
    assert found.shape == given.shape
    np.testing.assert_array_equal(found.affine, given.affine)
    assert set(np.unique(np.asarray(found.dataobj))) <= {0, 1, 2}


def test_drawn_volumes_need_no_files(tmp_path):
    done = run(tmp_path, "--synthetic", "10", *SMALL, "--arms", "random")
    assert done.returncode == 0, done.stderr
    assert len(evaluation.read_records(tmp_path / "records.jsonl")) == 1


def test_bad_files_are_all_named_before_training(folders, tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder, source in ((images, folders / "images"), (labels, folders / "labels")):
        folder.mkdir()
        for file in sorted(source.glob("*_[0-3].nii.gz")):
            (folder / file.name).write_bytes(file.read_bytes())
    first = images / "scan_0.nii.gz"
    first.write_bytes(first.read_bytes()[:200])
    nibabel.Nifti1Image(np.zeros((5, 5, 5), "uint8"), np.eye(4)).to_filename(labels / "scan_2.nii.gz")
    done = run(tmp_path / "out", "--images", str(images), "--labels", str(labels), *SMALL)
    assert done.returncode == 1
    assert "scan_0.nii.gz" in done.stderr
    assert "scan_2.nii.gz" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("records*"))
