"""Records of runs: one flat dictionary per run, in a file that survives a crash."""

import csv
import errno
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from keras_ssl._atomic import atomic_write, explain_os_error
from keras_ssl._types import Record

# The fields that identify a run of a study.
RUN_KEYS = ("task", "arm", "fraction", "repetition", "fold")


# Names of arms in records, in the order of tables and figures, and the names that people read.
_ARM_LABELS = {
    "frozen": "pretrained, frozen",
    "initialized": "pretrained, fine-tuned",
    "random": "from scratch",
}
# Tasks whose names people write otherwise.
_TASK_LABELS = {"imagenet": "ImageNet"}


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Read the records of a study, sorted as `sort_records` does.

    Args:
        path: `records.jsonl`, which is complete, or any CSV file of records (values then are text).

    Raises:
        ValueError: a line is not a record; only the last line may be truncated, as after a crash.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return sort_records(csv.DictReader(file))
    return sort_records(_without_repeats(_parsed(path.read_text().split("\n"), path)))


def _parsed(lines: list[str], path: Path) -> Iterator[Record]:
    *complete, _ = lines
    for number, line in enumerate(complete, start=1):
        try:
            record = json.loads(line)
            if not set(RUN_KEYS) <= set(record):
                raise ValueError(f"a record must hold {', '.join(RUN_KEYS)}")
            yield record
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} must hold one record per line. Line {number} is {line[:80]!r}."
            ) from error
    # Text after the last end of line is a record that a crash cut off.


def _without_repeats(records: Iterable[Record]) -> list[Record]:
    """Keep the first record of each run: two processes in one folder may have made the same run."""
    first: dict[tuple[object, ...], Record] = {}
    for record in records:
        first.setdefault(tuple(record[key] for key in RUN_KEYS), record)
    return list(first.values())


def sort_records(records: Iterable[Record]) -> list[Record]:
    """Sort records by repetition, fold, fraction, arm and task.

    Arms are in the order frozen, initialized, random, then others in their order of appearance.

    >>> [record["arm"] for record in sort_records([{"arm": "random"}, {"arm": "mine"}, {"arm": "frozen"}])]
    ['frozen', 'random', 'mine']
    """
    found = [dict(record) for record in records]
    others = [
        arm for arm in dict.fromkeys(record.get("arm", "") for record in found) if arm not in _ARM_LABELS
    ]
    order = {arm: place for place, arm in enumerate((*_ARM_LABELS, *others))}

    def key(record: Record) -> tuple[object, ...]:
        numbers = (int(float(record.get(name) or 0)) for name in ("repetition", "fold"))
        place = order[record.get("arm", "")]
        return (*numbers, float(record.get("fraction") or 0), place, str(record.get("task", "")))

    return sorted(found, key=key)


def completed(records: Iterable[Record]) -> list[Record]:
    """Return the runs that did not fail."""
    return [record for record in records if record.get("status", "ok") == "ok"]


def arm_names(records: Iterable[Record]) -> list[str]:
    """Return the arm of each record, with its task in parentheses if there are several or given weights.

    >>> arm_names([{"arm": "frozen", "task": "rotation"}, {"arm": "random", "task": "none"}])
    ['frozen', 'random']
    >>> arm_names([{"arm": "frozen", "task": "rotation"}, {"arm": "frozen", "task": "jigsaw"}])
    ['frozen (rotation)', 'frozen (jigsaw)']
    """
    records = list(records)
    several = len({_task_of(record) for record in records} - {""}) > 1
    return [_arm_name(record, several) for record in records]


def starting_arms(records: Iterable[Record]) -> dict[str, str]:
    """Return, for each arm that starts from given weights, the arm of these weights without a pretext task.

    >>> given = {"arm": "frozen", "task": "imagenet", "start": "imagenet"}
    >>> starting_arms([given, {**given, "task": "imagenet+rotation"}])
    {'frozen (imagenet)': 'frozen (imagenet)', 'frozen (imagenet+rotation)': 'frozen (imagenet)'}
    """
    started = [record for record in records if _start_of(record)]
    return {
        _arm_name(record, True): _arm_name({**record, "task": _start_of(record)}, True) for record in started
    }


def _task_of(record: Record) -> str:
    task = str(record.get("task") or "none")
    return "" if task == "none" else task


def _start_of(record: Record) -> str:
    start = str(record.get("start") or "none")
    return "" if start == "none" else start


def _arm_name(record: Record, several: bool) -> str:
    arm, task = str(record["arm"]), _task_of(record)
    return f"{arm} ({task})" if task and (several or _start_of(record)) else arm


def arm_label(name: str) -> str:
    """Return the name of an arm for people; the name itself if it is not one of a study's arms.

    >>> arm_label("frozen"), arm_label("random"), arm_label("mine")
    ('pretrained, frozen', 'from scratch', 'mine')
    >>> arm_label("frozen (rotation)"), arm_label("initialized (imagenet+rotation)")
    ('rotation, frozen', 'ImageNet + rotation, fine-tuned')
    """
    arm, _, task = name.partition(" ")
    if arm not in _ARM_LABELS or not task:
        return " ".join([_ARM_LABELS.get(arm, arm), task]).strip()
    parts = [_TASK_LABELS.get(part, part) for part in task.strip("()").split("+")]
    return f"{' + '.join(parts)}, {_ARM_LABELS[arm].removeprefix('pretrained, ')}"


class RecordFile:
    """File to which a study appends its records, with a CSV table of the plain values.

    Several processes may append to the same file; the table then holds the records of all of them.

    Args:
        folder: folder of `records.jsonl`, one record per line, and `records.csv`, the same without lists.

    Attributes:
        records: all records of the file, in the order of `sort_records`.

    Raises:
        ValueError: a line of `records.jsonl` is not a record.
        OSError: a file cannot be read, or, in `append`, written.

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
            self._drop_truncated_line()
        if self.records and self._is_table_behind():
            # A crash between the two writes: if all runs are recorded, nothing else would update the table.
            self._update()

    def append(self, record: Record) -> None:
        """Append a record and flush it to the disk."""
        advice = "Earlier records are kept. Free space there; the same call then resumes."
        with explain_os_error(f"`output_dir` must be writable. {self.path} could not be written.", advice):
            _append_line(self.path, json.dumps(record))
        self._update()

    def _update(self) -> None:
        """Read all records, including those of other processes, and write the table."""
        size = -1
        # Repeat until nothing was appended meanwhile, so that the last table written is complete.
        while size != self.path.stat().st_size:
            size = self.path.stat().st_size
            self.records = read_records(self.path)
            atomic_write(self.table, self._write_table)

    def _drop_truncated_line(self) -> None:
        """Remove a line that a crash cut off, to which the next record would be appended."""
        content = self.path.read_bytes()
        if not content.endswith(b"\n"):
            # Another process may be writing it at this moment.
            time.sleep(0.1)
            if self.path.read_bytes() == content:
                os.truncate(self.path, content.rfind(b"\n") + 1)

    def _is_table_behind(self) -> bool:
        try:
            return len(read_records(self.table)) < len(self.records)
        # Missing, or changed by another program.
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
    """Append a line completely or not at all."""
    content = f"{line}\n".encode()
    # Unbuffered: a buffer would be written again when the file is closed.
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            # Do not truncate what another process may have appended.
            if os.fstat(file.fileno()).st_size <= end + len(content):
                file.truncate(end)
            raise
