"""The table example: from records of a study, and from tables of other programs."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from records import failed, study

pytestmark = pytest.mark.no_backend

EXAMPLE = Path(__file__).parents[1] / "examples" / "thesis_table.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("thesis_table", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    names = [name for name, value in rows[0].items() if not isinstance(value, list)]
    # As a spreadsheet saves it.
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", ["records.csv", "records.jsonl"])
def test_numbers_are_those_of_the_records(example, tmp_path, capsys, name):
    records = study()
    example.main([str(write(tmp_path / name, records))])
    header, _, first, *_ = capsys.readouterr().out.splitlines()
    assert header.startswith(
        "| labels | pretrained, frozen: min | pretrained, frozen: mean | pretrained, frozen: max |"
    )
    values = [r["qw_kappa"] for r in records if (r["arm"], r["fraction"]) == ("frozen", 0.05)]
    expected = " | ".join(f"{value:.3f}" for value in (min(values), np.mean(values), max(values)))
    assert first.startswith(f"| 5 % | {expected} |")


def test_a_table_of_another_kind(example, tmp_path, capsys):
    rows = [
        {"method": method, "share": share, "acc": value}
        for method, value in (("jigsaw", 0.5), ("scratch", 0.25))
        for share in ("5%", "100 %")
    ]
    path = write(tmp_path / "other.csv", rows)
    report = tmp_path / "page.html"
    columns = ["--arm-column", "method", "--fraction-column", "share", "--metric", "acc"]
    example.main([str(path), *columns, "--percent", "--report", str(report)])
    assert capsys.readouterr().out.splitlines() == [
        "| labels | jigsaw: min | jigsaw: mean | jigsaw: max | scratch: min | scratch: mean | scratch: max |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 5 % | 50.0 | 50.0 | 50.0 | 25.0 | 25.0 | 25.0 |",
        "| 100 % | 50.0 | 50.0 | 50.0 | 25.0 | 25.0 | 25.0 |",
    ]
    assert "jigsaw" in report.read_text()
    with pytest.raises(SystemExit, match=r"column 'arm'.*columns method, share, acc"):
        example.main([str(path)])


def test_what_a_reader_must_know_stands_below(example, tmp_path, capsys):
    records = study(repetitions=2)
    for record in records:
        if record["arm"] == "frozen":
            record["pretrained_on"] = "all"
    records[-1] = failed(records[-1])
    example.main([str(write(tmp_path / "records.csv", records))])
    text = capsys.readouterr().out
    assert "including test images: pretrained, frozen.\n" in text
    assert "Runs without a result, not included: 1." in text


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["5", "100"], [0.05, 1]),
        (["0.05", "1"], [0.05, 1]),
        (["1", "5"], [0.01, 0.05]),
        (["1%", "0.5"], [0.01, 0.5]),
        (["1"], [1]),
    ],
)
def test_fractions_by_the_rule(example, texts, expected):
    assert example.parse_fractions(texts) == expected


@pytest.mark.parametrize("texts", [["0"], ["-5"], ["101"], ["nan"], ["many"], [""]])
def test_fractions_that_are_none(example, texts):
    with pytest.raises(ValueError, match="Received"):
        example.parse_fractions(texts)


def test_files_that_are_none(example, tmp_path):
    with pytest.raises(SystemExit, match="nowhere"):
        example.main([str(tmp_path / "nowhere.csv")])
    (tmp_path / "empty.csv").write_text("arm,fraction,qw_kappa\n")
    with pytest.raises(SystemExit, match="no runs"):
        example.main([str(tmp_path / "empty.csv")])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "arm,fraction,qw_kappa\nx,1,much\n",
            r"Column 'qw_kappa' must hold numbers. Received 'much'",
        ),
        ("a.csv", "arm,fraction,qw_kappa\nx,1,0.5,7\n", "must name every value"),
        ("a.csv", b"\xff\xfe", r"a\.csv cannot be read as CSV"),
        ("a.jsonl", '{"arm":', r"a\.jsonl cannot be read as CSV"),
        ("a.jsonl", "[1]", "must name every value"),
        ("a.jsonl", "", "no runs"),
    ],
)
def test_tables_that_are_none_are_text_in_a_line(example, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit, match=message) as stop:
        example.main([str(tmp_path / name)])
    assert "\n" not in str(stop.value.code)


def test_folders_are_no_files(example, tmp_path):
    with pytest.raises(SystemExit, match="Is a directory"):
        example.main([str(tmp_path)])
    write(tmp_path / "a.csv", study())
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"report\.html could not be written"):
        example.main([str(tmp_path / "a.csv"), "--report", str(tmp_path / "file" / "report.html")])
