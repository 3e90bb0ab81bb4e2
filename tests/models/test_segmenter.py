"""From files to label volumes on the same grid, whatever that grid; what is refused; nothing is spoilt."""

import json
import struct
from pathlib import Path

import keras
import nibabel
import numpy as np
import pytest
from volume_files import ORIENTATIONS, affine_of, save_nifti

from keras_ssl import ClassificationHead, FineTuner, Segmenter, encoders
from keras_ssl.data import VolumePreparation, read_volume

NAMES = ("dark", "middle", "bright")


def brightness_model(shape=(6, 6, 6), channels=1):
    """Labels each voxel by its own brightness alone: below a third, below two thirds, above."""
    inputs = keras.Input((*shape, channels))
    logits = keras.layers.Dense(3)
    model = keras.Model(inputs, keras.layers.Softmax()(logits(inputs)))
    kernel = np.zeros((channels, 3))
    kernel[0] = [0, 30, 60]
    logits.set_weights([kernel, np.array([0, -10, -30])])
    return model


def segmenter(**settings):
    preparation = VolumePreparation(**{"intensity": None, **settings})
    return Segmenter(brightness_model(), preparation, NAMES)


def scan(shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype("float32")


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::7])
def test_labels_lie_on_the_grid_of_the_scan(tmp_path, order, signs):
    voxels, affine = scan((9, 5, 7)), affine_of(order, signs, (1.0, 1.5, 2.0))
    save_nifti(tmp_path / "scan.nii.gz", voxels, affine)
    (written,) = segmenter().segment([tmp_path / "scan.nii.gz"], tmp_path / "labels")
    found = nibabel.load(written)
    assert written == tmp_path / "labels" / "scan_pred.nii.gz"
    assert found.shape == voxels.shape
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.floor(voxels * 3))


def test_a_fixed_shape_and_another_spacing_lead_back_to_the_scan(tmp_path):
    # Broad bands, so that resampling moves no more than their edges.
    bands = np.repeat([0.1, 0.5, 0.9], 6).astype("float32")
    voxels = np.broadcast_to(bands, (12, 10, 18)).copy()
    save_nifti(tmp_path / "scan.nii", voxels, affine_of(signs=(-1, 1, 1), spacing=(1.0, 1.0, 0.5)))
    (written,) = segmenter(spacing=(1.0, 1.0, 1.0), shape=(14, 10, 8)).segment(
        [tmp_path / "scan.nii"], tmp_path / "out"
    )
    labels = read_volume(written).voxels
    assert labels.shape == voxels.shape
    # The ends of the last axis were cropped away and are background.
    inner = (labels == np.floor(voxels * 3))[..., 2:-2]
    assert inner.mean() > 0.85


def test_modalities_and_npy(tmp_path):
    model = brightness_model(channels=2)
    two = Segmenter(model, VolumePreparation(intensity=None), NAMES)
    first, second = scan((6, 7, 8)), scan((6, 7, 8), seed=1)
    np.save(tmp_path / "a_t1.npy", first)
    np.save(tmp_path / "a_t2.npy", second)
    (written,) = two.segment([(tmp_path / "a_t1.npy", tmp_path / "a_t2.npy")], tmp_path / "out")
    assert written.name == "a_t1_pred.nii.gz"
    np.testing.assert_array_equal(read_volume(written).voxels, np.floor(first * 3))
    with pytest.raises(ValueError, match=r"`scans` must have 2 files each.* Received 1"):
        two.segment([tmp_path / "a_t1.npy"], tmp_path / "out")


def test_saved_and_loaded_it_segments_alike(tmp_path):
    ours = segmenter(spacing=(1.0, 1.0, 1.0))
    ours.save(tmp_path / "segmenter.keras")
    loaded = Segmenter.load(tmp_path / "segmenter.keras")
    assert loaded.preparation == ours.preparation
    assert tuple(loaded.class_names) == NAMES
    image = scan((7, 8, 9, 1))
    np.testing.assert_array_equal(loaded.probabilities(image), ours.probabilities(image))
    assert json.loads((tmp_path / "segmenter.json").read_text())["class_names"] == list(NAMES)
    (tmp_path / "segmenter.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"a saved segmenter with its JSON. Missing: .*segmenter.json"
    ):
        Segmenter.load(tmp_path / "segmenter.keras")


def test_unfit_scans_do_not_prevent_writing_the_others(tmp_path):
    save_nifti(tmp_path / "nan.nii.gz", np.full((6, 6, 6), np.nan, "float32"))
    save_nifti(tmp_path / "four.nii.gz", np.ones((6, 6, 6, 2), "float32"))
    for name in ("good", "last"):
        save_nifti(tmp_path / f"{name}.nii.gz", scan((6, 6, 6)))
    whole = (tmp_path / "good.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    files = [tmp_path / f"{name}.nii.gz" for name in ("nan", "good", "four", "cut", "last")]
    with pytest.raises(ValueError, match=r"3 of 5 could not be: .*nan\.nii.*four\.nii.*cut\.nii") as error:
        segmenter().segment(files, tmp_path / "out", verbose=0)
    assert "The other 2 are written" in str(error.value)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "good_pred.nii.gz",
        "last_pred.nii.gz",
    ]


def test_a_scan_too_large_for_memory_or_the_device_does_not_lose_the_others(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        save_nifti(tmp_path / f"{name}.nii", scan((6, 6, 6)))
    errors = iter([MemoryError(), None, RuntimeError("out of memory")])
    predict = Segmenter.probabilities

    def fail(self, image):
        if (error := next(errors)) is not None:
            raise error
        return predict(self, image)

    monkeypatch.setattr(Segmenter, "probabilities", fail)
    with pytest.raises(
        ValueError, match=r"2 of 3 .*a\.nii .MemoryError.*c\.nii .RuntimeError: out of memory"
    ):
        segmenter().segment([tmp_path / f"{name}.nii" for name in "abc"], tmp_path / "out", verbose=0)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b_pred.nii.gz"]


def test_a_scan_whose_qform_cannot_be_decoded_is_labeled(tmp_path):
    image = nibabel.Nifti1Image(scan((6, 6, 6)), affine_of())
    image.set_sform(affine_of(), 1)
    image.set_qform(affine_of(), 1)
    image.to_filename(tmp_path / "scan.nii")
    content = bytearray((tmp_path / "scan.nii").read_bytes())
    struct.pack_into("<3f", content, 256, 0.0, 0.70710739, 0.70710739)
    (tmp_path / "scan.nii").write_bytes(content)
    (written,) = segmenter().segment([tmp_path / "scan.nii"], tmp_path / "out", verbose=0)
    np.testing.assert_allclose(nibabel.load(written).affine, affine_of())


def test_nothing_is_overwritten_without_overwrite(tmp_path):
    files = [Path(save_nifti(tmp_path / f"{name}.nii.gz", scan((6, 6, 6)))) for name in "abc"]
    labels = tmp_path / "labels"
    labels.mkdir()
    for name in ("a.nii.gz", "a_pred.nii.gz", "c_pred.nii.gz"):
        (labels / name).write_bytes(b"by hand")
    message = r"Found 2: \S*a_pred\.nii\.gz, \S*c_pred\.nii\.gz\. Pass overwrite=True"
    with pytest.raises(FileExistsError, match=message):
        segmenter().segment(files, labels)
    assert len(list(labels.iterdir())) == 3
    assert all(path.read_bytes() == b"by hand" for path in labels.iterdir())
    segmenter().segment(files, labels, overwrite=True, verbose=0)
    assert (labels / "a.nii.gz").read_bytes() == b"by hand"
    assert read_volume(labels / "a_pred.nii.gz").voxels.shape == (6, 6, 6)
    # A second run of the same command too.
    with pytest.raises(FileExistsError, match="Found 3"):
        segmenter().segment(files, labels)


def test_scans_are_never_overwritten(tmp_path):
    file = Path(save_nifti(tmp_path / "scan.nii.gz", scan((6, 6, 6))))
    other = Path(save_nifti(tmp_path / "scan_pred.nii.gz", scan((6, 6, 6))))
    before = other.read_bytes()
    with pytest.raises(ValueError, match=r"`output_dir` must not contain the scans: .* would be overwritten"):
        segmenter().segment([file, other], tmp_path, overwrite=True)
    assert other.read_bytes() == before
    for name in ("scan", "SCAN"):
        (tmp_path / name).mkdir()
        same = save_nifti(tmp_path / name / f"{name}.nii.gz", scan((6, 6, 6)))
        with pytest.raises(ValueError, match=r"different names. Received .*scan.* more than once"):
            segmenter().segment([file, same], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        segmenter().segment([tmp_path / "nowhere.nii.gz"], tmp_path / "out")


def test_mapped_labels_are_written_with_their_own_values(tmp_path):
    save_nifti(tmp_path / "scan.nii", voxels := scan((6, 6, 6)))
    mapped = Segmenter(
        brightness_model(), VolumePreparation(intensity=None), NAMES, label_values=(0, 255, 1000)
    )
    mapped.save(tmp_path / "segmenter.keras")
    loaded = Segmenter.load(tmp_path / "segmenter.keras")
    assert loaded.label_values == (0, 255, 1000)
    (written,) = loaded.segment([tmp_path / "scan.nii"], tmp_path / "out", verbose=0)
    expected = np.array([0, 255, 1000])[np.floor(voxels * 3).astype(int)]
    np.testing.assert_array_equal(read_volume(written).voxels, expected)
    with pytest.raises(ValueError, match=r"`label_values` must be 3 values, one per class"):
        Segmenter(brightness_model(), VolumePreparation(), NAMES, label_values=(0, 255))
    with pytest.raises(ValueError, match=r"`label_values` must be different whole numbers"):
        Segmenter(brightness_model(), VolumePreparation(), NAMES, label_values=(0, 1, 1))


def test_a_scan_that_is_constant_warns(tmp_path):
    save_nifti(tmp_path / "blank.nii", np.zeros((6, 6, 6), "int16"))
    with pytest.warns(UserWarning, match=r"1 of 1 scans are constant: \S*blank\.nii"):
        segmenter().segment([tmp_path / "blank.nii"], tmp_path / "out", verbose=0)


def test_scans_that_are_no_list_of_scans_raise(tmp_path):
    with pytest.raises(ValueError, match=r"`scans` must be a list of scans\. Received scan\.nii"):
        segmenter().segment("scan.nii", tmp_path)
    with pytest.raises(ValueError, match=r"`scans` must be at least one scan.* Received \[1, 2\] files"):
        segmenter().segment(["a.nii", ("b.nii", "c.nii")], tmp_path)


def test_parts_that_do_not_fit_raise():
    encoder = encoders.unet_encoder((6, 6, 6, 1), (2, 4))
    grader = FineTuner(encoder, ClassificationHead(3), seed=0).model
    with pytest.raises(ValueError, match=r"`model` must predict the classes of every voxel.*\(None, 3\)"):
        Segmenter(grader, VolumePreparation(), NAMES)
    with pytest.raises(ValueError, match="`class_names` must be 3 names"):
        Segmenter(brightness_model(), VolumePreparation(), NAMES[:2])
    with pytest.raises(ValueError, match=r"`overlap` must lie in \[0, 1\). Received 1.0"):
        Segmenter(brightness_model(), VolumePreparation(), NAMES, overlap=1.0)


@pytest.mark.parametrize("content", ["[1, 2]", '{"dice": 0.9}', "text"])
def test_saving_replaces_no_json_of_another_kind(tmp_path, content):
    ours = segmenter()
    ours.save(tmp_path / "a.keras")
    ours.save(tmp_path / "a.keras")
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(FileExistsError, match=r"results\.json exists and does not describe a saved model"):
        ours.save(tmp_path / "results.keras")
    assert (tmp_path / "results.json").read_text() == content
    assert not (tmp_path / "results.keras").exists()
