"""The report of a study: one HTML file that needs neither network nor scripts."""

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_ssl._files import write_aside
from keras_ssl.evaluation.records import sort_records
from keras_ssl.reports.canvas import metric_name
from keras_ssl.reports.finding import finding
from keras_ssl.reports.markup import STYLE, html_pairs
from keras_ssl.reports.sections import (
    all_runs,
    convergence,
    differences,
    grades_section,
    label_efficiency_section,
    labels_saved_section,
    other_figures,
    pretext_section,
    thesis_section,
    versions,
    warnings_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(
    records: Iterable[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    metric: str = "qw_kappa",
    title: str = "How many labels does pretraining save?",
    grade_names: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    pretext_histories: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    figures: "Mapping[str, Figure] | None" = None,
) -> Path:
    """Write the report of a study: what was found, in words first, then every number behind it.

    One HTML file that opens from disk, for screens in light and dark, for paper and for screen readers.
    A part whose numbers the records do not hold (a CSV file has no curves and no predictions) is left out.

    Args:
        records: one mapping a run, see `keras_ssl.evaluation.read_records`.
        path: the file; written aside, then put in its place.
        metric: what arms are compared by.
        title: of the page.
        grade_names: one name per grade; numbers by default.
        settings: what decided the results, by name.
        provenance: where the images come from, by name: counts, copies found, licence.
        pretext_histories: by task or fold, `History.history` of the pretraining.
        figures: further figures by caption, such as a map of features or graded examples.

    Returns:
        The path written.

    Raises:
        ValueError: there are no records of runs that ended well.

    >>> import tempfile
    >>> runs = [
    ...     {"arm": arm, "fraction": 0.1, "labels": 20, "repetition": repetition, "qw_kappa": kappa}
    ...     for arm, kappa in (("initialized", 0.6), ("random", 0.5))
    ...     for repetition in range(3)
    ... ]
    >>> write_report(runs, Path(tempfile.mkdtemp()) / "report.html").read_text()[:15]
    '<!DOCTYPE html>'
    """
    runs = sort_records(records)
    sections = [
        thesis_section(runs, metric),
        label_efficiency_section(runs, metric),
        differences(runs, metric),
        labels_saved_section(runs, metric),
        convergence(runs, metric),
        grades_section(runs, grade_names),
        pretext_section(pretext_histories),
        other_figures(figures or {}),
        all_runs(runs, metric),
        _pairs("Settings", settings, "What decided the results", ("setting", "value")),
        _pairs("Where the data come from", provenance, "Data provenance", ("what", "value")),
        versions(runs),
    ]
    # A number and its per cent sign stay on one line.
    first, *rest = (escape(line).replace(" %", "&nbsp;%") for line in finding(runs, metric).splitlines())
    points = "".join(f"<li>{line}</li>\n" for line in rest)
    lead = f'<p class="lead">{first}</p>\n' + (f"<ul>\n{points}</ul>\n" if points else "")
    body = (
        f"<h1>{escape(title)}</h1>\n{warnings_of(runs)}"
        f"<p>Judged by {escape(metric_name(metric))} on test images. Intervals are of 95&nbsp;%.</p>\n"
        f"<h2>What was found</h2>\n{lead}{''.join(sections)}"
    )
    page = _PAGE.format(title=escape(title), style=STYLE, body=body)
    write_aside(Path(path), lambda aside: aside.write_text(page, encoding="utf-8"))
    return Path(path)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""


def _pairs(heading: str, pairs: Mapping[str, Any] | None, caption: str, names: tuple[str, str]) -> str:
    return f"<h2>{heading}</h2>\n{html_pairs(pairs, caption, names)}" if pairs else ""
