import os
import pickle
import resource
from pathlib import Path

import nibabel
import numpy as np
import pytest
from volume_files import ORIENTATIONS, affine_of, labels_like, save_nifti, turn

from keras_ssl.data import (
    Volume,
    VolumePreparation,
    VolumeTable,
    Window,
    ZScore,
    open_volumes,
    read_volume,
    volume_table,
)
from keras_ssl.data.lazy_collections import NumbersOnDisk

pytestmark = pytest.mark.no_backend

RNG = np.random.default_rng(0)
PARTS = [
    (slice(None), slice(None), slice(None)),
    (slice(1, 4), slice(0, 2), slice(2, 5)),
    (slice(0, 1), slice(3, 6), slice(None)),
]


def rows_of(table, preparation):
    for files, mask in zip(table.files, table.masks, strict=True):
        volumes = [read_volume(path) for path in files]
        image = Volume(np.stack([volume.voxels for volume in volumes], -1), volumes[0].affine)
        yield preparation.image(image), preparation.mask(read_volume(mask))


def make_table(folder, suffix, modalities=1, count=3):
    folder.mkdir()
    for row in range(count):
        shape = (6, 7, 8 + row)
        affine = turn(affine_of(*ORIENTATIONS[row * 7 + 5], spacing=(1.0, 0.8, 1.5)), 5)
        for ending in [*(f"_t{one}" for one in range(modalities)), "_seg"]:
            voxels = labels_like(shape, row) if ending == "_seg" else RNG.integers(-999, 999, shape, np.int16)
            path = folder / f"{row}{ending}{suffix}"
            np.save(path, voxels) if suffix == ".npy" else save_nifti(path, voxels, affine)
    endings = [f"_t{one}" for one in range(modalities)]
    return VolumeTable.from_folder(folder, folder, endings, mask_ending="_seg")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".npy"])
@pytest.mark.parametrize(
    "preparation",
    [
        VolumePreparation(),
        VolumePreparation(intensity=ZScore()),
        VolumePreparation(spacing=(1.2, 1.2, 1.2), intensity=Window(-500, 500)),
        VolumePreparation(shape=(5, 8, 7), intensity=None),
    ],
    ids=["files", "z-score", "resampled", "cropped"],
)
@pytest.mark.parametrize("modalities", [1, 2])
def test_parts_are_those_of_the_prepared_volume(tmp_path, suffix, preparation, modalities):
    table = make_table(tmp_path / "scans", suffix, modalities)
    images, masks = open_volumes(
        table, preparation, tmp_path / "cache", num_classes=3, max_foreground_loss=1.0, verbose=0
    )
    for image, mask, (whole, labels) in zip(images, masks, rows_of(table, preparation), strict=True):
        assert (image.shape, image.dtype, len(image)) == (whole.shape, np.float32, len(whole))
        assert (mask.shape, mask.dtype) == (labels.shape, np.uint8)
        for part in PARTS:
            np.testing.assert_array_equal(image[part], whole[part])
            np.testing.assert_array_equal(mask[part], labels[part])
            assert image[part].dtype == np.float32
            assert mask[part].dtype == np.uint8
        np.testing.assert_array_equal(np.asarray(image), whole)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(image))[PARTS[1]], whole[PARTS[1]])
    in_parts = suffix != ".nii.gz" and preparation.spacing is None and preparation.shape is None
    assert (tmp_path / "cache").exists() != in_parts


def test_files_with_a_scale_of_their_own_and_axes_of_one(tmp_path):
    voxels = RNG.integers(0, 99, (4, 5, 6, 1)).astype(np.int16)
    image = nibabel.Nifti1Image(voxels, affine_of((1, 0, 2), (-1, 1, 1)))
    image.header.set_slope_inter(0.25, -7.0)
    image.to_filename(tmp_path / "a.nii")
    preparation = VolumePreparation(intensity=None)
    (opened,), masks = open_volumes(VolumeTable([tmp_path / "a.nii"]), preparation, verbose=0)
    assert masks is None
    np.testing.assert_array_equal(opened[:], preparation.image(read_volume(tmp_path / "a.nii")))


def test_labels_stored_as_floats_become_labels(tmp_path):
    np.save(tmp_path / "scan.npy", RNG.random((3, 4, 5)))
    np.save(tmp_path / "mask.npy", np.asfortranarray(labels_like((3, 4, 5)).astype(np.float64)))
    table = VolumeTable([tmp_path / "scan.npy"], [tmp_path / "mask.npy"])
    _, (mask,) = open_volumes(table, VolumePreparation(), verbose=0)
    np.testing.assert_array_equal(mask[:, 1:3], labels_like((3, 4, 5))[:, 1:3])
    assert mask[:].dtype == np.uint8


def test_spacing_that_they_have_already_needs_no_cache(tmp_path):
    table = make_table(tmp_path / "scans", ".nii")
    affine = read_volume(table.paths[0, 0]).affine
    spacing = np.linalg.norm(
        nibabel.as_closest_canonical(nibabel.load(table.paths[0, 0])).affine[:3, :3], axis=0
    )
    assert sorted(spacing) == pytest.approx(sorted(np.linalg.norm(affine[:3, :3], axis=0)))
    images, _ = open_volumes(table.select([0]), VolumePreparation(spacing=tuple(spacing)), verbose=0)
    assert images[0].orientation is not None


def test_a_second_run_prepares_nothing_and_new_rows_are_added(tmp_path, monkeypatch):
    table = make_table(tmp_path / "scans", ".nii.gz", count=4)
    read = []
    monkeypatch.setattr(
        volume_table, "read_volume", lambda path: read.append(Path(path).name) or read_volume(path)
    )
    open_volumes(table.select([0, 1, 2]), VolumePreparation(), tmp_path / "cache", verbose=0)
    assert len(read) == 6
    open_volumes(table, VolumePreparation(), tmp_path / "cache", workers=1, verbose=0)
    assert read[6:] == ["3_t0.nii.gz", "3_seg.nii.gz"]
    images, _ = open_volumes(table, VolumePreparation(), tmp_path / "cache", verbose=0)
    assert len(read) == 8
    assert images[3].source == table.paths[3, 0]


def test_a_damaged_entry_is_prepared_again(tmp_path):
    table = make_table(tmp_path / "scans", ".nii.gz", count=1)
    open_volumes(table, VolumePreparation(), tmp_path / "cache", verbose=0)
    (entry,) = (tmp_path / "cache").iterdir()
    content = (entry / "images.npy").read_bytes()
    (entry / "images.npy").write_bytes(content[:200])
    with pytest.warns(UserWarning, match="is damaged and is decoded again"):
        (image,), _ = open_volumes(table, VolumePreparation(), tmp_path / "cache", verbose=0)
    np.testing.assert_array_equal(image[:], next(rows_of(table, VolumePreparation()))[0])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".npy"])
def test_all_bad_files_are_named_at_once(tmp_path, suffix):
    table = make_table(tmp_path / "scans", suffix)
    np.save(tmp_path / "nan.npy", np.full((6, 7, 8), np.nan))
    Path(table.paths[0, 0]).write_bytes(Path(table.paths[0, 0]).read_bytes()[:90])
    table = VolumeTable([table.paths[0, 0], tmp_path / "nan.npy", table.paths[2, 0]], table.masks)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"In 3 of 3 rows .*0_t0{suffix} \(.*nan.*2_seg{suffix} \(`la"):
            open_volumes(table, VolumePreparation(), tmp_path / "cache", num_classes=2, verbose=0)


def test_without_a_cache_compressed_files_are_refused_all_at_once(tmp_path):
    table = make_table(tmp_path / "scans", ".nii.gz")
    with pytest.raises(ValueError, match=r"In 3 of 3 rows .*0_t0\.nii\.gz \(it cannot be read in part"):
        open_volumes(table, VolumePreparation(), verbose=0)
    os.remove(table.masks[1])
    with pytest.raises(FileNotFoundError, match=r"Missing 1: \S*1_seg"):
        open_volumes(table, VolumePreparation(), verbose=0)


def test_no_file_stays_open(tmp_path, monkeypatch):
    # A process may have a thousand files open; a data set has more.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    table = make_table(tmp_path / "scans", ".npy", count=2)
    count = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 200
    many = table.select([0, 1] * 25)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 20, hard))
    try:
        images, _ = open_volumes(many, VolumePreparation(), workers=2, verbose=0)
        parts = [image[0:2] for image in images]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(parts) == 50


def test_only_the_part_is_read(tmp_path, monkeypatch):
    table = make_table(tmp_path / "scans", ".nii", count=1)
    (image,), _ = open_volumes(table, VolumePreparation(), verbose=0)
    scaled = []
    whole = NumbersOnDisk.scale
    monkeypatch.setattr(
        NumbersOnDisk,
        "scale",
        lambda one, part: scaled.append(part.shape) or whole(one, part),
    )
    image[1:3, 2:4, 0:1]
    assert scaled == [(2, 2, 1)]
