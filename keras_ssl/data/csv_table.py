"""CSV files as people and spreadsheets write them, read so that no row is lost."""

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from keras_ssl._files import explained
from keras_ssl.data.listing import refuse

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
    refuse(f"`labels` must name each column once ({labels})", [name for name in named if named[name] > 1])
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
