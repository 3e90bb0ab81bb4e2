"""Summaries of records against NumPy and pandas-free arithmetic done by hand."""

import numpy as np
import pytest
from scipy import stats

from keras_ssl.evaluation import summarize
from keras_ssl.evaluation.statistics import still_rising
from keras_ssl.reports import format_table

pytestmark = pytest.mark.no_backend

RECORDS = [
    {"arm": arm, "fraction": fraction, "labels": 100 * fraction, "qw_kappa": value}
    for arm, fraction, value in [
        ("initialized", 1.0, 0.6),
        ("initialized", 0.1, 0.4),
        ("initialized", 0.1, 0.5),
        ("random", 0.1, 0.3),
    ]
]


def test_summary_is_that_of_numpy():
    row = next(row for row in summarize(RECORDS) if row["arm"] == "initialized" and row["fraction"] == 0.1)
    values = [0.4, 0.5]
    assert (row["min"], row["max"]) == (0.4, 0.5)
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["std"] == pytest.approx(np.std(values, ddof=1))
    assert row["runs"] == 2
    assert row["labels"] == 10


def test_rows_go_by_fraction_and_texts_of_a_csv_file_will_do():
    texts = [{name: str(value) for name, value in record.items()} for record in RECORDS]
    assert [(row["arm"], row["fraction"]) for row in summarize(texts)] == [
        ("initialized", 0.1),
        ("random", 0.1),
        ("initialized", 1.0),
    ]
    assert summarize(texts) == summarize(RECORDS)


def test_table_has_a_line_for_each_row():
    assert len(format_table(RECORDS).splitlines()) == 2 + 3


def test_no_records_are_refused():
    with pytest.raises(ValueError, match="at least one completed run"):
        summarize([])


def _curves(*curves, **more):
    return [{"arm": "random", "fraction": 0.1, "curve_qw_kappa": list(curve), **more} for curve in curves]


def test_gain_is_that_of_the_last_quarter_over_the_one_before():
    (row,) = still_rising(_curves([9, 9, 9, 9, 0.2, 0.4, 0.5, 0.7], [9] * 5 + [0.1, 0.2, 0.3, 0.2, 0.3]))
    gains = [0.6 - 0.3, 0.25 - 0.25]
    assert row["gain"] == pytest.approx(np.mean(gains))
    assert row["error"] == pytest.approx(stats.sem(gains))
    assert (row["arm"], row["fraction"], row["runs"]) == ("random", 0.1, 2)


@pytest.mark.parametrize(
    ("curves", "rising"),
    [
        ([[0, 0.1, 0.2, 0.3]], True),
        ([[0, 0.1, 0.3, 0.3]], False),
        ([[0, 0.1, 0.3, 0.305]], False),
        ([[0, 0, 0.1, 0.2], [0, 0, 0.1, 0.25]], True),
        # On average a gain of 0.05, with a standard error of 0.15.
        ([[0, 0, 0.1, 0.3], [0, 0, 0.3, 0.2]], False),
    ],
)
def test_rising_is_above_tolerance_and_above_its_error(curves, rising):
    assert [row["rising"] for row in still_rising(_curves(*curves))] == [rising]


def test_runs_without_a_curve_have_no_say():
    records = [
        *_curves([0, 0.1, 0.2, 0.3]),
        *_curves([0, 1, 9]),
        *_curves([0, 1, 2, 9], status="failed"),
        {"arm": "random", "fraction": 0.1},
        {"arm": "frozen", "fraction": 0.1},
    ]
    assert [(row["arm"], row["runs"]) for row in still_rising(records)] == [("random", 1)]
    assert still_rising(records[-1:]) == []
    assert still_rising(records, tolerance=0.2)[0]["rising"] is False


def test_no_curves_at_all_are_refused_where_no_run_ended_well():
    with pytest.raises(ValueError, match="at least one completed run"):
        still_rising([])
