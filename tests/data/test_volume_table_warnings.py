"""Warnings about a table of volumes: label gaps, foreground cut off by a shape, constant volumes."""

import functools
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from volume_files import save_nifti

from keras_ssl.data import PatchBatches, VolumePreparation, VolumeTable, load_volumes, open_volumes

pytestmark = pytest.mark.no_backend

SHAPE = (8, 8, 8)
FIXED = VolumePreparation(shape=SHAPE)


def make_table(folder, *rows, suffix=".nii.gz", dtype="int16", shape=SHAPE):
    """A scan and a mask for each row of values, which lie in the mask's planes from the second on."""
    rng = np.random.default_rng(0)
    names = []
    for row, values in enumerate(rows):
        mask = np.zeros(shape, dtype)
        for plane, value in enumerate(values, start=1):
            mask[plane, 2:5, 2:5] = value
        for kind, voxels in (("scan", rng.random(shape, np.float32)), ("mask", mask)):
            names.append(folder / f"{kind}_{row}{suffix}")
            np.save(names[-1], voxels) if suffix == ".npy" else save_nifti(names[-1], voxels)
    return VolumeTable(names[::2], names[1::2])


def check(table, folder, **settings):
    table.check(**settings, verbose=0)
    return []


def load(table, folder, **settings):
    return list(load_volumes(table, FIXED, **settings, verbose=0)[1])


def load_cached(table, folder, **settings):
    for _ in range(2):
        masks = load_volumes(table, FIXED, folder / "cache", **settings, verbose=0)[1]
    return list(masks)


def open_prepared(table, folder, **settings):
    for _ in range(2):
        masks = open_volumes(table, VolumePreparation(), folder / "opened", **settings, verbose=0)[1]
    return [np.asarray(mask) for mask in masks]


READERS = pytest.mark.parametrize("read", [check, load, load_cached, open_prepared])
SUFFIXES = pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".npy"])


@READERS
@SUFFIXES
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[255], [255]], r"found are 0, 255: 255 in 2 masks .* Pass label_values=\(0, 255\) to map .* 0..1"),
        ([[1, 2], [4]], r"found are 0, 1, 2, 4: .* label_values=\(0, 1, 2, 4\) .* num_classes=5"),
        ([[3], []], r"found are 0, 3: 3 in 1 masks \(\S*mask_0"),
    ],
)
def test_labels_with_gaps_raise_an_error_that_lists_them(tmp_path, read, suffix, rows, message):
    table = make_table(tmp_path, *rows, suffix=suffix)
    with pytest.raises(ValueError, match=message):
        read(table, tmp_path, empty_masks="allow")


@READERS
@pytest.mark.parametrize("rows", [[[1, 2], [3]], [[1], [1]], [[2], [1]]])
def test_a_volume_may_lack_a_class_that_another_has(tmp_path, read, rows):
    table = make_table(tmp_path, *rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(table, tmp_path)


@READERS
@SUFFIXES
@pytest.mark.parametrize(
    ("label_values", "dtype"),
    [((0, 255), "uint8"), ((0, 1, 2, 4), "float32"), ((0, 1000, -5), "int16"), ((4, 0, 2), "int32")],
)
def test_label_values_are_mapped_to_classes(tmp_path, read, suffix, label_values, dtype):
    table = make_table(tmp_path, label_values, label_values[::-1], suffix=suffix, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks = read(table, tmp_path, label_values=label_values)
    for mask, values in zip(masks, (label_values, label_values[::-1]), strict=False):
        assert mask.dtype == np.uint8
        expected = [label_values.index(value) for value in values]
        np.testing.assert_array_equal(mask[1 : len(values) + 1, 3, 3], expected)
        assert set(np.unique(mask)) == {*expected, label_values.index(0)}


@READERS
def test_other_label_values_raise_an_error_that_names_the_file(tmp_path, read):
    table = make_table(tmp_path, [255], [254])
    with pytest.raises(
        ValueError, match=r"mask_1\S* \(`labels` must be in `label_values`, \(0, 255\)\. Received 254"
    ):
        read(table, tmp_path, label_values=(0, 255))
    with pytest.raises(ValueError, match="`label_values` must be 3 values, one per class"):
        read(table, tmp_path, label_values=(0, 255), num_classes=3)
    with pytest.raises(ValueError, match=r"In 2 of 2 .* in 0\.\.1.* all values: 0, 254\. Others can be"):
        read(table, tmp_path, num_classes=2)


@READERS
def test_absent_classes_trigger_a_warning(tmp_path, read):
    table = make_table(tmp_path, [1], [3])
    with pytest.warns(UserWarning, match=r"2 of 5 classes occur in none of the 2 masks: 2, 4\."):
        read(table, tmp_path, num_classes=5)
    with pytest.warns(UserWarning, match=r"1 of 4 classes occur in none of the 2 masks: 3\."):
        read(table, tmp_path, label_values=(0, 1, 3, 9))


@functools.cache
def corner():
    mask = np.zeros((30, 30, 30), np.uint8)
    mask[2:20, 2:20, 2:20] = 1
    return mask


@pytest.mark.parametrize("read", [load_volumes, open_volumes])
def test_foreground_cut_off_by_the_shape_triggers_a_warning_or_an_error(tmp_path, read):
    rng = np.random.default_rng(0)
    small, organ = np.zeros((30, 30, 30), np.uint8), corner().copy()
    small[13:16, 13:16, 13:16] = 1
    organ[organ == 1] = 0
    organ[10:20, 10:20, 10:20] = 1
    organ[0, 0, 0] = 2  # one voxel of a lesion, a thousandth of the foreground
    for name, mask in (("cut", corner()), ("whole", small), ("lesion", organ)):
        save_nifti(tmp_path / f"{name}.nii.gz", mask)
        save_nifti(tmp_path / f"scan_{name}.nii.gz", rng.random(mask.shape, np.float32))
    names = ("cut", "whole", "lesion")
    table = VolumeTable(
        [tmp_path / f"scan_{name}.nii.gz" for name in names], [tmp_path / f"{name}.nii.gz" for name in names]
    )
    half = functools.partial(
        read, preparation=VolumePreparation(shape=(14, 14, 14)), cache_dir=tmp_path / "c"
    )
    lost = 18**3 - 12**3
    message = (
        rf"more than 1 % of a class. Its shape does in 2 of 3 masks: \S*lesion\S* \(1 of 1001 voxels, 100 % "
        rf"of class 2\), \S*cut\S* \({lost} of 5832 voxels, 70.4 % of class 1\)\. Pass max_foreground_loss"
    )
    for _ in range(2):  # from the cache too
        with pytest.raises(ValueError, match=message) as caught:
            half(table, verbose=0)
        assert "whole" not in str(caught.value)
    with pytest.warns(UserWarning, match=r"cuts off foreground in 2 of 3 masks: \S*lesion"):
        half(table, max_foreground_loss=1.0, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        half(table.select([1]), max_foreground_loss=0.0, verbose=0)
        half(VolumeTable(table.paths), verbose=0)
    with pytest.raises(ValueError, match=r"`max_foreground_loss` must lie in 0\.\.1\. Received 2"):
        half(table, max_foreground_loss=2)


def test_the_foreground_loss_excludes_resampling(tmp_path):
    # Every second voxel is lost to the spacing, none to the shape.
    table = make_table(tmp_path, [1, 1, 1, 1])
    preparation = VolumePreparation(spacing=(2.0, 2.0, 2.0), shape=(4, 4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_volumes(table, preparation, max_foreground_loss=0.0, verbose=0)


@READERS
@SUFFIXES
@pytest.mark.parametrize("value", [0, 7])
def test_constant_volumes_trigger_a_warning_or_an_error(tmp_path, read, suffix, value):
    table = make_table(tmp_path, [1], [1], suffix=suffix)
    blank = np.full(SHAPE, value, np.int16)
    np.save(table.paths[1], blank) if suffix == ".npy" else save_nifti(table.paths[1], blank)
    with pytest.warns(UserWarning, match=r"one value everywhere.* in 1 of 2 files: \S*scan_1"):
        read(table, tmp_path)
    with pytest.raises(ValueError, match=r"volumes of more than one value\. All .* 1 of 1 files: \S*scan_1"):
        read(table.select([1]), tmp_path)


@pytest.mark.parametrize("suffix", [".nii", ".npy"])
@pytest.mark.parametrize("which", ["paths", "masks"])
def test_a_file_rewritten_after_it_was_opened_raises(tmp_path, suffix, which):
    table = make_table(tmp_path, [1], suffix=suffix)
    opened = dict(zip(("paths", "masks"), open_volumes(table, VolumePreparation(), verbose=0), strict=True))
    path = Path(getattr(table, which)[0])
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"abcd")
    os.utime(path, ns=(1, 1))  # a clock may be coarse
    with pytest.raises(OSError, match=r"must stay as `open_volumes` found it .* content has changed"):
        opened[which][0][0:2]
    path.write_bytes(content)
    os.utime(path, ns=(2, 2))
    assert opened[which][0][0:2].shape[:3] == (2, 8, 8)


def test_label_gaps_in_masks_of_patches_trigger_a_warning():
    images, mask = [np.zeros((8, 8, 1))], np.zeros((8, 8), np.uint8)
    mask[2:4] = 255
    with pytest.warns(UserWarning, match=r"labels with gaps, .*: 255\. .* label_values"):
        PatchBatches(images, (4, 4), [mask], foreground=0.5)
