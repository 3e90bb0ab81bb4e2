"""DICOM: series of slices as volumes, and single images."""

import itertools
import mmap
import re
import threading
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from keras_ssl.data.files import check_compression_ratio, check_decompressed_size, shorten_list
from keras_ssl.data.volume import (
    Volume,
    VolumeGrid,
    check_affine,
    check_voxels,
    memory_error_naming,
    to_smallest_integers,
)

# Names of files beside slices: what systems leave, and documents.
DOCUMENT_NAMES = re.compile(
    r"\..*|(thumbs\.db|dicomdir|lockfile|version|readme|licen[cs]e|copying|notice|changelog)(\..*)?"
    r"|.*\.(txt|md|rst|json|csv|tsv|xml|ya?ml|html?|pdf|log|ini|inf|bvec|bval|md5|sha256)",
    re.IGNORECASE,
)


# Names of files in other formats.
_OTHER_FORMATS = re.compile(
    r".*\.(nii|gz|npy|npz|mha|mhd|nrrd|mgz|png|jpe?g|gif|bmp|tiff?|zip|tar|rar|7z|exe|dll|bat|sh|py|js|css)",
    re.IGNORECASE,
)


def _read_start(path: Path) -> bytes:
    """The first bytes of a file, to see what it is."""
    if not path.exists():
        if DOCUMENT_NAMES.fullmatch(path.name):
            return b""
        raise ValueError("it is a link to a file that is not there")
    if not path.is_file():
        raise ValueError("it is no file")
    with open(path, "rb") as file:
        return file.read(132)


def is_dicom_file(path: str | Path) -> bool:
    """Return True if a file can be opened and starts as DICOM."""
    try:
        with open(path, "rb") as file:
            return _starts_as_dicom(file.read(132))
    except OSError:
        return False


def _starts_as_dicom(start: bytes) -> bool:
    """Return True if a file starts as DICOM: with a preamble, or with an element of group 2 or 8."""
    return start[128:] == b"DICM" or (len(start) == 132 and start[:2] in (b"\2\0", b"\x08\0"))


def _non_image_kind(one: Any, name: str) -> str:
    """Return the kind of a DICOM object that is not an image; empty for images and unknown objects."""
    from pydicom.uid import UID

    if name.startswith("."):
        return "hidden"
    given = one.get("SOPClassUID") or one.file_meta.get("MediaStorageSOPClassUID") or ""
    # Not validated: a warning would quote what a damaged length took for the value.
    uid = UID(str(given), validation_mode=0)
    return "" if uid.name == uid or "Image" in uid.name else uid.name.removesuffix(" Storage")


def _select_series(
    images: dict[str, Any],
    problems: dict[str, str],
    others: dict[str, list[str]],
    series: str | int | None,
    folder: Path,
) -> dict[str, Any]:
    """The images of one series; those of others move from `problems` to `others`, with what they are."""
    groups: dict[str, list[str]] = {}
    for name, one in images.items():
        groups.setdefault(str(one.get("SeriesInstanceUID") or ""), []).append(name)

    def has_slices(names: list[str]) -> bool:
        return any(_has_geometry(images[name]) and not _is_localizer(images[name]) for name in names)

    if series is None:
        found = [uid for uid, names in groups.items() if has_slices(names)] or list(groups)
    else:
        found = _series_named(series, groups, images)
    if not groups:
        return {}
    if len(found) != 1:
        there = shorten_list([_described(names, images) for names in groups.values()])
        raise ValueError(
            "`folder` must hold slices of one series, or `series` choose one of them. Received series="
            f"{series!r} for {folder} with {there}. Pass `series` to read_volume: a number, a "
            "SeriesInstanceUID, a SeriesDescription or the name of a file. For a table, write that volume as "
            "NIfTI with write_volume."
        )
    slices = {}
    for uid, names in groups.items():
        for name in names:
            # A file whose series is not known may be a slice of this one.
            if uid not in (found[0], ""):
                kind = "localizers" if _is_localizer(images[name]) else "images of another series"
            elif _is_localizer(images[name]) and has_slices(groups[found[0]]):
                kind = "localizers"
            else:
                slices[name] = images[name]
                continue
            problems.pop(name, None)
            others.setdefault(kind, []).append(name)
    return slices


def _series_named(series: str | int, groups: dict[str, list[str]], images: dict[str, Any]) -> list[str]:
    """The series that are meant: by their UID, else number, else description, else one of their files."""
    wanted = str(series).strip()
    for matches in (
        lambda uid, names: uid == wanted,
        lambda uid, names: any(str(images[name].get("SeriesNumber")) == wanted for name in names),
        lambda uid, names: any(
            str(images[name].get("SeriesDescription")).strip() == wanted for name in names
        ),
        lambda uid, names: wanted in names,
    ):
        found = [uid for uid, names in groups.items() if matches(uid, names)]
        if found:
            return found
    return []


def _described(names: list[str], images: dict[str, Any]) -> str:
    """A series by its number and kind and a file of it: its UID and its description lead to the patient."""
    one = images[names[0]]
    number = one.get("SeriesNumber")
    modality = re.fullmatch("[A-Z]{2,16}", str(one.get("Modality")))
    kind = f"{modality[0]}, " if modality else ""
    return f"{'no number' if number is None else f'number {number}'} ({kind}{len(names)} files, {names[0]})"


def _has_geometry(one: Any) -> bool:
    return any(
        one.get(name) not in (None, "") for name in ("ImagePositionPatient", "ImageOrientationPatient")
    )


def _is_localizer(one: Any) -> bool:
    kinds = one.get("ImageType") or ()
    return "LOCALIZER" in ([kinds] if isinstance(kinds, str) else list(kinds))


# How many numbers each has.
_GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}


# Nothing else is read: names, dates and numbers of patients never come into memory.
_TAGS = [
    *_GEOMETRY,
    *("SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesNumber"),
    *("RescaleSlope", "RescaleIntercept", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("PhotometricInterpretation", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelData"),
]


# The share of the distance between slices by which one may lie off its place: positions are often rounded.
_TOLERANCE = 0.1


# Millimeters; beyond it a number is damaged.
_FARTHEST = 1e6


# Bytes that a deflated slice may unpack to: all of it is unpacked before its size is known.
_DEFLATED = 1 << 26


# pydicom's settings are those of the process: one thread at a time changes them and puts them back.
_PYDICOM_LOCK = threading.Lock()


def read_dicom_series(folder: str | Path, series: str | int | None = None) -> Volume:
    """Read the volume of one series of DICOM slices, each in a file of its own.

    Slices are put in order by where they lie along the normal of their plane, whatever the files are called.
    The rescale slope and intercept of each slice are applied, which for CT gives Hounsfield units. Pixels of
    the padding value or range become background, the smallest value of all others. `MONOCHROME1` is inverted.

    Every file is accounted for, whatever its suffix: it is read as a slice, refused by name, or left out with
    a warning that says what it is (`DICOMDIR`, a report, a localizer, an image without geometry of another
    series, a file of another format). Hidden files and documents, by their names (`Thumbs.db`, `README`,
    `.txt`, `.json` and so on), are ignored. Of the headers only geometry, rescaling, the layout of pixels and
    the kind and number of the series are read, none of the patient. Needs pydicom:
    `pip install keras-ssl[dicom]`.

    Args:
        folder: the folder of the slices; folders within it are not looked at.
        series: which series to read where there are several: its SeriesInstanceUID, SeriesNumber or
            SeriesDescription, or the name of one of its files. `None` for the only one.

    Returns:
        `voxels`, `(x, y, z)` along columns, rows and slices, the smallest of uint8, int16 and int32 that
        holds them or else float32, and `affine`, float64, `(4, 4)`, to millimeters right, front and top.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: there are fewer than two slices or several series, `series` names none or several, a file
            is empty, cut off, damaged, of several frames or in color, or claims more pixels than it can
            hold, no decoder of its compression is installed, tags of geometry are missing, slices are of
            several orientations, two lie at the same place, or one is missing between them. The message
            names the folder or the files.
        MemoryError: the volume does not fit into memory. The message names the folder.

    References:
        NEMA PS3.3, C.7.6.2 Image Plane Module and C.7.5.1 General Equipment Module.
    """
    with memory_error_naming(folder):
        slices = _read_slices(Path(folder), series, stop_before_pixels=False)
        order, affine = _place(slices, folder)
        _refuse_bombs(list(slices.values()), folder)
        _refuse_without_decoder(list(slices.values()), folder)
        # The bytes of each slice are let go once it is read.
        planes, padding = zip(
            *(_rescaled(slices.pop(name), Path(folder) / name) for name in order), strict=True
        )
        voxels = np.stack(planes, axis=-1)
        if any(map(np.any, padding)):
            padded = np.stack(padding, axis=-1)
            rest = [plane[~out].min() for plane, out in zip(planes, padding, strict=True) if not out.all()]
            voxels[padded] = min(rest, default=0)
        return Volume(check_voxels(to_smallest_integers(voxels.swapaxes(0, 1))), affine)


def read_dicom_grid(folder: str | Path) -> VolumeGrid:
    """Read shape and affine of a series without its pixels; raises as `read_dicom_series`."""
    slices = _read_slices(Path(folder), None, stop_before_pixels=True)
    order, affine = _place(slices, folder)
    first = slices[order[0]]
    return VolumeGrid((int(first.Columns), int(first.Rows), len(order)), affine)


def _read_slices(folder: Path, series: str | int | None, stop_before_pixels: bool) -> dict[str, Any]:
    """The data sets of a series' slices by file name, each fit to be one plane of a volume."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise ImportError("DICOM needs pydicom. Install it: pip install keras-ssl[dicom]") from error
    images: dict[str, Any] = {}
    problems: dict[str, str] = {}
    others: dict[str, list[str]] = {}
    # Free text, which may hold anything: read only where it is asked for.
    tags = [*_TAGS, "SeriesDescription"] if isinstance(series, str) else _TAGS
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not path.name.startswith((".", "__")):
                others.setdefault("folders, which are not looked into", []).append(path.name)
            continue
        try:
            start = _read_start(path)
            if not _starts_as_dicom(start):
                if _OTHER_FORMATS.fullmatch(path.name):
                    others.setdefault("of another format", []).append(path.name)
                elif not DOCUMENT_NAMES.fullmatch(path.name):
                    problems[path.name] = "it is no whole DICOM file" if start else "it is empty"
                continue
            one = _read_slice(path, tags, stop_before_pixels)
            kind = _non_image_kind(one, path.name)
            if kind:
                others.setdefault(kind, []).append(path.name)
                continue
            reason = _unfit(one, with_pixels=not stop_before_pixels)
        except MemoryError:
            raise
        # pydicom raises whatever the damaged bytes led to, on reading them or on looking at a tag.
        except Exception as error:
            problems[path.name] = _without_quoted_text(error)
            continue
        images[path.name] = one
        if reason:
            problems[path.name] = reason
    slices = _select_series(images, problems, others, series, folder)
    if problems:
        named = [f"{folder / name} ({reason})" for name, reason in sorted(problems.items())]
        raise ValueError(
            f"`folder` must hold whole slices with geometry. Received {shorten_list(named, '; ')}."
        )
    if len(slices) < 2:
        inner = sum(path.is_dir() for path in folder.iterdir())
        hint = f" Slices in the {inner} folders within it are not looked at." if inner else ""
        raise ValueError(
            f"`folder` must hold at least two DICOM slices. Received {len(slices)} in {folder}.{hint}"
        )
    if others:
        said = [f"{len(names)} {kind} ({shorten_list(names)})" for kind, names in others.items()]
        warnings.warn(
            f"Files in {folder} left out as no slices of the series: {'; '.join(said)}.", stacklevel=4
        )
    return slices


def _read_slice(path: Path, tags: list[str], stop_before_pixels: bool) -> Any:
    """The data set of a file: those of its tags that are looked at."""
    import pydicom

    # Mapped, since a file takes memory for as much as is asked of it, and tags may ask for gigabytes.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        mapped: Any = content
        # Its warnings quote what a damaged length took for the value: whole headers.
        with _PYDICOM_LOCK, pydicom.config.disable_value_validation():
            _check_deflated_size(mapped)
            # Without a preamble too, once the file begins as a data set.
            one = pydicom.dcmread(
                mapped, stop_before_pixels=stop_before_pixels, specific_tags=tags, force=True
            )
            # Tags are made sense of when they are looked at: here, where the file can be named.
            list(one), list(one.file_meta)
    if "TransferSyntaxUID" not in one.file_meta:
        implicit, _ = one.original_encoding
        syntaxes = pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian
        one.file_meta.TransferSyntaxUID = syntaxes[bool(implicit)]
    return one


def _check_deflated_size(content: Any) -> None:
    """Refuse a deflated file that pydicom, which unpacks all of it at once, had better not be given."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    read_preamble(content, force=True)
    meta = read_dataset(content, False, True, stop_when=lambda tag, *_: tag.group != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        stream.decompress(content.read(), _DEFLATED)
        if stream.unconsumed_tail:
            raise ValueError(f"it must unpack to {_DEFLATED} bytes at most, and is larger")
    content.seek(0)


def _unfit(one: Any, with_pixels: bool) -> str:
    """Why a data set is not one plane of a volume; empty where it is."""
    needed = [*_GEOMETRY, "Rows", "Columns", *(("BitsAllocated", "PixelData") if with_pixels else ())]
    if int(one.get("NumberOfFrames") or 1) > 1:
        return f"it holds {one.NumberOfFrames} frames; convert it, for example to NIfTI"
    missing = [name for name in needed if one.get(name) in (None, "", b"")]
    if missing:
        return f"it lacks {', '.join(missing)}"
    wrong = [name for name, count in _GEOMETRY.items() if np.size(one.get(name)) != count]
    if wrong:
        return f"it has another number of values than it must in {', '.join(wrong)}"
    if int(one.get("SamplesPerPixel") or 1) > 1:
        return "it is in color"
    # Written so that NaN, for which every comparison is false, is bad.
    far = [name for name in _GEOMETRY if not (np.abs(_numbers(one, name)) < _FARTHEST).all()]
    if far:
        return f"it has no finite numbers of plausible size in {', '.join(far)}"
    rows, columns = int(one.Rows), int(one.Columns)
    if min(rows, columns) < 1:
        return f"it has {rows} rows and {columns} columns"
    if with_pixels:
        check_decompressed_size(_claim_of(one), len(one.PixelData), compressed=_is_packed(one))
    return ""


def _claim_of(one: Any) -> int:
    return int(one.Rows) * int(one.Columns) * int(one.BitsAllocated) // 8


def _is_packed(one: Any) -> bool:
    return one.file_meta.TransferSyntaxUID.is_encapsulated


def _refuse_bombs(slices: list[Any], folder: str | Path) -> None:
    """Refuse slices that are small each and too large together."""
    packed = [one for one in slices if _is_packed(one)]
    try:
        check_compression_ratio(sum(map(_claim_of, packed)), sum(len(one.PixelData) for one in packed))
    except ValueError as error:
        raise ValueError(f"`folder` must hold slices of a volume. In {folder} {error}.") from error


def _place(slices: dict[str, Any], folder: str | Path) -> tuple[list[str], np.ndarray]:
    """File names from the first slice to the last, and the affine of the volume."""
    _refuse_mixed(slices, folder)
    first = next(iter(slices.values()))
    along_columns, along_rows = _numbers(first, "ImageOrientationPatient").reshape(2, 3)
    between_rows, between_columns = _numbers(first, "PixelSpacing")
    normal = np.cross(along_columns, along_rows)
    positions = np.array([_numbers(one, "ImagePositionPatient") for one in slices.values()])
    order = np.argsort(positions @ normal, kind="stable")
    names, positions = [list(slices)[row] for row in order], positions[order]
    # By the ends: with a tilted gantry slices move along their plane too.
    step = (positions[-1] - positions[0]) / (len(names) - 1)
    _refuse_gaps(names, positions, normal, folder)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([along_columns * between_columns, along_rows * between_rows, step], axis=1)
    affine[:3, 3] = positions[0]
    try:
        # DICOM counts to the left and the back.
        return names, check_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    except ValueError as error:
        raise ValueError(f"`folder` must hold slices of a volume. In {folder} {error}") from error


def _refuse_mixed(by_name: dict[str, Any], folder: str | Path) -> None:
    """Refuse slices that are not of one size, spacing and orientation."""
    slices, names = list(by_name.values()), list(by_name)
    sizes = [f"{one.Rows} x {one.Columns}" for one in slices]
    if len(found := Counter(sizes)) > 1:
        counted = [f"{value} ({count} slices, {names[sizes.index(value)]})" for value, count in found.items()]
        raise ValueError(f"`folder` must hold slices of one size. In {folder} are {shorten_list(counted)}.")
    for tag in ("PixelSpacing", "ImageOrientationPatient"):
        numbers = np.array([_numbers(one, tag) for one in slices])
        other = np.flatnonzero(np.abs(numbers - numbers[0]).max(axis=1) > 1e-3)
        if len(other):
            raise ValueError(
                f"`folder` must hold slices of one {tag}. In {folder} are {numbers[0].tolist()} and "
                f"{numbers[other[0]].tolist()}, in {shorten_list([names[row] for row in other])}."
            )


def _refuse_gaps(names: list[str], positions: np.ndarray, normal: np.ndarray, folder: str | Path) -> None:
    """Refuse slices that lie at one place, further apart than the others, or beside their line."""
    steps = np.diff(positions @ normal)
    usual = float(np.median(steps))
    pairs = [f"{one} and {other}" for one, other in itertools.pairwise(names)]
    same = [pairs[row] for row in np.flatnonzero(steps <= 1e-3)]
    if same:
        raise ValueError(
            f"`folder` must hold one slice for each place. In {folder} share one: {shorten_list(same)}."
        )
    gaps = [
        f"{steps[row]:.2f} mm between {pairs[row]}"
        for row in np.flatnonzero(np.abs(steps - usual) > _TOLERANCE * usual)
    ]
    if gaps:
        raise ValueError(
            f"`folder` must hold all slices of a series, evenly spaced. In {folder} they are {usual:.2f} mm "
            f"apart, but {shorten_list(gaps)}."
        )
    line = np.linspace(positions[0], positions[-1], len(positions))
    off = np.linalg.norm(positions - line, axis=1)
    if off.max() > _TOLERANCE * usual:
        raise ValueError(
            f"`folder` must hold slices along one line. In {folder} {names[int(off.argmax())]} lies "
            f"{off.max():.2f} mm beside it."
        )


def _refuse_without_decoder(slices: list[Any], folder: str | Path) -> None:
    """Refuse compressed slices for which no decoder is installed, and name its package."""
    from pydicom.pixels import get_decoder

    syntaxes = Counter(one.file_meta.TransferSyntaxUID for one in slices if _is_packed(one))
    for syntax, count in syntaxes.items():
        try:
            if get_decoder(syntax).is_available:
                continue
            advice = f"which needs a decoder. {_install_advice(syntax)}"
        except NotImplementedError:
            advice = "which pydicom cannot decode. Convert them, for example with dcmdjpeg or gdcmconv --raw."
        raise ValueError(
            f"`folder` must hold slices that can be decoded. {count} of {len(slices)} in {folder} are "
            f"compressed as {syntax.name}, {advice}"
        )


def _install_advice(syntax: Any) -> str:
    """Return the packages that decode a transfer syntax; empty if all are installed."""
    from pydicom.pixels import get_decoder

    missing = get_decoder(syntax).missing_dependencies
    packages = [re.findall(r"pylibjpeg-[a-z]+", one) for one in missing if one.startswith("pylibjpeg ")]
    command = f"Install one: pip install pylibjpeg {packages[0][0]}. " if packages and packages[0] else ""
    return f"{command}Known decoders: {'; '.join(missing)}." if missing else ""


def _rescaled(one: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The plane `(rows, columns)`, integers where slope and intercept are whole, else float32; and where
    it is padding.
    """
    try:
        plane = one.pixel_array
        if plane.shape != (one.Rows, one.Columns):
            raise ValueError(f"its pixels have shape {plane.shape}")
        padding = _padding_mask(one, plane)
        if one.PhotometricInterpretation == "MONOCHROME1":
            # From end to end of the numbers that can be stored.
            ends = -1 if int(one.PixelRepresentation) else 2 ** int(one.BitsStored) - 1
            plane = ends - plane.astype(np.int64)
        # A tag may be there and empty.
        given = one.get("RescaleSlope"), one.get("RescaleIntercept")
        slope, intercept = (
            float(usual if value is None else value) for value, usual in zip(given, (1, 0), strict=True)
        )
        # Products of 32 bits and 30 do not overflow.
        small = max(abs(slope), abs(intercept)) < 2**30 and int(one.BitsAllocated) <= 32
        if small and slope.is_integer() and intercept.is_integer():
            return to_smallest_integers(plane.astype(np.int64) * int(slope) + int(intercept)), padding
        with np.errstate(over="ignore", invalid="ignore"):
            return check_voxels((plane * slope + intercept).astype(np.float32)), padding
    except MemoryError:
        raise
    # Whatever the damaged bytes led to, or a decoder that does not read this kind.
    except Exception as error:
        advice = _install_advice(one.file_meta.TransferSyntaxUID) if _is_packed(one) else ""
        raise ValueError(
            f"{path} cannot be read as a DICOM slice: {_without_quoted_text(error)} {advice}".rstrip()
        ) from error


def _padding_mask(one: Any, plane: np.ndarray) -> np.ndarray:
    """Return the mask of pixels with the padding value or range, `(rows, columns)`."""
    value, limit = (one.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if value in (None, ""):
        return np.zeros(plane.shape, bool)
    ends = [int(value), int(value if limit in (None, "") else limit)]
    # Many scanners write a negative value as if pixels were unsigned, and the reverse.
    around, least = 1 << int(one.BitsAllocated), int(np.iinfo(plane.dtype).min)
    low, high = sorted((end - least) % around + least for end in ends)
    return (plane >= low) & (plane <= high)


def _numbers(one: Any, tag: str) -> np.ndarray:
    return np.array([float(value) for value in one.get(tag)])


def _without_quoted_text(error: Exception) -> str:
    """A message up to what it quotes, which may be anything in the file, the patient's name too."""
    return re.split("[\"']", str(error))[0]


# Nothing else is read: names, dates and numbers of patients never come into memory.
_TAGS_dicom_image = [
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
        uint16, `(height, width)`, of a gray image, over its window or the range of the bits stored, 0 black;
        uint8 or uint16, `(height, width, 3)`, of one in color.

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
            with _PYDICOM_LOCK, pydicom.config.disable_value_validation():
                _check_deflated_size(mapped)
                one = pydicom.dcmread(mapped, specific_tags=_TAGS_dicom_image)
                list(one)
        _check(one)
        if one.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2"):
            return _gray(one)
        return _color(one)
    except MemoryError:
        raise
    # pydicom raises whatever the damaged bytes led to, and quotes them: the patient's name may be among them.
    except Exception as error:
        raise ValueError(_without_quoted_text(error)) from None


def _check(one: Any) -> None:
    missing = [name for name in ("Rows", "Columns", "BitsAllocated", "PixelData") if not one.get(name)]
    if missing:
        raise ValueError(f"it holds no image: it lacks {', '.join(missing)}")
    if int(one.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"it holds {one.NumberOfFrames} frames. Convert those that are meant to images")
    samples = int(one.get("SamplesPerPixel") or 1)
    claimed = int(one.Rows) * int(one.Columns) * samples * int(one.BitsAllocated) // 8
    packed = one.file_meta.TransferSyntaxUID.is_encapsulated
    check_decompressed_size(claimed, len(one.PixelData), packed)


def _gray(one: Any) -> np.ndarray:
    """Rescaled values, then the window, as 0..65535."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    stored = one.pixel_array
    if stored.ndim != 2:
        raise ValueError(f"its pixels have shape {stored.shape}")
    values: np.ndarray = np.asarray(apply_modality_lut(stored, one), np.float64)
    if not np.isfinite(values).all():
        raise ValueError("its values are not finite once they are rescaled")
    center, width = (_first(one.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is not None and width is not None:
        seen = _windowed(values, center, width, str(one.get("VOILUTFunction") or "LINEAR"))
    elif one.get("VOILUTSequence"):
        top = 2 ** int(one.VOILUTSequence[0].LUTDescriptor[2]) - 1
        seen = apply_voi_lut(values.round().astype(np.int64), one, prefer_lut=True) / top
    else:
        low, high = _range_stored(one)
        seen = (values - low) / (high - low)
    if one.PhotometricInterpretation == "MONOCHROME1":
        seen = 1 - seen
    seen[_padding_mask(one, stored)] = 0
    return (np.clip(seen, 0, 1) * 65535).round().astype(np.uint16)


def _first(value: Any) -> float | None:
    values: Any = [] if value is None or value == "" else np.ravel(value)
    return float(values[0]) if len(values) else None


def _windowed(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Values as a window shows them, 0 to 1."""
    least = 1 if function == "LINEAR" else 0
    if not (np.isfinite(center) and least <= width < np.inf and width > 0):
        raise ValueError(f"its window must have a finite center and width. Received {center} and {width}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    # A width of 1 is a threshold.
    return (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5


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


def _color(one: Any) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    pixels = one.pixel_array
    if one.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, one)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"its pixels, {pixels.dtype} of shape {pixels.shape}, are not 8 or 16 bits of RGB")
    return pixels
