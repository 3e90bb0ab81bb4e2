"""Files: messages that list them, folder search, detection of formats, decompression-bomb guard."""

import errno
import hashlib
import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import keras
import numpy as np

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Paths and reasons are shorter than this; a damaged table may hold far longer names.
_LONGEST_NAME = 400


def shorten_list(names: Sequence[str], separator: str = ", ") -> str:
    """Join the first twenty names, cutting overlong ones, and append how many there are in all.

    >>> shorten_list(["a", "b"])
    'a, b'
    """
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in names[:20]]
    return separator.join(shown) + (f" ... ({len(names)} in all)" if len(names) > 20 else "")


def raise_if_any(rule: str, offenders: Sequence[str]) -> None:
    """Raise a `ValueError` that states the rule and names the offenders, if there are any."""
    if offenders:
        raise ValueError(f"{rule}. Received {shorten_list(offenders)}.")


def message_without_path(error: BaseException, path: str | Path) -> str:
    """Return an error's message without the file's path, to be stored where paths must not be.

    >>> message_without_path(ValueError("/home/ann/a.png is damaged"), "/home/ann/a.png")
    '... is damaged'
    """
    return str(error.__cause__ or error).replace(str(path), "...").replace(str(Path(path)), "...")


def raise_system_error(error: BaseException | None) -> None:
    """Re-raise an error of the system, such as a lost disk, which says nothing about the file's content."""
    # A damaged file may lead its reader to an offset that no file has, which is an invalid argument.
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise OSError(
            error.errno, f"`table` must name files that can be read to the end. Received: {error}"
        ) from error


def check_files_exist(paths: Iterable[str], argument: str = "table") -> None:
    """Raise a `FileNotFoundError` that names the files, or folders of slices, that do not exist."""
    missing = [str(path) for path in paths if not Path(path).exists()]
    if missing:
        raise FileNotFoundError(
            f"`{argument}` must name files that exist. Missing {len(missing)}: {', '.join(missing[:20])}."
        )


# More than any pool has threads, so that none waits for a slow item before it.
_WAITING = 256


def map_in_threads(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item] | np.ndarray,
    workers: int | None = None,
    *,
    verbose: int = 0,
    unit: str = "file",
) -> list[_Result]:
    """Apply a function to all items in threads; return the results in order.

    Unlike with `executor.map`, few items wait at a time (each takes 2 kB), and those that wait are discarded
    after an error or an interrupt.

    Args:
        function: called from several threads at once.
        items: its arguments.
        workers: number of threads; `None` for the number of processors.
        verbose: 1 shows a progress bar, 0 does not.
        unit: what the progress bar counts.

    >>> map_in_threads(abs, [-1, 2, -3])
    [1, 2, 3]
    """
    progress = keras.utils.Progbar(len(items), verbose=verbose, unit_name=unit)
    waiting: deque[Future[_Result]] = deque()
    results: list[_Result] = []

    def wait_for_first() -> None:
        results.append(waiting.popleft().result())
        progress.update(len(results))

    # Threads: decoding and resizing release the lock. Two gave 20.5 images/s of 12 megapixels on two cores
    # where two processes gave 13.6, and one thread 10.4.
    executor = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        for item in items:
            if len(waiting) == _WAITING:
                wait_for_first()
            waiting.append(executor.submit(function, item))
        while waiting:
            wait_for_first()
    finally:
        executor.shutdown(cancel_futures=True)
    return results


def hash_files(paths: Sequence[str | Path] | np.ndarray, workers: int | None = None) -> list[str]:
    """Compute the SHA-256 of files; that of a folder, such as a DICOM series, ignores the order of its files.

    Args:
        paths: the files.
        workers: number of threads; `None` for the number of processors.

    Raises:
        OSError: a file cannot be read.
    """
    return map_in_threads(_hash_file, paths, workers)


def check_unchanged(paths: Iterable[str], hashes: Mapping[str, str]) -> None:
    """Check that files still have the content that was hashed, so that a cache entry matches its key.

    Args:
        paths: the files.
        hashes: result of `hash_files` by path; files without one are skipped.

    Raises:
        OSError: files have changed or are gone.
    """
    changed = [path for path in paths if path in hashes and _hash_if_exists(path) != hashes[path]]
    if changed:
        raise OSError(
            "`table` must name files that stay as they are while they are read. Changed or gone since the "
            f"start: {', '.join(changed)}. Call again once nothing writes there."
        )


def _hash_if_exists(path: str | Path) -> str | None:
    try:
        return _hash_file(path)
    except FileNotFoundError:
        return None


def _hash_file(path: str | Path) -> str:
    if Path(path).is_dir():
        # Subfolders are not part of a series, and a link among them may lead back to it.
        inner = sorted(_hash_file(file) for file in Path(path).iterdir() if file.is_file())
        return hashlib.sha256("".join(inner).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# The limit of what one file may decompress to where it is compressed to less than a fiftieth; may be set.
MAX_DECOMPRESSED_SIZE = 1 << 31

# Deflate compresses to 1/1032 at best. LZW and fax codes do better only on blank images.
_MAX_RATIO = 1032

# Bytes that a tiny file may decompress to without risk: a blank image of 32 megapixels.
_SMALL = 1 << 25

# Beyond the ratio of any scan or fundus photograph; masks of a few voxels and decompression bombs reach it.
_SUSPICIOUS_RATIO = 50


def check_decompressed_size(
    declared: int, stored: int, compressed: bool, max_ratio: int = _MAX_RATIO
) -> None:
    """Check the size that a file's header declares, before memory is allocated for it.

    Uncompressed data cannot be larger than the file. Compressed data is limited by the best ratio of its
    compression and by `check_compression_ratio`, the guard against decompression bombs.

    Args:
        declared: decompressed size that the header declares, in bytes.
        stored: size of the data in the file, in bytes.
        compressed: whether the data is compressed.
        max_ratio: the best ratio that the compression can reach.

    Raises:
        ValueError: the declared size is too large.

    >>> check_decompressed_size(10**9, stored=10**6, compressed=True)
    >>> check_decompressed_size(10**9, stored=10**5, compressed=True)
    Traceback (most recent call last):
        ...
    ValueError: its header must not declare more than the 100000 bytes stored can hold. Received \
1000000000 bytes
    """
    if declared > (max(max_ratio * stored, _SMALL) if compressed else stored):
        raise ValueError(
            f"its header must not declare more than the {stored} bytes stored can hold. Received {declared} "
            "bytes"
        )
    if compressed:
        check_compression_ratio(declared, stored)


def check_compression_ratio(declared: int, stored: int) -> None:
    """Check that data compressed to less than a fiftieth stays within `MAX_DECOMPRESSED_SIZE`.

    Raises:
        ValueError: it does not.
    """
    if declared > max(MAX_DECOMPRESSED_SIZE, _SUSPICIOUS_RATIO * stored):
        raise ValueError(
            f"its size must be {MAX_DECOMPRESSED_SIZE} bytes at most where it is compressed to less than a "
            f"fiftieth. Received {stored} bytes that would decompress to {declared}. If the file can be "
            "trusted, set keras_ssl.data.files.MAX_DECOMPRESSED_SIZE"
        )


# Regular expressions of a file's first bytes, and the format's name.
_STARTS = (
    (rb"\x89PNG\r\n\x1a\n", "a PNG"),
    (rb"\xff\xd8\xff", "a JPEG"),
    (rb"II[*+]\0|MM\0[*+]", "a TIFF"),
    (rb"GIF8[79]a", "a GIF"),
    (rb"BM.{4}\0{4}", "a BMP"),
    (rb"RIFF.{4}WEBP", "a WebP"),
    (rb"P[1-6][\s#]", "a Netpbm image (PBM, PGM, PPM)"),
    (rb".{4}ftyp(hei|hev|mif1|msf1)", "a HEIF image (HEIC)"),
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
_FORMATS = [(re.compile(pattern, re.DOTALL | re.IGNORECASE), name) for pattern, name in _STARTS]

# Enough for the magic number of NIfTI, which ends in byte 348.
_START_BYTES = 512


def detect_format(path: str | Path) -> str:
    """Return the format of a file, with an article, by its first bytes.

    Raises:
        OSError: the file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.png").write_bytes(b"%PDF-1.7")
    ...     detect_format(f"{folder}/a.png")
    'a PDF'
    """
    with open(path, "rb") as file:
        start = file.read(_START_BYTES)
    for pattern, name in _FORMATS:
        if pattern.match(start):
            return name
    if not start:
        return "an empty file"
    if b"\0" not in start and not re.search(rb"[\x01-\x08\x0e-\x1f\x7f]", start):
        return "a text file"
    return "of no known format"


FOLLOW_LINKS_HINT = "; `follow_links=True` allows links to lead out of it"


def check_folder(path: str | Path, argument: str = "images") -> Path:
    """Return the absolute path of a folder, which must exist."""
    root = Path(path).resolve()
    if not root.is_dir():
        raise ValueError(f"`{argument}` must be a folder. Received {path}.")
    return root


def check_links(paths: Sequence[Path], root: Path, argument: str) -> None:
    """Raise an error that names the links among the files of a folder that lead out of it."""
    outside = [str(path) for path in paths if not resolve_link(path).is_relative_to(root)]
    raise_if_any(f"`{argument}` must hold files, or links to files within it{FOLLOW_LINKS_HINT}", outside)


def real_path(path: Path) -> Path:
    """Resolve all links of a path; unlike `Path.resolve`, accept links that go round in circles."""
    return Path(os.path.realpath(path))


def resolve_link(path: Path) -> Path:
    """Resolve a file if it is a link itself; to resolve every file with `real_path` would take minutes."""
    return real_path(path) if path.is_symlink() else path


def walk_folder(root: Path, follow_links: bool) -> tuple[list[Path], list[Path]]:
    """List the files below a folder and, where links are not followed, the links to folders.

    Names that begin with a dot, which macOS and editors leave beside each file, are left out.

    Raises:
        OSError: a subfolder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise error

    files, linked, seen = [], [], {real_path(root)}
    for parent, folders, names in os.walk(root, onerror=stop, followlinks=follow_links):
        files += [Path(parent, name) for name in names if not name.startswith(".")]
        inner = [Path(parent, name) for name in sorted(folders) if not name.startswith(".")]
        folders.clear()
        for path in inner:
            if path.is_symlink() and not follow_links:
                linked.append(path)
            # A link may lead back to a folder above it.
            elif (real := real_path(path)) not in seen:
                seen.add(real)
                folders.append(path.name)
    return files, linked


def normalize_name(name: str) -> str:
    """Normalize a name to Unicode NFC: macOS stores accents as characters of their own."""
    return unicodedata.normalize("NFC", name)
