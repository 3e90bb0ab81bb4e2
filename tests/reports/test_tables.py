"""Summaries of records against NumPy and pandas-free arithmetic done by hand."""

import numpy as np
import pytest

from keras_ssl.reports import format_table, summarize

RECORDS = [
    {"arm": arm, "fraction": fraction, "labels": 100 * fraction, "qwk": value}
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
    with pytest.raises(ValueError, match="at least one run"):
        summarize([])
