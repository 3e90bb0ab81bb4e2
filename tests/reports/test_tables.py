"""Tables hold the numbers of the records, in Markdown that renders."""

import numpy as np
import pytest
from records import FRACTIONS, failed, study

from keras_ssl.evaluation import labels_saved, paired_differences
from keras_ssl.evaluation.records import arm_label
from keras_ssl.reports import format_differences, format_labels_saved, format_table, format_thesis_table

pytestmark = pytest.mark.no_backend


def cells(markdown):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]


@pytest.mark.parametrize("as_percent", [False, True])
@pytest.mark.parametrize("metric", ["qw_kappa", "accuracy"])
def test_table_of_the_thesis(metric, as_percent):
    records = study()
    header, _, *rows = cells(format_thesis_table(records[::-1], metric, as_percent))
    arms = ("frozen", "initialized", "random")
    names = ("min", "mean", "max")
    assert header == ["labels", *(f"{arm_label(arm)}: {name}" for arm in arms for name in names)]
    for fraction, row in zip(FRACTIONS, rows, strict=True):
        expected = [f"{100 * fraction:g} %"]
        for arm in arms:
            found = [r[metric] for r in records if (r["arm"], r["fraction"]) == (arm, fraction)]
            for value in (min(found), np.mean(found), max(found)):
                expected.append(f"{100 * value:.1f}" if as_percent else f"{value:.3f}")
        assert row == expected


def test_cells_without_a_run_are_empty():
    records = [failed(r) if (r["arm"], r["fraction"]) == ("frozen", 0.05) else r for r in study()]
    _, _, first, second, *_ = cells(format_thesis_table(records))
    assert first[1:4] == ["", "", ""]
    assert all(second[1:4])


def test_arms_with_bars_keep_the_table_whole():
    header, rule, row = format_thesis_table(
        [{"arm": "a|b\nc", "fraction": 1, "labels": 1, "qw_kappa": 1}]
    ).split("\n")
    assert header == r"| labels | a\|b c: min | a\|b c: mean | a\|b c: max |"
    assert rule.count("---") == 4
    assert row.startswith("| 100 % |")


def test_differences_are_those_of_evaluation():
    records = study()
    _, _, *rows = cells(format_differences(records))
    for row, expected in zip(rows, paired_differences(records), strict=True):
        numbers = [f"{expected[name]:+.3f}" for name in ("mean", "low", "high")]
        share = f"{100 * expected['fraction']:g} %"
        assert row[:8] == [share, arm_label(expected["arm"]), "3", "0", *numbers, str(expected["wins"])]
        shown = "better" if expected["low"] > 0 else "worse" if expected["high"] < 0 else "not significant"
        assert row[8] == shown


def test_less_of_an_error_is_a_gain():
    records = study()
    _, _, first, *_ = cells(format_differences(records, "grade_mae"))
    raw = paired_differences(records, "grade_mae")[0]
    assert first[4:7] == [f"{-raw[name]:+.3f}" for name in ("mean", "high", "low")]
    kinder = [dict(r, grade_mae=0.5 if r["arm"] == "random" else 0.4) for r in records]
    assert {row[7:][1] for row in cells(format_differences(kinder, "grade_mae"))[2:]} == {"better"}
    # The value is shown as it was measured.
    assert cells(format_labels_saved(kinder, "grade_mae"))[2][3] == "0.400"


def test_labels_saved_are_those_of_evaluation():
    records = study(seed=2)
    _, _, *rows = cells(format_labels_saved(records))
    expected = [row for arm in ("frozen", "initialized") for row in labels_saved(records, arm=arm)]
    assert [row[:2] for row in rows] == [
        [arm_label(e["arm"]), f"{100 * e['fraction']:g} %"] for e in expected
    ]
    for row, wanted in zip(rows, expected, strict=True):
        assert row[2:4] == [str(wanted["pairs"]), f"{wanted['value']:.3f}"]
        if np.isinf(wanted["reached_at"]):
            assert row[4:6] == ["not reached", ""]
        else:
            assert float(row[4].split(" %")[0]) == pytest.approx(100 * wanted["reached_at"], rel=0.05)
            assert row[5] == f"{wanted['factor']:.1f}"
        for cell, end in zip(row[6:], (wanted["low"], wanted["high"]), strict=True):
            assert cell == ("not reached" if np.isinf(end) else f"{100 * end:g} %")


def test_no_interval_is_an_empty_cell():
    records = study(repetitions=1)
    assert all(row[6:] == ["", ""] for row in cells(format_labels_saved(records))[2:])
    assert all(
        row[5:7] == ["", ""] and row[8] == "too few runs" for row in cells(format_differences(records))[2:]
    )
    assert all(row[6] == "" for row in cells(format_table(records))[2:])


def test_validation_labels_are_counted():
    records = [dict(run, validation_labels=100) for run in study()]
    assert cells(format_table(records))[2][0] == "5 % (30 + 100 validation)"


def test_summary_leaves_failed_runs_out():
    records = study()
    records[0] = failed(records[0])
    row = next(row for row in cells(format_table(records)) if row[:2] == ["5 % (30)", "pretrained, frozen"])
    assert row[2] == "2"
