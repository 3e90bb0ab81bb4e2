"""Malicious and damaged files raise an error that names the file, without taking memory."""

import contextlib
import gzip
import io
import itertools
import os
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

from keras_ssl._serialization import settings_from_json
from keras_ssl.data import ImageTable, VolumeTable, load_medmnist, read_image, read_volume
from keras_ssl.data.cache import Decoding
from keras_ssl.data.dicom import read_dicom_series
from keras_ssl.data.files import hash_files
from keras_ssl.data.lazy import NumbersOnDisk
from keras_ssl.data.volume_io import read_grid, write_volume

pytestmark = pytest.mark.no_backend

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(0, 1000, (5, 6, 7)).astype(np.int16)
CSV = "id_code,diagnosis\n"


@contextlib.contextmanager
def refused(match, error=ValueError, most=200_000_000):
    """Expect an error that states the problem, raised with at most `most` bytes allocated."""
    tracemalloc.start()
    try:
        with pytest.raises(error, match=match) as caught:
            yield
        assert tracemalloc.get_traced_memory()[1] < most
        assert len(str(caught.value)) < 10_000
    finally:
        tracemalloc.stop()


# Tables -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Images in a folder, and others outside that no table of it may reach."""
    for name in ("images/a.png", "images/sub/b.png", "secret.png", "private/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "images"


def from_text(folder, text, encoding="utf-8", **options):
    labels = folder.parent / "labels.csv"
    labels.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return ImageTable.from_csv(labels, folder, **options)


@pytest.mark.parametrize(
    "name",
    [
        *("../secret", "../secret.png", "sub/../../secret.png", "..\\secret.png", "../private/c"),
        *(
            "{root}/secret.png",
            "//{root}/secret.png",
            "out",
            "outer/c",
            "outer/c.png",
            "sub/deep/c",
            "dangling",
        ),
    ],
)
def test_names_that_lead_out_of_the_folder_raise(folder, name):
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "outer").symlink_to(folder.parent / "private")
    (folder / "sub" / "deep").symlink_to("../../private")
    (folder / "dangling.png").symlink_to(folder.parent / "nothing.png")
    with refused("`image_column` must name files inside `images`"):
        from_text(folder, f"{CSV}a,0\n{name.format(root=folder.parent)},1\n")


def test_links_within_the_folder_are_followed(folder):
    (folder / "link.png").symlink_to("sub/b.png")
    (folder / "inner").symlink_to(folder / "sub")
    for name in ("link", "inner/b", "sub/../link.png", f"{folder}/link.png"):
        assert from_text(folder, f"{CSV}a,0\n{name},1\n").paths[1] == str(folder / "sub" / "b.png")
    assert len(ImageTable.from_folder(folder)) == 3


@pytest.mark.parametrize("name", ["loop", "round/x", "x" * 300, "x/" * 3000 + "x", "a.png/x", "pipe", "kind"])
def test_names_of_files_that_are_no_images_raise(folder, name):
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "round").symlink_to("round")
    (folder / "kind.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    with refused("`image_column` must name files"):
        from_text(folder, f"{CSV}a,0\n{name},1\n")


@pytest.mark.parametrize("table", [ImageTable, VolumeTable])
def test_a_folder_with_links_out_of_it_raises(tmp_path, table):
    suffix = ".png" if table is ImageTable else ".nii"
    inside, outside = tmp_path / "data", tmp_path / f"secret{suffix}"
    (inside / "sub").mkdir(parents=True)
    (inside / f"a{suffix}").touch()
    outside.touch()
    (inside / "sub" / f"b{suffix}").symlink_to(inside / f"a{suffix}")
    assert len(table.from_folder(inside)) == 2
    (inside / "sub" / f"c{suffix}").symlink_to(outside)
    with refused(rf"`images` must hold files, or links to files within it.*Received .*c\{suffix}"):
        table.from_folder(inside)


def test_cells_that_spreadsheets_would_run_are_text(folder):
    text = f"{CSV[:-1]},who\na,1,\"=cmd|'/C calc'!A0\"\nb,0,@SUM(1)\n"
    (folder / "b.png").touch()
    assert from_text(folder, text, group_column="who").groups.tolist() == ["=cmd|'/C calc'!A0", "@SUM(1)"]
    with refused(r"must name files that exist in .*\. Received =1\+1\."):
        from_text(folder, f"{CSV}=1+1,1\n")
    with refused(r"`label_column` must hold whole numbers in 0\.\.4\. Received '=1\+1' \(line 2\)"):
        from_text(folder, f"{CSV}a,=1+1\n")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (f"{CSV}a,1\nb\0,2\n", r"`labels` must be a table of text.*labels\.csv.* NUL"),
        ("id_code,diagnosis\n".encode("utf-16-le"), r"`labels` must be a table of text.*labels\.csv.* NUL"),
        (f"{CSV}é,1\n".encode("latin-1"), r"`labels` must be a table of text in UTF-8.*labels\.csv"),
        (f"{CSV}a,1\n".encode("utf-16"), r"`labels` must be a table of text in UTF-8.*labels\.csv"),
        (RNG.bytes(5000), r"`labels` must be a table of text in UTF-8.*labels\.csv"),
        (b"PK\3\4" + bytes(5000), r"`labels` must be a table of text.*labels\.csv"),
        (f'{CSV}a,"{"x" * 200_000}",1\n', r"`labels` must be a table of text.*labels\.csv.*field limit"),
        (f'{CSV}a,"' + "x\n" * 200_000, r"`labels` must be a table of text.*labels\.csv.*field limit"),
        (CSV + "x" * 3_000_000, r"`labels` must be a table of text.*labels\.csv.*line 2 .* characters"),
        ("x" * 3_000_000, r"`labels` must be a table of text.*labels\.csv.*line 1 .* characters"),
        (
            ",".join(map(str, range(10**6))) + "\n",
            r"`labels` must be a table.*labels\.csv.*line 1 .* characters",
        ),
        ("", r"`labels` must have a line of column names and lines below it. Received .*labels\.csv"),
        ("\n\n\n", r"`labels` must have a line of column names and lines below it. Received .*labels\.csv"),
        (CSV, r"`labels` must have a line of column names and lines below it. Received .*labels\.csv"),
        (f"{CSV}a,{'9' * 100_000}\n", r"`label_column` must hold whole numbers in 0\.\.4"),
        (f"{CSV}{'x' * 100_000},1\n", r"`image_column` must name files"),
        (f"{','.join(map(str, range(50_000)))}\n1,2\n", r"`image_column` must be one of the columns found"),
    ],
    ids=itertools.count(),
)
def test_malformed_tables_raise(folder, text, match):
    with refused(match):
        from_text(folder, text)


def test_many_columns_and_many_lines_do_not_multiply(folder):
    # 0.2 MB, and a billion cells if each line were filled up to the width of the first.
    with refused("`image_column` must name each image once"):
        from_text(folder, CSV[:-1] + "," * 100_000 + "\n" + "a,1\n" * 10_000)


def test_a_name_of_many_columns_is_refused_in_a_short_message(folder):
    with refused("`group_column` must be one of"):
        from_text(folder, CSV[:-1] + "".join(f",{k}" for k in range(50_000)) + "\na,1\n", group_column="x")


def test_a_series_with_a_link_to_itself_is_hashed_once(tmp_path):
    (tmp_path / "1.dcm").write_bytes(b"slice")
    before = hash_files([tmp_path])
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tmp_path)
    assert hash_files([tmp_path]) == before


def test_one_long_group_does_not_use_memory_for_all_rows(folder):
    with refused("`group_column` must name groups in 255 characters or less"):
        from_text(folder, CSV[:-1] + f",who\na,1,{'x' * 100_000}\n" + "b,1,y\n" * 10_000, group_column="who")


# Pickles ----------------------------------------------------------------------------------------------


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("kind", ["npy", "npy named npz", "raw pickle", "npz"])
def test_nothing_is_unpickled(tmp_path, kind):
    trap = np.full((3, 3, 3), None, object)
    trap[0, 0, 0] = Trap(tmp_path / "sprung")
    path = tmp_path / "a.npy"
    if kind == "raw pickle":
        trap.dump(path)
    elif kind == "npz":
        with open(path, "wb") as file:
            np.savez(file, train_images=trap, train_labels=trap)
    else:
        np.save(path, trap, allow_pickle=True)
    for read in (read_volume, read_grid, NumbersOnDisk.of_volume):
        with refused(None if read == NumbersOnDisk.of_volume else r"a\.npy cannot be read as a volume"):
            read(path)
    with refused(r"`path` must be a whole \.npz file.*a\.npz"):
        load_medmnist(path.rename(tmp_path / "a.npz"))
    assert not (tmp_path / "sprung").exists()


# Claims of sizes ----------------------------------------------------------------------------------------


def png(width, height, pixels=b"\0", bits=8, color_type=2):
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks
    )


def jpeg(width, height, **options):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(stream, "JPEG", **options)
    content = bytearray(stream.getvalue())
    frame = content.index(b"\xff\xc2" if options else b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def tiff(width, height, dtype, **options):
    """A TIFF of 16 x 16 pixels whose tags declare another size."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((16, 16, 3), dtype), photometric="rgb", rowsperstrip=16, **options)
    content = bytearray(stream.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        for name, value in (("ImageWidth", width), ("ImageLength", height), ("RowsPerStrip", height)):
            tag = file.pages.first.tags[name]
            kind = {3: "H", 4: "I"}[int(tag.dtype)]
            struct.pack_into(file.byteorder + kind, content, tag.valueoffset, value)
    return bytes(content)


@pytest.mark.parametrize("size", [(60000, 60000), (13000, 13000)], ids=str)
@pytest.mark.parametrize(
    "kind", ["png", "deep png", "jpg", "progressive jpg", "tif", "packed tif", "deep tif", "packed deep tif"]
)
def test_images_that_declare_too_much_raise(tmp_path, kind, size):
    packed = {"compression": "zlib"} if "packed" in kind else {}
    content = {
        "png": lambda: png(*size),
        "deep png": lambda: png(*size, bits=16, color_type=0),
        "jpg": lambda: jpeg(*size),
        "progressive jpg": lambda: jpeg(*size, progressive=True),
        "tif": lambda: tiff(*size, np.uint16 if "deep" in kind else np.uint8, **packed),
    }
    path = tmp_path / f"bomb.{kind.split()[-1]}"
    path.write_bytes(content[kind if kind in content else "tif"]())
    with refused(r"bomb\.\w+ cannot be read as an image: .*(size|declare)"):
        read_image(path)


def test_large_blank_images_are_read(tmp_path):
    blank = np.zeros((3000, 4000), np.uint8)
    for suffix in ("png", "jpg", "tif"):
        options = (
            {"compression": "tiff_lzw"} if suffix == "tif" else {"quality": 10} if suffix == "jpg" else {}
        )
        Image.fromarray(blank).save(tmp_path / f"a.{suffix}", **options)
        assert read_image(tmp_path / f"a.{suffix}").shape == blank.shape


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("EPS", "an EPS"),
        ("PDF", "a PDF"),
        ("AVIF", "an AVIF"),
        ("JPEG2000", "a JPEG 2000"),
        ("TGA", "of no known"),
    ],
)
def test_other_kinds_of_files_never_reach_their_decoders(tmp_path, kind, named):
    # Pillow hands EPS to Ghostscript, a program that runs what the file says.
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png", format=kind)
    with refused(r"a\.png cannot be read as an image: it is " + named):
        read_image(tmp_path / "a.png")


STORED = VOXELS.tobytes()


def npy(shape, dtype="<i2", data=STORED):
    stream = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        stream, {"descr": dtype, "fortran_order": False, "shape": tuple(shape)}
    )
    return stream.getvalue() + data


SHAPES = [
    (10**4, 10**4, 10**4),
    (10**6, 10**6, 10**6),
    (2**32, 2**32, 4),
    (2**62, 2, 2),
    (5, 6, 8),
    (-5, 6, 7),
    (5, 6, -1),
    (0, 6, 7),
    (10**30, 1, 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_arrays_that_declare_too_much_raise(tmp_path, shape):
    path = tmp_path / "a.npy"
    path.write_bytes(npy(shape))
    for read in (read_volume, read_grid):
        with refused(r"a\.npy cannot be read as a volume"):
            read(path)


@pytest.mark.parametrize(
    "content",
    [
        npy((2, 2, 2), "|V2147483647"),
        npy((2, 2, 2), "<U500000000"),
        npy((10**9, 10**9, 1), "|V0"),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{" * 3000,
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
        b"\x93NUMPY\x09\x00" + bytes(100),
    ],
    ids=itertools.count(),
)
def test_arrays_of_strange_headers_raise(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with refused(r"a\.npy cannot be read as a volume"):
        read_volume(tmp_path / "a.npy")


def npz(path, images, labels=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("train_images.npy", images)
        file.writestr("train_labels.npy", npy((5, 1), "|u1", bytes(5)) if labels is None else labels)
    return path


@pytest.mark.parametrize(
    ("images", "labels"),
    [(npy(shape, "|u1", bytes(100)), None) for shape in SHAPES[:6]]
    + [(npy((5, 4, 4), "|u1", bytes(80)), npy(shape, "<i8")) for shape in SHAPES[:6]]
    + [
        (b"no array", None),
        (npy((5, 4, 4), "|u1", bytes(80)), npy((), "|u1", b"1")),
        (npy((5, 4, 4), "|u1", bytes(80)), npy((5,), "<U1", bytes(20))),
        (npy((5, 4, 4), "|u1", bytes(80)), npy((5,), "<c8", bytes(40))),
        (npy((0, 4, 4), "|u1", b""), npy((0,), "|u1", b"")),
    ],
    ids=itertools.count(),
)
def test_archives_that_declare_too_much_raise(tmp_path, images, labels):
    with refused(r"a\.npz|train_(images|labels)"):
        load_medmnist(npz(tmp_path / "a.npz", images, labels))


@pytest.mark.parametrize("field", ["size", "encrypted", "method"])
def test_archives_with_a_wrong_directory_raise(tmp_path, field):
    path = npz(tmp_path / "a.npz", npy((10**4, 10**4, 30), "|u1"))
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    if field == "size":
        struct.pack_into("<I", content, start + 24, 3 * 10**9 + 140)
    else:
        for header, at in ((0, 6), (start, 8)):
            at += 2 * (field == "method")
            struct.pack_into("<H", content, header + at, 1 if field == "encrypted" else 99)
    path.write_bytes(content)
    with refused(r"a\.npz"):
        load_medmnist(path)


# NIfTI ------------------------------------------------------------------------------------------------


def nifti(change=lambda content: None, second=False):
    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    image = kind(VOXELS, np.diag([2.0, 2.0, 3.0, 1.0]))
    image.set_sform(image.affine, 1)
    content = bytearray(image.to_bytes())
    change(content)
    return bytes(content)


def put(form, at, *values):
    return lambda content: struct.pack_into(f"<{form}", content, at, *values)


HEADERS = {
    "terabytes": put("4h", 40, 3, 32767, 32767, 32767),
    "seven axes": put("8h", 40, 7, *[32767] * 7),
    "more than there is": put("4h", 40, 3, 5, 6, 8),
    "negative": put("4h", 40, 3, -5, 6, 7),
    "two negative": put("4h", 40, 3, -5, -6, 7),
    "FreeSurfer's length": lambda content: (
        put("4h", 40, 3, -1, 1, 1)(content),
        put("i", 140, 2**31 - 1)(content),
    ),
    "zero": put("4h", 40, 3, 0, 6, 7),
    "no axes": put("h", 40, 0),
    "nine axes": put("h", 40, 9),
    "minus three axes": put("h", 40, -3),
    "unknown type": put("h", 70, 12345),
    "no type": put("h", 70, 0),
    "far offset": put("f", 108, 1e12),
    "infinite offset": put("f", 108, np.inf),
    "offset that is none": put("f", 108, np.nan),
    "negative offset": put("f", 108, -1e6),
    "affine of NaN": put("12f", 280, *[np.nan] * 12),
    "infinite affine": put("f", 280, np.inf),
    "affine of zeros": put("12f", 280, *[0] * 12),
    "spacing of NaN": lambda content: (
        put("4h", 252, 0, 0, 0, 0)(content),
        put("3f", 80, np.nan, 1, 1)(content),
    ),
    "quaternion of NaN": lambda content: (
        put("2h", 252, 1, 0)(content),
        put("3f", 256, *[np.nan] * 3)(content),
    ),
    "another magic": lambda content: content.__setitem__(slice(344, 348), b"oops"),
    "header alone": lambda content: content.__delitem__(slice(348, None)),
}
SECOND = {
    "exabytes": put("4q", 16, 3, 2**20, 2**20, 2**20),
    "more than integers": put("4q", 16, 3, 2**40, 2**40, 2**40),
    "negative": put("4q", 16, 3, -5, -6, 7),
    "far offset": put("q", 168, 2**60),
    "negative offset": put("q", 168, -(2**60)),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("second", "name"), [*((False, name) for name in HEADERS), *((True, name) for name in SECOND)]
)
@pytest.mark.filterwarnings("ignore")
def test_headers_of_impossible_volumes_raise(tmp_path, second, name, suffix):
    content = nifti((SECOND if second else HEADERS)[name], second)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    for read in (read_volume, read_grid):
        if read == read_grid and suffix == ".nii.gz" and name in ("more than there is", "header alone"):
            continue  # Its sizes are possible; what is missing shows once it is decompressed.
        with refused(rf"a\{suffix} cannot be read as a volume"):
            read(path)


@pytest.mark.parametrize("tail", [100_000_000, 0])
def test_data_after_the_voxels_is_not_decompressed(tmp_path, tail):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti() + bytes(tail), 1))
    if tail:
        with refused(r"a\.nii\.gz cannot be read as a volume: .* bytes", most=10_000_000):
            read_volume(path)
    np.testing.assert_array_equal(read_grid(path).shape, VOXELS.shape)


@pytest.mark.parametrize("length", [2**31 - 16, -16, 0, 16])
def test_extensions_of_impossible_length_do_no_harm(tmp_path, length):
    content = nifti()
    extended = bytearray(
        content[:348] + b"\1\0\0\0" + struct.pack("<ii", length, 6) + bytes(8) + content[352:]
    )
    put("f", 108, 368)(extended)
    for suffix in (".nii", ".nii.gz"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(gzip.compress(extended) if suffix == ".nii.gz" else extended)
        np.testing.assert_array_equal(read_volume(path).voxels, VOXELS)


def test_large_blank_volumes_are_read(tmp_path):
    write_volume(tmp_path / "a.nii.gz", np.zeros((256, 256, 200), np.uint8), np.eye(4))
    assert read_volume(tmp_path / "a.nii.gz").voxels.shape == (256, 256, 200)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_like_is_validated(tmp_path, suffix):
    content = nifti(HEADERS["terabytes"])
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with refused(rf"a\{suffix} cannot be read as a volume"):
        write_volume(tmp_path / "b.nii", VOXELS, like=tmp_path / f"a{suffix}")


# DICOM ------------------------------------------------------------------------------------------------


RLE, JPEG_2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"


def series(folder, syntax="1.2.840.10008.1.2.1", **tags):
    """Three slices, of which the second is changed."""
    pydicom = pytest.importorskip("pydicom")
    folder.mkdir()
    for index in range(3):
        one = dicom_slice(index, (4, 6))
        one.file_meta.TransferSyntaxUID = syntax if index == 1 else "1.2.840.10008.1.2.1"
        one.SeriesInstanceUID = "1.2.3"
        one.add_new("PixelData", "OW", bytes(48))
        for name, value in tags.items() if index == 1 else ():
            delattr(one, name) if value is None else setattr(one, name, value)
        if one.file_meta.TransferSyntaxUID in (RLE, JPEG_2000) and "PixelData" in one:
            one.PixelData = pydicom.encaps.encapsulate([one.PixelData])
            one["PixelData"].VR = "OB"
        one.save_as(folder / f"{index}.dcm", enforce_file_format=True)
    return folder


RLE_FRAME = struct.pack("<16I", 2, 64, 66, *[0] * 13) + b"\x81\0\x81\0"


@pytest.mark.parametrize(
    "tags",
    [
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 65535, "Columns": 65535, "BitsAllocated": 64},
        {"Rows": 0},
        {"Columns": 0},
        {"NumberOfFrames": "2000000000"},
        {"NumberOfFrames": "-5"},
        {"BitsAllocated": 65535},
        {"BitsAllocated": 0},
        {"SamplesPerPixel": 65535},
        {"PixelData": b""},
        {"PixelData": None},
        {"PixelData": bytes(10)},
        {"BitsAllocated": None},
        {"PixelRepresentation": None},
        {"PhotometricInterpretation": None},
        {"Rows": None},
        {"Columns": None},
        {"ImagePositionPatient": None},
        {"ImageOrientationPatient": None},
        {"PixelSpacing": None},
        {"PixelSpacing": [0.0, 0.0]},
        {"PixelSpacing": ["1e300", "1e300"]},
        {"ImagePositionPatient": ["nan", "nan", "nan"]},
        {"ImageOrientationPatient": ["inf", 0, 0, 0, 1, 0]},
        {"RescaleSlope": "1e300", "PixelData": b"\xff" * 48},
        {"RescaleIntercept": "1e300"},
        {"RescaleSlope": "nan"},
        {"RescaleSlope": "inf"},
        {"RescaleSlope": ["1", "2"]},
        {"syntax": RLE, "PixelData": RLE_FRAME, "Rows": 65535, "Columns": 65535},
        {"syntax": RLE, "PixelData": bytes(2), "Rows": 65535, "Columns": 65535},
        {"syntax": JPEG_2000, "PixelData": bytes(100), "Rows": 65535, "Columns": 65535},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_slices_that_declare_too_much_raise(tmp_path, tags):
    if any(isinstance(value, (str, list)) for value in tags.values()):
        __import__("pydicom").config.settings.writing_validation_mode = 0
    try:
        folder = series(tmp_path / "series", **tags)
    finally:
        __import__("pydicom").config.settings.writing_validation_mode = None
    with refused(r"series"):
        read_dicom_series(folder)


def test_deflated_slices_are_decompressed_up_to_a_limit(tmp_path):
    folder = series(tmp_path / "series", "1.2.840.10008.1.2.1.99")
    assert read_dicom_series(folder).voxels.shape == (6, 4, 3)
    content = (folder / "1.dcm").read_bytes()
    meta = 128 + 4 + 12 + struct.unpack_from("<I", content, 128 + 4 + 8)[0]
    inner = zlib.decompress(content[meta:], -15)
    for tail in (bytes(300_000_000), b"\xff" * 1000):
        bomb = zlib.compressobj(1, wbits=-15)
        (folder / "1.dcm").write_bytes(content[:meta] + bomb.compress(inner + tail) + bomb.flush())
        with refused(r"1\.dcm"):
            read_dicom_series(folder)


@pytest.mark.parametrize("length", [2**32 - 2, 10**6])
def test_elements_longer_than_the_file_take_no_memory(tmp_path, length):
    folder = series(tmp_path / "series")
    content = bytearray((folder / "1.dcm").read_bytes())
    at = content.rindex(b"\xe0\x7f\x10\x00OW") + 8
    struct.pack_into("<I", content, at, length)
    (folder / "1.dcm").write_bytes(content)
    tracemalloc.start()
    assert read_dicom_series(folder).voxels.shape == (6, 4, 3)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    (folder / "1.dcm").write_bytes(content[:-2])
    with refused(r"1\.dcm"):
        read_dicom_series(folder)


@pytest.mark.parametrize("tag", [b"\x20\x00\x0e\x00", b"\x28\x00\x10\x00", b"\x20\x00\x32\x00"])
def test_unknown_value_representations_raise_an_error_that_names_the_file(tmp_path, tag):
    folder = series(tmp_path / "series")
    content = (folder / "1.dcm").read_bytes()
    at = content.index(tag) + 4
    (folder / "1.dcm").write_bytes(content[:at] + b"CI" + content[at + 2 :])
    for read in (read_dicom_series, read_grid):
        with refused(r"1\.dcm"):
            read(folder)


# What this library wrote itself, once damaged -------------------------------------------------------------


def fill(row, arrays):
    arrays["a"][row] = row


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            ("unreadable.json", reasons)
            for reasons in (b"[]", b"3", b'{"x": 1}', b"[" * 100_000, b'{"0": 1, "1": 2, "2": 3, "3": 4}')
        ),
        *(
            ("a.npy", array)
            for array in (npy((3, 3), "|u1"), npy((3, 2), "<i2"), npy((10**9, 2), "|u1"), b"PK\3\4")
        ),
    ],
    ids=itertools.count(),
)
def test_a_damaged_cache_entry_is_decoded_again(tmp_path, name, content):
    decoding = Decoding(3, {"a": ((2,), np.uint8)}, fill, 1, 0)
    decoding.on_disk(tmp_path / "entry")
    (tmp_path / "entry" / name).write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged and is decoded again"):
        arrays, failures = decoding.on_disk(tmp_path / "entry")
    assert (arrays["a"].tolist(), failures) == ([[0, 0], [1, 1], [2, 2]], {})


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"toast": 1, "minutes": ' + "9" * 5000 + "}", "[1]"],
    ids=["deep", "long", "list"],
)
def test_malformed_settings_raise(text):
    with refused("`text` must be"):
        settings_from_json(text, "toast", 1, {"minutes"})
