"""Records of runs: one flat dictionary per run, in a file that a kill leaves intact."""

import csv
import errno
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_ssl._atomic import atomic_write, explain_os_error

# What tells one run of a study from another.
RUN_KEYS = ("task", "arm", "fraction", "repetition", "fold")


_ARMS = ("frozen", "initialized", "imagenet", "random")


def read_records(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the records of a study, sorted as `sort_records` does.

    Args:
        path: `records.jsonl`, which holds all, or any CSV file of records (values then are text).

    Raises:
        ValueError: a line is no record; the last line alone may be cut off, as a kill leaves it.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return sort_records(csv.DictReader(file))
    return sort_records(_without_repeats(_parsed(path.read_text().split("\n"), path)))


def _parsed(lines: list[str], path: Path) -> Iterator[dict[str, Any]]:
    *whole, rest = lines
    for number, line in enumerate(whole, start=1):
        try:
            record = json.loads(line)
            if not set(RUN_KEYS) <= set(record):
                raise ValueError(f"a record must hold {', '.join(RUN_KEYS)}")
            yield record
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} must hold one record a line. Line {number} is {line[:80]!r}."
            ) from error
    if rest:
        # Without an end of line, a record was being written when the process was killed.
        return


def _without_repeats(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the first record of each run: two processes in one folder may have made the same one."""
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        first.setdefault(tuple(record[key] for key in RUN_KEYS), record)
    return list(first.values())


def sort_records(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sort records by repetition, fold, fraction, arm and task, whatever the order they ended in.

    Arms stand in the order frozen, initialized, imagenet, random, others after them as they come.

    >>> [record["arm"] for record in sort_records([{"arm": "random"}, {"arm": "mine"}, {"arm": "frozen"}])]
    ['frozen', 'random', 'mine']
    """
    found = [dict(record) for record in records]
    others = [arm for arm in dict.fromkeys(record.get("arm", "") for record in found) if arm not in _ARMS]
    order = {arm: place for place, arm in enumerate((*_ARMS, *others))}

    def key(record: Mapping[str, Any]) -> tuple[Any, ...]:
        numbers = (int(float(record.get(name) or 0)) for name in ("repetition", "fold"))
        place = order[record.get("arm", "")]
        return (*numbers, float(record.get("fraction") or 0), place, str(record.get("task", "")))

    return sorted(found, key=key)


def completed(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out the runs that failed, which have no metrics."""
    return [record for record in records if record.get("status", "ok") == "ok"]


def line_names(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Name the line that each record belongs to: its arm, and the task where there are several.

    >>> line_names([{"arm": "frozen", "task": "rotation"}, {"arm": "random", "task": "none"}])
    ['frozen', 'random']
    >>> line_names([{"arm": "frozen", "task": "rotation"}, {"arm": "frozen", "task": "jigsaw"}])
    ['frozen (rotation)', 'frozen (jigsaw)']
    """
    pairs = [(str(record["arm"]), str(record.get("task", ""))) for record in records]
    tasks = {task for _, task in pairs} - {"none", "imagenet", ""}
    several = len(tasks) > 1
    return [f"{arm} ({task})" if several and task in tasks else arm for arm, task in pairs]


class RecordFile:
    """The file that a study appends its records to, with a table of plain values beside it.

    Several processes may append to the same file; the table then holds the records of all of them.

    Args:
        folder: holds `records.jsonl`, one record a line, and `records.csv`, the same without lists.

    Attributes:
        records: all records of the file, as `sort_records` puts them.

    Raises:
        ValueError: `records.jsonl` holds a line that is no record.
        OSError: a file cannot be read, or in `append` written.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> run = {"task": "none", "arm": "random", "fraction": 0.1, "repetition": 0, "fold": 0}
    >>> RecordFile(folder).append({**run, "qw_kappa": 0.5, "curve_steps": [10, 20]})
    >>> [record["qw_kappa"] for record in RecordFile(folder).records]
    [0.5]
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / "records.jsonl"
        self.table = Path(folder) / "records.csv"
        self.records = read_records(self.path) if self.path.exists() else []
        if self.path.exists():
            self._drop_cut_off_line()
        if self.records and self._is_table_behind():
            # A kill fell between the two files; where all runs are recorded, no other would write the table.
            self._update()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record, to the disk before this returns."""
        advice = "The records before are kept. Free space there, and the same call goes on with them."
        with explain_os_error(f"`output_dir` must be writable. {self.path} could not be written.", advice):
            _append_line(self.path, json.dumps(record))
        self._update()

    def _update(self) -> None:
        """Read all records, those of other processes too, and write the table of them."""
        size = -1
        # Whoever writes the table last has seen every record that was there when it was written.
        while size != self.path.stat().st_size:
            size = self.path.stat().st_size
            self.records = read_records(self.path)
            atomic_write(self.table, self._write_table)

    def _drop_cut_off_line(self) -> None:
        """Remove what a kill left of a line, which would spoil the next one."""
        content = self.path.read_bytes()
        if not content.endswith(b"\n"):
            # Unless another process is writing it at this moment.
            time.sleep(0.1)
            if self.path.read_bytes() == content:
                os.truncate(self.path, content.rfind(b"\n") + 1)

    def _is_table_behind(self) -> bool:
        try:
            return len(read_records(self.table)) < len(self.records)
        # Missing, or what other programs made of it.
        except (OSError, ValueError, csv.Error):
            return True

    def _write_table(self, path: Path) -> None:
        rows = [
            {name: value for name, value in record.items() if not isinstance(value, (list, dict))}
            for record in self.records
        ]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def _append_line(path: Path, line: str) -> None:
    """Append a whole line or nothing."""
    content = f"{line}\n".encode()
    # Without a buffer, which would be written once more when the file is closed.
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            # Unless another process has appended its own behind.
            if os.fstat(file.fileno()).st_size <= end + len(content):
                file.truncate(end)
            raise
