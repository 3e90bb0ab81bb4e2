import gzip
import os
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from volume_files import affine_of, save_nifti, turn

from keras_ssl.data import Volume, read_volume, write_volume
from keras_ssl.data.volume_io import read_grid

pytestmark = pytest.mark.no_backend

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(-500, 500, (5, 6, 7)).astype(np.int16)
AFFINE = turn(affine_of((1, 0, 2), (-1, 1, 1), (0.7, 0.8, 2.5)), 20)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64", ">i2", ">f4"])
def test_nifti_files_of_nibabel_are_read_exactly(tmp_path, suffix, dtype):
    voxels = (VOXELS % 256 if dtype == "uint8" else VOXELS).astype(dtype)
    read = read_volume(save_nifti(tmp_path / f"a{suffix}", voxels, AFFINE))
    np.testing.assert_array_equal(read.voxels, voxels)
    np.testing.assert_allclose(read.affine, AFFINE, atol=1e-5)
    expected = np.dtype(np.float32) if voxels.dtype.kind == "f" else voxels.dtype.newbyteorder("=")
    assert read.voxels.dtype == expected
    assert read.affine.dtype == np.float64
    np.testing.assert_allclose(read.spacing, (0.7, 0.8, 2.5), rtol=1e-5)


def test_slope_and_intercept_are_applied(tmp_path):
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.header.set_slope_inter(0.5, -3.0)
    image.to_filename(tmp_path / "a.nii")
    stored = nibabel.load(tmp_path / "a.nii")
    assert (stored.dataobj.slope, stored.dataobj.inter) == (0.5, -3.0)
    read = read_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(read.voxels, stored.get_fdata())
    assert read.voxels.dtype == np.float32


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_second_nifti_format_is_read(tmp_path, suffix):
    nibabel.Nifti2Image(VOXELS, AFFINE).to_filename(tmp_path / f"a{suffix}")
    read = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read.voxels, VOXELS)
    np.testing.assert_allclose(read.affine, AFFINE)


def test_npy_has_the_identity_as_affine(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(VOXELS))
    read = read_volume(tmp_path / "a.npy")
    np.testing.assert_array_equal(read.voxels, VOXELS)
    np.testing.assert_array_equal(read.affine, np.eye(4))


def test_trailing_axes_of_one_are_dropped_and_channels_kept(tmp_path):
    path = save_nifti(tmp_path / "a.nii", VOXELS[..., None, None])
    assert read_volume(path).voxels.shape == (5, 6, 7)
    assert read_volume(path, channels=True).voxels.shape == (5, 6, 7, 1)
    several = save_nifti(tmp_path / "b.nii", np.stack([VOXELS, VOXELS + 1], axis=-1))
    np.testing.assert_array_equal(read_volume(several, channels=True).voxels[..., 1], VOXELS + 1)


def with_one(value):
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3] = value
    return voxels


@pytest.mark.parametrize("suffix", [".nii.gz", ".npy"])
@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (np.stack([VOXELS, VOXELS], axis=-1), r"must have shape \(x, y, z\). Received shape \(5, 6, 7, 2\)"),
        (VOXELS[0], r"must have shape \(x, y, z\). Received shape \(6, 7\)"),
        (with_one(np.nan), "must be finite. Received NaN or infinity in 1 of 210"),
        (with_one(np.inf), "must be finite"),
        (VOXELS.astype(np.complex64), "must be real numbers. Received dtype complex64"),
    ],
)
def test_invalid_voxels_raise_an_error_that_names_the_file(tmp_path, suffix, voxels, message):
    path = tmp_path / f"scan{suffix}"
    if suffix == ".npy":
        np.save(path, voxels)
    else:
        save_nifti(path, voxels)
    with pytest.raises(ValueError, match=rf"scan{suffix} cannot be read as a volume: `voxels` {message}"):
        read_volume(path)


def test_colors_and_objects_raise(tmp_path):
    colors = np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(ValueError, match=r"rgb.nii cannot be read .* real numbers"):
        read_volume(save_nifti(tmp_path / "rgb.nii", colors))
    np.save(tmp_path / "o.npy", np.full((2, 2, 2), {}, object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"o.npy cannot be read as a volume"):
        read_volume(tmp_path / "o.npy")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npy"])
@pytest.mark.parametrize("kept", [0, 40, 0.5, 0.95])
def test_truncated_files_raise(tmp_path, name, kept):
    path = tmp_path / name
    np.save(path, VOXELS) if name == "a.npy" else save_nifti(path, VOXELS)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(ValueError, match=rf"{name} cannot be read as a volume"):
        read_volume(path)


def test_a_flipped_bit_and_a_missing_checksum_raise(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", VOXELS)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"a.nii.gz cannot be read"):
        read_volume(path)
    # Stored, not deflated: the flipped bit is then a wrong voxel that the check sum alone tells.
    raw = save_nifti(tmp_path / "b.nii", VOXELS).read_bytes()
    stored = bytearray(gzip.compress(raw, 0))
    stored[500] ^= 1
    path.write_bytes(stored)
    with pytest.raises(ValueError, match=r"a.nii.gz cannot be read as a volume: CRC"):
        read_volume(path)


def test_missing_and_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received .*none\.nii"):
        read_volume(tmp_path / "none.nii")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"a\.txt cannot be read .* its name must end in one of \.nii"):
        read_volume(tmp_path / "a.txt")


def test_an_affine_that_cannot_be_inverted_raises(tmp_path):
    image = nibabel.Nifti1Image(VOXELS, np.eye(4))
    image.header["sform_code"] = 1
    image.header["srow_x"] = image.header["srow_y"] = (1, 0, 0, 0)
    image.to_filename(tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[280:296] = content[296:312] = np.array([1, 0, 0, 0], "<f4").tobytes()
    content[254:256] = np.int16(1).tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.nii cannot .* `affine` must be finite and invertible"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npy"])
def test_the_grid_is_read_from_the_header(tmp_path, name):
    path = tmp_path / name
    np.save(path, VOXELS) if name == "a.npy" else save_nifti(path, VOXELS, AFFINE)
    grid, volume = read_grid(path), read_volume(path)
    assert grid.shape == volume.voxels.shape
    np.testing.assert_array_equal(grid.affine, volume.affine)


@pytest.mark.parametrize(
    ("voxels", "dtype"),
    [
        (np.array([0, 255]), "uint8"),
        (np.array([True, False]), "uint8"),
        (np.array([-1, 3]), "int16"),
        (np.array([0, 256]), "int16"),
        (np.array([0, 70000]), "int32"),
        (np.array([0.5, 1.5]), "float32"),
        (np.array([0.5, 1.5], "float16"), "float32"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_written_files_are_small_and_read_by_nibabel(tmp_path, voxels, dtype, suffix):
    voxels = voxels.reshape(1, 1, 2).repeat(3, axis=1)
    write_volume(tmp_path / f"a{suffix}", voxels, AFFINE)
    image = nibabel.load(tmp_path / f"a{suffix}")
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(image.get_fdata(), voxels)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        np.testing.assert_allclose(form, AFFINE, atol=1e-5)
        assert code == 1
    assert image.header.get_xyzt_units()[0] == "mm"


def test_an_affine_that_shears_is_written_as_sform_alone(tmp_path):
    sheared = AFFINE.copy()
    sheared[0, 2] += 0.5
    write_volume(tmp_path / "a.nii", VOXELS, sheared)
    image = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_allclose(image.affine, sheared, atol=1e-5)
    assert image.get_qform(coded=True)[1] == 0


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (4, 1)])
def test_like_copies_the_geometry_only(tmp_path, codes):
    scan = nibabel.Nifti1Image(VOXELS, AFFINE)
    scan.set_qform(AFFINE if codes[0] else None, codes[0])
    scan.set_sform(AFFINE if codes[1] else None, codes[1])
    scan.header.set_zooms((0.7, 0.8, 2.5))
    scan.header.set_xyzt_units("micron")
    scan.header["cal_max"] = 240
    scan.header["descrip"] = b"somebody"
    scan.header.set_slope_inter(2.0, -1000.0)
    scan.to_filename(tmp_path / "scan.nii.gz")
    labels = (VOXELS > 0).astype(np.int64)
    write_volume(tmp_path / "labels.nii.gz", labels, like=tmp_path / "scan.nii.gz")
    source, written = (nibabel.load(tmp_path / f"{name}.nii.gz") for name in ("scan", "labels"))
    np.testing.assert_array_equal(written.get_fdata(), labels)
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    assert written.get_data_dtype() == np.uint8
    assert written.header.get_xyzt_units()[0] == "micron"
    assert (written.header["qform_code"], written.header["sform_code"]) == codes
    assert written.header["cal_max"] == 0
    assert not bytes(written.header["descrip"]).strip(b"\0")


def test_a_header_with_meters_for_millimeters_raises(tmp_path):
    image = nibabel.Nifti1Image(np.arange(27, dtype="int16").reshape(3, 3, 3), np.eye(4))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"a\.nii.*states meters, by which a voxel is 1000 mm wide"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize(("unit", "size"), [("meter", 1e-3), ("mm", 1.0), ("micron", 1e3), (None, 1.0)])
@pytest.mark.parametrize("time", ["sec", "hz", None])
def test_affines_are_in_millimeters_whatever_the_unit(tmp_path, unit, size, time):
    scan = nibabel.Nifti1Image(VOXELS, np.diag([size, size, size, 1.0]) @ AFFINE)
    scan.header.set_xyzt_units(unit, time)
    scan.to_filename(tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
    np.testing.assert_array_equal(read_grid(tmp_path / "scan.nii").affine, volume.affine)
    write_volume(tmp_path / "labels.nii", VOXELS, volume.affine, like=tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "labels.nii").affine, volume.affine)
    assert nibabel.load(tmp_path / "labels.nii").header.get_xyzt_units() == (unit or "unknown", "unknown")


def damage(path, *fields):
    """Overwrite fields of a header, each an offset, a format of `struct` and values."""
    content = bytearray(path.read_bytes())
    for offset, form, *values in fields:
        struct.pack_into(form, content, offset, *values)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "fields",
    [
        [(256, "<3f", 0.0, 0.70710739, 0.70710739)],
        [(256, "<3f", 5.0, 5.0, 5.0)],
        [(256, "<f", float("nan"))],
        [(80, "<3f", 0.0, 0.0, 0.0)],
        [(80, "<3f", -1.0, 1.0, 1.0)],
        [(80, "<3f", float("nan"), 1.0, 1.0)],
        [(254, "<h", 77)],
        [(252, "<h", 77)],
        [(123, "<B", 255)],
    ],
    ids=[
        "quaternion",
        "long",
        "nan",
        "no sizes",
        "negative",
        "nan sizes",
        "sform code",
        "qform code",
        "unit",
    ],
)
def test_every_readable_file_can_be_like(tmp_path, fields):
    scan = nibabel.Nifti1Image(VOXELS, AFFINE)
    scan.set_sform(AFFINE, 1)
    scan.set_qform(AFFINE, 1)
    scan.to_filename(tmp_path / "scan.nii")
    damage(tmp_path / "scan.nii", *fields)
    read = read_volume(tmp_path / "scan.nii")
    write_volume(tmp_path / "labels.nii.gz", VOXELS > 0, read.affine, like=tmp_path / "scan.nii")
    written = read_volume(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(written.affine, read.affine)
    np.testing.assert_array_equal(written.voxels, VOXELS > 0)
    nibabel.load(tmp_path / "labels.nii.gz").header.get_qform()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npy"])
def test_memory_errors_name_the_volume(tmp_path, monkeypatch, name):
    path = tmp_path / name
    np.save(path, VOXELS) if name == "a.npy" else save_nifti(path, VOXELS)

    def full(*_):
        raise MemoryError

    monkeypatch.setattr("keras_ssl.data.volume_io._read_stored", full)
    with pytest.raises(MemoryError, match=rf"{name} does not fit into memory"):
        read_volume(path)


def test_writing_replaces_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    write_volume(path, VOXELS, AFFINE)
    first = path.read_bytes()
    write_volume(path, VOXELS, AFFINE)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()

    def fail(self, content):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_volume(path, VOXELS + 1, AFFINE)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "a.npy"}, r"`path` must end in .nii or .nii.gz. Received .*a\.npy"),
        ({"voxels": VOXELS[0]}, r"`voxels` must have shape .* Received shape \(6, 7\)"),
        ({"voxels": with_one(np.nan)}, "`voxels` must be finite"),
        ({"voxels": np.full((2, 2, 2), 2**40)}, "`voxels` must fit into 32 bits"),
        ({"affine": None}, "`affine` or `like` must be given. Received neither"),
        ({"affine": np.eye(3)}, r"`affine` must have shape \(4, 4\). Received shape \(3, 3\)"),
        ({"affine": np.zeros((4, 4))}, "`affine` must be finite and invertible"),
        ({"like": "scan.nii", "voxels": VOXELS[:4]}, r"`like` must have the shape of `voxels`, \(4, 6, 7\)"),
        ({"like": "scan.nii", "affine": np.eye(4)}, "`like` must have the affine that is given"),
    ],
)
def test_invalid_arguments_of_write_volume_raise(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    save_nifti("scan.nii", VOXELS, AFFINE)
    with pytest.raises(ValueError, match=message):
        write_volume(**{"path": "a.nii", "voxels": VOXELS, "affine": AFFINE} | arguments)
    assert not Path("a.nii").exists()


def test_a_volume_unpacks():
    voxels, affine = Volume(VOXELS, AFFINE)
    assert voxels is VOXELS
    assert affine is AFFINE
