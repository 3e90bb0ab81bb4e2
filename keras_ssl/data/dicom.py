"""DICOM: series of slices as volumes, and single images."""

import itertools
import mmap
import re
import threading
import warnings
import zlib
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from pydicom import Dataset

# Names of files beside slices: those of systems, and documents.
DOCUMENT_NAMES = re.compile(
    r"\..*|(thumbs\.db|dicomdir|lockfile|version|readme|licen[cs]e|copying|notice|changelog)(\..*)?"
    r"|.*\.(txt|md|rst|json|csv|tsv|xml|ya?ml|html?|pdf|log|ini|inf|bvec|bval|md5|sha256)",
    re.IGNORECASE,
)

_OTHER_FORMATS = re.compile(
    r".*\.(nii|gz|npy|npz|mha|mhd|nrrd|mgz|png|jpe?g|gif|bmp|tiff?|zip|tar|rar|7z|exe|dll|bat|sh|py|js|css)",
    re.IGNORECASE,
)

# Tags of geometry, and how many numbers each has.
_GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}

# Only these tags are read: names, dates and numbers of patients never come into memory.
_PIXEL_TAGS = [
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "PixelData"),
]
_SLICE_TAGS = [
    *_PIXEL_TAGS,
    *_GEOMETRY,
    *("SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesNumber"),
]
_IMAGE_TAGS = [
    *_PIXEL_TAGS,
    *("PlanarConfiguration", "ModalityLUTSequence", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
    *("GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData"),
]

# The fraction of the distance between slices by which one may lie off its place: positions are often rounded.
_TOLERANCE = 0.1

# Millimeters; beyond it a number is damaged.
_FARTHEST = 1e6

# Bytes that a deflated file may decompress to: pydicom decompresses all of it before its size is known.
_MAX_DEFLATED = 1 << 26

# pydicom's settings are those of the process: one thread at a time changes them and restores them.
_PYDICOM_LOCK = threading.Lock()


def read_dicom_series(folder: str | Path, series: str | int | None = None) -> Volume:
    """Read the volume of one series of DICOM slices, each in a file of its own.

    Slices are sorted by their position along the normal of their plane, whatever the files are called. The
    rescale slope and intercept of each slice are applied, which for CT gives Hounsfield units. Pixels of the
    padding value or range become background, the smallest value of all others. `MONOCHROME1` is inverted.

    Every file is accounted for, whatever its suffix: it is read as a slice, raises an error that names it, or
    is left out with a warning that describes it (`DICOMDIR`, a report, a localizer, an image without geometry
    of another series, a file of another format). Hidden files and documents, by their names (`Thumbs.db`,
    `README`, `.txt`, `.json` and so on), are ignored. Of the headers only geometry, rescaling, the layout of
    pixels and the kind and number of the series are read, nothing about the patient. Requires pydicom:
    `pip install keras-ssl[dicom]`.

    Args:
        folder: the folder of the slices; its subfolders are not searched.
        series: which series to read where there are several: its SeriesInstanceUID, SeriesNumber or
            SeriesDescription, or the name of one of its files. `None` for the only one.

    Returns:
        `voxels`, `(x, y, z)` along columns, rows and slices, the smallest of uint8, int16 and int32 that
        holds them or else float32, and `affine`, float64, `(4, 4)`, to millimeters in RAS+.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: there are fewer than two slices or several series, `series` matches none or several, a
            file is empty, truncated, damaged, has several frames or color, or declares more pixels than its
            bytes can hold, no decoder of its compression is installed, tags of geometry are missing, slices
            have several orientations, two lie at the same place, or one is missing between them. The message
            names the folder or the files.
        MemoryError: the volume does not fit into memory. The message names the folder.

    References:
        NEMA PS3.3, C.7.6.2 Image Plane Module and C.7.5.1 General Equipment Module.
    """
    with memory_error_naming(folder):
        slices = _read_slices(Path(folder), series, with_pixels=True)
        order, affine = _sort_slices(slices, folder)
        _check_series_size(list(slices.values()), folder)
        _check_decoders(list(slices.values()), folder)
        # The bytes of each slice are released once it is decoded.
        planes, padding = zip(
            *(_decode_slice(slices.pop(name), Path(folder) / name) for name in order), strict=True
        )
        voxels = np.stack(planes, axis=-1)
        if any(map(np.any, padding)):
            rest = [plane[~out].min() for plane, out in zip(planes, padding, strict=True) if not out.all()]
            voxels[np.stack(padding, axis=-1)] = min(rest, default=0)
        return Volume(check_voxels(to_smallest_integers(voxels.swapaxes(0, 1))), affine)


def read_dicom_grid(folder: str | Path) -> VolumeGrid:
    """Read shape and affine of a series without its pixels; raises as `read_dicom_series`."""
    slices = _read_slices(Path(folder), None, with_pixels=False)
    order, affine = _sort_slices(slices, folder)
    first = slices[order[0]]
    return VolumeGrid((int(first.Columns), int(first.Rows), len(order)), affine)


def is_dicom_file(path: str | Path) -> bool:
    """Return True if a file can be opened and starts as DICOM."""
    try:
        with open(path, "rb") as file:
            return _starts_as_dicom(file.read(132))
    except OSError:
        return False


def _starts_as_dicom(start: bytes) -> bool:
    """Return True for a preamble, and for an element of group 2 or 8 without one."""
    return start[128:] == b"DICM" or (len(start) == 132 and start[:2] in (b"\2\0", b"\x08\0"))


def _read_start(path: Path) -> bytes:
    if not path.exists():
        if DOCUMENT_NAMES.fullmatch(path.name):
            return b""
        raise ValueError("it is a link to a file that does not exist")
    if not path.is_file():
        raise ValueError("it is no file")
    with open(path, "rb") as file:
        return file.read(132)


def _import_pydicom() -> ModuleType:
    try:
        import pydicom
    except ImportError as error:
        raise ImportError("DICOM needs pydicom. Install it: pip install keras-ssl[dicom]") from error
    return pydicom


def _read_dataset(path: Path, tags: list[str], with_pixels: bool = True, force: bool = False) -> "Dataset":
    """Read the given tags of a file; with `force`, also of one without preamble."""
    import pydicom

    # Mapped, since reading allocates as much memory as a tag declares, which may be gigabytes.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        mapped: Any = content
        # pydicom's warnings quote what a damaged length took for the value: whole headers.
        with _PYDICOM_LOCK, pydicom.config.disable_value_validation():
            _check_deflated_size(mapped)
            dataset = pydicom.dcmread(
                mapped, stop_before_pixels=not with_pixels, specific_tags=tags, force=force
            )
            # Tags are parsed when they are accessed: here, where errors can name the file.
            list(dataset), list(dataset.file_meta)
    return dataset


def _check_deflated_size(content: Any) -> None:
    """Raise an error for a deflated file that would decompress to too much."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    read_preamble(content, force=True)
    meta = read_dataset(content, False, True, stop_when=lambda tag, *_: tag.group != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        stream.decompress(content.read(), _MAX_DEFLATED)
        if stream.unconsumed_tail:
            raise ValueError(f"it must decompress to {_MAX_DEFLATED} bytes at most, and is larger")
    content.seek(0)


def _declared_size(dataset: "Dataset") -> int:
    samples = int(dataset.get("SamplesPerPixel") or 1)
    return int(dataset.Rows) * int(dataset.Columns) * samples * int(dataset.BitsAllocated) // 8


def _is_compressed(dataset: "Dataset") -> bool:
    return dataset.file_meta.TransferSyntaxUID.is_encapsulated


def _without_quoted_text(error: Exception) -> str:
    """Return a message up to what it quotes from the file, which may be the patient's name."""
    return re.split("[\"']", str(error))[0]


def _read_slices(folder: Path, series: str | int | None, with_pixels: bool) -> dict[str, "Dataset"]:
    """Read the slices of a series by file name, each a valid plane of a volume."""
    pydicom = _import_pydicom()
    images: dict[str, Dataset] = {}
    problems: dict[str, str] = {}
    others: dict[str, list[str]] = {}
    # Free text, which may hold anything: read only where it is asked for.
    tags = [*_SLICE_TAGS, "SeriesDescription"] if isinstance(series, str) else _SLICE_TAGS
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not path.name.startswith((".", "__")):
                others.setdefault("folders, which are not searched", []).append(path.name)
            continue
        try:
            start = _read_start(path)
            if not _starts_as_dicom(start):
                if _OTHER_FORMATS.fullmatch(path.name):
                    others.setdefault("of another format", []).append(path.name)
                elif not DOCUMENT_NAMES.fullmatch(path.name):
                    problems[path.name] = "it is not a whole DICOM file" if start else "it is empty"
                continue
            dataset = _read_dataset(path, tags, with_pixels, force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:
                # The encoding that pydicom found.
                implicit, _ = dataset.original_encoding
                syntaxes = pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian
                dataset.file_meta.TransferSyntaxUID = syntaxes[bool(implicit)]
            if kind := _non_image_kind(dataset, path.name):
                others.setdefault(kind, []).append(path.name)
                continue
            problem = _slice_problem(dataset, with_pixels)
        except MemoryError:
            raise
        # pydicom raises all sorts of errors on damaged bytes, on reading them or on accessing a tag.
        except Exception as error:
            problems[path.name] = _without_quoted_text(error)
            continue
        images[path.name] = dataset
        if problem:
            problems[path.name] = problem
    slices = _select_series(images, problems, others, series, folder)
    if problems:
        named = [f"{folder / name} ({reason})" for name, reason in sorted(problems.items())]
        raise ValueError(
            f"`folder` must hold whole slices with geometry. Received {shorten_list(named, '; ')}."
        )
    if len(slices) < 2:
        inner = sum(path.is_dir() for path in folder.iterdir())
        hint = f" Its {inner} subfolders are not searched." if inner else ""
        raise ValueError(
            f"`folder` must hold at least two DICOM slices. Received {len(slices)} in {folder}.{hint}"
        )
    if others:
        counts = [f"{len(names)} {kind} ({shorten_list(names)})" for kind, names in others.items()]
        warnings.warn(
            f"Files in {folder} left out as no slices of the series: {'; '.join(counts)}.", stacklevel=4
        )
    return slices


def _non_image_kind(dataset: "Dataset", name: str) -> str:
    """Return the kind of a DICOM object that is not an image; empty for images and unknown objects."""
    from pydicom.uid import UID

    if name.startswith("."):
        return "hidden"
    given = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""
    # Not validated: a warning would quote what a damaged length took for the value.
    uid = UID(str(given), validation_mode=0)
    return "" if uid.name == uid or "Image" in uid.name else uid.name.removesuffix(" Storage")


def _slice_problem(dataset: "Dataset", with_pixels: bool) -> str:
    """Explain why a data set is not one plane of a volume; empty where it is."""
    needed = [*_GEOMETRY, "Rows", "Columns", *(("BitsAllocated", "PixelData") if with_pixels else ())]
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        return f"it holds {dataset.NumberOfFrames} frames; convert it, for example to NIfTI"
    missing = [name for name in needed if dataset.get(name) in (None, "", b"")]
    if missing:
        return f"it lacks {', '.join(missing)}"
    wrong = [name for name, count in _GEOMETRY.items() if np.size(dataset.get(name)) != count]
    if wrong:
        return f"it has the wrong number of values in {', '.join(wrong)}"
    if int(dataset.get("SamplesPerPixel") or 1) > 1:
        return "it is in color"
    # Written so that NaN, for which every comparison is false, is bad.
    far = [name for name in _GEOMETRY if not (np.abs(_numbers(dataset, name)) < _FARTHEST).all()]
    if far:
        return f"it has no finite numbers of plausible size in {', '.join(far)}"
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if min(rows, columns) < 1:
        return f"it has {rows} rows and {columns} columns"
    if with_pixels:
        check_decompressed_size(_declared_size(dataset), len(dataset.PixelData), _is_compressed(dataset))
    return ""


def _numbers(dataset: "Dataset", tag: str) -> np.ndarray:
    return np.array([float(value) for value in dataset.get(tag)])


def _select_series(
    images: dict[str, "Dataset"],
    problems: dict[str, str],
    others: dict[str, list[str]],
    series: str | int | None,
    folder: Path,
) -> dict[str, "Dataset"]:
    """Select the images of one series; those of others move from `problems` to `others`, by their kind."""
    groups: dict[str, list[str]] = {}
    for name, dataset in images.items():
        groups.setdefault(str(dataset.get("SeriesInstanceUID") or ""), []).append(name)

    def has_slices(names: list[str]) -> bool:
        return any(_has_geometry(images[name]) and not _is_localizer(images[name]) for name in names)

    if series is None:
        found = [uid for uid, names in groups.items() if has_slices(names)] or list(groups)
    else:
        found = _find_series(series, groups, images)
    if not groups:
        return {}
    if len(found) != 1:
        known = shorten_list([_describe_series(names, images) for names in groups.values()])
        raise ValueError(
            "`folder` must hold slices of one series, or `series` choose one of them. Received series="
            f"{series!r} for {folder} with {known}. Pass `series` to read_volume: a number, a "
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


def _find_series(series: str | int, groups: dict[str, list[str]], images: dict[str, "Dataset"]) -> list[str]:
    """Find series by their UID, else number, else description, else one of their files."""
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


def _describe_series(names: list[str], images: dict[str, "Dataset"]) -> str:
    """Describe a series by its number, modality and a file: UID and description may identify the patient."""
    dataset = images[names[0]]
    number = dataset.get("SeriesNumber")
    modality = re.fullmatch("[A-Z]{2,16}", str(dataset.get("Modality")))
    kind = f"{modality[0]}, " if modality else ""
    return f"{'no number' if number is None else f'number {number}'} ({kind}{len(names)} files, {names[0]})"


def _has_geometry(dataset: "Dataset") -> bool:
    tags = ("ImagePositionPatient", "ImageOrientationPatient")
    return any(dataset.get(name) not in (None, "") for name in tags)


def _is_localizer(dataset: "Dataset") -> bool:
    kinds = dataset.get("ImageType") or ()
    return "LOCALIZER" in ([kinds] if isinstance(kinds, str) else list(kinds))


def _sort_slices(slices: dict[str, "Dataset"], folder: str | Path) -> tuple[list[str], np.ndarray]:
    """Return the file names from the first slice to the last, and the affine of the volume."""
    _check_same_geometry(slices, folder)
    first = next(iter(slices.values()))
    along_columns, along_rows = _numbers(first, "ImageOrientationPatient").reshape(2, 3)
    between_rows, between_columns = _numbers(first, "PixelSpacing")
    normal = np.cross(along_columns, along_rows)
    positions = np.array([_numbers(dataset, "ImagePositionPatient") for dataset in slices.values()])
    order = np.argsort(positions @ normal, kind="stable")
    names, positions = [list(slices)[row] for row in order], positions[order]
    # By the ends: with a tilted gantry slices move along their plane too.
    step = (positions[-1] - positions[0]) / (len(names) - 1)
    _check_even_spacing(names, positions, normal, folder)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([along_columns * between_columns, along_rows * between_rows, step], axis=1)
    affine[:3, 3] = positions[0]
    try:
        # DICOM is LPS+: it counts to the left and posterior.
        return names, check_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    except ValueError as error:
        raise ValueError(f"`folder` must hold slices of a volume. In {folder} {error}") from error


def _check_same_geometry(by_name: dict[str, "Dataset"], folder: str | Path) -> None:
    """Check that slices have one size, spacing and orientation."""
    slices, names = list(by_name.values()), list(by_name)
    sizes = [f"{dataset.Rows} x {dataset.Columns}" for dataset in slices]
    if len(found := Counter(sizes)) > 1:
        counts = [f"{value} ({count} slices, {names[sizes.index(value)]})" for value, count in found.items()]
        raise ValueError(f"`folder` must hold slices of one size. In {folder} are {shorten_list(counts)}.")
    for tag in ("PixelSpacing", "ImageOrientationPatient"):
        numbers = np.array([_numbers(dataset, tag) for dataset in slices])
        other = np.flatnonzero(np.abs(numbers - numbers[0]).max(axis=1) > 1e-3)
        if len(other):
            raise ValueError(
                f"`folder` must hold slices of one {tag}. In {folder} are {numbers[0].tolist()} and "
                f"{numbers[other[0]].tolist()}, in {shorten_list([names[row] for row in other])}."
            )


def _check_even_spacing(
    names: list[str], positions: np.ndarray, normal: np.ndarray, folder: str | Path
) -> None:
    """Check that slices lie on one line, evenly spaced, each at a place of its own."""
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


def _check_series_size(slices: list["Dataset"], folder: str | Path) -> None:
    """Apply the decompression-bomb guard to compressed slices that are small each and large together."""
    packed = [dataset for dataset in slices if _is_compressed(dataset)]
    try:
        check_compression_ratio(
            sum(map(_declared_size, packed)), sum(len(dataset.PixelData) for dataset in packed)
        )
    except ValueError as error:
        raise ValueError(f"`folder` must hold slices of a volume. In {folder} {error}.") from error


def _check_decoders(slices: list["Dataset"], folder: str | Path) -> None:
    """Raise an error that names the package that decodes the slices, if it is not installed."""
    from pydicom.pixels import get_decoder

    syntaxes = Counter(one.file_meta.TransferSyntaxUID for one in slices if _is_compressed(one))
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


def _install_advice(syntax: str) -> str:
    """Name the packages that decode a transfer syntax; empty if all are installed."""
    from pydicom.pixels import get_decoder

    missing = get_decoder(syntax).missing_dependencies
    packages = [re.findall(r"pylibjpeg-[a-z]+", one) for one in missing if one.startswith("pylibjpeg ")]
    command = f"Install one: pip install pylibjpeg {packages[0][0]}. " if packages and packages[0] else ""
    return f"{command}Known decoders: {'; '.join(missing)}." if missing else ""


def _decode_slice(dataset: "Dataset", path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the rescaled plane `(rows, columns)` and the mask of its padding.

    The plane has integers where slope and intercept are whole, else float32.
    """
    try:
        plane = dataset.pixel_array
        if plane.shape != (dataset.Rows, dataset.Columns):
            raise ValueError(f"its pixels have shape {plane.shape}")
        padding = _padding_mask(dataset, plane)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            # From end to end of the numbers that can be stored.
            ends = -1 if int(dataset.PixelRepresentation) else 2 ** int(dataset.BitsStored) - 1
            plane = ends - plane.astype(np.int64)
        slope, intercept = _slope_and_intercept(dataset)
        # Products of 32 bits and 30 do not overflow.
        small = max(abs(slope), abs(intercept)) < 2**30 and int(dataset.BitsAllocated) <= 32
        if small and slope.is_integer() and intercept.is_integer():
            return to_smallest_integers(plane.astype(np.int64) * int(slope) + int(intercept)), padding
        with np.errstate(over="ignore", invalid="ignore"):
            return check_voxels((plane * slope + intercept).astype(np.float32)), padding
    except MemoryError:
        raise
    # Damaged bytes raise all sorts of errors, as does a decoder that does not read this kind.
    except Exception as error:
        advice = _install_advice(dataset.file_meta.TransferSyntaxUID) if _is_compressed(dataset) else ""
        raise ValueError(
            f"{path} cannot be read as a DICOM slice: {_without_quoted_text(error)} {advice}".rstrip()
        ) from error


def _slope_and_intercept(dataset: "Dataset") -> tuple[float, float]:
    # A tag may be there and empty.
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return float(1 if slope is None else slope), float(0 if intercept is None else intercept)


def _padding_mask(dataset: "Dataset", plane: np.ndarray) -> np.ndarray:
    """Return the mask of pixels with the padding value or range, `(rows, columns)`."""
    value, limit = (dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if value in (None, ""):
        return np.zeros(plane.shape, bool)
    ends = [int(value), int(value if limit in (None, "") else limit)]
    # Many scanners write a negative value as if pixels were unsigned, and the reverse.
    modulus, least = 1 << int(dataset.BitsAllocated), int(np.iinfo(plane.dtype).min)
    low, high = sorted((end - least) % modulus + least for end in ends)
    return (plane >= low) & (plane <= high)


def decode_dicom(path: str | Path) -> np.ndarray:
    """Decode a single image for display, in the orientation in which it is stored.

    Args:
        path: the DICOM file.

    Returns:
        uint16, `(height, width)`, of a gray image, over its window or the range of the bits stored, 0 black;
        uint8 or uint16, `(height, width, 3)`, of one in color.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: the file is damaged, has several frames, holds no image or numbers that are not finite, or
            declares more pixels than its bytes can hold; no decoder of its compression is installed.

    References:
        NEMA PS3.3, C.7.6.3 Image Pixel Module and C.11.2 VOI LUT Module.
    """
    _import_pydicom()
    try:
        dataset = _read_dataset(Path(path), _IMAGE_TAGS)
        _check_image(dataset)
        gray = dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2")
        return _decode_gray(dataset) if gray else _decode_color(dataset)
    except MemoryError:
        raise
    # pydicom raises all sorts of errors on damaged bytes, and quotes them: the patient's name may be among
    # them.
    except Exception as error:
        raise ValueError(_without_quoted_text(error)) from None


def _check_image(dataset: "Dataset") -> None:
    missing = [name for name in ("Rows", "Columns", "BitsAllocated", "PixelData") if not dataset.get(name)]
    if missing:
        raise ValueError(f"it holds no image: it lacks {', '.join(missing)}")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"it holds {dataset.NumberOfFrames} frames. Convert those that are needed to images")
    check_decompressed_size(_declared_size(dataset), len(dataset.PixelData), _is_compressed(dataset))


def _decode_gray(dataset: "Dataset") -> np.ndarray:
    """Return the image rescaled, then windowed, as 0..65535."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    stored = dataset.pixel_array
    if stored.ndim != 2:
        raise ValueError(f"its pixels have shape {stored.shape}")
    values: np.ndarray = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    if not np.isfinite(values).all():
        raise ValueError("its values are not finite once they are rescaled")
    center, width = (_first_value(dataset, name) for name in ("WindowCenter", "WindowWidth"))
    if center is not None and width is not None:
        shown = _apply_window(values, center, width, str(dataset.get("VOILUTFunction") or "LINEAR"))
    elif dataset.get("VOILUTSequence"):
        top = 2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
        shown = apply_voi_lut(values.round().astype(np.int64), dataset, prefer_lut=True) / top
    else:
        low, high = _value_range(dataset)
        shown = (values - low) / (high - low)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    shown[_padding_mask(dataset, stored)] = 0
    return (np.clip(shown, 0, 1) * 65535).round().astype(np.uint16)


def _first_value(dataset: "Dataset", tag: str) -> float | None:
    value = dataset.get(tag)
    values: Any = [] if value is None or value == "" else np.ravel(value)
    return float(values[0]) if len(values) else None


def _apply_window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Map values to 0..1 by a window, not yet clipped."""
    least = 1 if function == "LINEAR" else 0
    if not (np.isfinite(center) and least <= width < np.inf and width > 0):
        raise ValueError(f"its window must have a finite center and width. Received {center} and {width}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    # A width of 1 is a threshold.
    return (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5


def _value_range(dataset: "Dataset") -> tuple[float, float]:
    """Return the least and greatest value that the stored bits can hold, rescaled."""
    if dataset.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    least = -(2 ** (bits - 1)) if dataset.get("PixelRepresentation") else 0
    slope, intercept = _slope_and_intercept(dataset)
    ends = [end * slope + intercept for end in (least, least + 2**bits - 1)]
    if ends[0] == ends[1]:
        raise ValueError("its rescale slope must not be 0")
    return min(ends), max(ends)


def _decode_color(dataset: "Dataset") -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    pixels = dataset.pixel_array
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"its pixels, {pixels.dtype} of shape {pixels.shape}, are not 8 or 16 bits of RGB")
    return pixels
