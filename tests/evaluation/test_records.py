"""Records survive a kill in the midst of a line and come back in one order."""

import csv
import errno
from concurrent import futures

import pytest
from surroundings import full_disk

from keras_ssl.evaluation import read_records, records
from keras_ssl.evaluation.records import RecordFile, sort_records

pytestmark = pytest.mark.no_backend


def record(**values):
    return {"arm": "random", "task": "none", "fraction": 0.1, "repetition": 0, "fold": 0, **values}


def test_what_was_appended_is_read_back(tmp_path):
    file = RecordFile(tmp_path)
    both = [record(fold=1, curve=[1, 2]), record(fold=0, qw_kappa=0.25, status="ok")]
    for one in both:
        file.append(one)
    assert read_records(file.path) == RecordFile(tmp_path).records == both[::-1]
    with open(file.table) as table:
        rows = list(csv.DictReader(table))
    assert [row["fold"] for row in rows] == ["0", "1"]
    assert [row["qw_kappa"] for row in rows] == ["0.25", ""]
    assert "curve" not in rows[0]
    assert [row["fold"] for row in read_records(file.table)] == ["0", "1"]


def test_a_line_cut_off_by_a_kill_is_dropped_and_not_written_into(tmp_path):
    file = RecordFile(tmp_path)
    file.append(record(fold=0))
    with open(file.path, "a") as lines:
        lines.write('{"arm": "ran')
    again = RecordFile(tmp_path)
    assert again.records == [record(fold=0)]
    again.append(record(fold=1))
    assert read_records(file.path) == [record(fold=0), record(fold=1)]


@pytest.mark.parametrize("rows", [0, 1])
def test_a_table_that_a_kill_left_behind_the_records_is_written_again(tmp_path, rows):
    file = RecordFile(tmp_path)
    file.append(record(fold=0))
    table = file.table.read_bytes()
    file.append(record(fold=1))
    file.table.unlink()
    if rows:
        file.table.write_bytes(table)
    RecordFile(tmp_path)
    assert [row["fold"] for row in read_records(file.table)] == ["0", "1"]


def folds(table):
    return [row["fold"] for row in read_records(table)]


def test_the_table_holds_the_records_of_all_writers(tmp_path):
    one, other = RecordFile(tmp_path), RecordFile(tmp_path)
    for number in range(4):
        (one, other)[number % 2].append(record(fold=number))
    assert folds(one.table) == ["0", "1", "2", "3"]
    assert one.records == read_records(one.path)[:3]
    assert other.records == read_records(one.path)


def test_a_record_of_another_writer_between_reading_and_writing_is_in_the_table(tmp_path, monkeypatch):
    """The other appends, and writes the table, when this one has read the records and not yet written it."""
    one, other = RecordFile(tmp_path), RecordFile(tmp_path)
    write, others = records.atomic_write, iter([record(fold=1), record(fold=2)])

    def late(path, fill):
        with monkeypatch.context() as patch:
            patch.setattr(records, "atomic_write", write)
            for between in others:
                other.append(between)
                break
        write(path, fill)

    monkeypatch.setattr(records, "atomic_write", late)
    one.append(record(fold=0))
    assert folds(one.table) == ["0", "1", "2"]


def test_writers_that_append_at_the_same_time_lose_nothing(tmp_path):
    def write(repetition):
        file = RecordFile(tmp_path)
        for number in range(8):
            file.append(record(repetition=repetition, fold=number))

    with futures.ThreadPoolExecutor(3) as writers:
        assert list(writers.map(write, range(3))) == [None] * 3
    assert len(read_records(tmp_path / "records.jsonl")) == len(read_records(tmp_path / "records.csv")) == 24


def test_a_line_that_another_process_is_writing_is_not_cut_off(tmp_path, monkeypatch):
    file = RecordFile(tmp_path)
    file.append(record(fold=0))
    whole = file.path.read_bytes()
    file.append(record(fold=1))
    rest = file.path.read_bytes()
    file.path.write_bytes(rest[: len(whole) + 10])
    monkeypatch.setattr(records.time, "sleep", lambda seconds: file.path.write_bytes(rest))
    RecordFile(tmp_path)
    assert file.path.read_bytes() == rest


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"arm,fraction\nrandom,much\n", b""])
def test_a_table_that_was_damaged_is_written_again(tmp_path, content):
    file = RecordFile(tmp_path)
    file.append(record(fold=1))
    file.table.write_bytes(content)
    RecordFile(tmp_path)
    assert [row["fold"] for row in read_records(file.table)] == ["1"]


@pytest.mark.parametrize("room", [0, 20])
def test_a_record_that_finds_no_room_leaves_those_before_and_is_appended_later(tmp_path, room):
    file = RecordFile(tmp_path)
    file.append(record(fold=0))
    before = file.path.read_bytes()
    with (
        full_disk(len(before) + room),
        pytest.raises(OSError, match=r"`output_dir` must be writable.*\[Errno"),
    ):
        file.append(record(fold=1))
    assert file.path.read_bytes() == before
    assert file.records == [record(fold=0)]
    file.append(record(fold=1))
    assert read_records(file.path) == [record(fold=0), record(fold=1)]


def test_a_table_that_finds_no_room_costs_no_record(tmp_path, monkeypatch):
    def refuse(file, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = RecordFile(tmp_path)
    file.append(record(fold=0))
    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "_write_table", refuse)
        with pytest.raises(OSError, match=r"records\.csv could not be written.*No space left"):
            file.append(record(fold=1))
    assert [row["fold"] for row in read_records(file.table)] == ["0"]
    assert RecordFile(tmp_path).records == [record(fold=0), record(fold=1)]
    assert [row["fold"] for row in read_records(file.table)] == ["0", "1"]


def test_a_spoilt_line_is_named(tmp_path):
    file = RecordFile(tmp_path)
    file.append(record())
    file.path.write_text(file.path.read_text() + "nonsense\n")
    with pytest.raises(ValueError, match=r"one record per line. Line 2 is 'nonsense'"):
        read_records(file.path)


def test_order_does_not_depend_on_which_run_ended_first():
    arms = ["frozen", "initialized", "random", "mine"]
    ordered = [
        record(arm=arm, fraction=fraction, fold=fold)
        for fold in (0, 1)
        for fraction in (0.1, 0.5)
        for arm in arms
    ]
    assert sort_records(ordered[::-1]) == ordered
