"""Tables of image files with grades and patients, from CSV files or folders."""

import csv
import dataclasses
import itertools
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self, TextIO

import numpy as np
import numpy.typing as npt

from keras_ssl._atomic import explain_os_error
from keras_ssl.data.files import (
    FOLLOW_LINKS_HINT,
    check_folder,
    check_links,
    detect_format,
    hash_files,
    normalize_name,
    raise_if_any,
    real_path,
    resolve_link,
    shorten_list,
    walk_folder,
)
from keras_ssl.data.patients import merge_groups, patients_of_names

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".tif", ".tiff", ".bmp", ".webp", ".gif"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".dcm"),
)

# Files beside images that nobody takes for images. A warning counts all others that are left out.
_DOCUMENT_SUFFIXES = frozenset(
    [
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".rst", ".html", ".htm", ".yaml", ".yml"),
        *(".toml", ".ini", ".cfg", ".log", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".py", ".ipynb"),
        *(".sh", ".dvc", ".db", ".lock", ".sha256", ".md5"),
    ]
)

# Image and label columns of APTOS 2019, EyePACS, IDRiD, and copies of IDRiD that name whole files.
_KNOWN_COLUMNS = {
    "id_code": "diagnosis",
    "image": "level",
    "Image name": "Retinopathy grade",
    "file": "dr_grade",
}

# NumPy gives each row the room of the longest.
_LONGEST_GROUP = 255


class FileTable:
    """Base class of tables of files: columns of equal length, selection of rows, groups of duplicates."""

    paths: np.ndarray
    grades: np.ndarray | None
    groups: np.ndarray | None
    unlabeled: Self | None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def files(self) -> np.ndarray:
        """The paths with an axis of the files of one row, `(n, files)`."""
        return self.paths.reshape(len(self), -1)

    def select(self, rows: Sequence[int] | np.ndarray) -> Self:
        """Return the table of these rows, in this order; `unlabeled` stays whole."""
        kept = np.asarray(rows)
        columns = {
            name: column[kept] for name, column in vars(self).items() if isinstance(column, np.ndarray)
        }
        return self._replace(**columns)

    def group_duplicates(self) -> Self:
        """Merge the groups of rows, also those of `unlabeled`, that share a file of identical bytes.

        Reads every file once. Warns, and names the files, where copies have different grades. Where no
        patient is known, the groups of the result are those of copies alone. A volume that was compressed
        twice may have different bytes: such copies are not found.
        """
        tables = [self] if self.unlabeled is None else [self, self.unlabeled]
        copies = merge_groups(*map(hash_files, np.concatenate([table.files for table in tables]).T))
        if self.grades is not None:
            _warn_about_grades_of_copies(self.files[:, 0], self.grades, copies[: len(self)])
        known = [table.groups for table in tables if table.groups is not None]
        groups = merge_groups(copies, *([np.concatenate(known)] if known else []))
        if self.unlabeled is None:
            return self._replace(groups=groups)
        unlabeled = self.unlabeled._replace(groups=groups[len(self) :])
        return self._replace(groups=groups[: len(self)], unlabeled=unlabeled)

    def _replace(self, **columns: "np.ndarray | Self") -> Self:
        return dataclasses.replace(self, **columns)  # type: ignore[type-var]

    def _check_unlabeled(self) -> None:
        if self.unlabeled is not None and (self.groups is None) != (self.unlabeled.groups is None):
            raise ValueError("`groups` must be known of both tables or of none. Received those of one.")

    def _set_columns(self, **columns: npt.ArrayLike | None) -> None:
        """Set columns of a frozen table as arrays, each of one value per row or `None`."""
        for name, column in columns.items():
            if column is None:
                continue
            object.__setattr__(self, name, np.asarray(column))
            if np.shape(column) != (expected := (len(self.paths),)):
                raise ValueError(f"`{name}` must have shape {expected}. Received {np.shape(column)}.")


def _warn_about_grades_of_copies(paths: np.ndarray, grades: np.ndarray, copies: np.ndarray) -> None:
    """Warn about files of one number in `copies` that have different grades."""
    order = np.lexsort((grades, copies))
    conflicts = (np.diff(copies[order]) == 0) & (np.diff(grades[order]) != 0)
    named = [f"{Path(paths[row]).name} ({grades[row]})" for row in order]
    pairs = [f"{named[row]} and {named[row + 1]}" for row in np.flatnonzero(conflicts)]
    if pairs:
        warnings.warn(
            f"{len(pairs)} pairs of identical files have different grades: {'; '.join(pairs[:20])}.",
            stacklevel=3,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTable(FileTable):
    """Image files with, where known, their grades and groups, one row each.

    Args:
        paths: the files, shape `(n,)`.
        grades: int64, shape `(n,)`; `None` where there are no labels.
        groups: ids of what a split must keep together, such as patients, shape `(n,)`; `None` where
            no patient is known and each image counts as a patient of its own.
        class_names: names of grades 0 to K - 1 where they come from folders, else `None`.
        unlabeled: table of further images, without grades, whose groups are named as those of this one;
            `None` where there are none. They are for pretraining, as in `label_efficiency`.

    Raises:
        ValueError: the columns are empty or of unequal length, or one of both tables lacks `groups`.

    >>> table = ImageTable(["a.png", "b.png"], grades=[0, 3])
    >>> len(table), table.select([1]).paths.tolist()
    (2, ['b.png'])
    """

    paths: np.ndarray
    grades: np.ndarray | None = None
    groups: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    unlabeled: "ImageTable | None" = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", np.array([str(path) for path in self.paths], dtype=str))
        if not len(self.paths):
            raise ValueError("`paths` must name at least one image. Received none.")
        self._set_columns(grades=self.grades, groups=self.groups)
        self._check_unlabeled()

    @staticmethod
    def from_folder(
        images: str | Path, *, class_folders: bool | Sequence[str] = False, follow_links: bool = False
    ) -> "ImageTable":
        """Find all images in a folder and its subfolders, sorted by path.

        Images are files with the suffixes PNG, JPEG (`.jpg`, `.jpeg`, `.jfif`), TIFF, BMP, WebP, GIF, PBM,
        PGM, PPM or DICOM (`.dcm`), in either case. Names that begin with a dot are ignored. A warning counts
        other files that may be images, by suffix, and broken links.

        Names such as `10_left`, `10_right_crop`, `10_OD` or `01L`, in any subfolder, are recognized as eyes
        of patient 10, and of patient 1; a warning states how many patients and images that makes. Of several
        numbers before the side, the last is the patient's, or all of them together.

        Args:
            images: the folder.
            class_folders: whether the subfolders of `images` are classes, `folder/<class>/image`. Give
                their names in the order of grades 0 to K - 1; with `True` the order is that of the names,
                and a warning states it unless the names are the grades.
            follow_links: whether links may lead out of the folder, as in data sets of DVC or git-annex. Each
                linked folder is read once.

        Returns:
            One row per image. `grades` are `None` without `class_folders`, `groups` where no name identifies
            a patient.

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
        broken = [path for path in files if path.is_symlink() and not path.exists()]
        found = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
        if not follow_links:
            check_links([*found, *linked], root, "images")
        left_out = _describe_other_files(set(files).difference(found, broken))
        if broken:
            names = shorten_list([str(path.relative_to(root)) for path in broken])
            left_out.append(f"{len(broken)} links that lead nowhere (fetch their files): {names}")
        others = "; ".join(left_out)
        if not found:
            raise ValueError(
                f"`images` must hold {', '.join(IMAGE_SUFFIXES)} files. Received {root}"
                f"{f', which holds {others}' if others else ''}."
            )
        if others:
            warnings.warn(f"Left out of the {len(found)} images of {root}: {others}.", stacklevel=2)
        found.sort(key=str)
        inner = [path.relative_to(root) for path in found]
        grades, class_names = None, None
        if class_folders is not False:
            grades, class_names = _grades_of_folders(inner, class_folders)
        groups = patients_of_names([path.as_posix() for path in inner])
        return ImageTable(np.array(list(map(str, found))), grades, groups, class_names)

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
        unlabeled: str | Path | None = None,
    ) -> "ImageTable":
        """Read a CSV file of labels, and find the images that it names in a folder.

        The columns of APTOS 2019 (`id_code`, `diagnosis`), EyePACS (`image`, `level`) and IDRiD
        (`Image name`, `Retinopathy grade`; also `file`, `dr_grade`) are known; name others. Commas,
        semicolons or tabs separate cells, which may be quoted. Images are named with or without their
        suffix, whatever its case and Unicode normalization. A file of another suffix is found by its whole
        name, or by its name without suffix where no image has it: `read_image` then names its format.

        Without `group_column`, names such as `10_left` and `10_right` become groups as in `from_folder`.

        Rows with a blank grade, and images of the folder `unlabeled`, are in the table `unlabeled` of the
        result; a warning counts the rows.

        Args:
            labels: CSV file whose first line names the columns.
            images: folder of image files; an image may be named as `subfolder/name`.
            image_column: the column of image names.
            label_column: the column of grades.
            group_column: the column of patients, if any.
            num_grades: grades are whole numbers in 0..`num_grades` - 1.
            skip_missing: leave out images that do not exist, with a warning that names them.
            follow_links: whether links may lead out of `images`, as in data sets of DVC or git-annex.
            unlabeled: folder of further images, without grades; those that a line names are not repeated, so
                it may be `images`. With a `group_column`, their patients are unknown: each counts as one.

        Returns:
            One row per line with a grade, in the order of the file.

        Raises:
            ValueError: the file is no table of text in UTF-8, or its quotes do not match; a column, a grade,
                a group or an image is missing, wrong, duplicated, or outside `images`, also by a link without
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
        header, lines = _read_csv(Path(labels))
        image_column, label_column = _find_columns(header, image_column, label_column)
        if group_column is not None and (not group_column or group_column not in header):
            raise ValueError(f"`group_column` must be one of {_shorten(header)}. Received {group_column!r}.")

        def cells_of(column: str) -> list[str]:
            # Cells that a short line lacks are empty.
            at = header.index(column)
            return [cells[at] if at < len(cells) else "" for _, cells in lines]

        numbers, names = [line for line, _ in lines], cells_of(image_column)
        cells = cells_of(label_column)
        blank = np.array([not cell for cell in cells])
        graded = [row for row, cell in enumerate(cells) if cell]
        grades = np.zeros(len(cells), np.int64)
        if blank.all():
            raise ValueError(
                f"`label_column` must hold grades. All {len(cells)} cells of {label_column} are blank."
            )
        grades[graded] = _parse_grades(
            [numbers[row] for row in graded], [cells[row] for row in graded], num_grades
        )
        groups = None if group_column is None else _parse_groups(numbers, cells_of(group_column))
        paths = _find_named_files(names, check_folder(images), skip_missing, follow_links)
        found = np.flatnonzero(paths != "")
        names, paths, grades, blank = [names[row] for row in found], paths[found], grades[found], blank[found]
        groups = None if groups is None else groups[found]
        if unlabeled is not None:
            root = check_folder(unlabeled, "unlabeled")
            with warnings.catch_warnings():
                # Patients are taken from the names of both together, below.
                warnings.filterwarnings("ignore", "Patients are taken from")
                folder = ImageTable.from_folder(unlabeled, follow_links=follow_links).paths
            folder = folder[~np.isin(folder, paths)]
            names += [Path(path).relative_to(root).as_posix() for path in folder]
            if groups is not None:
                groups = np.concatenate([groups, [f"image {path}" for path in folder]])
            paths, blank = np.concatenate([paths, folder]), np.append(blank, np.ones(len(folder), bool))
        if groups is None:
            groups = patients_of_names(names)
        if blank[: len(grades)].all():
            raise ValueError("`label_column` must hold the grade of an image that exists. Received none.")
        without = None
        if blank.any():
            count = int(blank[: len(grades)].sum())
            if count:
                warnings.warn(
                    f"{count} of {len(grades)} images have no grade (blank cells of {label_column}); they "
                    "are kept as `unlabeled`, for pretraining.",
                    stacklevel=2,
                )
            without = ImageTable(paths[blank], groups=None if groups is None else groups[blank])
        return ImageTable(
            paths[~blank],
            grades[~blank[: len(grades)]],
            None if groups is None else groups[~blank],
            unlabeled=without,
        )


def _describe_other_files(files: Iterable[Path]) -> list[str]:
    """Counts of files that may be images, by suffix, each with the format of one."""
    by_suffix: dict[str, list[Path]] = {}
    for path in sorted(files):
        if path.suffix.lower() not in _DOCUMENT_SUFFIXES:
            by_suffix.setdefault(path.suffix.lower(), []).append(path)
    counts = []
    for suffix, paths in by_suffix.items():
        if suffix:
            example, count = paths[0], len(paths)
        else:
            # A license or a list is no image.
            paths = [path for path in paths if _format_of(path) not in ("a text file", "an empty file")]
            if not paths:
                continue
            example, count = paths[0], len(paths)
        counts.append(f"{count} {suffix or 'without suffix'} ({example.name}: {_format_of(example)})")
    return [shorten_list(counts)] if counts else []


def _format_of(path: Path) -> str:
    # To open a pipe would be to wait for its writer.
    return detect_format(path) if path.is_file() else "no file"


def _grades_of_folders(
    inner: list[Path], class_folders: bool | Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return grades by the first folder of each path, and the names of the classes."""
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
        doubled = [name for name, count in Counter(names).items() if count > 1]
        raise_if_any("`class_folders` must name each class once", doubled)
        raise_if_any("`class_folders` must name all folders of images", sorted(set(counts) - set(names)))
        empty = [name for name in names if name not in counts]
        raise_if_any("`class_folders` must name folders that hold images", empty)
    return np.array([names.index(name) for name in classes], np.int64), tuple(names)


def _shorten(header: list[str]) -> str:
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
                f"`{name}` must be one of the columns found, {_shorten(header)}. Received {received}."
            )
    assert image_column is not None
    assert label_column is not None
    return image_column, label_column


def _parse_grades(numbers: list[int], cells: list[str], num_grades: int) -> np.ndarray:
    grades, bad = [], []
    for line, cell in zip(numbers, cells, strict=True):
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


def _parse_groups(numbers: list[int], cells: list[str]) -> np.ndarray:
    empty = [f"an empty cell in line {line}" for line, cell in zip(numbers, cells, strict=True) if not cell]
    raise_if_any("`group_column` must name a group for each image", empty)
    long = [cell for cell in cells if len(cell) > _LONGEST_GROUP]
    raise_if_any(f"`group_column` must name groups in {_LONGEST_GROUP} characters or less", long)
    return np.array(cells)


# No table of labels has lines of so many characters, but a file of another kind may be one line of gigabytes.
_LONGEST_LINE = 1 << 20

# A last line that is added: where it does not come back as a row, an open quote has swallowed it.
_END = "end of the table"


def _read_csv(labels: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read the column names, and the cells of each row that is not blank with its line number.

    Python's `csv` and not pandas, which reads rows over an unclosed quote, and knows no line numbers.
    """
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with (
            explain_os_error(f"`labels` must be a CSV file. {labels} cannot be read.", "Name the file."),
            labels.open(newline="", encoding="utf-8-sig") as file,
        ):
            text = list(_read_lines(file))
        header, *rows = _split_rows(text)
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"`labels` must be a table of text in UTF-8. {labels} cannot be read as one: {error}."
        ) from error
    names = header[1]
    doubled = [name for name, count in Counter(name for name in names if name).items() if count > 1]
    raise_if_any(f"`labels` must name each column once ({labels})", doubled)
    lines = [(line, cells) for line, cells in rows if any(cells)]
    if not lines:
        raise ValueError(f"`labels` must have a line of column names and lines below it. Received {labels}.")
    return names, lines


def _read_lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a table; raise where one is overlong or binary."""
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), start=1):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"line {number} has {_LONGEST_LINE} characters or more")
        if "\0" in line:
            raise ValueError(f"line {number} has a NUL character")
        yield line


def _split_rows(lines: list[str]) -> list[tuple[int, list[str]]]:
    """Split lines into rows, each with the number of its last line."""
    skipped = 0
    # Excel writes its delimiter into a first line.
    if lines and (given := re.fullmatch(r"\W?sep=(.)\s*", lines[0])):
        lines, skipped = lines[1:], 1
        delimiter = given[1]
    else:
        outside = re.sub(r'"[^"]*"', "", lines[0] if lines else "")
        delimiter = max(",;\t", key=outside.count)
    try:
        rows = _parse_rows(lines, delimiter, skipped, strict=True)
    except csv.Error:
        # Text after a closing quote, or a space, does no harm by itself. But a cell of several lines may
        # then be an unclosed quote with rows inside.
        rows = _parse_rows(lines, delimiter, skipped, strict=False)
        ends = [skipped, *(line for line, _ in rows)]
        torn = [f"line {start + 1}" for start, end in itertools.pairwise(ends) if end > start + 1]
        if torn:
            raise ValueError(f"its quotes do not match, first from {torn[0]} on") from None
    return rows or [(1, [])]


def _parse_rows(lines: list[str], delimiter: str, skipped: int, strict: bool) -> list[tuple[int, list[str]]]:
    reader = csv.reader([*lines, _END], delimiter=delimiter, skipinitialspace=True, strict=strict)
    rows = [(reader.line_num + skipped, [cell.strip() for cell in cells]) for cells in reader]
    if rows[-1][1] != [_END]:
        raise ValueError(f"a quote after line {rows[-2][0] if len(rows) > 1 else skipped} is never closed")
    return rows[:-1]


def _find_named_files(names: list[str], root: Path, skip_missing: bool, follow_links: bool) -> np.ndarray:
    """Find the file of each name, empty where it is missing and skipped."""
    outside: list[str] = []
    linked: list[str] = []
    missing, ambiguous, paths = [], [], []
    folders: dict[Path, dict[str, list[Path]] | None] = {}
    for name in names:
        # Backslashes: tables written on Windows.
        wanted = root / name.replace("\\", "/")
        parent = Path(os.path.normpath(wanted.parent))
        if wanted.parent not in folders:
            folder = real_path(wanted.parent)
            if folder.is_relative_to(root):
                folders[wanted.parent] = _list_folder(_existing_folder(folder, root))
            elif follow_links and parent.is_relative_to(root):
                folders[wanted.parent] = _list_folder(_existing_folder(parent, root))
            else:
                folders[wanted.parent] = None
        files = folders[wanted.parent]
        if files is None:
            (linked if parent.is_relative_to(root) else outside).append(name)
            continue
        found = _match_name(wanted, files)
        if len(found) > 1:
            ambiguous.append(name)
        elif found and not follow_links and not resolve_link(found[0]).is_relative_to(root):
            linked.append(name)
        elif found and found[0].is_file():
            file = resolve_link(found[0])
            paths.append(str(file if file.is_relative_to(root) else found[0]))
        else:
            # Nothing, or a folder, a pipe that would be waited for, or a broken link.
            missing.append(name)
            paths.append("")
    raise_if_any("`image_column` must name files inside `images`", outside)
    raise_if_any(
        f"`image_column` must name files inside `images`, not links out of it{FOLLOW_LINKS_HINT}", linked
    )
    if not skip_missing or len(missing) == len(names):
        rule = f"`image_column` must name files that exist in {root}. Missing {len(missing)} of {len(names)}"
        raise_if_any(f"{rule}; pass skip_missing=True to leave them out", missing)
    raise_if_any("`image_column` must give the suffix where two files share a name", ambiguous)
    doubled = [path for path, count in Counter(path for path in paths if path).items() if count > 1]
    raise_if_any("`image_column` must name each image once", doubled)
    if missing:
        warnings.warn(
            f"{len(missing)} of {len(names)} images left out as missing from {root}: "
            f"{shorten_list(missing)}.",
            stacklevel=3,
        )
    return np.array(paths)


def _existing_folder(folder: Path, root: Path) -> Path:
    """Find a folder within `root` whose parts may have another Unicode normalization on disk."""
    here = root
    for part in folder.relative_to(root).parts:
        if not os.path.lexists(here / part) and os.path.isdir(here):
            alike = [name for name in os.listdir(here) if normalize_name(name) == normalize_name(part)]
            part = alike[0] if alike else part
        here /= part
    return here


def _list_folder(folder: Path) -> dict[str, list[Path]]:
    """List the files of a folder by their names without suffix."""
    files: dict[str, list[Path]] = {}
    for path in folder.iterdir() if os.path.isdir(folder) else ():
        files.setdefault(normalize_name(path.stem), []).append(path)
    return files


def _match_name(wanted: Path, files: dict[str, list[Path]]) -> list[Path]:
    """Return the files that a name may mean: its suffix may be left out or differ in case."""
    name, suffix = normalize_name(wanted.name), wanted.suffix.lower()
    whole = [path for path in files.get(normalize_name(wanted.stem), []) if path.suffix.lower() == suffix]
    if suffix in IMAGE_SUFFIXES:
        return [path for path in whole if path.name == wanted.name] or whole
    without = [path for path in files.get(name, []) if path.suffix and not path.is_dir()]
    return (
        [path for path in without if path.suffix.lower() in IMAGE_SUFFIXES]
        or [path for path in whole if not path.is_dir()]
        or [path for path in without if path.suffix.lower() not in _DOCUMENT_SUFFIXES]
    )
