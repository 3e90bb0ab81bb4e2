"""Tables of image files with labels and patients, from CSV files or folders."""

import csv
import dataclasses
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from keras_ssl._atomic import explained
from keras_ssl.data.files import (
    FOLLOW_LINKS_HINT,
    IMAGE_SUFFIXES,
    check_folder,
    check_links,
    describe_skipped,
    find_named_files,
    normalize_name,
    raise_if_any,
    shorten_list,
    walk_folder,
)
from keras_ssl.data.groups import duplicate_groups, merge_groups, patients_of_names

# Characters of a line: no table of labels has such lines, and what is none may be one line of gigabytes.
_LONGEST_LINE = 1 << 20


# The last line that is read: where it does not come back as a row, an open quote has swallowed it.
_END = "end of the table"


def read_csv(labels: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Column names, and the cells of each row that is not blank with its line number."""
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with (
            explained(f"`labels` must be a CSV file. {labels} cannot be read.", "Name the file itself."),
            labels.open(newline="", encoding="utf-8-sig") as file,
        ):
            text = list(_lines(file))
        header, *rows = _rows_of(text)
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"`labels` must be a table of text in UTF-8. {labels} cannot be read as one: {error}."
        ) from error
    names = header[1]
    named = Counter(name for name in names if name)
    raise_if_any(
        f"`labels` must name each column once ({labels})", [name for name in named if named[name] > 1]
    )
    lines = [(line, cells) for line, cells in rows if any(cells)]
    if not lines:
        raise ValueError(f"`labels` must have a line of column names and lines below it. Received {labels}.")
    return names, lines


def _rows_of(lines: list[str]) -> list[tuple[int, list[str]]]:
    """The rows of a table, each with the number of its last line."""
    skipped = 0
    # What Excel writes for itself.
    if lines and (told := re.fullmatch(r"\W?sep=(.)\s*", lines[0])):
        lines, skipped = lines[1:], 1
        delimiter = told[1]
    else:
        outside = re.sub(r'"[^"]*"', "", lines[0] if lines else "")
        delimiter = max(",;\t", key=outside.count)
    try:
        rows = _parse(lines, delimiter, skipped, strict=True)
    except csv.Error:
        # Text after a closing quote, or a space, does no harm by itself. But a cell of several lines may
        # then be a quote that nobody closed, with rows inside.
        rows = _parse(lines, delimiter, skipped, strict=False)
        ends = [skipped, *(line for line, _ in rows)]
        torn = [f"line {start + 1}" for start, end in itertools.pairwise(ends) if end > start + 1]
        if torn:
            raise ValueError(f"its quotes do not match, first from {torn[0]} on") from None
    return rows or [(1, [])]


def _parse(lines: list[str], delimiter: str, skipped: int, strict: bool) -> list[tuple[int, list[str]]]:
    reader = csv.reader([*lines, _END], delimiter=delimiter, skipinitialspace=True, strict=strict)
    rows = [(reader.line_num + skipped, [cell.strip() for cell in cells]) for cells in reader]
    if rows[-1][1] != [_END]:
        raise ValueError(f"a quote after line {rows[-2][0] if len(rows) > 1 else skipped} is never closed")
    return rows[:-1]


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a table, which are not so long, and without the characters that none has."""
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), start=1):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"line {number} has {_LONGEST_LINE} characters or more")
        if "\0" in line:
            raise ValueError(f"line {number} has a NUL character")
        yield line


# Image and label columns of APTOS 2019, EyePACS, IDRiD, and copies of IDRiD that name whole files.
_KNOWN_COLUMNS = {
    "id_code": "diagnosis",
    "image": "level",
    "Image name": "Retinopathy grade",
    "file": "dr_grade",
}


_LONGEST_GROUP = 255


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTable:
    """Image files with, where known, their grades and groups, one row each.

    Args:
        paths: the files, shape `(n,)`.
        grades: int64, shape `(n,)`; `None` where there are no labels.
        groups: ids of what a split must keep together, such as patients, shape `(n,)`; `None` where
            no patient is known and each image is taken for a patient of its own.
        class_names: names of grades 0 to K - 1 where they come from folders, else `None`.

    Raises:
        ValueError: the columns are empty or of unequal length.

    >>> table = ImageTable(["a.png", "b.png"], grades=[0, 3])
    >>> len(table), table.select([1]).paths.tolist()
    (2, ['b.png'])
    """

    paths: np.ndarray
    grades: np.ndarray | None = None
    groups: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None

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
        """Take these rows, in this order."""
        kept = np.asarray(rows)
        return ImageTable(
            self.paths[kept],
            None if self.grades is None else self.grades[kept],
            None if self.groups is None else self.groups[kept],
            self.class_names,
        )

    def group_duplicates(self) -> "ImageTable":
        """Join groups wherever they share a file of identical bytes.

        Reads every file once. Warns, and names the files, where copies carry different grades. Where no
        patient is known, the groups of the result are those of copies alone.
        """
        copies = duplicate_groups(self.paths)
        if self.grades is not None:
            warn_about_grade_conflicts(self.paths, self.grades, copies)
        own = () if self.groups is None else (self.groups,)
        return dataclasses.replace(self, groups=merge_groups(copies, *own))

    @staticmethod
    def from_folder(
        images: str | Path, *, class_folders: bool | Sequence[str] = False, follow_links: bool = False
    ) -> "ImageTable":
        """Find all images in a folder and its subfolders, sorted by path.

        Images are files with the suffixes PNG, JPEG (`.jpg`, `.jpeg`, `.jfif`), TIFF, BMP, WebP, GIF, PBM,
        PGM, PPM or DICOM (`.dcm`), in either case. Names that begin with a dot are ignored. A warning counts
        other files that may be images, by suffix, and links that lead nowhere.

        Names such as `10_left`, `10_right_crop`, `10_OD` or `01L`, in any subfolder, are taken for eyes of
        patient 10, and of patient 1; a warning says how many patients and images that makes. Of numbers
        before the side the last is the patient's, or, where several stand there, all of them together.

        Args:
            images: the folder.
            class_folders: whether the subfolders of `images` are classes, `folder/<class>/image`. Give
                their names in the order of grades 0 to K - 1; with `True` the order is that of the names,
                and a warning tells it unless the names are the grades.
            follow_links: whether links may lead out of the folder, as in data sets of DVC or git-annex. Each
                linked folder is read once.

        Returns:
            One row per image. `grades` are `None` without `class_folders`, `groups` where no name tells a
            patient.

        Raises:
            ValueError: `images` is no folder, holds no images, or links to files outside it without
                `follow_links`; with `class_folders`, images lie outside of the class folders, or a class is
                unknown or empty.
            OSError: a subfolder cannot be read.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     for file in ("sick/a.png", "well/b.png"):
        ...         Path(name, file).parent.mkdir()
        ...         Path(name, file).touch()
        ...     table = ImageTable.from_folder(name, class_folders=["well", "sick"])
        >>> table.grades.tolist(), table.class_names
        ([1, 0], ('well', 'sick'))
        """
        root = check_folder(images)
        files, linked = walk_folder(root, follow_links)
        dangling = [path for path in files if path.is_symlink() and not path.exists()]
        found = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
        if not follow_links:
            check_links([*found, *linked], root, "images", FOLLOW_LINKS_HINT)
        left_out = describe_skipped(set(files).difference(found, dangling))
        if dangling:
            left_out += (
                f"{'; ' if left_out else ''}{len(dangling)} links that lead nowhere (fetch their files)"
            )
            left_out += f": {shorten_list([str(path.relative_to(root)) for path in dangling])}"
        if not found:
            raise ValueError(
                f"`images` must hold {', '.join(IMAGE_SUFFIXES)} files. Received {root}"
                f"{f', which holds {left_out}' if left_out else ''}."
            )
        if left_out:
            warnings.warn(f"Left out of the {len(found)} images of {root}: {left_out}.", stacklevel=2)
        found.sort(key=str)
        inner = [path.relative_to(root) for path in found]
        grades, names = None, None
        if class_folders is not False:
            grades, names = _grades_of_folders(inner, class_folders)
        groups = patients_of_names([path.as_posix() for path in inner])
        return ImageTable(np.array(list(map(str, found))), grades, groups, names)

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
        follow_links: bool = False,
    ) -> "ImageTable":
        """Read a CSV file of labels, and find the images that it names in a folder.

        The columns of APTOS 2019 (`id_code`, `diagnosis`), EyePACS (`image`, `level`) and IDRiD
        (`Image name`, `Retinopathy grade`; also `file`, `dr_grade`) are known; name others. Commas,
        semicolons or tabs separate cells, which may be quoted. Images are named with or without their
        suffix, whatever its case and Unicode normalization. A file of another suffix is found by its whole
        name, or by its name without suffix where no image has it: `read_image` says what it is.

        Without `group_column`, names such as `10_left` and `10_right` become groups as in `from_folder`.

        Args:
            labels: CSV file whose first line names the columns.
            images: folder of image files; an image may be named as `subfolder/name`.
            image_column: the column of image names.
            label_column: the column of grades.
            group_column: the column of patients, if any.
            num_grades: grades are whole numbers in 0..`num_grades` - 1.
            skip_missing: leave out images that are not there, with a warning that names them.
            follow_links: whether links may lead out of `images`, as in data sets of DVC or git-annex.

        Returns:
            One row per line, in the order of the file.

        Raises:
            ValueError: the file is no table of text in UTF-8, or its quotes do not match; a column, a grade,
                a group or an image is missing, wrong, doubled, or outside `images`, also by a link without
                `follow_links`; with `skip_missing`, all images are missing. The message names lines, or up
                to 20 files and how many there are.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     for file, text in (("a.PNG", ""), ("b.jpg", ""), ("l.csv", "id_code,diagnosis;a,0;b,4")):
        ...         _ = (folder / file).write_text(text.replace(";", chr(10)))
        ...     ImageTable.from_csv(folder / "l.csv", folder).grades
        array([0, 4])
        """
        header, lines = read_csv(Path(labels))
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
            raise_if_any("`group_column` must name a group for each image", gaps)
            # NumPy gives each row the room of the longest.
            long = [cell for cell in patients if len(cell) > _LONGEST_GROUP]
            raise_if_any(f"`group_column` must name groups in {_LONGEST_GROUP} characters or less", long)
            groups = np.array(patients)
        paths = find_named_files(names, check_folder(images), skip_missing, follow_links)
        table = ImageTable(paths, grades, groups)
        if "" in paths:
            table = table.select(np.flatnonzero(paths != ""))
        if groups is None:
            names = [name for name, path in zip(names, paths, strict=True) if path]
            table = dataclasses.replace(table, groups=patients_of_names(names))
        return table


def _grades_of_folders(
    inner: list[Path], class_folders: bool | Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Grades by the first folder of each path, and the names of the classes."""
    raise_if_any(
        "`class_folders` must hold all images: folder/<class>/image",
        [str(path) for path in inner if len(path.parts) < 2],
    )
    classes = [normalize_name(path.parts[0]) for path in inner]
    counts = Counter(classes)
    if class_folders is True:
        # 10 comes after 9.
        names = sorted(counts, key=lambda name: (int(name) if name.isdecimal() else 0, name))
        order = ", ".join(f"{grade} = {name} ({counts[name]} images)" for grade, name in enumerate(names))
        if names != [str(grade) for grade in range(len(names))]:
            warnings.warn(
                f"Grades follow the order of the class folders' names: {order}. For another order name them: "
                "class_folders=[...].",
                stacklevel=3,
            )
    elif isinstance(class_folders, (str, bool)):
        raise ValueError(
            f"`class_folders` must be True, False or a list of names. Received {class_folders!r}."
        )
    else:
        names = [normalize_name(name) for name in class_folders]
        raise_if_any(
            "`class_folders` must name each class once", [name for name, k in Counter(names).items() if k > 1]
        )
        raise_if_any("`class_folders` must name all folders of images", sorted(set(counts) - set(names)))
        raise_if_any(
            "`class_folders` must name folders that hold images", [n for n in names if n not in counts]
        )
    return np.array([names.index(name) for name in classes], np.int64), tuple(names)


def _shown(header: list[str]) -> str:
    return f"[{shorten_list([repr(name) for name in header if name])}]"


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
    raise_if_any(f"`label_column` must hold whole numbers in 0..{num_grades - 1}", bad)
    return np.array(grades, np.int64)


def warn_about_grade_conflicts(paths: np.ndarray, grades: np.ndarray, copies: np.ndarray) -> None:
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
