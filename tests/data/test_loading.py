"""Loading of tables of images and of volumes, with and without a cache."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from volume_files import ORIENTATIONS, affine_of, labels_like, save_nifti

from keras_ssl.data import (
    ImageTable,
    PercentileScale,
    Preparation,
    Volume,
    VolumePreparation,
    VolumeTable,
    ZScore,
    cache,
    load_images,
    load_volumes,
    loading,
    read_image,
    read_volume,
    synthetic_fundus,
    volume_table,
)
from keras_ssl.data.image_reading import decode_image

pytestmark = pytest.mark.no_backend

PREPARATION = Preparation(size=16)


@pytest.fixture
def table(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    images, grades = synthetic_fundus(6, size=32)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index}.png")
    return ImageTable(sorted(folder.iterdir()), grades)


@pytest.fixture
def decoded(monkeypatch):
    """The paths of the files that were decoded."""
    paths = []
    monkeypatch.setattr(loading, "decode_image", lambda path: paths.append(path) or decode_image(path))
    return paths


def one_by_one(table):
    return np.stack([PREPARATION.apply(read_image(path)) for path in table.paths])


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_images_are_those_of_the_files_in_order(table, tmp_path, cached, workers):
    cache = tmp_path / "cache" if cached else None
    images, same = load_images(table, PREPARATION, cache, workers=workers, verbose=0)
    assert same is table
    assert isinstance(images, np.memmap) == cached
    np.testing.assert_array_equal(images, one_by_one(table))


def test_a_second_run_decodes_nothing(table, tmp_path, decoded):
    first, _ = load_images(table, PREPARATION, tmp_path / "cache", verbose=0)
    assert len(decoded) == 6
    second, _ = load_images(table, PREPARATION, tmp_path / "cache", verbose=0)
    assert len(decoded) == 6
    np.testing.assert_array_equal(first, second)
    assert not second.flags.writeable


@pytest.mark.parametrize("change", ["content", "order", "size", "crop"])
def test_whatever_changes_the_images_changes_the_entry(table, tmp_path, decoded, change):
    load_images(table, PREPARATION, tmp_path / "cache", verbose=0)
    preparation = PREPARATION
    if change == "content":
        Image.fromarray(np.full((20, 20), 99, np.uint8)).save(table.paths[2])
    elif change == "order":
        table = table.select([1, 0, 2, 3, 4, 5])
    else:
        preparation = Preparation(**{"size": 16} | {"size": {"size": 24}, "crop": {"crop": None}}[change])
    images, _ = load_images(table, preparation, tmp_path / "cache", verbose=0)
    assert len(decoded) == 12
    np.testing.assert_array_equal(images[2], preparation.apply(read_image(table.paths[2])))


def test_files_that_were_renamed_are_known_by_their_bytes(table, tmp_path, decoded):
    load_images(table, PREPARATION, tmp_path / "cache", verbose=0)
    (tmp_path / "images").rename(tmp_path / "moved")
    load_images(sorted((tmp_path / "moved").iterdir()), PREPARATION, tmp_path / "cache", verbose=0)
    assert len(decoded) == 6


def damage(table):
    for row in (1, 4):
        path = Path(table.paths[row])
        path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize("cached", [False, True])
def test_all_unreadable_files_are_named_at_once(table, tmp_path, cached, decoded):
    damage(table)
    cache = tmp_path / "cache" if cached else None
    for _ in range(2):
        with pytest.raises(ValueError, match=r"2 of 6 are not: \S*1\.png \(.*\); \S*4\.png \(.*\)\. Pass"):
            load_images(table, PREPARATION, cache, verbose=0)
    assert len(decoded) == (6 if cached else 12)


@pytest.mark.parametrize("cached", [False, True])
def test_unreadable_files_can_be_left_out(table, tmp_path, cached):
    damage(table)
    cache = tmp_path / "cache" if cached else None
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"2 of 6 images skipped as unreadable: \S*1\.png"):
            images, narrowed = load_images(table, PREPARATION, cache, skip_unreadable=True, verbose=0)
        np.testing.assert_array_equal(images, one_by_one(table.select([0, 2, 3, 5])))
        np.testing.assert_array_equal(narrowed.paths, table.paths[[0, 2, 3, 5]])
        np.testing.assert_array_equal(narrowed.grades, table.grades[[0, 2, 3, 5]])


@pytest.mark.parametrize("cached", [False, True])
def test_where_none_can_be_read_there_is_nothing_to_go_on_with(table, tmp_path, cached):
    for path in table.paths:
        Path(path).write_bytes(b"")
    with pytest.raises(ValueError, match="6 of 6 are not"):
        load_images(
            table, PREPARATION, tmp_path / "cache" if cached else None, skip_unreadable=True, verbose=0
        )


@pytest.mark.parametrize("cached", [False, True])
def test_missing_files_are_named_at_once(table, tmp_path, cached):
    for row in (0, 3):
        os.remove(table.paths[row])
    with pytest.raises(FileNotFoundError, match=r"Missing 2: \S*0\.png, \S*3\.png\."):
        load_images(table, PREPARATION, tmp_path / "cache" if cached else None, verbose=0)


@pytest.mark.parametrize("file", ["images.npy", "unreadable.json"])
def test_a_damaged_entry_is_told_and_decoded_again(table, tmp_path, file, decoded):
    load_images(table, PREPARATION, tmp_path / "cache", verbose=0)
    (entry,) = (tmp_path / "cache").iterdir()
    content = (entry / file).read_bytes()
    (entry / file).write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="is damaged and is decoded again"):
        images, _ = load_images(table, PREPARATION, tmp_path / "cache", verbose=0)
    assert len(decoded) == 12
    np.testing.assert_array_equal(images, one_by_one(table))


def test_a_failed_run_leaves_no_entry(table, tmp_path, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loading, "decode_image", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_images(table, PREPARATION, tmp_path / "cache", verbose=0)
    assert list((tmp_path / "cache").iterdir()) == []


KILLED = """
import sys, time
from keras_ssl.data import Preparation, load_images, loading
from keras_ssl.data.image_reading import decode_image
def slow(path):
    print("decoding", flush=True)
    time.sleep(60 if path.endswith("3.png") else 0)
    return decode_image(path)
loading.decode_image = slow
load_images(sys.argv[2:], Preparation(size=16), sys.argv[1], workers=1, verbose=0)
"""


@pytest.mark.slow
def test_a_killed_run_leaves_no_entry_and_the_next_one_cleans_up(table, tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cache"), *table.paths]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        for _ in range(4):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    (left,) = (tmp_path / "cache").iterdir()
    assert ".partial-" in left.name
    images, _ = load_images(table, PREPARATION, tmp_path / "cache", verbose=0)
    np.testing.assert_array_equal(images, one_by_one(table))
    (entry,) = (tmp_path / "cache").iterdir()
    assert ".partial-" not in entry.name


def test_of_two_runs_at_once_both_get_whole_images(table, tmp_path, monkeypatch):
    nested = []

    def another_run_finishes_first(path):
        if not nested:
            nested.append(True)
            nested.append(load_images(table, PREPARATION, tmp_path / "cache", verbose=0)[0])
        return decode_image(path)

    monkeypatch.setattr(loading, "decode_image", another_run_finishes_first)
    images, _ = load_images(table, PREPARATION, tmp_path / "cache", workers=1, verbose=0)
    np.testing.assert_array_equal(images, one_by_one(table))
    np.testing.assert_array_equal(nested[1], images)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_full_disk_is_told_beforehand(table, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(OSError, match=r"`cache_dir` needs 0\.00 GB"):
        load_images(table, PREPARATION, tmp_path / "cache", verbose=0)


def test_an_entry_is_plain_files(table, tmp_path):
    load_images(table, PREPARATION, tmp_path / "cache", verbose=0)
    (entry,) = (tmp_path / "cache").iterdir()
    assert np.load(entry / "images.npy").shape == (6, 16, 16, 3)
    assert json.loads((entry / "unreadable.json").read_text()) == {}


@pytest.mark.parametrize("verbose", [0, 1])
def test_progress_is_shown_or_not(table, capsys, verbose):
    load_images(table, PREPARATION, verbose=verbose)
    assert ("6/6" in capsys.readouterr().out) == bool(verbose)


def test_real_fundus_images(real_data, tmp_path):
    table = ImageTable.from_folder(real_data / "idrid" / "images_128").select(range(24))
    start = time.perf_counter()
    images, _ = load_images(table, Preparation(size=64), tmp_path, verbose=0)
    assert images.shape == (24, 64, 64, 3)
    assert images.mean(axis=(1, 2, 3)).min() > 20
    assert time.perf_counter() - start < 30


# What is said of images -----------------------------------------------------------------------------------


def save(folder, **pictures):
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / name.replace("_", "."))
    return sorted(folder.iterdir())


@pytest.fixture
def mixed(tmp_path):
    """Two fundus images, a black one, a nearly black JPEG, a page without a disc, and a stack of pages."""
    (tmp_path / "mixed").mkdir()
    fundus = synthetic_fundus(2, size=40)[0]
    grid = np.indices((40, 40)).sum(0).astype("uint8") * 3
    noise = np.random.default_rng(0).integers(0, 3, (40, 40, 3), dtype=np.uint8)
    paths = save(
        tmp_path / "mixed", a_png=fundus[0], b_png=fundus[1], c_png=fundus[0] * 0, d_png=noise, e_png=grid
    )
    pages = [Image.fromarray(page) for page in fundus]
    pages[0].save(tmp_path / "mixed" / "f.tif", save_all=True, append_images=pages[1:])
    return [*paths, tmp_path / "mixed" / "f.tif"]


@pytest.mark.parametrize("cached", [False, True])
def test_what_images_are_is_said_with_counts_and_names_also_from_a_cache(mixed, tmp_path, cached):
    for _ in range(2):
        with pytest.warns(UserWarning, match="images are") as told:
            load_images(mixed, PREPARATION, tmp_path / "cache" if cached else None, verbose=0)
        said = sorted(str(warning.message) for warning in told)
        assert len(said) == 3
        assert re.fullmatch(r"1 of 6 images are of several pages, .*: \S*f\.tif\.", said[0])
        assert re.fullmatch(r"2 of 6 images are constant: .*: \S*c\.png, \S*d\.png\.", said[1])
        assert re.fullmatch(
            r"3 of 6 images are without a fundus disc .*c\.png, \S*d\.png, \S*e\.png\. Set .*", said[2]
        )


def test_without_a_crop_nothing_is_said_of_discs(mixed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_images([mixed[0], mixed[4]], Preparation(size=16, crop=None), verbose=0)


def test_deep_gray_images_are_constant_by_their_own_levels(tmp_path):
    flat = np.full((9, 9), 30000, np.uint16)
    flat[0] += 500
    paths = save(tmp_path, a_png=flat, b_png=(np.arange(81).reshape(9, 9) * 9).astype("uint16"))
    with pytest.warns(UserWarning, match=r"1 of 2 images are constant: .*a\.png\."):
        load_images(paths, Preparation(8, crop=None), verbose=0)


def test_images_that_are_all_constant_are_refused(tmp_path):
    paths = save(tmp_path, a_png=np.zeros((9, 9), np.uint8), b_png=np.full((9, 9), 200, np.uint8))
    with pytest.raises(
        ValueError, match=r"must name images with content. All 2 are constant.*a\.png, \S*b\.png"
    ):
        load_images(paths, PREPARATION, verbose=0)
    # A single photograph, as it is graded, is only warned of.
    with pytest.warns(UserWarning, match=r"1 of 1 images are constant"):
        load_images(paths[:1], PREPARATION, verbose=0)


def test_memory_that_is_missing_is_named_with_the_file(table, monkeypatch):
    def exhaust(*_):
        raise MemoryError

    monkeypatch.setattr(loading, "prepare_image", exhaust)
    with pytest.raises(MemoryError, match=r"0\.png does not fit into memory"):
        load_images(table, PREPARATION, verbose=0)


# Volumes ----------------------------------------------------------------------------------------------------

# The shape below cuts blobs at random; most tests are about what is left.
ALL = {"max_foreground_loss": 1.0, "verbose": 0}
TO_SHAPE = VolumePreparation(shape=(6, 6, 6), spacing=(1.0, 1.0, 1.0))


@pytest.fixture
def volumes(tmp_path):
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


def prepared_one_by_one(volumes, preparation=TO_SHAPE):
    images, masks = [], []
    for files, mask in zip(volumes.files, volumes.masks, strict=True):
        voxels, affines = zip(*(read_volume(path) for path in files), strict=True)
        images.append(preparation.image(Volume(np.stack(voxels, -1), affines[0])))
        masks.append(preparation.mask(read_volume(mask)))
    return np.stack(images), np.stack(masks)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_volumes_are_those_of_the_files_in_order(volumes, tmp_path, cached, workers):
    cache = tmp_path / "cache" if cached else None
    images, masks = load_volumes(volumes, TO_SHAPE, cache, num_classes=3, workers=workers, **ALL)
    expected_images, expected_masks = prepared_one_by_one(volumes)
    np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(masks, expected_masks)
    assert (images.shape, images.dtype) == ((5, 6, 6, 6, 2), np.float32)
    assert (masks.shape, masks.dtype) == ((5, 6, 6, 6), np.uint8)
    assert isinstance(images, np.memmap) == isinstance(masks, np.memmap) == cached
    assert images.flags.writeable != cached


def test_volumes_a_second_run_reads_nothing(volumes, tmp_path, read_files):
    first = load_volumes(volumes, TO_SHAPE, tmp_path / "cache", **ALL)
    assert len(read_files) == 15
    moved = shutil.move(tmp_path / "scans", tmp_path / "moved")
    again = VolumeTable.from_folder(moved, moved, ["_t1", "_t2"], mask_ending="_seg")
    second = load_volumes(again, TO_SHAPE, tmp_path / "cache", **ALL)
    assert len(read_files) == 15
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "change", ["content", "mask", "order", "modalities", "no masks", "intensity", "classes"]
)
def test_whatever_changes_the_volumes_changes_the_entry(volumes, tmp_path, change):
    load_volumes(volumes, TO_SHAPE, tmp_path / "cache", **ALL)
    preparation, num_classes = TO_SHAPE, None
    if change in ("content", "mask"):
        path = volumes.paths[0, 1] if change == "content" else volumes.masks[0]
        old = read_volume(path)
        save_nifti(path, old.voxels[::-1], old.affine)
    elif change == "order":
        volumes = volumes.select([1, 0, 2, 3, 4])
    elif change == "modalities":
        volumes = VolumeTable(volumes.paths[:, ::-1], volumes.masks)
    elif change == "no masks":
        volumes = VolumeTable(volumes.paths)
    elif change == "intensity":
        preparation = VolumePreparation(shape=(6, 6, 6), spacing=(1.0, 1.0, 1.0), intensity=ZScore())
    else:
        num_classes = 3
    images, masks = load_volumes(volumes, preparation, tmp_path / "cache", num_classes=num_classes, **ALL)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    if change == "no masks":
        assert masks is None
    else:
        expected = prepared_one_by_one(volumes, preparation)
        np.testing.assert_array_equal(images, expected[0])
        np.testing.assert_array_equal(masks, expected[1])


@pytest.mark.parametrize("cached", [False, True])
def test_all_bad_files_are_named_before_anything_is_trained_on(volumes, tmp_path, read_files, cached):
    content = Path(volumes.paths[0, 1]).read_bytes()
    Path(volumes.paths[0, 1]).write_bytes(content[: len(content) // 2])
    save_nifti(
        volumes.masks[1], read_volume(volumes.masks[1]).voxels + 7, read_volume(volumes.masks[1]).affine
    )
    cache = tmp_path / "cache" if cached else None
    for _ in range(2):
        with pytest.raises(ValueError, match=r"In 2 of 5 rows .*0_t2\.nii\.gz \(.*1_seg\.nii \(`labels`"):
            load_volumes(volumes, TO_SHAPE, cache, num_classes=3, verbose=0)
    assert len(read_files) == (15 if cached else 30)


def test_volumes_missing_files_are_named_at_once(volumes):
    for path in (volumes.paths[3, 0], volumes.masks[1]):
        Path(path).unlink()
    with pytest.raises(FileNotFoundError, match=r"Missing 2: \S*3_t1\.nii\.gz, \S*1_seg\.nii\."):
        load_volumes(volumes, TO_SHAPE, verbose=0)


@pytest.mark.parametrize("empty_masks", ["warn", "refuse", "allow", "other"])
def test_foreground_that_was_cropped_away_is_told_of(volumes, tmp_path, empty_masks):
    labels = np.zeros((20, 6, 6), np.uint8)
    labels[0, 0] = 1
    volumes = volumes.select([2])
    np.save(volumes.masks[0], labels)
    for path in volumes.files[0]:
        np.save(path, np.random.default_rng(0).random(labels.shape))
    volumes.check(empty_masks="refuse", verbose=0)
    message = r"1 of 1 masks have no foreground: \S*2_seg\.npy"

    def load():
        return load_volumes(volumes, TO_SHAPE, empty_masks=empty_masks, **ALL)

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


def test_one_array_needs_one_shape(volumes):
    with pytest.raises(ValueError, match=r"`preparation` must have a shape, .* Received None\."):
        load_volumes(volumes, VolumePreparation(), verbose=0)


def test_arrays_without_affine_follow_the_scan_that_has_one(tmp_path):
    # A `.npy` mask beside a NIfTI scan in another orientation: it must be turned as the scan is.
    order, signs = ORIENTATIONS[29]
    labels = labels_like((5, 6, 7))
    save_nifti(tmp_path / "scan.nii", labels.astype(np.float32), affine_of(order, signs))
    np.save(tmp_path / "mask.npy", labels)
    volumes = VolumeTable([tmp_path / "scan.nii"], [tmp_path / "mask.npy"])
    preparation = VolumePreparation(shape=(8, 8, 8), intensity=None)
    images, masks = load_volumes(volumes, preparation, verbose=0)
    np.testing.assert_array_equal(images[..., 0], masks)


def test_real_volumes(real_data, tmp_path):
    root = real_data / "hippocampus"
    volumes = VolumeTable.from_folder(root / "images", root / "labels").select(range(0, 200, 20))
    preparation = VolumePreparation(shape=(40, 56, 40), intensity=PercentileScale())
    images, masks = load_volumes(
        volumes, preparation, tmp_path, num_classes=3, empty_masks="refuse", verbose=0
    )
    # Intensities differ by orders of magnitude between these files; prepared, they do not.
    levels = np.array([image[mask > 0].mean() for image, mask in zip(images[..., 0], masks, strict=True)])
    assert levels.min() > 0.2
    assert levels.max() < 0.8
    for path, mask in zip(volumes.masks, masks, strict=True):
        source = read_volume(path)
        restored = preparation.restore(mask, path)
        np.testing.assert_array_equal(restored.voxels, source.voxels)
        np.testing.assert_array_equal(restored.affine, source.affine)
