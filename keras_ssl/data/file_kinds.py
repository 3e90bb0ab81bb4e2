"""The kind of a file by its first bytes, for messages about files that are not read."""

import re
from pathlib import Path

# Bytes at the start of a file, as a regular expression, and the name of the format.
_STARTS = (
    (rb"\x89PNG\r\n\x1a\n", "a PNG"),
    (rb"\xff\xd8\xff", "a JPEG"),
    (rb"II[*+]\0|MM\0[*+]", "a TIFF"),
    (rb"GIF8[79]a", "a GIF"),
    (rb"BM.{4}\0{4}", "a BMP"),
    (rb"RIFF.{4}WEBP", "a WebP"),
    (rb"P[1-6][\s#]", "a Netpbm image (PBM, PGM, PPM)"),
    (rb".{4}ftyp(hei|hev|mif1|msf1)", "a HEIF photograph (HEIC)"),
    (rb".{4}ftypavi", "an AVIF"),
    (rb".{4}ftyp", "a video (MP4 or QuickTime)"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL"),
    (rb".{128}DICM", "a DICOM file"),
    (rb"8BPS", "a Photoshop file"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "an EPS or PostScript file"),
    (rb"\x76\x2f\x31\x01", "an OpenEXR"),
    (rb"\0\0\x01\0.\0", "an icon"),
    (rb"NRRD000", "an NRRD volume"),
    (rb"(ObjectType|NDims)\s*=", "a MetaImage volume (MHA, MHD)"),
    (rb"(\x5c\x01\0\0|\0\0\x01\x5c).{340}(n\+1|ni1)\0", "a NIfTI volume"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (rb"MATLAB", "a MATLAB file"),
    (rb"%PDF", "a PDF"),
    (rb"PK\x03\x04", "a ZIP archive or an Office document"),
    (rb"\x1f\x8b", "a gzip file"),
    (rb"7z\xbc\xaf|Rar!", "an archive"),
    (rb"version https://git-lfs", "a pointer of Git LFS, whose file was not fetched"),
    (rb"(\.\./|/)*(\.git/)?annex/objects/", "a pointer of git-annex, whose file was not fetched"),
    (rb"\s*<(!doctype html|html)", "an HTML page"),
    (rb"\s*(<\?xml|<svg)", "an XML or SVG file"),
)
_KINDS = [(re.compile(pattern, re.DOTALL | re.IGNORECASE), name) for pattern, name in _STARTS]
# Enough for the magic number of NIfTI, which ends in byte 348.
_LONGEST = 512


def kind_of(path: str | Path) -> str:
    """The format of a file, with an article, from its first bytes.

    Raises:
        OSError: the file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.png").write_bytes(b"%PDF-1.7")
    ...     kind_of(f"{folder}/a.png")
    'a PDF'
    """
    with open(path, "rb") as file:
        head = file.read(_LONGEST)
    for pattern, name in _KINDS:
        if pattern.match(head):
            return name
    if not head:
        return "an empty file"
    if b"\0" not in head and not re.search(rb"[\x01-\x08\x0e-\x1f\x7f]", head):
        return "a text file"
    return "of no known format"
