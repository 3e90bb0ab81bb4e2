"""Single two-dimensional DICOM images: X-rays, photographs, ultrasound."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from keras_ssl.data.claims import refuse_claim
from keras_ssl.data.dicom import QUIET, padding_of, refuse_deflated, without_quotes

# Nothing else is read: names, dates and numbers of patients never come into memory.
_TAGS = [
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
    *("GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData"),
    "PixelData",
]


def decode_dicom(path: str | Path) -> np.ndarray:
    """Read one image as it is to be seen, but not turned.

    Args:
        path: the DICOM file.

    Returns:
        uint16, `(height, width)`, of a grey image, over its window or the range of the bits stored, 0 black;
        uint8 or uint16, `(height, width, 3)`, of one in colour.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: the file is damaged, of several frames, holds no image or numbers that are not finite, or
            claims more pixels than its bytes can hold; no decoder of its compression is installed.

    References:
        NEMA PS3.3, C.7.6.3 Image Pixel Module and C.11.2 VOI LUT Module.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImportError("DICOM needs pydicom. Install it: pip install keras-ssl[dicom]") from error
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            mapped: Any = content
            with QUIET, pydicom.config.disable_value_validation():
                refuse_deflated(mapped)
                one = pydicom.dcmread(mapped, specific_tags=_TAGS)
                list(one)
        _check(one)
        if one.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2"):
            return _grey(one)
        return _colour(one)
    except MemoryError:
        raise
    # pydicom raises whatever the damaged bytes led to, and quotes them: the patient's name may be among them.
    except Exception as error:
        raise ValueError(without_quotes(error)) from None


def _check(one: Any) -> None:
    missing = [name for name in ("Rows", "Columns", "BitsAllocated", "PixelData") if not one.get(name)]
    if missing:
        raise ValueError(f"it holds no image: it lacks {', '.join(missing)}")
    if int(one.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"it holds {one.NumberOfFrames} frames. Convert those that are meant to images")
    samples = int(one.get("SamplesPerPixel") or 1)
    claimed = int(one.Rows) * int(one.Columns) * samples * int(one.BitsAllocated) // 8
    packed = one.file_meta.TransferSyntaxUID.is_encapsulated
    refuse_claim(claimed, len(one.PixelData), packed)


def _grey(one: Any) -> np.ndarray:
    """Rescaled values, then the window, as 0..65535."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    stored = one.pixel_array
    if stored.ndim != 2:
        raise ValueError(f"its pixels have shape {stored.shape}")
    values: np.ndarray = np.asarray(apply_modality_lut(stored, one), np.float64)
    if not np.isfinite(values).all():
        raise ValueError("its values are not finite once they are rescaled")
    centre, width = (_first(one.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is not None and width is not None:
        seen = _windowed(values, centre, width, str(one.get("VOILUTFunction") or "LINEAR"))
    elif one.get("VOILUTSequence"):
        top = 2 ** int(one.VOILUTSequence[0].LUTDescriptor[2]) - 1
        seen = apply_voi_lut(values.round().astype(np.int64), one, prefer_lut=True) / top
    else:
        low, high = _range_stored(one)
        seen = (values - low) / (high - low)
    if one.PhotometricInterpretation == "MONOCHROME1":
        seen = 1 - seen
    seen[padding_of(one, stored)] = 0
    return (np.clip(seen, 0, 1) * 65535).round().astype(np.uint16)


def _first(value: Any) -> float | None:
    values: Any = [] if value is None or value == "" else np.ravel(value)
    return float(values[0]) if len(values) else None


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Values as a window shows them, 0 to 1."""
    least = 1 if function == "LINEAR" else 0
    if not (np.isfinite(centre) and least <= width < np.inf and width > 0):
        raise ValueError(f"its window must have a finite centre and width. Received {centre} and {width}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    # A width of 1 is a threshold.
    return (values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5


def _range_stored(one: Any) -> tuple[float, float]:
    """Least and greatest value that the bits stored can hold, rescaled."""
    if one.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(one.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits = int(one.get("BitsStored") or one.BitsAllocated)
    least = -(2 ** (bits - 1)) if one.get("PixelRepresentation") else 0
    slope, intercept = _first(one.get("RescaleSlope")), _first(one.get("RescaleIntercept"))
    ends = [
        end * (1.0 if slope is None else slope) + (intercept or 0.0) for end in (least, least + 2**bits - 1)
    ]
    if ends[0] == ends[1]:
        raise ValueError("its rescale slope must not be 0")
    return min(ends), max(ends)


def _colour(one: Any) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    pixels = one.pixel_array
    if one.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, one)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"its pixels, {pixels.dtype} of shape {pixels.shape}, are not 8 or 16 bits of RGB")
    return pixels
