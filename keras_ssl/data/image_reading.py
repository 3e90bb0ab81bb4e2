"""Decoding of image files: pixels, or an error that names the file; missing pixels are never filled in."""

import contextlib
import io
import itertools
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from keras_ssl.data.dicom import decode_dicom
from keras_ssl.data.files import check_decompressed_size, detect_format

if TYPE_CHECKING:
    from PIL import Image


# Notes about a file that `decode_image` returns.
MULTIPLE_PAGES = "of several pages, of which the first is read"
DAMAGED_METADATA = "of damaged annotations (EXIF or text), which are ignored, an orientation among them"

# By content, whatever the name: Pillow hands other formats to other programs, EPS to Ghostscript.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
_FORMAT_NAMES = ("a PNG", "a JPEG", "a TIFF", "a BMP", "a WebP", "a GIF", "a Netpbm image (PBM, PGM, PPM)")
_READABLE = "PNG, JPEG, TIFF, BMP, WebP, GIF, PBM, PGM, PPM and DICOM"

# Pillow's modes, and those they are converted to. Others (float, 32 bits, Lab) have no unambiguous reading.
_CONVERTED_MODES = {"1": "L", "L": "L", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
_CONVERTED_MODES |= {"LA": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "RGBA"}

# Tags of TIFF and EXIF, and values of the photometric interpretation.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT, _ORIENTATION = 258, 262, 339, 274
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = 0, 1, 2, 3

# The chunks of a PNG that hold its pixels.
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

# The segments of a JPEG that hold metadata: comments, and those of applications except JFIF's and Adobe's,
# which describe the colors.
_JPEG_METADATA = (*range(0xE1, 0xEE), 0xEF, 0xFE)

# EXIF orientations: whether rows and columns are swapped, and then the step along each.
_UPRIGHT = {
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}


class _UnsupportedImageError(ValueError):
    """An intact file without an unambiguous reading as an image."""


def read_image(path: str | Path) -> np.ndarray:
    """Read the pixels of an image file, turned upright as its EXIF orientation says.

    PNG, JPEG, TIFF, BMP, WebP, GIF, PBM, PGM and PPM files are read, and single images in DICOM files, all
    by their content, whatever their suffix.

    Palettes are converted to colors, CMYK to RGB; color profiles are not applied. TIFF, PGM and gray PNG
    files of 16 bits keep them; a color PNG or PPM of 16 bits is read as its upper eight, which is exact
    within one level of 255. In a WhiteIsZero TIFF, values are inverted, so that 0 is black. Of a TIFF with
    several pages the first is read, with a warning.

    Damaged text, EXIF and color profiles of a PNG or JPEG whose pixels are whole are ignored, with a warning
    since an orientation may be among them.

    Gray DICOM images are rescaled, and mapped by the first window of the file or, without one, over the
    range of the bits stored; the result is uint16, 0 is black also for MONOCHROME1. Of the header only the
    layout of pixels is read. Requires pydicom: `pip install keras-ssl[dicom]`.

    Args:
        path: the file.

    Returns:
        uint8 or uint16, shape `(height, width)`, or `(height, width, channels)` with 2 (gray and alpha),
        3 (RGB) or 4 (RGB and alpha) channels.

    Raises:
        ValueError: the file is truncated, damaged, animated, of another format, which is named, or of a kind
            without an unambiguous reading as an image (floats, 32 bits, signed). Or it declares more pixels
            than its bytes can hold, or than twice `PIL.Image.MAX_IMAGE_PIXELS`, or more than
            `keras_ssl.data.files.MAX_DECOMPRESSED_SIZE` bytes (2 GiB) in less than a fiftieth of them.
        MemoryError: the image does not fit into memory. The message names the file.
        RuntimeError: `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` was set in this process.

    >>> import tempfile, numpy as np
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.fromarray(np.full((2, 3), 7, "uint16")).save(f"{folder}/gray.png")
    ...     read_image(f"{folder}/gray.png")
    array([[7, 7, 7],
           [7, 7, 7]], dtype=uint16)
    """
    pixels, notes = decode_image(path)
    if notes:
        warnings.warn(f"{path} is {' and '.join(notes)}.", stacklevel=2)
    return pixels


def decode_image(path: str | Path) -> tuple[np.ndarray, list[str]]:
    """Read as `read_image` does, but return notes about the file in place of warnings."""
    from PIL import ImageFile

    # A process-wide switch, often copied from forum answers: it fills missing pixels with gray.
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES must be False: truncated files would be read as images."
        )
    try:
        if detect_format(path) == "a DICOM file":
            return decode_dicom(path), []
        return _decode_intact_parts(path)
    except MemoryError as error:
        raise MemoryError(f"{path} needs more memory than there is to be read as an image.") from error
    # Damaged bytes raise all sorts of errors in decoders: OSError, SyntaxError, struct.error ...
    except Exception as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def _decode_intact_parts(path: str | Path) -> tuple[np.ndarray, list[str]]:
    from PIL import UnidentifiedImageError

    try:
        # Not by its path: Pillow would map gray TIFFs into memory, and scrambles those stored sideways.
        with open(path, "rb") as file:
            return _decode_with_pillow(file, path)
    except (MemoryError, _UnsupportedImageError):
        raise
    except Exception as error:
        for reduced in _without_metadata(path):
            with contextlib.suppress(Exception):
                pixels, notes = _decode_with_pillow(io.BytesIO(reduced), path)
                return pixels, list(dict.fromkeys([*notes, DAMAGED_METADATA]))
        if not isinstance(error, UnidentifiedImageError):
            raise
        kind = detect_format(path)
        if kind == "a TIFF":
            return _read_tiff(path)
        if kind in _FORMAT_NAMES:
            raise _UnsupportedImageError(f"it is {kind}, damaged or cut off at its start") from error
        named = Path(path).suffix or "without a suffix"
        raise _UnsupportedImageError(f"it is {kind}, named {named}. Images are {_READABLE}") from error


def _decode_with_pillow(file: IO[bytes], path: str | Path) -> tuple[np.ndarray, list[str]]:
    from PIL import Image
    from PIL.TiffImagePlugin import TiffImageFile

    with Image.open(file, formats=_FORMATS) as image:
        stored = Path(path).stat().st_size
        check_decompressed_size(image.width * image.height * len(image.getbands()), stored, compressed=True)
        notes = []
        if getattr(image, "is_animated", False):
            if isinstance(image, TiffImageFile):
                notes.append(MULTIPLE_PAGES)
            # Further images in a JPEG are previews and depth maps.
            elif image.format in ("GIF", "WEBP", "PNG"):
                raise _UnsupportedImageError(
                    f"it is animated, of {getattr(image, 'n_frames', 1)} frames. Save the one that is needed"
                )
        white_is_zero = False
        if isinstance(image, TiffImageFile):
            bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))
            if set(image.tag_v2.get(_SAMPLE_FORMAT, (1,))) != {1}:
                raise _UnsupportedImageError(
                    "its pixels are signed or floats, not 8 or 16 bits of gray or color"
                )
            photometric = image.tag_v2.get(_PHOTOMETRIC)
            # Pillow drops eight bits of each color and mixes up planes.
            if max(bits) > 8 and not (bits == (16,) and photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)):
                return _read_tiff(path)
            # Pillow itself inverts images of eight bits or fewer.
            white_is_zero = bits == (16,) and photometric == _WHITE_IS_ZERO
        image.load()
        try:
            orientation = image.getexif().get(_ORIENTATION, 1)
        except MemoryError:
            raise
        except Exception:
            orientation = None
        # When it opens a JPEG, Pillow skips EXIF whose start is damaged.
        start = image.info.get("exif", b"II*\0").removeprefix(b"Exif\0\0")[:4]
        # Some cameras write 0 for unknown.
        if orientation not in range(9) or start not in (b"II*\0", b"MM\0*"):
            notes.append(DAMAGED_METADATA)
        return _upright(_pixels_of(image, white_is_zero), orientation), notes


def _pixels_of(image: "Image.Image", white_is_zero: bool) -> np.ndarray:
    # Pillow returns PGM of 16 bits as 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        pixels = np.asarray(image).astype(np.uint16)
        return 65535 - pixels if white_is_zero else pixels
    mode = _CONVERTED_MODES.get(image.mode)
    if image.mode == "P":
        mode = "RGBA" if "transparency" in image.info else "RGB"
    if mode is None:
        raise _UnsupportedImageError(
            f"its pixels of kind {image.mode!r} are not 8 or 16 bits of gray or color"
        )
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _upright(pixels: np.ndarray, orientation: object) -> np.ndarray:
    """Turn pixels upright by EXIF's orientation; return them as stored unless it is one of 2 to 8.

    Pillow's `exif_transpose` does the same for its own images, and tifffile's arrays are none.
    """
    if orientation not in _UPRIGHT:
        return pixels
    swapped, row_step, column_step = _UPRIGHT[orientation]
    return np.ascontiguousarray((pixels.swapaxes(0, 1) if swapped else pixels)[::row_step, ::column_step])


def _read_tiff(path: str | Path) -> tuple[np.ndarray, list[str]]:
    """Read a TIFF that Pillow cannot: 16 bits of color, separate planes, palettes and alpha."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        deep = page.dtype == np.uint16
        if page.dtype not in (np.uint8, np.uint16) or page.bitspersample != 8 * page.dtype.itemsize:
            raise _UnsupportedImageError(
                f"its pixels, {page.bitspersample} bits a sample of type {page.dtype}, are not 8 or 16 bits "
                "of gray or color"
            )
        extra = tuple(map(int, page.extrasamples))
        colors = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _PALETTE: 1, _RGB: 3}.get(page.photometric)
        plain = page.axes in ("YX", "YXS", "SYX") and extra in ((), (0,), (1,), (2,))
        if not plain or colors is None or page.samplesperpixel != colors + len(extra):
            raise _UnsupportedImageError(
                f"its pixels of {page.bitspersample} bits, {getattr(page.photometric, 'name', 'unknown')} "
                f"with {page.samplesperpixel} samples, {len(extra)} of them extra, are no gray or RGB, with "
                "or without alpha. Convert it to RGB"
            )
        check_decompressed_size(page.nbytes, Path(path).stat().st_size, compressed=page.compression != 1)
        pixels = np.moveaxis(page.asarray(), 0, -1) if page.axes == "SYX" else page.asarray()
        orientation = page.tags.valueof(_ORIENTATION, 1)
        if extra == (0,):
            # An extra sample of unspecified meaning is not alpha.
            pixels, extra = pixels[..., :-1] if colors == 3 else pixels[..., 0], ()
        if page.photometric == _PALETTE:
            colormap = page.colormap if deep else (page.colormap >> 8).astype(np.uint8)
            gray = pixels[..., 0] if extra else pixels
            pixels = np.dstack([np.moveaxis(colormap[:, gray], 0, -1), *([pixels[..., 1]] if extra else [])])
        top = np.iinfo(pixels.dtype).max
        if page.photometric == _WHITE_IS_ZERO:
            visible = pixels[..., :-1] if extra else pixels
            visible[...] = top - visible
        if extra == (1,):
            # Premultiplied alpha, which Pillow also divides out.
            alpha = np.maximum(pixels[..., -1:], 1)
            pixels[..., :-1] = np.minimum(pixels[..., :-1] * (top / alpha), top)
        try:
            file.pages[1]
        except IndexError:
            return _upright(pixels, orientation), []
    return _upright(pixels, orientation), [MULTIPLE_PAGES]


def _without_metadata(path: str | Path) -> Iterator[bytes]:
    """Yield a PNG without damaged metadata, then without any; a JPEG without any; nothing for other files."""
    kind = detect_format(path)
    if kind == "a PNG":
        content = Path(path).read_bytes()
        chunks = _png_chunks(content)
        kept = [chunk for chunk in chunks if chunk[4:8] in _PNG_PIXELS or _is_intact(chunk)]
        yield content[:8] + b"".join(kept)
        yield content[:8] + b"".join(chunk for chunk in kept if chunk[4:8] in _PNG_PIXELS)
    elif kind == "a JPEG":
        content = Path(path).read_bytes()
        kept, at = [content[:2]], 2
        # Up to the start of the scan, 0xDA.
        while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
            end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
            if content[at + 1] not in _JPEG_METADATA:
                kept.append(content[at:end])
            at = end
        yield b"".join([*kept, content[at:]])


def _png_chunks(content: bytes) -> list[bytes]:
    """Split a PNG into chunks, of which one may have a damaged length."""

    def chunk_at(start: int) -> bytes:
        return content[start : start + 12 + int.from_bytes(content[start : start + 4])]

    chunks, at, lost = [], 8, False
    while at + 12 <= len(content):
        chunk = chunk_at(at)
        known = lost or chunk[4:8] in _PNG_PIXELS or _is_intact(chunk)
        if not known and not _is_intact(chunk_at(at + len(chunk))):
            # Resume at the next pixels. Once, and with few tries: each may read all of the file.
            lost = True
            names = itertools.islice(re.finditer(rb"PLTE|tRNS|IDAT", content[at + 8 :]), 8)
            starts = [at + 4 + name.start() for name in names]
            at = next((start for start in starts if _is_intact(chunk_at(start))), at + len(chunk))
        else:
            chunks.append(chunk)
            at += len(chunk)
    return chunks


def _is_intact(chunk: bytes) -> bool:
    return len(chunk) >= 12 and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
