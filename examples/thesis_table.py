"""Print a table of min, mean and max of each arm on each fraction of the labels, from a file of runs.

    python thesis_table.py dr_output/records.csv
    python thesis_table.py results.csv --arm-column method --fraction-column part --metric accuracy --percent
    python thesis_table.py dr_output/records.jsonl --report report.html

The file is a CSV file with a header, or JSON Lines; one row is one run. Fractions may be written 5%, 5 or
0.05. Numbers without a percent sign are all percentages if one of them is above 1, otherwise all fractions,
so that a lone 1 means all labels.
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_ssl import reports
from keras_ssl.evaluation.command_line import error_message
from keras_ssl.reports.html_page import write_report


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("records", help="file of runs, .csv or .jsonl")
    parser.add_argument("--metric", default="qw_kappa", help="column of the metric (default: qw_kappa)")
    parser.add_argument("--arm-column", default="arm", help="column of the arm (default: arm)")
    parser.add_argument(
        "--fraction-column",
        default="fraction",
        help="column of the fraction of the labels (default: fraction)",
    )
    parser.add_argument("--percent", action="store_true", help="show percentages")
    parser.add_argument("--report", metavar="HTML", help="also write an HTML report")
    chosen = parser.parse_args(arguments)
    try:
        rows = read_rows(chosen.records)
        runs = as_records(rows, chosen.arm_column, chosen.fraction_column, chosen.metric)
        print(reports.format_thesis_table(runs, chosen.metric, as_percent=chosen.percent))
        if chosen.report:
            write_report(runs, chosen.report, metric=chosen.metric)
    except (ValueError, OSError, MemoryError) as error:
        sys.exit(error_message(error))
    failed = sum(run["status"] != "ok" for run in runs)
    if failed:
        print(f"\nRuns without a result, not included: {failed}.")


def read_rows(path: str) -> list[dict[str, Any]]:
    table = Path(path).suffix.lower() == ".csv"
    try:
        # Spreadsheets write a byte order mark at the start.
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file) if table else map(json.loads, filter(str.strip, file)))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV or JSON Lines: {error}") from error
    if not all(isinstance(row, dict) and None not in row for row in rows):
        raise ValueError(f"{path} must name every value: by a CSV header, or by one JSON object per line.")
    return rows


def as_records(
    rows: list[dict[str, Any]], arm_column: str, fraction_column: str, metric: str
) -> list[dict[str, Any]]:
    """Convert rows to records; a run without a result counts as failed."""
    if not rows:
        raise ValueError("The file contains no runs.")
    for column in (arm_column, fraction_column, metric):
        if not all(column in row for row in rows):
            raise ValueError(
                f"Every run must have a column {column!r}. Received columns {', '.join(rows[0])}."
            )
    fractions = parse_fractions([str(row[fraction_column]) for row in rows])
    records = []
    for row, fraction in zip(rows, fractions, strict=True):
        missing = row[metric] in ("", None)
        if not missing and not _is_number(row[metric]):
            raise ValueError(f"Column {metric!r} must hold numbers. Received {row[metric]!r}.")
        record = {**row, "arm": row[arm_column], "fraction": fraction}
        record["labels"] = row.get("labels") or "nan"
        record["status"] = "failed" if missing else row.get("status") or "ok"
        records.append(record)
    return records


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def parse_fractions(texts: list[str]) -> list[float]:
    """Parse fractions of the labels, see the rule above.

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
            f"Fractions must lie in (0, 1], or in (0, 100] percent. Received {sorted(set(texts))}."
        )
    return fractions


if __name__ == "__main__":
    main()
