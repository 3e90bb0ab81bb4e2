import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from keras_ssl.data import read_image

pytestmark = pytest.mark.no_backend

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 17), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (12, 17), dtype=np.uint16)
DEEP_COLOR = RNG.integers(0, 65536, (12, 17, 3), dtype=np.uint16)


def write_png(path, pixels, color_type):
    """A 16-bit PNG by hand: Pillow writes none of color."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, color_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks
        )
    )


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("pixels", [GRAY, COLOR, DEEP], ids=["gray", "color", "deep"])
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
@pytest.mark.parametrize("pixels", [DEEP_COLOR, COLOR], ids=["16 bits", "8 bits"])
def test_every_layout_of_a_color_tiff_comes_back_exactly(tmp_path, pixels, options):
    path = tmp_path / "image.tif"
    stored = np.moveaxis(pixels, -1, 0) if "planarconfig" in options else pixels
    tifffile.imwrite(path, stored, photometric="rgb", **options)
    read = read_image(path)
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)


def test_a_deep_color_png_is_read_within_a_level(tmp_path):
    write_png(tmp_path / "image.png", DEEP_COLOR, color_type=2)
    exact = DEEP_COLOR / 257
    assert np.abs(read_image(tmp_path / "image.png") - exact).max() <= 1
    write_png(tmp_path / "whole.png", COLOR.astype("uint16") * 257, color_type=2)
    np.testing.assert_array_equal(read_image(tmp_path / "whole.png"), COLOR)


def test_palette_bilevel_alpha_and_cmyk(tmp_path):
    palette = Image.fromarray(COLOR).quantize(16)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    Image.fromarray(GRAY > 128).save(tmp_path / "bilevel.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bilevel.png"), np.where(GRAY > 128, 255, 0))
    Image.fromarray(np.dstack([COLOR, GRAY])).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), np.dstack([COLOR, GRAY]))
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    np.testing.assert_allclose(read_image(tmp_path / "cmyk.jpg"), flat, atol=3)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # Shown turned by 90 degrees clockwise.
    Image.fromarray(COLOR).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(COLOR, -1))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".ppm", ".webp", ".gif"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.7, 0.97])
def test_truncated_files_raise(tmp_path, suffix, kept):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(RNG.integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=f"image{suffix} cannot be read as an image"):
        read_image(path)


def test_a_damaged_png_raises(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(COLOR).save(path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_image(path)


@pytest.mark.parametrize("dtype", ["float32", "int16", "int32", "uint32"])
def test_ambiguous_pixels_raise(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "image.tif", GRAY.astype(dtype))
    with pytest.raises(ValueError, match="not 8 or 16 bits of gray or color"):
        read_image(tmp_path / "image.tif")


def test_load_truncated_images_raises(tmp_path, monkeypatch):
    Image.fromarray(GRAY).save(tmp_path / "image.png")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES must be False"):
        read_image(tmp_path / "image.png")


# Other formats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["bmp", "ppm", "webp", "gif"])
@pytest.mark.parametrize("pixels", [GRAY, COLOR], ids=["gray", "color"])
def test_formats_that_pillow_reads(tmp_path, suffix, pixels):
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    read = read_image(tmp_path / f"a.{suffix}")
    # WebP has colors only.
    np.testing.assert_array_equal(read if read.ndim == pixels.ndim else read[..., 0], pixels)


def test_a_deep_pgm_comes_back_exactly(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 17 12 65535\n" + DEEP.astype(">u2").tobytes())
    read = read_image(tmp_path / "a.pgm")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, DEEP)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations_raise(tmp_path, suffix):
    frames = [Image.fromarray(COLOR), Image.fromarray(255 - COLOR)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="it is animated, of 2 frames"):
        read_image(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%PDF-1.7", r"it is a PDF, named \.jpg\. Images are PNG, JPEG"),
        (b"", "it is an empty file"),
        (b"<html>", "it is an HTML page"),
        (b"\0\0\0\x18ftypheic", "it is a HEIF image"),
        (b"\x89PNG\r\n\x1a\n", "it is a PNG, damaged or cut off at its start"),
    ],
)
def test_errors_name_the_format_of_other_files(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.jpg cannot be read as an image: {reason}"):
        read_image(tmp_path / "a.jpg")


# TIFF -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("deep", [False, True])
def test_white_is_zero_is_inverted(tmp_path, byteorder, compression, deep):
    pixels = DEEP if deep else GRAY
    options = {"photometric": "miniswhite", "byteorder": byteorder, "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.iinfo(pixels.dtype).max - pixels)


def test_deep_tiffs_of_the_usual_compression(tmp_path):
    Image.fromarray(DEEP).save(tmp_path / "a.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), DEEP)


@pytest.mark.parametrize("extra", [[], [0], [1], [2]], ids=["none", "unspecified", "associated", "alpha"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_deep_color_tiff_reads_as_its_twin_of_8_bits(tmp_path, extra, planar):
    alpha = np.maximum(GRAY, 1)
    shallow = np.dstack([np.minimum(COLOR, alpha[..., None]), alpha][: 1 + len(extra)])
    seen = []
    for pixels in (shallow, shallow.astype("uint16") * 257):
        stored = np.moveaxis(pixels, -1, 0) if planar == "separate" and pixels is not shallow else pixels
        kind = planar if pixels is not shallow else "contig"
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=extra, planarconfig=kind)
        seen.append(read_image(tmp_path / "a.tif"))
    assert seen[0].shape == seen[1].shape
    assert seen[1].dtype == np.uint16
    # Pillow rounds what it divides by alpha down.
    np.testing.assert_allclose(seen[1] / 257, seen[0], atol=1.01 if extra == [1] else 0)


def test_palettes_of_8_and_16_bits(tmp_path):
    colors = RNG.integers(0, 256, (3, 65536), dtype=np.uint16) * 257
    for index, colormap in ((GRAY, colors[:, :256]), (DEEP, colors)):
        tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=colormap)
        read = read_image(tmp_path / "a.tif")
        expected = np.moveaxis(colormap[:, index], 0, -1)
        np.testing.assert_array_equal(read, expected if index is DEEP else expected // 257)


@pytest.mark.parametrize(
    ("pixels", "photometric"),
    [
        (np.dstack([DEEP_COLOR, DEEP]), "separated"),
        (DEEP_COLOR, "cielab"),
        (GRAY.astype("int8"), "minisblack"),
        (GRAY.astype("int16"), "miniswhite"),
        (GRAY.astype("uint32"), "miniswhite"),
        (GRAY.astype("float16"), "minisblack"),
        (np.dstack([DEEP_COLOR, DEEP_COLOR]), "minisblack"),
    ],
    ids=["CMYK", "Lab", "int8", "int16", "uint32", "float16", "six channels"],
)
def test_ambiguous_tiffs_raise(tmp_path, pixels, photometric):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, planarconfig="contig")
    with pytest.raises(ValueError, match=r"a\.tif cannot be read as an image: its pixels"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("pixels", [GRAY, DEEP, DEEP_COLOR], ids=["gray", "deep", "deep color"])
def test_several_pages_trigger_a_warning(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([pixels, pixels[::-1]]))
    with pytest.warns(UserWarning, match=r"a\.tif is of several pages, of which the first is read"):
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("pixels", [GRAY, COLOR, DEEP, DEEP_COLOR], ids=["gray", "color", "deep", "both"])
def test_every_orientation(tmp_path, orientation, pixels):
    if pixels is DEEP_COLOR:
        tags = [(274, 3, 1, orientation, True)]
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=tags)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif)
    gray = Image.fromarray(((pixels if pixels.ndim == 2 else pixels[..., 1]) & 255).astype("uint8"))
    gray.getexif()[274] = orientation
    read = read_image(tmp_path / "a.tif")
    read = (read if read.ndim == 2 else read[..., 1]) & 255
    np.testing.assert_array_equal(read, np.asarray(ImageOps.exif_transpose(gray)))


# Annotations ----------------------------------------------------------------------------------------------


def annotated(path, **options):
    exif = Image.Exif()
    exif[274], exif[271] = 6, "Topcon"
    Image.fromarray(COLOR).save(path, exif=exif, **options)
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("chunk", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"pHYs"])
@pytest.mark.parametrize("where", [-3, 4, 12, -1], ids=["length", "start", "middle", "checksum"])
def test_a_png_with_damaged_metadata_is_read(tmp_path, chunk, where):
    path = tmp_path / "a.png"
    text = PngImagePlugin.PngInfo()
    text.add_text("camera", "Topcon" * 9)
    text.add_text("note", "fundus" * 99, zip=True)
    text.add_itxt("title", "left eye" * 9)
    content = annotated(path, pnginfo=text, dpi=(72, 72), icc_profile=bytes(200))
    at = content.index(chunk)
    length = int.from_bytes(content[at - 4 : at])
    content[at + (where if where != -1 else 4 + length)] ^= 0x40
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"a\.png is of damaged annotations"):
        read = read_image(path)
    # An orientation whose checksum holds is followed, unless it lies between a damaged length and the pixels.
    lost = chunk == b"eXIf" or (where == -3 and at < content.index(b"eXIf") < content.index(b"IDAT"))
    np.testing.assert_array_equal(read, COLOR if lost else np.rot90(COLOR, -1))


def test_a_png_with_damaged_pixels_or_palette_raises(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(COLOR).quantize(16).save(path)
    whole = path.read_bytes()
    for chunk in (b"IHDR", b"PLTE", b"IDAT"):
        content = bytearray(whole)
        content[content.index(chunk) + 13] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as an image"):
            read_image(path)


def test_a_png_with_a_decompression_bomb_as_text_is_read_without_it(tmp_path):
    path = tmp_path / "a.png"
    text = PngImagePlugin.PngInfo()
    text.add_text("bomb", "\0" * 10_000_000, zip=True)
    annotated(path, pnginfo=text)
    with pytest.warns(UserWarning, match="damaged annotations"):
        np.testing.assert_array_equal(read_image(path), COLOR)


def test_a_jpeg_with_damaged_exif_is_read(tmp_path):
    path = tmp_path / "a.jpg"
    content = annotated(path, quality=95)
    upright = read_image(path)
    at = content.index(b"Exif") + 6
    content[at : at + 4] = b"XXXX"
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"a\.jpg is of damaged annotations"):
        np.testing.assert_array_equal(np.rot90(read_image(path), -1), upright)


def test_memory_errors_name_the_file(tmp_path, monkeypatch):
    Image.fromarray(GRAY).save(tmp_path / "a.png")

    def exhaust(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", exhaust)
    with pytest.raises(MemoryError, match=r"a\.png needs more memory"):
        read_image(tmp_path / "a.png")
