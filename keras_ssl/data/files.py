"""Files: search in folders, detection of their kind, messages about them, decompression-bomb guard."""

import errno
import os
import re
import unicodedata
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TypeVar

import numpy as np

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".tif", ".tiff", ".bmp", ".webp", ".gif"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".dcm"),
)


# Characters of one name: paths and reasons are shorter, and a damaged table may hold far longer ones.
_LONGEST_listing = 400


def shorten_list(names: list[str], separator: str = ", ") -> str:
    """The first twenty names, and of more how many there are; what is overlong is cut.

    >>> shorten_list(["a", "b"])
    'a, b'
    """
    named = [name if len(name) <= _LONGEST_listing else f"{name[:_LONGEST]}..." for name in names[:20]]
    return separator.join(named) + (f" ... ({len(names)} in all)" if len(names) > 20 else "")


def raise_if_any(rule: str, offenders: list[str]) -> None:
    """Raise, naming the first twenty of those who break the rule, if any do."""
    if offenders:
        raise ValueError(f"{rule}. Received {shorten_list(offenders)}.")


def message_without_path(error: BaseException, path: str | Path) -> str:
    """What was wrong with a file, to be kept where the names of people's folders have no place.

    >>> message_without_path(ValueError("/home/ann/a.png is damaged"), "/home/ann/a.png")
    '... is damaged'
    """
    return str(error.__cause__ or error).replace(str(path), "...").replace(str(Path(path)), "...")


def raise_system_error(error: BaseException | None) -> None:
    """Raise what the system did, such as to lose a disk, and not a file's content: no cache must keep it."""
    # A damaged file may lead its reader to places that no file has, which is an invalid argument.
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise OSError(
            error.errno, f"`table` must name files that can be read to the end. Received: {error}"
        ) from error


def check_files_exist(paths: Iterable[str], argument: str = "table") -> None:
    """Raise `FileNotFoundError`, naming the first twenty, where files or folders of slices are not there."""
    missing = [str(path) for path in paths if not Path(path).exists()]
    if missing:
        raise FileNotFoundError(
            f"`{argument}` must name files that exist. Missing {len(missing)}: {', '.join(missing[:20])}."
        )


_Item = TypeVar("_Item")


_Result = TypeVar("_Result")


# More than any pool has threads, so that none waits for a slow job before it.
_WAITING = 256


def map_in_order(
    executor: Executor, function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
    """What `executor.map` gives, of which two kilobytes for every item would wait from the start.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as executor:
    ...     sum(map_in_order(executor, abs, range(-1000, 0)))
    500500
    """
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        if len(waiting) == _WAITING:
            yield waiting.popleft().result()
        waiting.append(executor.submit(function, item))
    while waiting:
        yield waiting.popleft().result()


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


# Bytes at the start of a file, as a regular expression, and the name of the format.
_STARTS = (
    (rb"\x89PNG\r\n\x1a\n", "a PNG"),
    (rb"\xff\xd8\xff", "a JPEG"),
    (rb"II[*+]\0|MM\0[*+]", "a TIFF"),
    (rb"GIF8[79]a", "a GIF"),
    (rb"BM.{4}\0{4}", "a BMP"),
    (rb"RIFF.{4}WEBP", "a WebP"),
    (rb"P[1-6][\s#]", "a Netpbm image (PBM, PGM, PPM)"),
    (rb".{4}ftyp(hei|hev|mif1|msf1)", "a HEIF photograph (HEIC)"),
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


_KINDS = [(re.compile(pattern, re.DOTALL | re.IGNORECASE), name) for pattern, name in _STARTS]


# Enough for the magic number of NIfTI, which ends in byte 348.
_LONGEST = 512


def detect_format(path: str | Path) -> str:
    """The format of a file, with an article, from its first bytes.

    Raises:
        OSError: the file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.png").write_bytes(b"%PDF-1.7")
    ...     detect_format(f"{folder}/a.png")
    'a PDF'
    """
    with open(path, "rb") as file:
        head = file.read(_LONGEST)
    for pattern, name in _KINDS:
        if pattern.match(head):
            return name
    if not head:
        return "an empty file"
    if b"\0" not in head and not re.search(rb"[\x01-\x08\x0e-\x1f\x7f]", head):
        return "a text file"
    return "of no known format"


# Files beside images that nobody takes for images. Of all others it is said that they are left out.
_ANNOTATIONS = frozenset(
    [
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".rst", ".html", ".htm", ".yaml", ".yml"),
        *(".toml", ".ini", ".cfg", ".log", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".py", ".ipynb"),
        *(".sh", ".dvc", ".db", ".lock", ".sha256", ".md5"),
    ]
)


FOLLOW_LINKS_HINT = "; `follow_links=True` allows links to lead out of it"


def check_folder(images: str | Path, argument: str = "images") -> Path:
    """The absolute path of a folder that must exist."""
    root = Path(images).resolve()
    if not root.is_dir():
        raise ValueError(f"`{argument}` must be a folder. Received {images}.")
    return root


def check_links(paths: Sequence[Path], root: Path, argument: str, advice: str = "") -> None:
    """Refuse links among files found in a folder that lead out of it."""
    outside = [str(path) for path in paths if not _followed(path).is_relative_to(root)]
    raise_if_any(f"`{argument}` must hold files, or links to files within it{advice}", outside)


def _real(path: Path) -> Path:
    # Unlike `Path.resolve` this does not raise where links go round in circles.
    return Path(os.path.realpath(path))


def _followed(path: Path) -> Path:
    """Resolve a file that may be a link; resolving every file with `_real` would take minutes."""
    return _real(path) if path.is_symlink() else path


def walk_folder(root: Path, follow_links: bool) -> tuple[list[Path], list[Path]]:
    """Files below a folder, and, where links are not followed, links to folders; hidden ones are left out.

    Names that begin with a dot are what macOS and editors leave beside each image.
    """

    def stop(error: OSError) -> None:
        raise error

    files, linked, seen = [], [], {_real(root)}
    for parent, folders, names in os.walk(root, onerror=stop, followlinks=follow_links):
        files += [Path(parent, name) for name in names if not name.startswith(".")]
        inner = [Path(parent, name) for name in sorted(folders) if not name.startswith(".")]
        folders.clear()
        for path in inner:
            if path.is_symlink() and not follow_links:
                linked.append(path)
            # Links may lead back to where they lie.
            elif (real := _real(path)) not in seen:
                seen.add(real)
                folders.append(path.name)
    return files, linked


def describe_skipped(files: Iterable[Path]) -> str:
    """Counts of files that may be images, by suffix, each with the format of one."""
    by_suffix: dict[str, list[Path]] = {}
    for path in sorted(files):
        if path.suffix.lower() not in _ANNOTATIONS:
            by_suffix.setdefault(path.suffix.lower(), []).append(path)
    named = []
    for suffix, paths in by_suffix.items():
        kinds = [_kind_if_file(path) for path in (paths if not suffix else paths[:1])]
        # A license or a list.
        left = [
            row for row, kind in enumerate(kinds) if suffix or kind not in ("a text file", "an empty file")
        ]
        if left:
            count = len(paths) if suffix else len(left)
            first = left[0]
            named.append(f"{count} {suffix or 'without suffix'} ({paths[first].name}: {kinds[first]})")
    return shorten_list(named)


def _kind_if_file(path: Path) -> str:
    # To open a pipe would be to wait for its writer.
    return detect_format(path) if path.is_file() else "no file"


def find_named_files(names: list[str], root: Path, skip_missing: bool, follow_links: bool) -> np.ndarray:
    """The file of each name, empty where it is missing and skipped; all offenders of a kind are named."""
    outside: list[str] = []
    linked: list[str] = []
    missing, unclear, paths = [], [], []
    listings: dict[Path, dict[str, list[Path]] | None] = {}
    for name in names:
        # Backslashes: tables written on Windows.
        wanted = root / name.replace("\\", "/")
        parent = Path(os.path.normpath(wanted.parent))
        if wanted.parent not in listings:
            folder = _real(wanted.parent)
            if folder.is_relative_to(root):
                listings[wanted.parent] = _list_folder(_existing(folder, root))
            elif follow_links and parent.is_relative_to(root):
                listings[wanted.parent] = _list_folder(_existing(parent, root))
            else:
                listings[wanted.parent] = None
        listing = listings[wanted.parent]
        if listing is None:
            (linked if parent.is_relative_to(root) else outside).append(name)
            continue
        found = _match(wanted, listing)
        if len(found) > 1:
            unclear.append(name)
        elif found and not follow_links and not _followed(found[0]).is_relative_to(root):
            linked.append(name)
        elif found and found[0].is_file():
            file = _followed(found[0])
            paths.append(str(file if file.is_relative_to(root) else found[0]))
        else:
            # Nothing, or a folder, a pipe that would be waited for, or a link to what is gone.
            missing.append(name)
            paths.append("")
    raise_if_any("`image_column` must name files inside `images`", outside)
    raise_if_any(
        f"`image_column` must name files inside `images`, not links out of it{FOLLOW_LINKS_HINT}", linked
    )
    if not skip_missing or len(missing) == len(names):
        rule = f"`image_column` must name files that exist in {root}. Missing {len(missing)} of {len(names)}"
        raise_if_any(f"{rule}; pass skip_missing=True to leave them out", missing)
    raise_if_any("`image_column` must give the suffix where two files share a name", unclear)
    counts = Counter(path for path in paths if path)
    raise_if_any("`image_column` must name each image once", [path for path, k in counts.items() if k > 1])
    if missing:
        warnings.warn(
            f"{len(missing)} of {len(names)} images left out as missing from {root}: "
            f"{shorten_list(missing)}.",
            stacklevel=3,
        )
    return np.array(paths)


def normalize_name(name: str) -> str:
    """A name with accents as characters of one piece, unlike the file names of macOS."""
    return unicodedata.normalize("NFC", name)


def _existing(folder: Path, root: Path) -> Path:
    """A folder within `root`, whose parts may be normalized otherwise on disk."""
    here = root
    for part in folder.relative_to(root).parts:
        if not os.path.lexists(here / part) and os.path.isdir(here):
            alike = [name for name in os.listdir(here) if normalize_name(name) == normalize_name(part)]
            part = alike[0] if alike else part
        here /= part
    return here


def _list_folder(folder: Path) -> dict[str, list[Path]]:
    """Files by name without suffix."""
    listing: dict[str, list[Path]] = {}
    for path in folder.iterdir() if os.path.isdir(folder) else ():
        listing.setdefault(normalize_name(path.stem), []).append(path)
    return listing


def _match(wanted: Path, listing: dict[str, list[Path]]) -> list[Path]:
    """The files that a name may mean: its suffix may be left out or differ in case."""
    name, suffix = normalize_name(wanted.name), wanted.suffix.lower()
    whole = [path for path in listing.get(normalize_name(wanted.stem), []) if path.suffix.lower() == suffix]
    if suffix in IMAGE_SUFFIXES:
        return [path for path in whole if path.name == wanted.name] or whole
    without = [path for path in listing.get(name, []) if path.suffix and not path.is_dir()]
    return (
        [path for path in without if path.suffix.lower() in IMAGE_SUFFIXES]
        or [path for path in whole if not path.is_dir()]
        or [path for path in without if path.suffix.lower() not in _ANNOTATIONS]
    )
