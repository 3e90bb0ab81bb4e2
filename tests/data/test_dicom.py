import contextlib
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_ssl import Segmenter
from keras_ssl.data import VolumePreparation, VolumeTable, Window, load_volumes, read_volume
from keras_ssl.data.dicom import read_dicom_series
from keras_ssl.data.volume_io import read_grid

pydicom = pytest.importorskip("pydicom")

RNG = np.random.default_rng(0)
STORED = RNG.integers(0, 2000, (5, 4, 6)).astype(np.int16)  # slices, rows, columns
AXIAL = (1, 0, 0, 0, 1, 0)
# Columns run to the back, rows down, so slices go to the right: a sagittal series.
SAGITTAL = (0, 1, 0, 0, 0, -1)


def save_slice(path, pixels, position, orientation=AXIAL, spacing=(0.8, 0.7), **tags):
    """One slice as a scanner writes it, with the patient's name; a tag of `None` is left out."""
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = pydicom.uid.CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = pydicom.uid.generate_uid()
    one.PatientName = "Doe^Jane"
    one.SeriesInstanceUID = "1.2.3"
    one.ImagePositionPatient = [float(value) for value in position]
    one.ImageOrientationPatient = [float(value) for value in orientation]
    one.PixelSpacing = list(spacing)
    one.RescaleSlope, one.RescaleIntercept = "1", "-1024"
    one.Rows, one.Columns = pixels.shape[:2]
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 1
    one.PixelData = pixels.astype("<i2").tobytes()
    for name, value in tags.items():
        delattr(one, name) if value is None else setattr(one, name, value)
    if one.get("PixelPaddingValue", 0) > 32767:
        one["PixelPaddingValue"].VR = "US"
    one.save_as(path, enforce_file_format=True)


def save_series(
    folder, orientation=AXIAL, step=2.5, origin=(10.0, -20.0, 30.0), order=(3, 0, 4, 1, 2), **tags
):
    """Slices whose files are called in another order than they lie in."""
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(orientation[:3], orientation[3:])
    for name, index in enumerate(order):
        position = np.array(origin) + index * step * normal
        save_slice(folder / f"IM{name}.dcm", STORED[index], position, orientation, **tags)
    return folder


@pytest.fixture
def series(tmp_path):
    return save_series(tmp_path / "series")


def test_slices_are_sorted_by_position_and_rescaled_to_hounsfield_units(series):
    voxels, affine = read_dicom_series(series)
    np.testing.assert_array_equal(voxels, STORED.transpose(2, 1, 0) - 1024)
    assert voxels.dtype == np.int16
    # Columns 0.7 mm apart and rows 0.8; right and front are minus DICOM's left and back.
    expected = [[-0.7, 0, 0, -10], [0, -0.8, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(affine, expected)


@pytest.mark.parametrize("angle", [0, 15])
@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL])
def test_every_voxel_is_where_dicom_says(tmp_path, orientation, angle):
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    orientation = tuple((np.reshape(orientation, (2, 3)) @ turn.T).ravel())
    folder = save_series(tmp_path / "series", orientation)
    voxels, affine = read_dicom_series(folder)
    for path in folder.iterdir():
        one = pydicom.dcmread(path)
        position = np.array(one.ImagePositionPatient, float)
        along_columns, along_rows = np.reshape(np.array(one.ImageOrientationPatient, float), (2, 3))
        for row, column in ((0, 0), (3, 5), (1, 2)):
            # PS3.3, equation C.7.6.2.1-1, then from left and back to right and front.
            patient = position + along_columns * 0.7 * column + along_rows * 0.8 * row
            index = np.linalg.inv(affine) @ [*(patient * [-1, -1, 1]), 1]
            np.testing.assert_allclose(index, np.round(index), atol=1e-4)
            found = voxels[tuple(np.round(index[:3]).astype(int))]
            assert found == one.pixel_array[row, column] - 1024


def test_a_series_is_reoriented_to_ras(tmp_path):
    axial, sagittal = (
        VolumePreparation(intensity=Window(-1024, 976)).image(read_volume(save_series(tmp_path / name, kind)))
        for name, kind in (("axial", AXIAL), ("sagittal", SAGITTAL))
    )
    scaled = STORED / 2000
    np.testing.assert_allclose(axial[..., 0], scaled.transpose(2, 1, 0)[::-1, ::-1], atol=1e-6)
    # Slices go to the patient's right as canonical axes do; columns to the back and rows down do not.
    np.testing.assert_allclose(sagittal[..., 0], scaled.transpose(0, 2, 1)[:, ::-1, ::-1], atol=1e-6)


def test_a_folder_of_slices_is_a_row_of_a_table(tmp_path):
    folders = [
        save_series(tmp_path / name, order=order)
        for name, order in (("a", range(5)), ("b", range(4, -1, -1)))
    ]
    for one, other in zip(read_volume(folders[0]), read_dicom_series(folders[0]), strict=True):
        np.testing.assert_array_equal(one, other)
    grid = read_grid(folders[0])
    assert grid.shape == (6, 4, 5)
    np.testing.assert_array_equal(grid.affine, read_volume(folders[0]).affine)
    table = VolumeTable(folders)
    table.check(verbose=0)
    preparation = VolumePreparation(shape=(6, 6, 6), intensity=Window(-1024, 976))
    for _ in range(2):
        images, _ = load_volumes(table, preparation, tmp_path / "cache", verbose=0)
        np.testing.assert_array_equal(images[0], images[1])
    assert len(list((tmp_path / "cache").iterdir())) == 1
    save_series(folders[1], RescaleIntercept="0")
    images, _ = load_volumes(table, preparation, tmp_path / "cache", verbose=0)
    assert (images[0] != images[1]).any()


def test_each_slice_has_its_own_slope(tmp_path):
    folder = save_series(tmp_path / "series", RescaleSlope=None, RescaleIntercept=None)
    np.testing.assert_array_equal(read_dicom_series(folder).voxels, STORED.transpose(2, 1, 0))
    save_slice(folder / "IM1.dcm", STORED[0], (10, -20, 30), RescaleSlope="0.5", RescaleIntercept="0.25")
    voxels = read_dicom_series(folder).voxels
    assert voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels[..., 0], STORED[0].T * 0.5 + 0.25)
    np.testing.assert_array_equal(voxels[..., 1], STORED[1].T)


def test_empty_rescale_tags_change_nothing(tmp_path):
    folder = save_series(tmp_path / "series", RescaleSlope="", RescaleIntercept="")
    assert set(np.unique(read_volume(folder).voxels)) <= set(np.unique(STORED))


def test_the_integer_type_holds_all_slices(tmp_path):
    for index, value in enumerate((7, -3, 40000)):
        pixels = np.full((2, 3), value, np.int32)
        tags = {"RescaleIntercept": "0", "BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}
        save_slice(tmp_path / f"{index}.dcm", pixels, (0, 0, index), PixelData=pixels.tobytes(), **tags)
    volume = read_dicom_series(tmp_path)
    assert volume.voxels.dtype == np.int32
    assert volume.voxels[0, 0].tolist() == [7, -3, 40000]


def test_a_folder_of_slices_is_segmented(series, tmp_path):
    inputs = keras.Input((8, 8, 8, 1))
    # Two classes: above and below -500 HU.
    logits = keras.layers.Concatenate()([inputs * 0, (inputs + 500.0) / 100.0])
    model = keras.Model(inputs, keras.layers.Softmax()(logits))
    preparation = VolumePreparation(intensity=None)
    (written,) = Segmenter(model, preparation, ("air", "tissue")).segment([series], tmp_path / "labels")
    assert written.name == "series_pred.nii.gz"
    scan, labels = read_volume(series), read_volume(written)
    np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-4)
    np.testing.assert_array_equal(labels.voxels, scan.voxels > -500)


def test_a_tilted_gantry_gives_a_sheared_affine(tmp_path):
    for index in range(5):
        save_slice(tmp_path / f"{index}.dcm", STORED[index], (0, 0.5 * index, 2.0 * index))
    affine = read_dicom_series(tmp_path).affine
    np.testing.assert_allclose(affine[:3, 2], [0, -0.5, 2])


def test_rounded_positions_and_other_files_do_not_matter(series):
    save_slice(series / "IM0.dcm", STORED[3], (10, -20, 30 + 3 * 2.5 + 0.04))
    for name in ("DICOMDIR", "notes.txt", ".IM9.dcm"):
        (series / name).write_bytes(b"text")
    (series / "deeper").mkdir()
    (series / "IM2.dcm").rename(series / "without_suffix")
    assert read_dicom_series(series).voxels.shape == (6, 4, 5)


def test_no_tags_of_the_patient_are_read(series, monkeypatch):
    read, dcmread = [], pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", lambda *a, **k: read.append(dcmread(*a, **k)) or read[-1])
    read_dicom_series(series)
    assert len(read) == 5
    assert all("PatientName" not in one and "PixelData" in one for one in read)


def remove(series, *names):
    for name in names:
        (series / f"IM{name}.dcm").unlink()


def cut(series):
    content = (series / "IM2.dcm").read_bytes()
    (series / "IM2.dcm").write_bytes(content[:-10])


def rewrite(index=2, at=2.0, position=None, pixels=None, **tags):
    """A slice `IM9` at a place of its own, or in place of that at `index`."""

    def change(series):
        place = (10, -20, 30 + at * 2.5) if position is None else position
        save_slice(series / f"IM{index}.dcm", STORED[2] if pixels is None else pixels, place, **tags)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda series: remove(series, 1), None),  # the first slice: what is left is whole
        (
            lambda series: remove(series, 3),
            r"all slices of a series, evenly spaced. .* 2.50 mm apart, but 5.00 mm between",
        ),
        (rewrite(9), r"one slice for each place. .* share one: IM4\.dcm and IM9\.dcm"),
        (
            rewrite(9, 5, SeriesInstanceUID="1.2.4"),
            r"slices of one series.* with no number \(5 files, IM0\.dcm\), no number \(1 files, IM9\.dcm\)",
        ),
        (
            rewrite(9, 5, pixels=STORED[0, :3]),
            r"slices of one size. .* 4 x 6 \(5 slices, IM0\.dcm\), 3 x 6 \(1 slices, IM9\.dcm\)",
        ),
        (rewrite(9, 5, spacing=(0.8, 0.9)), r"slices of one PixelSpacing. .* \[0.8, 0.7\] and \[0.8, 0.9\]"),
        (rewrite(9, 5, orientation=SAGITTAL), "slices of one ImageOrientationPatient"),
        (
            rewrite(9, position=(10, -15, 42.5)),
            r"slices along one line. .* IM\d\.dcm lies 4\.00 mm beside it",
        ),
        (
            rewrite(4, ImagePositionPatient=None),
            r"whole slices with geometry. Received \S*IM4\.dcm \(it lacks ImagePos",
        ),
        (rewrite(4, ImageOrientationPatient=None), r"IM4\.dcm \(it lacks ImageOrientationPatient\)"),
        (rewrite(4, PixelSpacing=None), r"IM4\.dcm \(it lacks PixelSpacing\)"),
        (rewrite(4, PixelSpacing=[0.8]), r"IM4\.dcm \(it has the wrong number of values .* PixelSpacing\)"),
        (rewrite(4, NumberOfFrames="3"), r"IM4\.dcm \(it holds 3 frames"),
        (rewrite(4, SamplesPerPixel=3), r"IM4\.dcm \(it is in color\)"),
        (cut, r"IM2\.dcm"),
        (lambda series: (series / "IM3.dcm").write_bytes(b"text"), r"IM3\.dcm \("),
        (lambda series: remove(series, 0, 1, 2, 3), "at least two DICOM slices. Received 1 in"),
        (lambda series: remove(series, 0, 1, 2, 3, 4), "at least two DICOM slices. Received 0 in"),
    ],
)
def test_incomplete_series_raise(series, change, message):
    change(series)
    if message is None:
        assert read_volume(series).voxels.shape == (6, 4, 4)
        return
    with pytest.raises(ValueError, match=message) as caught:
        read_volume(series)
    assert str(series) in str(caught.value)


@pytest.mark.parametrize("name", ["IM9", "IM9.dcm", "IM9.IMA", "IM9.img", "1.2.840.4", "slice.0004"])
@pytest.mark.parametrize("kept", [0, 60, 131, 200, 300, -20])
def test_empty_and_truncated_slices_are_named(series, name, kept):
    content = (series / "IM2.dcm").read_bytes()  # the last slice, of which no gap tells
    (series / "IM2.dcm").unlink()
    (series / name).write_bytes(content[:kept])
    with pytest.raises(ValueError, match=rf"whole slices with geometry. Received \S*{re.escape(name)} \("):
        read_volume(series)
    with pytest.raises(ValueError, match=re.escape(name)) if kept != -20 else contextlib.nullcontext():
        read_grid(series)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("meta", [False, True])
def test_a_slice_without_preamble_is_read(series, implicit, meta):
    expected = read_volume(series).voxels
    one = pydicom.dcmread(series / "IM2.dcm")
    if meta:
        content = (series / "IM2.dcm").read_bytes()
        (series / "IM2.dcm").write_bytes(content[132:])
    else:
        one = pydicom.Dataset({element.tag: element for element in one})
        one.save_as(series / "IM2.dcm", implicit_vr=implicit, little_endian=True)
    assert not pydicom.misc.is_dicom(series / "IM2.dcm")
    np.testing.assert_array_equal(read_volume(series).voxels, expected)


def test_a_broken_link_to_a_slice_raises(series):
    (series / "IM7").symlink_to(series / "gone")
    with pytest.raises(ValueError, match=r"IM7 \(it is a link to a file that does not exist\)"):
        read_volume(series)


def test_other_files_are_ignored_or_trigger_a_warning(series):
    for name in ("README", "LICENSE.txt", "Thumbs.db", ".DS_Store", "._IM0.dcm", "notes.json", "desktop.ini"):
        (series / name).write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_volume(series).voxels.shape == (6, 4, 5)
    (series / "DICOMDIR").write_bytes((series / "IM0.dcm").read_bytes())
    directory = pydicom.dcmread(series / "DICOMDIR")
    directory.SOPClassUID = directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.save_as(series / "DICOMDIR")
    rewrite(10, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Rows=None, PixelData=None)(series)
    rewrite(11, 9.0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], orientation=SAGITTAL)(series)
    rewrite(12, ImageType=["DERIVED", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="1.2.9")(series)
    rewrite(13, SeriesInstanceUID="1.2.10", ImagePositionPatient=None, ImageOrientationPatient=None)(series)
    (series / "scan.nii.gz").write_bytes(b"nifti")
    (series / "rest").mkdir()
    (series / "IM13.dcm").rename(series / "rest/IM13.dcm")
    rewrite(13, SeriesInstanceUID="1.2.10", ImagePositionPatient=None, ImageOrientationPatient=None)(series)
    with pytest.warns(UserWarning, match="left out as no slices of the series") as told:
        assert read_volume(series).voxels.shape == (6, 4, 5)
    said = str(told[0].message)
    for part in (
        "1 Media Storage Directory (DICOMDIR)",
        "1 Basic Text SR (IM10.dcm)",
        "2 localizers (IM11.dcm, IM12.dcm)",
        "1 images of another series (IM13.dcm)",
        "1 of another format (scan.nii.gz)",
        "1 folders, which are not searched (rest)",
    ):
        assert part in said


@pytest.mark.parametrize("series_of", [1, "1", "1.2.3", "axial", "IM3.dcm"])
def test_one_of_several_series_is_chosen(tmp_path, series_of):
    folder = save_series(tmp_path / "both", SeriesNumber=1, SeriesDescription="axial")
    other = save_series(
        tmp_path / "other", SAGITTAL, SeriesNumber=2, SeriesDescription="mr", SeriesInstanceUID="1.2.30"
    )
    expected = read_volume(folder).voxels
    for path in other.iterdir():
        path.rename(folder / f"other_{path.name}")
    one = pydicom.dcmread(folder / "other_IM0.dcm")
    del one.PixelSpacing
    one.save_as(folder / "other_IM0.dcm")
    with pytest.raises(ValueError, match=r"number 1 \(5 files, IM0\.dcm\), number 2 \(5 files, other") as one:
        read_volume(folder)
    assert "axial" not in str(one.value)
    with pytest.warns(UserWarning, match="5 images of another series"):
        np.testing.assert_array_equal(read_volume(folder, series=series_of).voxels, expected)
    with pytest.raises(ValueError, match=r"series=3 .* Pass `series` to read_volume"):
        read_volume(folder, series=3)
    with pytest.raises(ValueError, match=r"other_IM0\.dcm"):
        read_volume(folder, series=2)


@pytest.mark.parametrize(
    ("stored", "tags", "expected"),
    [
        ([-2000, 0, 30], {"PixelPaddingValue": -2000}, [0, 0, 30]),
        ([-2000, 0, 30], {"PixelPaddingValue": 63536}, [0, 0, 30]),
        ([-2000, -1990, 5], {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1980}, [5, 5, 5]),
        ([-2000, -1990, 5], {"PixelPaddingValue": -1980, "PixelPaddingRangeLimit": -2000}, [5, 5, 5]),
        ([9, 9, 9], {"PixelPaddingValue": 9, "RescaleSlope": "2"}, [0, 0, 0]),
        ([7, 0, 30], {"PixelPaddingValue": 7, "RescaleIntercept": "-1024"}, [-1024, -1024, -994]),
        ([7, 0, 30], {"PixelPaddingValue": 7, "RescaleSlope": "0.5"}, [0, 0, 15]),
        ([-1, 0, 30], {"PhotometricInterpretation": "MONOCHROME1"}, [0, -1, -31]),
        (
            [0, 1, 4095],
            {"PhotometricInterpretation": "MONOCHROME1", "PixelRepresentation": 0, "BitsStored": 12},
            [4095, 4094, 0],
        ),
        ([5, 1, 3], {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 5}, [-4, -2, -4]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_padding_becomes_background_and_monochrome1_is_inverted(tmp_path, stored, tags, expected):
    tags = {"RescaleIntercept": "0", "HighBit": tags.get("BitsStored", 16) - 1} | tags
    for index in range(2):
        pixels = np.array(stored, np.int16).reshape(1, 3)
        save_slice(tmp_path / f"{index}.dcm", pixels, (0, 0, index), **tags)
    found = read_dicom_series(tmp_path).voxels
    np.testing.assert_array_equal(found[:, 0, 0], expected)
    np.testing.assert_array_equal(found[:, 0, 1], expected)


def test_padding_becomes_the_minimum_of_the_volume(tmp_path):
    for index, stored in enumerate(([-2000, -2000, -2000], [-2000, 5, 7], [3, 9, 300])):
        pixels = np.array(stored, np.int16).reshape(1, 3)
        save_slice(tmp_path / f"{index}.dcm", pixels, (0, 0, index), PixelPaddingValue=-2000)
    found = read_dicom_series(tmp_path).voxels[:, 0].T + 1024
    np.testing.assert_array_equal(found, [[3, 3, 3], [3, 5, 7], [3, 9, 300]])


@pytest.mark.parametrize(
    ("syntax", "package"),
    [
        ("1.2.840.10008.1.2.4.70", "pip install pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.80", "pip install pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.90", "pip install pylibjpeg pylibjpeg-openjpeg"),
        ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile .* which pydicom cannot decode"),
    ],
)
def test_the_decoder_that_is_missing_is_named_with_its_package(series, syntax, package, monkeypatch):
    for path in series.iterdir():
        one = pydicom.dcmread(path)
        one.file_meta.TransferSyntaxUID = syntax
        one.PixelData = pydicom.encaps.encapsulate([one.PixelData])
        one["PixelData"].VR = "OB"
        one.save_as(path)
    monkeypatch.setattr(pydicom.pixels.decoders.base.Decoder, "is_available", False)
    with pytest.raises(ValueError, match=rf"5 of 5 in \S*series are compressed as .*{package}"):
        read_volume(series)


def test_memory_errors_name_the_series(series, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr("keras_ssl.data.dicom._decode_slice", full)
    with pytest.raises(MemoryError, match="series does not fit into memory"):
        read_volume(series)


def test_all_bad_slices_and_folders_are_named_at_once(series, tmp_path):
    for index in (1, 4):
        rewrite(index, PixelSpacing=None)(series)
    whole = save_series(tmp_path / "whole")
    with pytest.raises(
        ValueError, match=r"In 1 of 2 rows .*series \(.*IM1\.dcm \(it lacks.*IM4\.dcm \(it lacks"
    ):
        VolumeTable([series, whole]).check(verbose=0)


def test_a_missing_pydicom_raises_with_the_install_command(series, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ImportError, match=re.escape("pip install keras-ssl[dicom]")):
        read_volume(series)
    assert Path(series).is_dir()
