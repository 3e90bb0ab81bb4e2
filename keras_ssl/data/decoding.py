"""One image file to one array, or an error: never a picture that was silently filled up."""

from pathlib import Path

import numpy as np

from keras_ssl.data.claims import refuse_claim

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

# By content, whatever the name: Pillow hands other kinds to other programs, EPS to Ghostscript.
_FORMATS = ("PNG", "JPEG", "TIFF")
# What Pillow opens, and what it is turned into. Others (float, 32 bits, Lab) have no one right reading.
_AS_MODE = {"1": "L", "L": "L", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
_AS_MODE |= {"LA": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "RGBA"}
_BITS_PER_SAMPLE = 258
_ORIENTATION = 274


def read_image(path: str | Path) -> np.ndarray:
    """The pixels of a PNG, JPEG or TIFF file, turned upright as its EXIF orientation says.

    Palettes become colours, CMYK becomes RGB, colour profiles are not applied, of several pages the
    first is read. A TIFF of 16 bits keeps them, and so does a grey PNG; of a colour PNG of 16 bits the
    upper eight are read, which is exact within one level of 255.

    Args:
        path: the file.

    Returns:
        uint8 or uint16, shape `(height, width)`, or `(height, width, channels)` with 3 (RGB) or
        4 (RGB and alpha) channels.

    Raises:
        ValueError: the file is truncated, damaged, no PNG, JPEG or TIFF whatever its name, or of a kind that
            has no one reading as a photograph (floats, 32 bits, signed). Or it claims more pixels than its
            bytes can hold, or than twice `PIL.Image.MAX_IMAGE_PIXELS`, or more than
            `keras_ssl.data.claims.LARGEST` bytes (2 GiB) in less than a fiftieth of them.
        RuntimeError: `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` was set in this process.

    >>> import tempfile, numpy as np
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.fromarray(np.full((2, 3), 7, "uint16")).save(f"{folder}/grey.png")
    ...     read_image(f"{folder}/grey.png")
    array([[7, 7, 7],
           [7, 7, 7]], dtype=uint16)
    """
    from PIL import Image, ImageFile, ImageOps
    from PIL.TiffImagePlugin import TiffImageFile

    # A switch for the whole process, often copied from forum answers: it fills up with grey what is missing.
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES must be False: truncated files would pass for images."
        )
    try:
        with Image.open(str(path), formats=_FORMATS) as image:
            stored = Path(path).stat().st_size
            refuse_claim(image.width * image.height * len(image.getbands()), stored, packed=True)
            bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,)) if isinstance(image, TiffImageFile) else (8,)
            if max(bits) > 8:
                return _read_deep_tiff(path, stored)
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I;16"):
                return np.asarray(image).astype(np.uint16)
            mode = _AS_MODE.get(image.mode)
            if image.mode == "P":
                mode = "RGBA" if "transparency" in image.info else "RGB"
            if mode is None:
                raise ValueError(f"pixels of kind {image.mode!r} are not 8 or 16 bits of grey or colour")
            return np.asarray(image if image.mode == mode else image.convert(mode))
    except MemoryError:
        raise
    # Pillow and tifffile raise whatever the damaged bytes led to: OSError, SyntaxError, struct.error ...
    except Exception as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def _read_deep_tiff(path: str | Path, stored: int) -> np.ndarray:
    """Through tifffile, since Pillow drops eight bits of each colour and muddles separate planes."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        if page.tags.valueof(_ORIENTATION, 1) != 1:
            raise ValueError("a TIFF of 16 bits must be stored upright (orientation 1)")
        if page.dtype != np.uint16:
            raise ValueError(f"pixels of type {page.dtype} are not 8 or 16 bits of grey or colour")
        refuse_claim(page.nbytes, stored, packed=page.compression != 1)
        pixels = page.asarray()
        return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
