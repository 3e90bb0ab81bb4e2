import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from volume_files import ORIENTATIONS, affine_of, labels_like, save_nifti

from keras_ssl.data import (
    PercentileScale,
    Volume,
    VolumePreparation,
    VolumeTable,
    ZScore,
    load_volumes,
    read_volume,
    volume_table,
)

pytestmark = pytest.mark.no_backend

# The shape below cuts blobs at random; most tests are about what is left.
ALL = {"max_foreground_loss": 1.0, "verbose": 0}
PREPARATION = VolumePreparation(shape=(6, 6, 6), spacing=(1.0, 1.0, 1.0))


@pytest.fixture
def table(tmp_path):
    """Five scans of two modalities in five shapes, orientations and formats, with their masks."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "scans"
    folder.mkdir()
    for row in range(5):
        shape = tuple(rng.integers(4, 9, 3))
        affine = affine_of(*ORIENTATIONS[row * 9], spacing=(1.0, 0.8, 1.5))
        suffix = [".nii.gz", ".nii", ".npy"][row % 3]
        for ending in ("_t1", "_t2", "_seg"):
            voxels = labels_like(shape, row) if ending == "_seg" else rng.random(shape, np.float32)
            path = folder / f"{row}{ending}{suffix}"
            np.save(path, voxels) if suffix == ".npy" else save_nifti(path, voxels, affine)
    return VolumeTable.from_folder(folder, folder, ["_t1", "_t2"], mask_ending="_seg")


@pytest.fixture
def read_files(monkeypatch):
    """The names of the files that were read."""
    names = []
    monkeypatch.setattr(
        volume_table, "read_volume", lambda path: names.append(Path(path).name) or read_volume(path)
    )
    return names


def one_by_one(table, preparation=PREPARATION):
    images, masks = [], []
    for files, mask in zip(table.files, table.masks, strict=True):
        voxels, affines = zip(*(read_volume(path) for path in files), strict=True)
        images.append(preparation.image(Volume(np.stack(voxels, -1), affines[0])))
        masks.append(preparation.mask(read_volume(mask)))
    return np.stack(images), np.stack(masks)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_volumes_are_those_of_the_files_in_order(table, tmp_path, cached, workers):
    cache = tmp_path / "cache" if cached else None
    images, masks = load_volumes(table, PREPARATION, cache, num_classes=3, workers=workers, **ALL)
    expected_images, expected_masks = one_by_one(table)
    np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(masks, expected_masks)
    assert (images.shape, images.dtype) == ((5, 6, 6, 6, 2), np.float32)
    assert (masks.shape, masks.dtype) == ((5, 6, 6, 6), np.uint8)
    assert isinstance(images, np.memmap) == isinstance(masks, np.memmap) == cached
    assert images.flags.writeable != cached


def test_a_second_run_reads_nothing(table, tmp_path, read_files):
    first = load_volumes(table, PREPARATION, tmp_path / "cache", **ALL)
    assert len(read_files) == 15
    moved = shutil.move(tmp_path / "scans", tmp_path / "moved")
    again = VolumeTable.from_folder(moved, moved, ["_t1", "_t2"], mask_ending="_seg")
    second = load_volumes(again, PREPARATION, tmp_path / "cache", **ALL)
    assert len(read_files) == 15
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "change", ["content", "mask", "order", "modalities", "no masks", "intensity", "classes"]
)
def test_whatever_changes_the_volumes_changes_the_entry(table, tmp_path, change):
    load_volumes(table, PREPARATION, tmp_path / "cache", **ALL)
    preparation, num_classes = PREPARATION, None
    if change in ("content", "mask"):
        path = table.paths[0, 1] if change == "content" else table.masks[0]
        old = read_volume(path)
        save_nifti(path, old.voxels[::-1], old.affine)
    elif change == "order":
        table = table.select([1, 0, 2, 3, 4])
    elif change == "modalities":
        table = VolumeTable(table.paths[:, ::-1], table.masks)
    elif change == "no masks":
        table = VolumeTable(table.paths)
    elif change == "intensity":
        preparation = VolumePreparation(shape=(6, 6, 6), spacing=(1.0, 1.0, 1.0), intensity=ZScore())
    else:
        num_classes = 3
    images, masks = load_volumes(table, preparation, tmp_path / "cache", num_classes=num_classes, **ALL)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    if change == "no masks":
        assert masks is None
    else:
        expected = one_by_one(table, preparation)
        np.testing.assert_array_equal(images, expected[0])
        np.testing.assert_array_equal(masks, expected[1])


@pytest.mark.parametrize("cached", [False, True])
def test_all_bad_files_are_named_before_anything_is_trained_on(table, tmp_path, read_files, cached):
    content = Path(table.paths[0, 1]).read_bytes()
    Path(table.paths[0, 1]).write_bytes(content[: len(content) // 2])
    save_nifti(table.masks[1], read_volume(table.masks[1]).voxels + 7, read_volume(table.masks[1]).affine)
    cache = tmp_path / "cache" if cached else None
    for _ in range(2):
        with pytest.raises(ValueError, match=r"In 2 of 5 rows .*0_t2\.nii\.gz \(.*1_seg\.nii \(`labels`"):
            load_volumes(table, PREPARATION, cache, num_classes=3, verbose=0)
    assert len(read_files) == (15 if cached else 30)


def test_missing_files_are_named_at_once(table):
    for path in (table.paths[3, 0], table.masks[1]):
        Path(path).unlink()
    with pytest.raises(FileNotFoundError, match=r"Missing 2: \S*3_t1\.nii\.gz, \S*1_seg\.nii\."):
        load_volumes(table, PREPARATION, verbose=0)


@pytest.mark.parametrize("empty_masks", ["warn", "refuse", "allow", "other"])
def test_foreground_that_was_cropped_away_is_told_of(table, tmp_path, empty_masks):
    labels = np.zeros((20, 6, 6), np.uint8)
    labels[0, 0] = 1
    table = table.select([2])
    np.save(table.masks[0], labels)
    for path in table.files[0]:
        np.save(path, np.random.default_rng(0).random(labels.shape))
    table.check(empty_masks="refuse", verbose=0)
    message = r"1 of 1 masks have no foreground: \S*2_seg\.npy"

    def load():
        return load_volumes(table, PREPARATION, empty_masks=empty_masks, **ALL)

    if empty_masks == "warn":
        with (
            pytest.warns(UserWarning, match="cuts off foreground in 1 of 1"),
            pytest.warns(UserWarning, match=message),
        ):
            load()
    elif empty_masks == "refuse":
        with pytest.raises(ValueError, match=f"`table` must name masks with foreground. {message}"):
            load()
    elif empty_masks == "allow":
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*no foreground")
            load()
    else:
        with pytest.raises(ValueError, match="`empty_masks` must be"):
            load()


def test_one_array_needs_one_shape(table):
    with pytest.raises(ValueError, match=r"`preparation` must have a shape, .* Received None\."):
        load_volumes(table, VolumePreparation(), verbose=0)


def test_arrays_without_affine_follow_the_scan_that_has_one(tmp_path):
    # A `.npy` mask beside a NIfTI scan in another orientation: it must be turned as the scan is.
    order, signs = ORIENTATIONS[29]
    labels = labels_like((5, 6, 7))
    save_nifti(tmp_path / "scan.nii", labels.astype(np.float32), affine_of(order, signs))
    np.save(tmp_path / "mask.npy", labels)
    table = VolumeTable([tmp_path / "scan.nii"], [tmp_path / "mask.npy"])
    preparation = VolumePreparation(shape=(8, 8, 8), intensity=None)
    images, masks = load_volumes(table, preparation, verbose=0)
    np.testing.assert_array_equal(images[..., 0], masks)


def test_real_volumes(real_data, tmp_path):
    root = real_data / "hippocampus"
    table = VolumeTable.from_folder(root / "images", root / "labels").select(range(0, 200, 20))
    preparation = VolumePreparation(shape=(40, 56, 40), intensity=PercentileScale())
    images, masks = load_volumes(table, preparation, tmp_path, num_classes=3, empty_masks="refuse", verbose=0)
    # Intensities differ by orders of magnitude between these files; prepared, they do not.
    levels = np.array([image[mask > 0].mean() for image, mask in zip(images[..., 0], masks, strict=True)])
    assert levels.min() > 0.2
    assert levels.max() < 0.8
    for path, mask in zip(table.masks, masks, strict=True):
        source = read_volume(path)
        restored = preparation.restore(mask, path)
        np.testing.assert_array_equal(restored.voxels, source.voxels)
        np.testing.assert_array_equal(restored.affine, source.affine)
