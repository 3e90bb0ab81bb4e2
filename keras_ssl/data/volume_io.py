"""One volume file to voxels and the affine that places them in the patient, and back."""

import contextlib
import gzip
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_ssl._atomic import write_aside
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

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".npy")


# Bytes that some programs append to a volume; more are none of its own.
_TRAILING = 1 << 20


# No scanner has voxels of more millimeters: a header that says meters and gives millimeters does.
_WIDEST = 100.0


# NIfTI's codes of spatial units: meter, millimeter, micron. Others say nothing.
_IN_MILLIMETERS = {1: 1e3, 2: 1.0, 3: 1e-3}


# The fields of a NIfTI header that place its voxels, but for `pixdim`.
_FORMS = (
    *("sform_code", "srow_x", "srow_y", "srow_z", "qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z"),
)


def volume_suffix(path: str | Path) -> str:
    """The suffix of a volume's file in lower case, empty for any other file.

    >>> volume_suffix("brain.NII.gz"), volume_suffix("brain.png")
    ('.nii.gz', '')
    """
    name = Path(path).name.lower()
    return next((suffix for suffix in VOLUME_SUFFIXES if name.endswith(suffix)), "")


def read_volume(path: str | Path, channels: bool = False, series: str | int | None = None) -> Volume:
    """Read the voxels and the affine of a NIfTI or `.npy` file, or of a folder with a DICOM series.

    Intensities are what the header's slope and intercept make of the stored numbers. Axes of length 1
    behind the third are dropped. The affine is in millimeters: a header in meters or microns is converted,
    one without a spatial unit is taken to be in millimeters. `.npy` has no affine: it gets the identity.

    Args:
        path: `.nii`, `.nii.gz` or `.npy` file; or a folder, which `read_dicom_series` reads.
        channels: whether the file has a fourth axis, of channels, which is kept even if its length is 1.
        series: which series of a folder to read, see `read_dicom_series`.

    Returns:
        `voxels`, `(x, y, z)` or with `channels` `(x, y, z, channels)`, integers as they are stored or
        else float32, and `affine`, float64, `(4, 4)`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `series` is given for a file. Or the file is truncated, damaged or of another kind, its
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
    with _named(path):
        stored, affine = _read_stored(Path(path))
        return Volume(check_voxels(stored.reshape(_dropped(stored.shape, channels))), check_affine(affine))


def read_grid(path: str | Path) -> VolumeGrid:
    """Read shape and affine of what `read_volume` reads, from the headers alone.

    Args:
        path: file, or folder of a DICOM series.

    Raises:
        ValueError: as `read_volume`, as far as the header shows it.
    """
    if Path(path).is_dir():
        return read_dicom_grid(path)
    with _named(path):
        if volume_suffix(path) == ".npy":
            shape, affine = map_npy(path).shape, np.eye(4)
        else:
            header = read_nifti_header(path)
            shape, affine = header.get_data_shape(), _affine_of(header)
        x, y, z = _dropped(shape, channels=False)
        return VolumeGrid((x, y, z), check_affine(affine))


def write_volume(
    path: str | Path,
    voxels: npt.ArrayLike,
    affine: npt.ArrayLike | None = None,
    like: str | Path | None = None,
) -> None:
    """Write voxels as NIfTI, placed where they belong.

    Integers and booleans, labels say, are stored in the smallest of uint8, int16 and int32 that holds
    them, floats as float32. The file appears whole or not at all.

    Args:
        path: `.nii` or `.nii.gz` file, written over if it exists.
        voxels: `(x, y, z)` or `(x, y, z, channels)`, finite.
        affine: `(4, 4)` from indices to millimeters; may be left out with `like`. It is stored both as
            sform and as qform, and as sform alone where it shears, which a qform cannot express.
        like: NIfTI file of the same grid, of which both forms, their codes and the spatial unit are taken:
            for a predicted segmentation the scan that was segmented. Nothing else is, as other
            fields describe the scan's intensities or the patient. A qform that cannot be decoded beside a
            good sform is left out.

    Raises:
        ValueError: `path` has another suffix, `voxels` or `affine` is unfit, neither `affine` nor `like`
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
        with _named(like):
            source = read_nifti_header(like)
        _check_like(stored.shape[:3], affine, source)
        image = nibabel.Nifti1Image(stored, source.get_best_affine())
        _copy_geometry(source, image.header)
    elif affine is not None:
        affine = check_affine(affine)
        image = nibabel.Nifti1Image(stored, affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code="scanner")
        image.set_qform(affine, code="unknown" if _shears(affine) else "scanner")
    else:
        raise ValueError("`affine` or `like` must be given. Received neither.")
    content = image.to_bytes()
    if volume_suffix(path) == ".nii.gz":
        content = gzip.compress(content, 6, mtime=0)
    write_aside(path, lambda partial: partial.write_bytes(content))


def _read_stored(path: Path) -> tuple[np.ndarray, npt.ArrayLike]:
    from nibabel.arrayproxy import ArrayProxy

    suffix = volume_suffix(path)
    if suffix == ".npy":
        return np.array(map_npy(path)), np.eye(4)
    header = read_nifti_header(path)
    source: Any = str(path)
    if suffix == ".nii.gz":
        claimed = _claim_of(header)
        with gzip.open(path) as file:
            # To the very end, as nibabel would stop before the check sum that tells damaged bytes.
            content = file.read(claimed + _TRAILING)
            if file.read(1):
                raise ValueError(f"it must end after the {claimed} bytes that its header claims")
        check_decompressed_size(claimed, len(content), compressed=False)
        source = io.BytesIO(content)
    return np.asanyarray(ArrayProxy(source, header, mmap=False)), _affine_of(header)


def _affine_of(header: Any) -> np.ndarray:
    """The affine of a NIfTI header, in millimeters."""
    # The upper bits are the unit of time.
    unit = _IN_MILLIMETERS.get(int(header["xyzt_units"]) & 7, 1.0)
    affine = np.diag([unit, unit, unit, 1.0]) @ header.get_best_affine()
    widest = float(np.linalg.norm(affine[:3, :3], axis=0).max())
    if unit > 1 and widest > _WIDEST:
        raise ValueError(
            f"its header says meters, by which a voxel is {widest:g} mm wide: correct the unit (xyzt_units)"
        )
    return affine


def map_npy(path: str | Path) -> np.ndarray:
    """The numbers of a `.npy` file, not read yet: an error where its header claims more than there is.

    Unlike `numpy.load` it takes neither archives nor pickles for arrays.
    """
    with open(path, "rb") as file:
        start = file.read(12)
    # From version 2 on four bytes tell the header's length, for which NumPy takes memory before it looks.
    if start[6:7] > b"\1":
        check_decompressed_size(
            int.from_bytes(start[8:12], "little"), Path(path).stat().st_size, compressed=False
        )
    array = np.lib.format.open_memmap(path, "r")
    if not array.nbytes:
        raise ValueError(f"`voxels` must not be empty. Received shape {array.shape} of {array.dtype}.")
    return array


def read_nifti_header(path: str | Path) -> Any:
    """The header of a NIfTI file, of sizes that the file can hold, without its extensions.

    Raises:
        Exception: whatever damaged bytes led nibabel or gzip to.
    """
    import nibabel

    suffix = volume_suffix(path)
    if suffix not in (".nii", ".nii.gz"):
        hint = ", or be a folder, of DICOM slices" if is_dicom_file(path) else ""
        raise ValueError(f"its name must end in one of {', '.join(VOLUME_SUFFIXES)}{hint}")
    with gzip.open(path) if suffix == ".nii.gz" else open(path, "rb") as file:
        content = file.read(nibabel.Nifti2Header.sizeof_hdr)
    kind: Any = nibabel.Nifti1Header
    if nibabel.Nifti2Header.may_contain_header(content):
        kind = nibabel.Nifti2Header
    header = kind(content[: kind.sizeof_hdr])
    check_decompressed_size(_claim_of(header), Path(path).stat().st_size, compressed=suffix == ".nii.gz")
    return header


def _claim_of(header: Any) -> int:
    """Up to which byte a NIfTI header says that there are voxels."""
    shape = [int(side) for side in header.get_data_shape()]
    if min(shape, default=0) < 1:
        raise ValueError(f"`voxels` must have sides of at least 1. Received shape {tuple(shape)}.")
    offset = int(header.get_data_offset())
    if offset < header.sizeof_hdr:
        raise ValueError(f"its voxels must begin after its header. Received an offset of {offset} bytes")
    return offset + math.prod(shape) * header.get_data_dtype().itemsize


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong in reading a file into a `ValueError` that names it."""
    try:
        with memory_error_naming(path):
            yield
    except MemoryError:
        raise
    # nibabel, gzip and NumPy raise whatever the damaged bytes led to: OSError, EOFError, zlib.error ...
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a volume: {error}") from error


def _dropped(shape: tuple[int, ...], channels: bool) -> tuple[int, ...]:
    """The shape without axes of length 1 behind the third, or behind that of channels."""
    wanted = 4 if channels else 3
    if len(shape) < wanted or any(side != 1 for side in shape[wanted:]):
        axes = "(x, y, z, channels)" if channels else "(x, y, z)"
        raise ValueError(f"`voxels` must have shape {axes}. Received shape {shape}.")
    return shape[:wanted]


def _check_like(shape: tuple[int, ...], affine: npt.ArrayLike | None, source: Any) -> None:
    if (received := source.get_data_shape()[:3]) != shape:
        raise ValueError(f"`like` must have the shape of `voxels`, {shape}. Received {received}.")
    own = _affine_of(source)
    if affine is not None and not affines_match(check_affine(affine), own, shape):
        raise ValueError(
            f"`like` must have the affine that is given, {np.asarray(affine).tolist()}. Received "
            f"{own.tolist()}."
        )


def _copy_geometry(source: Any, header: Any) -> None:
    """Give a new header both forms and the spatial unit of `source`, as they are stored."""
    unit = int(source["xyzt_units"]) & 7
    header["xyzt_units"] = unit if unit in _IN_MILLIMETERS else 0
    for name in _FORMS:
        header[name] = source[name]
    try:
        source.get_qform()
    # A quaternion or voxel sizes that make no rotation. The affine is then that of the sform.
    except Exception:
        header["qform_code"] = 0
        for name in ("quatern_b", "quatern_c", "quatern_d"):
            header[name] = 0
    # With neither form the voxel sizes are the affine.
    header["pixdim"][:4] = source["pixdim"][:4]
    sizes = header["pixdim"][1:4]
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        header["pixdim"][1:4] = np.linalg.norm(source.get_best_affine()[:3, :3], axis=0)


def _shears(affine: np.ndarray) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(axes.T @ axes, np.eye(3), atol=1e-5)
