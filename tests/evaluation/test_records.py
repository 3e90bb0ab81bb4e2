"""Records survive a kill in the midst of a line and come back in one order."""

import csv

import pytest

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
