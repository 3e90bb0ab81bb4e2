"""Print the thesis' table, the worst, mean and best run of each arm on each fraction of labels, from a file.

    python thesis_table.py dr_output/records.csv
    python thesis_table.py results.csv --arm-column method --fraction-column share --metric accuracy --percent
    python thesis_table.py dr_output/records.jsonl --report report.html

The file is a CSV table with a header, or JSON with one record a line; one row is one run. Fractions may be
written 5%, 5 or 0.05: with a per cent sign they are per cent; without, they all are per cent if one is
above 1, shares if none is, so that a lone 1 is all of the labels.
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_ssl import evaluation, reports


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("records", help="file of runs, .csv or .jsonl")
    parser.add_argument("--metric", default="qw_kappa", help="column that is shown (default: qw_kappa)")
    parser.add_argument("--arm-column", default="arm", help="column that names what is compared")
    parser.add_argument("--fraction-column", default="fraction", help="column of fractions of labels")
    parser.add_argument("--percent", action="store_true", help="show 100 times the metric")
    parser.add_argument("--report", metavar="HTML", help="also write a page with figures and differences")
    chosen = parser.parse_args(arguments)
    try:
        rows = read_rows(chosen.records)
        runs = as_records(rows, chosen.arm_column, chosen.fraction_column, chosen.metric)
        print(reports.format_thesis_table(runs, chosen.metric, as_percent=chosen.percent))
        if chosen.report:
            reports.write_report(runs, chosen.report, metric=chosen.metric)
    except (ValueError, OSError, MemoryError) as error:
        sys.exit(evaluation.error_message(error))
    failed = sum(run["status"] != "ok" for run in runs)
    if failed:
        print(f"\nRuns without a result, left out: {failed}.")


def read_rows(path: str) -> list[dict[str, Any]]:
    table = Path(path).suffix.lower() == ".csv"
    try:
        # Spreadsheets put a byte order mark before the first name.
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file) if table else map(json.loads, filter(str.strip, file)))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table, .csv, or as JSON lines: {error}") from error
    if not all(isinstance(row, dict) and None not in row for row in rows):
        raise ValueError(f"{path} must have a name for each cell: a JSON object a line, or a CSV header.")
    return rows


def as_records(
    rows: list[dict[str, Any]], arm_column: str, fraction_column: str, metric: str
) -> list[dict[str, Any]]:
    """Give rows the names of records; a run without a result counts as failed."""
    if not rows:
        raise ValueError("There are no runs in the file.")
    for column in (arm_column, fraction_column, metric):
        if not all(column in row for row in rows):
            raise ValueError(f"There is no column {column!r} for every run. Columns: {', '.join(rows[0])}.")
    fractions = parse_fractions([str(row[fraction_column]) for row in rows])
    records = []
    for row, fraction in zip(rows, fractions, strict=True):
        lost = row[metric] in ("", None)
        if not lost and not _is_number(row[metric]):
            raise ValueError(f"Column {metric!r} must hold numbers. Received {row[metric]!r}.")
        record = {**row, "arm": row[arm_column], "fraction": fraction}
        record["labels"] = row.get("labels") or "nan"
        record["status"] = "failed" if lost else row.get("status") or "ok"
        records.append(record)
    return records


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def parse_fractions(texts: list[str]) -> list[float]:
    """Read fractions of labels; the rule stands above.

    >>> parse_fractions(["5%", "50 %"]), parse_fractions(["5", "100"]), parse_fractions(["0.05", "1"])
    ([0.05, 0.5], [0.05, 1.0], [0.05, 1.0])
    """
    numbers = []
    for text in texts:
        try:
            numbers.append(float(text.strip().removesuffix("%")))
        except ValueError:
            raise ValueError(f"A fraction must be written 5%, 5 or 0.05. Received {text!r}.") from None
    signed = [text.strip().endswith("%") for text in texts]
    bare = [number for number, sign in zip(numbers, signed, strict=True) if not sign]
    in_percent = any(number > 1 for number in bare)
    fractions = [
        number / 100 if sign or in_percent else number for number, sign in zip(numbers, signed, strict=True)
    ]
    if not all(0 < fraction <= 1 for fraction in fractions):
        raise ValueError(
            f"Fractions must lie in (0, 1], or in (0, 100] per cent. Received {sorted(set(texts))}."
        )
    return fractions


if __name__ == "__main__":
    main()
