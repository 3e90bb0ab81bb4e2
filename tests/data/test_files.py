"""Formats of files, the decompression-bomb guard, and ordered parallel maps."""

import gzip
import io
import struct
import time
import tracemalloc
import zipfile
import zlib

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from volume_files import dicom_slice

from keras_ssl.data import files, load_medmnist, read_image, read_volume
from keras_ssl.data.files import check_decompressed_size, detect_format, map_in_threads
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
def test_decompression_bombs_raise_before_memory_is_allocated(tmp_path, monkeypatch, write, name, read):
    path = tmp_path / name
    write(path)
    monkeypatch.setattr(files, "MAX_DECOMPRESSED_SIZE", 10**7)
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=rf"{name} .* 10000000 bytes at most.*files\.MAX_DECOMPRESSED_SIZE"
        ):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("write", "name", "read"), BOMBS)
def test_the_limit_of_decompression_can_be_raised(tmp_path, monkeypatch, write, name, read):
    write(tmp_path / name)
    monkeypatch.setattr(files, "MAX_DECOMPRESSED_SIZE", 3 * 10**7)
    read(tmp_path / name)


def test_gigabytes_of_compressed_zeros_raise(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((2000, 2000, 1000))
    header.set_data_dtype(np.int16)
    header["vox_offset"] = 352
    # As long as the zeros would be, packed as tightly as can be.
    content = gzip.compress(header.binaryblock + bytes(1000)) + bytes(8 * 10**6)
    (tmp_path / "a.nii.gz").write_bytes(content)
    for read in (read_volume, read_grid):
        with pytest.raises(
            ValueError, match=r"a\.nii\.gz cannot be read as a volume: .*MAX_DECOMPRESSED_SIZE"
        ):
            read(tmp_path / "a.nii.gz")


def test_huge_images_are_limited_by_pillow_and_by_the_guard(tmp_path, monkeypatch):
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
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: .*MAX_DECOMPRESSED_SIZE"):
        read_image(tmp_path / "a.png")


def test_dicom_slices_are_limited_together(tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom")
    for index in range(4):
        one = dicom_slice(index, (1000, 1280), bits=8)
        one.add_new("PixelData", "OB", bytes(1000 * 1280))
        one.compress(pydicom.uid.RLELossless)
        one.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    monkeypatch.setattr(files, "MAX_DECOMPRESSED_SIZE", 5 * 10**6)
    with pytest.raises(
        ValueError, match=r"`folder` must hold slices of a volume\. .* to 5120000\..*MAX_DECOMPRESSED_SIZE"
    ):
        read_volume(tmp_path)
    monkeypatch.setattr(files, "MAX_DECOMPRESSED_SIZE", 6 * 10**6)
    assert read_volume(tmp_path).voxels.shape == (1280, 1000, 4)


def test_archive_members_are_limited_by_their_own_compressed_size(tmp_path, monkeypatch):
    stream = io.BytesIO()
    np.save(stream, np.zeros(SIDES, np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("train_images.npy", stream.getvalue())
        file.writestr("train_labels.npy", stream.getvalue())
        # A member that is never read makes the file, and not the other member, larger.
        file.writestr("more.npy", np.random.default_rng(0).bytes(10**6))
    monkeypatch.setattr(files, "MAX_DECOMPRESSED_SIZE", 10**7)
    with pytest.raises(ValueError, match="MAX_DECOMPRESSED_SIZE"):
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
def test_large_real_data_passes_the_guard(claimed, stored):
    check_decompressed_size(claimed, stored, compressed=True)


def test_uncompressed_data_has_no_limit():
    check_decompressed_size(10**15, 10**15, compressed=False)


@pytest.mark.parametrize(
    ("format", "kind"),
    [
        *(("PNG", "a PNG"), ("JPEG", "a JPEG"), ("TIFF", "a TIFF"), ("GIF", "a GIF"), ("BMP", "a BMP")),
        *(("WEBP", "a WebP"), ("PPM", "a Netpbm image (PBM, PGM, PPM)"), ("AVIF", "an AVIF")),
        *(("JPEG2000", "a JPEG 2000"), ("PDF", "a PDF"), ("EPS", "an EPS or PostScript file")),
        *(("ICO", "an icon"), ("TGA", "of no known format")),
    ],
)
def test_formats_that_pillow_writes_are_detected(tmp_path, format, kind):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a", format=format)
    assert detect_format(tmp_path / "a") == kind


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"id_code,diagnosis\na,1\n", "a text file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIF image (HEIC)"),
        (b"\0\0\0\x18ftypmp42", "a video (MP4 or QuickTime)"),
        (bytes(128) + b"DICM\2\0", "a DICOM file"),
        (b"NRRD0004\n", "an NRRD volume"),
        (b"ObjectType = Image\n", "a MetaImage volume (MHA, MHD)"),
        (b"\x5c\1\0\0" + bytes(340) + b"n+1\0", "a NIfTI volume"),
        (b"\0\0\1\x5c" + bytes(340) + b"ni1\0", "a NIfTI volume"),
        (b"\x93NUMPY\1\0", "a NumPy array"),
        (b"PK\3\4", "a ZIP archive or an Office document"),
        (b"<!DOCTYPE html><html>Log in", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, whose file was not fetched"),
        (b"/annex/objects/SHA256E-s1--ab.png\n", "a pointer of git-annex, whose file was not fetched"),
        (b"\1\2\3\4", "of no known format"),
    ],
)
def test_formats_are_detected_by_the_first_bytes(tmp_path, content, kind):
    (tmp_path / "a.png").write_bytes(content)
    assert detect_format(tmp_path / "a.png") == kind


def test_threads_keep_the_order_and_few_items_wait():
    class Items(list):
        def __iter__(self):
            for item in super().__iter__():
                waiting.append(item - len(done))
                yield item

    def double(item):
        done.append(item)
        return 2 * item

    waiting, done = [], []
    assert map_in_threads(double, Items(range(2000)), 3) == list(range(0, 4000, 2))
    assert max(waiting) < 300
    assert map_in_threads(str, []) == []


def test_an_error_in_a_thread_is_raised_and_what_waits_is_discarded():
    started = []

    def fail(item):
        started.append(item)
        time.sleep(0.01)
        return 1 / item

    with pytest.raises(ZeroDivisionError):
        map_in_threads(fail, range(200), 1)
    assert len(started) < 100
