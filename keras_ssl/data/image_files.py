"""Image files in a folder: found by their names, or all of them; none is left out without a word."""

import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_ssl.data.decoding import IMAGE_SUFFIXES
from keras_ssl.data.file_kinds import kind_of
from keras_ssl.data.listing import listed, refuse

# Files beside images that nobody takes for images. Of all others it is said that they are left out.
_ANNOTATIONS = frozenset(
    [
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".rst", ".html", ".htm", ".yaml", ".yml"),
        *(".toml", ".ini", ".cfg", ".log", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".py", ".ipynb"),
        *(".sh", ".dvc", ".db", ".lock", ".sha256", ".md5"),
    ]
)
FOLLOW = "; `follow_links=True` allows links to lead out of it"


def folder_of(images: str | Path, argument: str = "images") -> Path:
    """The absolute path of a folder that must exist."""
    root = Path(images).resolve()
    if not root.is_dir():
        raise ValueError(f"`{argument}` must be a folder. Received {images}.")
    return root


def refuse_links_out(paths: Sequence[Path], root: Path, argument: str, advice: str = "") -> None:
    """Refuse links among files found in a folder that lead out of it."""
    outside = [str(path) for path in paths if not _followed(path).is_relative_to(root)]
    refuse(f"`{argument}` must hold files, or links to files within it{advice}", outside)


def _real(path: Path) -> Path:
    # Unlike `Path.resolve` this does not raise where links go round in circles.
    return Path(os.path.realpath(path))


def _followed(path: Path) -> Path:
    """Resolve a file that may be a link; resolving every file with `_real` would take minutes."""
    return _real(path) if path.is_symlink() else path


def walk(root: Path, follow_links: bool) -> tuple[list[Path], list[Path]]:
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


def described_left_out(files: Iterable[Path]) -> str:
    """Counts of files that may be images, by suffix, each with the format of one."""
    by_suffix: dict[str, list[Path]] = {}
    for path in sorted(files):
        if path.suffix.lower() not in _ANNOTATIONS:
            by_suffix.setdefault(path.suffix.lower(), []).append(path)
    named = []
    for suffix, paths in by_suffix.items():
        kinds = [_kind_if_file(path) for path in (paths if not suffix else paths[:1])]
        # A licence or a list.
        left = [
            row for row, kind in enumerate(kinds) if suffix or kind not in ("a text file", "an empty file")
        ]
        if left:
            count = len(paths) if suffix else len(left)
            first = left[0]
            named.append(f"{count} {suffix or 'without suffix'} ({paths[first].name}: {kinds[first]})")
    return listed(named)


def _kind_if_file(path: Path) -> str:
    # To open a pipe would be to wait for its writer.
    return kind_of(path) if path.is_file() else "no file"


def find_files(names: list[str], root: Path, skip_missing: bool, follow_links: bool) -> np.ndarray:
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
    refuse("`image_column` must name files inside `images`", outside)
    refuse(f"`image_column` must name files inside `images`, not links out of it{FOLLOW}", linked)
    if not skip_missing or len(missing) == len(names):
        rule = f"`image_column` must name files that exist in {root}. Missing {len(missing)} of {len(names)}"
        refuse(f"{rule}; pass skip_missing=True to leave them out", missing)
    refuse("`image_column` must give the suffix where two files share a name", unclear)
    counts = Counter(path for path in paths if path)
    refuse("`image_column` must name each image once", [path for path, k in counts.items() if k > 1])
    if missing:
        warnings.warn(
            f"{len(missing)} of {len(names)} images left out as missing from {root}: {listed(missing)}.",
            stacklevel=3,
        )
    return np.array(paths)


def normal(name: str) -> str:
    """A name with accents as characters of one piece, unlike the file names of macOS."""
    return unicodedata.normalize("NFC", name)


def _existing(folder: Path, root: Path) -> Path:
    """A folder within `root`, whose parts may be normalized otherwise on disk."""
    here = root
    for part in folder.relative_to(root).parts:
        if not os.path.lexists(here / part) and os.path.isdir(here):
            alike = [name for name in os.listdir(here) if normal(name) == normal(part)]
            part = alike[0] if alike else part
        here /= part
    return here


def _list_folder(folder: Path) -> dict[str, list[Path]]:
    """Files by name without suffix."""
    listing: dict[str, list[Path]] = {}
    for path in folder.iterdir() if os.path.isdir(folder) else ():
        listing.setdefault(normal(path.stem), []).append(path)
    return listing


def _match(wanted: Path, listing: dict[str, list[Path]]) -> list[Path]:
    """The files that a name may mean: its suffix may be left out or differ in case."""
    name, suffix = normal(wanted.name), wanted.suffix.lower()
    whole = [path for path in listing.get(normal(wanted.stem), []) if path.suffix.lower() == suffix]
    if suffix in IMAGE_SUFFIXES:
        return [path for path in whole if path.name == wanted.name] or whole
    without = [path for path in listing.get(name, []) if path.suffix and not path.is_dir()]
    return (
        [path for path in without if path.suffix.lower() in IMAGE_SUFFIXES]
        or [path for path in whole if not path.is_dir()]
        or [path for path in without if path.suffix.lower() not in _ANNOTATIONS]
    )
