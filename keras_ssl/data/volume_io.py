"""Reading and writing of volume files: voxels, and the affine from their indices to millimeters."""

import contextlib
import gzip
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from keras_ssl._atomic import atomic_write
from keras_ssl.data.dicom import is_dicom_file, read_dicom_grid, read_dicom_series
from keras_ssl.data.files import check_decompressed_size
from keras_ssl.data.volume import (
    Volume,
    VolumeGrid,
    affines_match,
    check_affine,
    check_voxels,
    memory_error_naming,
    to_smallest_integers,
)

if TYPE_CHECKING:
    from nibabel import Nifti1Header

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".npy")

# Some programs append bytes to a volume; more than these belong to no volume.
_MAX_TRAILING = 1 << 20

# Millimeters; no scanner has larger voxels. A header that states meters and holds millimeters has.
_LARGEST_VOXEL = 100.0

# NIfTI's codes of spatial units: meter, millimeter, micron. Others are unknown.
_IN_MILLIMETERS = {1: 1e3, 2: 1.0, 3: 1e-3}

# The fields of a NIfTI header that place its voxels, except `pixdim`.
_FORMS = (
    *("sform_code", "srow_x", "srow_y", "srow_z", "qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z"),
)


def volume_suffix(path: str | Path) -> str:
    """Return the suffix of a volume file in lower case, empty for any other file.

    >>> volume_suffix("brain.NII.gz"), volume_suffix("brain.png")
    ('.nii.gz', '')
    """
    name = Path(path).name.lower()
    return next((suffix for suffix in VOLUME_SUFFIXES if name.endswith(suffix)), "")


def read_volume(path: str | Path, channels: bool = False, series: str | int | None = None) -> Volume:
    """Read the voxels and the affine of a NIfTI or `.npy` file, or of a folder with a DICOM series.

    The header's slope and intercept are applied to the stored numbers. Axes of length 1 after the third are
    dropped. The affine is in millimeters: a header in meters or microns is converted, one without a spatial
    unit is assumed to be in millimeters. `.npy` has no affine: it gets the identity.

    Args:
        path: `.nii`, `.nii.gz` or `.npy` file; or a folder, which `read_dicom_series` reads.
        channels: whether the file has a fourth axis, of channels, which is kept even if its length is 1.
        series: which series of a folder to read, see `read_dicom_series`.

    Returns:
        `voxels`, `(x, y, z)` or with `channels` `(x, y, z, channels)`, integers as they are stored or
        else float32, and `affine`, float64, `(4, 4)`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `series` is given for a file. Or the file is truncated, damaged or of another format, its
            header declares more data than its bytes can hold (see
            `keras_ssl.data.files.MAX_DECOMPRESSED_SIZE`), its voxels are not real numbers, have other axes
            or hold NaN or infinity, or its affine cannot be inverted. The message names the file.
        MemoryError: the voxels do not fit into memory. The message names the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.arange(24, dtype="int16").reshape(2, 3, 4))
    ...     voxels, affine = read_volume(f"{folder}/a.npy")
    >>> voxels.shape, voxels.dtype.name
    ((2, 3, 4), 'int16')
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"`path` must name a volume that exists. Received {path}.")
    if Path(path).is_dir():
        return read_dicom_series(path, series)
    if series is not None:
        raise ValueError(f"`series` must be None for a file, {path}. Received {series!r}.")
    with _errors_naming(path):
        stored, affine = _read_stored(Path(path))
        return Volume(
            check_voxels(stored.reshape(_without_trailing_axes(stored.shape, channels))), check_affine(affine)
        )


def read_grid(path: str | Path) -> VolumeGrid:
    """Read shape and affine of what `read_volume` reads, from the headers alone.

    Args:
        path: file, or folder of a DICOM series.

    Raises:
        ValueError: as `read_volume`, as far as the header shows it.
    """
    if Path(path).is_dir():
        return read_dicom_grid(path)
    with _errors_naming(path):
        if volume_suffix(path) == ".npy":
            shape, affine = map_npy(path).shape, np.eye(4)
        else:
            header = read_nifti_header(path)
            shape, affine = header.get_data_shape(), _affine_in_millimeters(header)
        x, y, z = _without_trailing_axes(shape, channels=False)
        return VolumeGrid((x, y, z), check_affine(affine))


def write_volume(
    path: str | Path,
    voxels: npt.ArrayLike,
    affine: npt.ArrayLike | None = None,
    like: str | Path | None = None,
) -> None:
    """Write voxels and their affine as NIfTI.

    Integers and booleans, such as labels, are stored in the smallest of uint8, int16 and int32 that holds
    them, floats as float32. The write is atomic.

    Args:
        path: `.nii` or `.nii.gz` file, replaced if it exists.
        voxels: `(x, y, z)` or `(x, y, z, channels)`, finite.
        affine: `(4, 4)` from indices to millimeters; may be left out with `like`. It is stored both as
            sform and as qform, and as sform alone where it shears, which a qform cannot express.
        like: NIfTI file of the same grid, from which both forms, their codes and the spatial unit are copied:
            for a predicted segmentation, the scan that was segmented. No other field is, since those
            describe the scan's intensities or the patient. A qform that cannot be decoded beside a
            valid sform is left out.

    Raises:
        ValueError: `path` has another suffix, `voxels` or `affine` is invalid, neither `affine` nor `like`
            is given, or `like` has another shape or affine.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_volume(f"{folder}/a.nii.gz", np.ones((2, 3, 4), "int64"), np.diag([2.0, 2.0, 3.0, 1.0]))
    ...     read_volume(f"{folder}/a.nii.gz").voxels.dtype.name
    'uint8'
    """
    import nibabel

    path = Path(path)
    if volume_suffix(path) not in (".nii", ".nii.gz"):
        raise ValueError(f"`path` must end in .nii or .nii.gz. Received {path}.")
    stored = to_smallest_integers(check_voxels(np.asarray(voxels)))
    if stored.ndim not in (3, 4):
        raise ValueError(
            f"`voxels` must have shape (x, y, z) or (x, y, z, channels). Received shape {stored.shape}."
        )
    if like is not None:
        with _errors_naming(like):
            source = read_nifti_header(like)
        _check_like(stored.shape[:3], affine, source)
        image = nibabel.Nifti1Image(stored, source.get_best_affine())
        _copy_geometry(source, image.header)
    elif affine is not None:
        affine = check_affine(affine)
        image = nibabel.Nifti1Image(stored, affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code="scanner")
        image.set_qform(affine, code="unknown" if _has_shear(affine) else "scanner")
    else:
        raise ValueError("`affine` or `like` must be given. Received neither.")
    content = image.to_bytes()
    if volume_suffix(path) == ".nii.gz":
        content = gzip.compress(content, 6, mtime=0)
    atomic_write(path, lambda partial: partial.write_bytes(content))


def _read_stored(path: Path) -> tuple[np.ndarray, npt.ArrayLike]:
    from nibabel.arrayproxy import ArrayProxy

    suffix = volume_suffix(path)
    if suffix == ".npy":
        return np.array(map_npy(path)), np.eye(4)
    header = read_nifti_header(path)
    source: str | io.BytesIO = str(path)
    if suffix == ".nii.gz":
        declared = _declared_size(header)
        with gzip.open(path) as file:
            # To the very end, as nibabel would stop before the checksum that reveals damaged bytes.
            content = file.read(declared + _MAX_TRAILING)
            if file.read(1):
                raise ValueError(f"it must end after the {declared} bytes that its header declares")
        check_decompressed_size(declared, len(content), compressed=False)
        source = io.BytesIO(content)
    return np.asanyarray(ArrayProxy(source, header, mmap=False)), _affine_in_millimeters(header)


def _affine_in_millimeters(header: "Nifti1Header") -> np.ndarray:
    """Return the affine of a NIfTI header in millimeters."""
    # The upper bits are the unit of time.
    unit = _IN_MILLIMETERS.get(int(header["xyzt_units"]) & 7, 1.0)
    affine = np.diag([unit, unit, unit, 1.0]) @ header.get_best_affine()
    largest = float(np.linalg.norm(affine[:3, :3], axis=0).max())
    if unit > 1 and largest > _LARGEST_VOXEL:
        raise ValueError(
            f"its header states meters, by which a voxel is {largest:g} mm wide: correct xyzt_units"
        )
    return affine


def map_npy(path: str | Path) -> np.ndarray:
    """Memory-map a `.npy` file; raise an error where its header declares more than the file holds.

    Unlike `numpy.load`, reads neither archives nor pickles.
    """
    with open(path, "rb") as file:
        start = file.read(12)
    # From version 2 on, four bytes hold the header's length, for which NumPy allocates memory at once.
    if start[6:7] > b"\1":
        check_decompressed_size(
            int.from_bytes(start[8:12], "little"), Path(path).stat().st_size, compressed=False
        )
    array = np.lib.format.open_memmap(path, "r")
    if not array.nbytes:
        raise ValueError(f"`voxels` must not be empty. Received shape {array.shape} of {array.dtype}.")
    return array


def read_nifti_header(path: str | Path) -> "Nifti1Header":
    """Read the header of a NIfTI file without its extensions, and check the size that it declares.

    Raises:
        Exception: any error of nibabel or gzip on damaged bytes.
    """
    import nibabel

    suffix = volume_suffix(path)
    if suffix not in (".nii", ".nii.gz"):
        hint = ", or be a folder, of DICOM slices" if is_dicom_file(path) else ""
        raise ValueError(f"its name must end in one of {', '.join(VOLUME_SUFFIXES)}{hint}")
    with gzip.open(path) if suffix == ".nii.gz" else open(path, "rb") as file:
        content = file.read(nibabel.Nifti2Header.sizeof_hdr)
    kind: type[Nifti1Header] = nibabel.Nifti1Header
    if nibabel.Nifti2Header.may_contain_header(content):
        kind = nibabel.Nifti2Header
    header = kind(content[: kind.sizeof_hdr])
    check_decompressed_size(_declared_size(header), Path(path).stat().st_size, compressed=suffix == ".nii.gz")
    return header


def _declared_size(header: "Nifti1Header") -> int:
    """Return the byte at which the voxels end according to a NIfTI header."""
    shape = [int(side) for side in header.get_data_shape()]
    if min(shape, default=0) < 1:
        raise ValueError(f"`voxels` must have sides of at least 1. Received shape {tuple(shape)}.")
    offset = int(header.get_data_offset())
    if offset < header.sizeof_hdr:
        raise ValueError(f"its voxels must begin after its header. Received an offset of {offset} bytes")
    return offset + math.prod(shape) * header.get_data_dtype().itemsize


@contextlib.contextmanager
def _errors_naming(path: str | Path) -> Iterator[None]:
    """Convert all errors of reading a file to a `ValueError` that names it."""
    try:
        with memory_error_naming(path):
            yield
    except MemoryError:
        raise
    # Damaged bytes raise all sorts of errors in nibabel, gzip and NumPy: OSError, EOFError, zlib.error ...
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a volume: {error}") from error


def _without_trailing_axes(shape: tuple[int, ...], channels: bool) -> tuple[int, ...]:
    """Return the shape without axes of length 1 after the third, or after that of channels."""
    wanted = 4 if channels else 3
    if len(shape) < wanted or any(side != 1 for side in shape[wanted:]):
        axes = "(x, y, z, channels)" if channels else "(x, y, z)"
        raise ValueError(f"`voxels` must have shape {axes}. Received shape {shape}.")
    return shape[:wanted]


def _check_like(shape: tuple[int, ...], affine: npt.ArrayLike | None, source: "Nifti1Header") -> None:
    if (received := source.get_data_shape()[:3]) != shape:
        raise ValueError(f"`like` must have the shape of `voxels`, {shape}. Received {received}.")
    own = _affine_in_millimeters(source)
    if affine is not None and not affines_match(check_affine(affine), own, shape):
        raise ValueError(
            f"`like` must have the affine that is given, {np.asarray(affine).tolist()}. Received "
            f"{own.tolist()}."
        )


def _copy_geometry(source: "Nifti1Header", header: "Nifti1Header") -> None:
    """Copy both forms and the spatial unit of `source` to a new header, as they are stored."""
    unit = int(source["xyzt_units"]) & 7
    header["xyzt_units"] = unit if unit in _IN_MILLIMETERS else 0
    for name in _FORMS:
        header[name] = source[name]
    try:
        source.get_qform()
    # Quaternion or voxel sizes that are no rotation. The affine is then that of the sform.
    except Exception:
        header["qform_code"] = 0
        for name in ("quatern_b", "quatern_c", "quatern_d"):
            header[name] = 0
    # With neither form the voxel sizes are the affine.
    header["pixdim"][:4] = source["pixdim"][:4]
    sizes = header["pixdim"][1:4]
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        header["pixdim"][1:4] = np.linalg.norm(source.get_best_affine()[:3, :3], axis=0)


def _has_shear(affine: np.ndarray) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(axes.T @ axes, np.eye(3), atol=1e-5)
