import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from keras_ssl.data import read_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 17), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (12, 17), dtype=np.uint16)
DEEP_COLOUR = RNG.integers(0, 65536, (12, 17, 3), dtype=np.uint16)


def write_png(path, pixels, colour_type):
    """A 16-bit PNG by hand: Pillow writes none of colour."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks
        )
    )


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR, DEEP], ids=["grey", "colour", "deep"])
def test_lossless_files_come_back_exactly(tmp_path, pixels, suffix):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(pixels).save(path, format="PNG" if suffix == ".png" else "TIFF")
    read = read_image(path)
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize(
    "options",
    [{}, {"byteorder": ">"}, {"compression": "zlib", "predictor": True}, {"planarconfig": "separate"}],
    ids=["plain", "big-endian", "compressed", "planes"],
)
@pytest.mark.parametrize("pixels", [DEEP_COLOUR, COLOUR], ids=["16 bits", "8 bits"])
def test_every_layout_of_a_colour_tiff_comes_back_exactly(tmp_path, pixels, options):
    path = tmp_path / "image.tif"
    stored = np.moveaxis(pixels, -1, 0) if "planarconfig" in options else pixels
    tifffile.imwrite(path, stored, photometric="rgb", **options)
    read = read_image(path)
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)


def test_a_deep_colour_png_is_read_within_a_level(tmp_path):
    write_png(tmp_path / "image.png", DEEP_COLOUR, colour_type=2)
    exact = DEEP_COLOUR / 257
    assert np.abs(read_image(tmp_path / "image.png") - exact).max() <= 1
    write_png(tmp_path / "whole.png", COLOUR.astype("uint16") * 257, colour_type=2)
    np.testing.assert_array_equal(read_image(tmp_path / "whole.png"), COLOUR)


def test_palette_bilevel_alpha_and_cmyk(tmp_path):
    palette = Image.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    Image.fromarray(GREY > 128).save(tmp_path / "bilevel.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bilevel.png"), np.where(GREY > 128, 255, 0))
    Image.fromarray(np.dstack([COLOUR, GREY])).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), np.dstack([COLOUR, GREY]))
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    np.testing.assert_allclose(read_image(tmp_path / "cmyk.jpg"), flat, atol=3)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # Shown turned by 90 degrees clockwise.
    Image.fromarray(COLOUR).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(COLOUR, -1))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.7, 0.97])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(RNG.integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=f"image{suffix} cannot be read as an image"):
        read_image(path)


def test_a_damaged_png_is_refused(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(COLOUR).save(path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_image(path)


@pytest.mark.parametrize("dtype", ["float32", "int16", "int32", "uint32"])
def test_pixels_without_one_reading_are_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "image.tif", GREY.astype(dtype))
    with pytest.raises(ValueError, match="not 8 or 16 bits of grey or colour"):
        read_image(tmp_path / "image.tif")


def test_a_process_that_accepts_truncated_files_is_refused(tmp_path, monkeypatch):
    Image.fromarray(GREY).save(tmp_path / "image.png")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES must be False"):
        read_image(tmp_path / "image.png")
