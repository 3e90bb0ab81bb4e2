"""Records survive a kill in the midst of a line and come back in one order."""

import csv
import errno

import pytest
from surroundings import full_disk

from keras_ssl.evaluation import RecordFile, read_records, sort_records


def record(**values):
    return {"arm": "random", "task": "none", "fraction": 0.1, "repetition": 0, "fold": 0, **values}


def test_what_was_appended_is_read_back(tmp_path):
    file = RecordFile(tmp_path)
    records = [record(fold=1, curve=[1, 2]), record(fold=0, qw_kappa=0.25, status="ok")]
    for one in records:
        file.append(one)
    assert read_records(file.path) == RecordFile(tmp_path).records == records[::-1]
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
        pytest.raises(OSError, match=r"`output_dir` must take all records, .*\[Errno"),
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
    with pytest.raises(ValueError, match=r"one record a line. Line 2 is 'nonsense'"):
        read_records(file.path)


def test_order_does_not_depend_on_which_run_ended_first():
    arms = ["frozen", "initialized", "imagenet", "random", "mine"]
    records = [
        record(arm=arm, fraction=fraction, fold=fold)
        for fold in (0, 1)
        for fraction in (0.1, 0.5)
        for arm in arms
    ]
    assert sort_records(records[::-1]) == records
