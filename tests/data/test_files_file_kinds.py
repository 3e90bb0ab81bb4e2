import pytest
from PIL import Image

from keras_ssl.data.files import kind_of

pytestmark = pytest.mark.no_backend


@pytest.mark.parametrize(
    ("format", "kind"),
    [
        *(("PNG", "a PNG"), ("JPEG", "a JPEG"), ("TIFF", "a TIFF"), ("GIF", "a GIF"), ("BMP", "a BMP")),
        *(("WEBP", "a WebP"), ("PPM", "a Netpbm image (PBM, PGM, PPM)"), ("AVIF", "an AVIF")),
        *(("JPEG2000", "a JPEG 2000"), ("PDF", "a PDF"), ("EPS", "an EPS or PostScript file")),
        *(("ICO", "an icon"), ("TGA", "of no known format")),
    ],
)
def test_what_pillow_writes(tmp_path, format, kind):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a", format=format)
    assert kind_of(tmp_path / "a") == kind


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"id_code,diagnosis\na,1\n", "a text file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIF photograph (HEIC)"),
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
def test_by_the_first_bytes(tmp_path, content, kind):
    (tmp_path / "a.png").write_bytes(content)
    assert kind_of(tmp_path / "a.png") == kind
