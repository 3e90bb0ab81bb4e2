"""Files that hold what they claim, and claim so much that they were made to fill the memory."""

import gzip
import io
import struct
import tracemalloc
import zipfile
import zlib

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from volume_files import dicom_slice

from keras_ssl.data import files as claims
from keras_ssl.data import load_medmnist, read_image, read_volume
from keras_ssl.data.files import refuse_claim
from keras_ssl.data.volume_io import read_grid

pytestmark = pytest.mark.no_backend

GIGA = 10**9
SIDES = (400, 400, 150)


def zeros_nifti(path):
    content = nibabel.Nifti1Image(np.zeros(SIDES, np.uint8), np.eye(4)).to_bytes()
    path.write_bytes(gzip.compress(content))


def zeros_npz(path):
    np.savez_compressed(path, train_images=np.zeros(SIDES, np.uint8), train_labels=np.zeros((400, 1)))


def zeros_png(path):
    Image.fromarray(np.zeros((4000, 6000), np.uint8)).save(path)


def zeros_tiff(path):
    Image.fromarray(np.zeros((4000, 6000), np.uint8)).save(path, compression="tiff_adobe_deflate")


def zeros_deep_tiff(path):
    tifffile.imwrite(path, np.zeros((4000, 3000), np.uint16), compression="zlib", rowsperstrip=100)


BOMBS = [
    (zeros_nifti, "a.nii.gz", read_volume),
    (zeros_nifti, "a.nii.gz", read_grid),
    (zeros_npz, "a.npz", load_medmnist),
    (zeros_png, "a.png", read_image),
    (zeros_tiff, "a.tif", read_image),
    (zeros_deep_tiff, "a.tif", read_image),
]


@pytest.mark.parametrize(("write", "name", "read"), BOMBS)
def test_what_unpacks_to_more_than_the_limit_is_refused_before(tmp_path, monkeypatch, write, name, read):
    path = tmp_path / name
    write(path)
    monkeypatch.setattr(claims, "LARGEST", 10**7)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"{name} .* 10000000 bytes at most .*claims\.LARGEST"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("write", "name", "read"), BOMBS)
def test_the_limit_can_be_raised(tmp_path, monkeypatch, write, name, read):
    write(tmp_path / name)
    monkeypatch.setattr(claims, "LARGEST", 3 * 10**7)
    read(tmp_path / name)


def test_gigabytes_of_zeros_are_refused(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((2000, 2000, 1000))
    header.set_data_dtype(np.int16)
    header["vox_offset"] = 352
    # As long as the zeros would be, packed as tightly as can be.
    content = gzip.compress(header.binaryblock + bytes(1000)) + bytes(8 * 10**6)
    (tmp_path / "a.nii.gz").write_bytes(content)
    for read in (read_volume, read_grid):
        with pytest.raises(ValueError, match=r"a\.nii\.gz cannot be read as a volume: .*LARGEST"):
            read(tmp_path / "a.nii.gz")


def test_a_picture_that_holds_all_its_pixels_is_limited_by_pillow(tmp_path, monkeypatch):
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", bytes(4 * 10**6)), (b"IEND", b""))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks
        )
    )
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: .*decompression bomb"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: .*LARGEST"):
        read_image(tmp_path / "a.png")


def test_slices_that_are_small_alone_are_counted_together(tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom")
    for index in range(4):
        one = dicom_slice(index, (1000, 1280), bits=8)
        one.add_new("PixelData", "OB", bytes(1000 * 1280))
        one.compress(pydicom.uid.RLELossless)
        one.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    monkeypatch.setattr(claims, "LARGEST", 5 * 10**6)
    with pytest.raises(ValueError, match=r"`folder` must hold slices of a volume\. .* 5120000\..*LARGEST"):
        read_volume(tmp_path)
    monkeypatch.setattr(claims, "LARGEST", 6 * 10**6)
    assert read_volume(tmp_path).voxels.shape == (1280, 1000, 4)


def test_members_of_archives_are_counted_by_what_they_are_packed_to(tmp_path, monkeypatch):
    stream = io.BytesIO()
    np.save(stream, np.zeros(SIDES, np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("train_images.npy", stream.getvalue())
        file.writestr("train_labels.npy", stream.getvalue())
        # A member that is never read makes the file, and not the other member, larger.
        file.writestr("more.npy", np.random.default_rng(0).bytes(10**6))
    monkeypatch.setattr(claims, "LARGEST", 10**7)
    with pytest.raises(ValueError, match="LARGEST"):
        load_medmnist(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("claimed", "stored"),
    [
        (3000 * 4000 * 3, 10**6),  # a photograph
        (512 * 512 * 600 * 2, 10**8),  # a CT
        (512 * 512 * 600, 2 * 10**5),  # its mask
        (13 * GIGA, 12 * GIGA),  # photographs of a large data set
        (9 * GIGA, GIGA // 5),
        (2 * GIGA, 2 * 10**6),
    ],
)
def test_what_is_large_in_earnest_is_read(claimed, stored):
    refuse_claim(claimed, stored, packed=True)


def test_what_is_not_packed_has_no_limit():
    refuse_claim(10**15, 10**15, packed=False)
