"""Which image has which grade and belongs to which patient: checked before anything is decoded."""

import csv
import dataclasses
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from keras_ssl.data.decoding import IMAGE_SUFFIXES
from keras_ssl.data.duplicates import duplicate_groups, merge_groups
from keras_ssl.data.listing import listed, refuse

# Image and label columns of APTOS 2019, EyePACS, IDRiD, and copies of IDRiD that name whole files.
_KNOWN_COLUMNS = {
    "id_code": "diagnosis",
    "image": "level",
    "Image name": "Retinopathy grade",
    "file": "dr_grade",
}
# Characters of a line: no table of labels has such lines, and what is none may be one line of gigabytes.
_LONGEST_LINE = 1 << 20
_LONGEST_GROUP = 255
_EYEPACS_ID = re.compile(r"(\d+)_(left|right)(\.\w+)?")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTable:
    """Image files with, where known, their grades and groups, one row each.

    Args:
        paths: the files, shape `(n,)`.
        grades: int64, shape `(n,)`; `None` where there are no labels.
        groups: what must not be torn apart by a split, such as a patient's id, shape `(n,)`; `None`
            where each image stands alone.

    Raises:
        ValueError: the columns are empty or of unequal length.

    >>> table = ImageTable(["a.png", "b.png"], grades=[0, 3])
    >>> len(table), table.select([1]).paths.tolist()
    (2, ['b.png'])
    """

    paths: np.ndarray
    grades: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", np.array([str(path) for path in self.paths], dtype=str))
        if not len(self.paths):
            raise ValueError("`paths` must name at least one image. Received none.")
        for name in ("grades", "groups"):
            if (column := getattr(self, name)) is not None:
                column = np.asarray(column)
                object.__setattr__(self, name, column)
                if column.shape != self.paths.shape:
                    raise ValueError(f"`{name}` must have shape {self.paths.shape}. Received {column.shape}.")

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, rows: Sequence[int] | np.ndarray) -> "ImageTable":
        """The table of these rows, in this order."""
        kept = np.asarray(rows)
        return ImageTable(
            self.paths[kept],
            None if self.grades is None else self.grades[kept],
            None if self.groups is None else self.groups[kept],
        )

    def group_duplicates(self) -> "ImageTable":
        """The same table, its groups joined wherever they share a file of the very same bytes.

        Reads every file once. Warns, and names the files, where copies carry different grades.
        """
        copies = duplicate_groups(self.paths)
        if self.grades is not None:
            warn_of_conflicts(self.paths, self.grades, copies)
        own = () if self.groups is None else (self.groups,)
        return dataclasses.replace(self, groups=merge_groups(copies, *own))

    @staticmethod
    def from_folder(images: str | Path) -> "ImageTable":
        """All PNG, JPEG and TIFF files in a folder and the folders within it, sorted, without labels.

        Raises:
            ValueError: `images` is no folder, holds no images, or links to files outside it.
        """
        root = folder_of(images)
        found = [path for path in root.rglob("*") if _is_image(path.relative_to(root)) and path.is_file()]
        refuse_links_out(found, root, "images")
        if not found:
            raise ValueError(f"`images` must hold {', '.join(IMAGE_SUFFIXES)} files. Received {root}.")
        return ImageTable(np.array(sorted(map(str, found))))

    @staticmethod
    def from_csv(
        labels: str | Path,
        images: str | Path,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        group_column: str | None = None,
        num_grades: int = 5,
        skip_missing: bool = False,
    ) -> "ImageTable":
        """A file of labels, and the folder of the images that it names.

        The columns of APTOS 2019 (`id_code`, `diagnosis`), EyePACS (`image`, `level`) and IDRiD
        (`Image name`, `Retinopathy grade`; also `file`, `dr_grade`) are known; name others. Of EyePACS
        the number in `10_left`, the patient, becomes the group. Images are named with or without their
        suffix, whatever its case; commas, semicolons or tabs separate.

        Args:
            labels: CSV file whose first line names the columns.
            images: folder of PNG, JPEG or TIFF files; an image may be named as `subfolder/name`.
            image_column: the column of image names.
            label_column: the column of grades.
            group_column: the column of patients, if any.
            num_grades: grades are whole numbers in 0..`num_grades` - 1.
            skip_missing: leave out images that are not there, with a warning that names them.

        Returns:
            One row per line, in the order of the file.

        Raises:
            ValueError: the file is no table of text in UTF-8; a column, a grade, a group or an image is
                missing, wrong, doubled, or outside `images`, also by a link; with `skip_missing`, all
                images are missing. The message names lines, or up to 20 files and how many there are.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     for file, text in (("a.PNG", ""), ("b.jpg", ""), ("l.csv", "id_code,diagnosis;a,0;b,4")):
        ...         _ = (folder / file).write_text(text.replace(";", chr(10)))
        ...     ImageTable.from_csv(folder / "l.csv", folder).grades
        array([0, 4])
        """
        header, lines = _read_csv(Path(labels))
        image_column, label_column = _find_columns(header, image_column, label_column)
        if group_column is not None and (not group_column or group_column not in header):
            raise ValueError(f"`group_column` must be one of {_shown(header)}. Received {group_column!r}.")

        def cells_of(column: str) -> list[str]:
            # Cells that a short line lacks are empty.
            at = header.index(column)
            return [cells[at] if at < len(cells) else "" for _, cells in lines]

        numbers, names = [line for line, _ in lines], cells_of(image_column)
        grades = _parse_grades(list(zip(numbers, cells_of(label_column), strict=True)), num_grades)
        groups = None
        if group_column is not None:
            patients = cells_of(group_column)
            gaps = [
                f"an empty cell in line {line}"
                for line, cell in zip(numbers, patients, strict=True)
                if not cell
            ]
            refuse("`group_column` must name a group for each image", gaps)
            # NumPy gives each row the room of the longest.
            long = [cell for cell in patients if len(cell) > _LONGEST_GROUP]
            refuse(f"`group_column` must name groups in {_LONGEST_GROUP} characters or less", long)
            groups = np.array(patients)
        elif (image_column, label_column) == ("image", "level"):
            groups = _eyepacs_patients(names)
        paths = _find_files(names, folder_of(images), skip_missing)
        return ImageTable(paths, grades, groups).select(np.flatnonzero(paths != ""))


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
    """Where a file of a folder without links lies; `_real` of all of them would take minutes."""
    return _real(path) if path.is_symlink() else path


def _is_image(path: Path) -> bool:
    # Names that begin with a dot: what macOS and editors leave beside each image.
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _read_csv(labels: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Column names, and the cells of each row that is not blank with its line number."""
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with labels.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline(_LONGEST_LINE)
            file.seek(0)
            reader = csv.reader(_lines(file), delimiter=max(",;\t", key=first.count))
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"`labels` must be a table of text in UTF-8. {labels} cannot be read as one: {error}."
        ) from error
    named = Counter(name for name in header if name)
    refuse(f"`labels` must name each column once ({labels})", [name for name in named if named[name] > 1])
    lines = [(line, cells) for line, cells in rows if any(cells)]
    if not lines:
        raise ValueError(f"`labels` must have a line of column names and lines below it. Received {labels}.")
    return header, lines


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a table, which are not so long, and without the characters that none has."""
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), start=1):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"line {number} has {_LONGEST_LINE} characters or more")
        if "\0" in line:
            raise ValueError(f"line {number} has a NUL character")
        yield line


def _shown(header: list[str]) -> str:
    return f"[{listed([repr(name) for name in header if name])}]"


def _find_columns(header: list[str], image_column: str | None, label_column: str | None) -> tuple[str, str]:
    for image, label in _KNOWN_COLUMNS.items():
        if image in header and label in header:
            image_column, label_column = image_column or image, label_column or label
            break
    for name, column in (("image_column", image_column), ("label_column", label_column)):
        if not column or column not in header:
            received = "none, and the columns are of no known data set" if column is None else repr(column)
            raise ValueError(
                f"`{name}` must be one of the columns found, {_shown(header)}. Received {received}."
            )
    assert image_column is not None
    assert label_column is not None
    return image_column, label_column


def _parse_grades(cells: list[tuple[int, str]], num_grades: int) -> np.ndarray:
    grades, bad = [], []
    for line, cell in cells:
        try:
            # Through float, as spreadsheets write "2.0" once a column held a gap.
            grade = float(cell)
        except ValueError:
            grade = float("nan")
        if grade in range(num_grades):
            grades.append(int(grade))
        else:
            bad.append(f"{cell!r} (line {line})")
    refuse(f"`label_column` must hold whole numbers in 0..{num_grades - 1}", bad)
    return np.array(grades, np.int64)


def _eyepacs_patients(names: list[str]) -> np.ndarray | None:
    matches = [_EYEPACS_ID.fullmatch(name) for name in names]
    return np.array([match[1] for match in matches if match]) if all(matches) else None


def _find_files(names: list[str], root: Path, skip_missing: bool) -> np.ndarray:
    """The file of each name, empty where it is missing and skipped; all offenders of a kind are named."""
    outside, missing, unclear, paths = [], [], [], []
    listings: dict[Path, dict[str, list[Path]] | None] = {}
    for name in names:
        # Backslashes: tables written on Windows.
        wanted = root / name.replace("\\", "/")
        if wanted.parent not in listings:
            folder = _real(wanted.parent)
            listings[wanted.parent] = _list_folder(folder) if folder.is_relative_to(root) else None
        listing = listings[wanted.parent]
        if listing is None:
            outside.append(name)
            continue
        found = _match(wanted, listing)
        if not found:
            missing.append(name)
            paths.append("")
        elif len(found) > 1:
            unclear.append(name)
        elif not (file := _followed(found[0])).is_relative_to(root):
            outside.append(name)
        elif not file.is_file():
            # A folder, a pipe that would be waited for, or a link to what is gone.
            missing.append(name)
            paths.append("")
        else:
            paths.append(str(file))
    refuse("`image_column` must name files inside `images`", outside)
    if not skip_missing or len(missing) == len(names):
        refuse(f"`image_column` must name files that exist in {root}", missing)
    refuse("`image_column` must give the suffix where two files share a name", unclear)
    counts = Counter(path for path in paths if path)
    refuse("`image_column` must name each image once", [path for path, k in counts.items() if k > 1])
    if missing:
        warnings.warn(
            f"{len(missing)} of {len(names)} images left out as missing from {root}: {listed(missing)}.",
            stacklevel=3,
        )
    return np.array(paths)


def _list_folder(folder: Path) -> dict[str, list[Path]]:
    """Images by name without suffix."""
    listing: dict[str, list[Path]] = {}
    for path in folder.iterdir() if os.path.isdir(folder) else ():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            listing.setdefault(path.stem, []).append(path)
    return listing


def _match(wanted: Path, listing: dict[str, list[Path]]) -> list[Path]:
    """The files that a name may mean: its suffix may be left out or differ in case."""
    suffix = wanted.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        return listing.get(wanted.name, [])
    same = [path for path in listing.get(wanted.stem, []) if path.suffix.lower() == suffix]
    return [path for path in same if path.name == wanted.name] or same


def warn_of_conflicts(paths: np.ndarray, grades: np.ndarray, copies: np.ndarray) -> None:
    """Warn of copies, files of one number in `copies`, that have different grades."""
    order = np.lexsort((grades, copies))
    same = (np.diff(copies[order]) == 0) & (np.diff(grades[order]) != 0)
    named = [f"{Path(paths[row]).name} ({grades[row]})" for row in order]
    pairs = [f"{named[row]} and {named[row + 1]}" for row in np.flatnonzero(same)]
    if pairs:
        warnings.warn(
            f"{len(pairs)} pairs of identical files have different grades: {'; '.join(pairs[:20])}.",
            stacklevel=3,
        )
