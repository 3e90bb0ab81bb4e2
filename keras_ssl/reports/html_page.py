"""HTML report of a study."""

import io
import re
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from keras_ssl.reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
import itertools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_ssl._atomic import atomic_write
from keras_ssl.evaluation.records import completed, line_names, sort_records
from keras_ssl.evaluation.statistics import kappa_intervals, still_rising, summarize
from keras_ssl.reports.confusion_matrices import confusions, plot_confusion, plot_recall, recall_of
from keras_ssl.reports.figures import (
    metric_name,
    percent,
    plot_convergence,
    plot_history,
    plot_label_efficiency,
)
from keras_ssl.reports.summary import finding
from keras_ssl.reports.tables import (
    differences_table,
    labels_saved_table,
    plain_columns,
    summary_table,
    thesis_table,
)

_SVG = "http://www.w3.org/2000/svg"


_LINK = "{http://www.w3.org/1999/xlink}href"


STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1b1f24; --soft: #57606a; --rule: #d0d7de;
  --stripe: #f6f8fa; --link: #0550ae; --alarm: #9a1c00; --alarm-ground: #fff4f0; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --ink: #e6e8ea; --soft: #a5adb5;
  --rule: #3a4148; --stripe: #1d2125; --link: #79b8ff; --alarm: #ffab91; --alarm-ground: #33190f; } }
@media print { :root { color-scheme: light; --ground: #ffffff; --ink: #000000; --soft: #333333;
  --rule: #999999; --stripe: #ffffff; --alarm: #000000; --alarm-ground: #ffffff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { line-height: 1.2; margin: 0 0 1rem; }
h2 { margin: 2.5rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--rule); }
p, li { max-width: 45rem; overflow-wrap: anywhere; }
.lead { font-size: 1.1rem; }
.warning, .note { border: 1px solid var(--rule); border-left: .4rem solid var(--soft); padding: .6rem 1rem;
  margin: 1rem 0; background: var(--stripe); }
.warning { border-color: var(--alarm); background: var(--alarm-ground); }
.warning p, .note p { margin: 0; }
.warning strong { color: var(--alarm); }
.wide { overflow-x: auto; }
.wide:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
caption { text-align: left; color: var(--soft); padding: .3rem 0; }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 3rem); }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
thead th { vertical-align: bottom; }
thead th[colspan] { text-align: center; }
tbody tr:nth-child(even) { background: var(--stripe); }
tbody th { text-align: left; font-weight: 600; }
.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
.words thead th { text-align: left; }
figure { margin: 1rem 0; }
figcaption { color: var(--soft); font-size: .95rem; max-width: 45rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; color: var(--ink); }
@media print { main { max-width: none; padding: 0; } .wide { overflow: visible; }
  svg { min-width: 0 !important; } table { font-size: 7pt; } th, td { padding: .1rem .25rem; }
  figure, tr, .warning { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def html_table(table: Table, caption: str, words: bool = False) -> str:
    """Write a table with its caption; the first column names the rows.

    Args:
        table: cells as text from anywhere, which is escaped.
        caption: what the table shows.
        words: whether cells hold words, which may wrap, rather than numbers.
    """
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>\n"
        for first, *rest in table.rows
    )
    kind = ' class="words"' if words else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">\n<table{kind}>'
        f"<caption><span>{escape(caption)}</span></caption>\n<thead>{_heading(table)}</thead>\n"
        f"<tbody>\n{rows}</tbody></table>\n</div>\n"
    )


def _heading(table: Table) -> str:
    names = "".join(
        f'<th scope="col">{escape(name)}</th>'
        for group, name in table.columns
        if group or not _grouped(table)
    )
    if not _grouped(table):
        return f"<tr>{names}</tr>"
    above: list[list[Any]] = []
    for group, name in table.columns:
        if group and above and above[-1][0] == group:
            above[-1][1] += 1
        else:
            above.append([group, 1, name])
    groups = "".join(
        f'<th scope="colgroup" colspan="{count}">{escape(group)}</th>'
        if group
        else f'<th scope="col" rowspan="2">{escape(name)}</th>'
        for group, count, name in above
    )
    return f"<tr>{groups}</tr><tr>{names}</tr>"


def _grouped(table: Table) -> bool:
    return any(group for group, _ in table.columns)


def html_pairs(pairs: Mapping[str, Any], caption: str, names: tuple[str, str]) -> str:
    """Write names and values as a table of two columns."""
    rows = tuple((str(name), _words(value)) for name, value in pairs.items())
    return html_table(Table((("", names[0]), ("", names[1])), rows), caption, words=True)


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_words(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple, set)):
        return ", ".join(_words(part) for part in value)
    return "" if value is None else str(value)


def html_figure(figure: "Figure", prefix: str, says: str, caption: str) -> str:
    """Write a figure with its caption.

    Args:
        figure: any Matplotlib figure. What is black in it, such as its text and axes, takes the color of
            the page's text; grounds become transparent.
        prefix: put before every id in it, so that figures of one page do not mix; letters and digits.
        says: what the figure shows, in words, for those who do not see it.
        caption: shown below.
    """
    return (
        f'<figure>\n<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"{inline_svg(figure, prefix, says)}</div>\n<figcaption>{escape(caption)}</figcaption>\n</figure>\n"
    )


def inline_svg(figure: "Figure", prefix: str, says: str) -> str:
    """Draw a figure as `<svg>`; arguments as `html_figure`. The same figure gives the same text."""
    from matplotlib import rc_context

    file = io.BytesIO()
    # Text as text: small, searchable, and the salt keeps ids the same from run to run.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # Its style element would apply to the whole page; what it says stands on the root below.
            if child.tag in {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}:
                parent.remove(child)
    _rename_ids(root, prefix)
    _take_colors_of_page(root)
    width = float(root.attrib["viewBox"].split()[2])
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {
        "role": "img",
        "aria-label": says,
        "fill": "currentColor",
        # Points to pixels at most; below four fifths of a pixel for a point, text could not be read.
        "style": f"max-width: {width * 4 / 3:.0f}px; min-width: {width * 0.8:.0f}px; "
        "stroke-linejoin: round; stroke-linecap: butt",
    }
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _rename_ids(root: ElementTree.Element, prefix: str) -> None:
    """Put `prefix` before ids that something refers to, and drop the others."""
    used = set()
    for element in root.iter():
        if _LINK in element.attrib:
            link = element.attrib.pop(_LINK)
            element.attrib["href"] = f"#{prefix}-{link[1:]}" if link.startswith("#") else link
            used.add(link.removeprefix("#"))
        for name, value in element.attrib.items():
            used.update(re.findall(r"url\(#([^)]+)\)", value))
            element.attrib[name] = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", value)
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.attrib["id"] = f"{prefix}-{own}"


def _take_colors_of_page(root: ElementTree.Element) -> None:
    for element in root.iter():
        for name in ("style", "stroke", "fill"):
            if name in element.attrib:
                element.attrib[name] = re.sub(r"#000000\b", "currentColor", element.attrib[name])


_Runs = Sequence[Mapping[str, Any]]


_VERSIONS = ("keras_ssl", "keras", "backend", "backend_version", "numpy", "python")


def warnings_of(runs: _Runs) -> str:
    """Say which arms saw test images in pretraining, and of which that is not known."""
    by_source: dict[str, dict[str, None]] = {}
    for run, name in zip(runs, line_names(runs), strict=True):
        by_source.setdefault(str(run.get("pretrained_on")), {})[name] = None
    text = ""
    if "all" in by_source:
        text += (
            '<div class="warning" role="note"><p><strong>Test images were seen in pretraining.</strong> '
            f"Pretrained on all images, those of the test among them: {escape(', '.join(by_source['all']))}. "
            "Such results hold where test images are at hand beforehand, and say less about images that come "
            "later.</p></div>\n"
        )
    if "given" in by_source:
        text += (
            f'<div class="note" role="note"><p>{escape(", ".join(by_source["given"]))} came pretrained from '
            "elsewhere: whether it has seen test images is not known here.</p></div>\n"
        )
    return text


def thesis_section(runs: _Runs, metric: str) -> str:
    """The table in the thesis' form."""
    caption = f"{metric_name(metric)} on test images: worst, mean and best run of each arm"
    return "<h2>Results by share of labels</h2>\n" + html_table(thesis_table(runs, metric), caption)


def label_efficiency_section(runs: _Runs, metric: str) -> str:
    """The figure of label efficiency, its numbers, and the intervals of kappa over test images."""
    rows = summarize(runs, metric)
    said = [
        f"at {percent(fraction)} of the labels "
        + ", ".join(f"{row['arm']} {row['mean']:.3f}" for row in cell)
        for fraction, cell in itertools.groupby(rows, key=lambda row: row["fraction"])
    ]
    says = f"Mean {metric_name(metric)} on test images: {'; '.join(said)}."
    caption = "Lines: means of runs. Bands: from the worst to the best run, which is no confidence interval."
    text = "<h2>Label efficiency</h2>\n" + html_figure(
        plot_label_efficiency(runs, metric), "efficiency", says, caption
    )
    if any(float(row["labels"]) >= 0 for row in rows):
        text += html_table(summary_table(runs, metric), f"Runs of each arm, {metric_name(metric)}")
    if metric == "qw_kappa" and all(
        run.get("test_rows") and run.get("test_grades") for run in completed(runs)
    ):
        cells = tuple(
            (
                percent(row["fraction"]),
                row["arm"],
                str(row["images"]),
                *("" if row[name] is None else f"{row[name]:.3f}" for name in ("mean", "low", "high")),
            )
            for row in kappa_intervals(runs)
        )
        columns = plain_columns("labels", "arm", "images", "mean", "from", "to")
        said_below = (
            "Mean kappa of these runs with 95 % bootstrap intervals over test images; none for fewer than 30 "
            "images or patients"
        )
        text += html_table(Table(columns, cells), said_below)
    return text


def differences(runs: _Runs, metric: str) -> str:
    """Paired differences of each arm to training from scratch."""
    return "<h2>Differences, run by run</h2>\n" + _or_reason(
        lambda: (
            "<p>Runs of one repetition and fold share split, labeled images and seed, and are compared with "
            "each other. Above 0 is better than random. A difference is significant where its interval "
            "excludes 0; of twenty such intervals without any true difference, one does so by chance. Where "
            "there are several folds, intervals are widened, since their training images overlap.</p>\n"
            + html_table(
                differences_table(runs, metric), f"Gain over random in {metric_name(metric)}, 95 % intervals"
            )
        )
    )


def labels_saved_section(runs: _Runs, metric: str) -> str:
    """Labels that training from scratch needs to reach each arm."""
    return "<h2>Labels saved</h2>\n" + _or_reason(
        lambda: (
            "<p>The fraction of the labels with which training from scratch reaches each arm: read off its "
            "monotonic (isotonic) mean curve, in which means that fall are averaged, between the fractions "
            "that were measured and never beyond them. Not reached: not even with the largest fraction. The "
            "ends of an interval are fractions that were measured, since nothing is known of the curve "
            f"between them.{_validation_note(runs, metric)}</p>\n"
            + html_table(labels_saved_table(runs, metric), "Labels that random needs, 95 % intervals")
        )
    )


def _validation_note(runs: _Runs, metric: str) -> str:
    """Labels of validation images that the percentages leave out."""
    used = max(row["validation_labels"] or 0 for row in summarize(runs, metric))
    return f" Not counted: up to {used:.0f} validation labels that runs used." if used else ""


def _or_reason(write: Callable[[], str]) -> str:
    """A comparison, or the reason why these records do not allow it."""
    try:
        return write()
    except ValueError as error:
        return f"<p>Not available from these records: {escape(str(error))}</p>\n"


def convergence(runs: _Runs, metric: str) -> str:
    """Whether training had converged: curves on validation images, and which still rose."""
    shown = curves_held(runs, metric)
    if not shown:
        return ""
    judged = still_rising(runs, f"curve_{shown[0]}")
    rows = [row for row in judged if row["rising"]]
    rising = [f"{row['arm']} at {percent(row['fraction'])} ({row['gain']:+.3f})" for row in rows]
    note = (
        f"Still rising when training ended: {', '.join(rising)}, by {metric_name(shown[0])}. "
        "These runs were stopped too early to be compared; train longer."
        if rising
        else "No arm was still rising when training ended. A learning rate that falls to 0 flattens the end "
        "of a curve by itself."
        if judged
        else "Whether an arm was still rising cannot be told: it takes four validations or more."
    )
    text = f'<h2>Convergence</h2>\n<div class="note" role="note"><p>{escape(note)}</p></div>\n'
    for name in shown:
        caption = f"{metric_name(name)} on validation images while training, by share of labels"
        says = f"Curves of {metric_name(name)} against optimizer steps, a panel per share of labels. {note}"
        text += html_figure(plot_convergence(runs, name), f"curve{shown.index(name)}", says, caption)
    return text


def curves_held(runs: _Runs, metric: str) -> list[str]:
    """List which of the metric, kappa and accuracy there are curves of, in this order."""
    held = {name for run in completed(runs) for name in run if name.startswith("curve_") and run[name]}
    names = dict.fromkeys((metric, "qw_kappa", "accuracy"))
    return [name for name in names if {f"curve_{name}", "curve_steps"} <= held]


def grades_section(runs: _Runs, grade_names: Sequence[str] | None) -> str:
    """Which grades were taken for which, and how much of each was found."""
    if not any(run.get("test_grades") and run.get("test_predictions") for run in completed(runs)):
        return ""
    counted = confusions(runs, num_grades=None if grade_names is None else len(grade_names))
    size = len(next(iter(counted.values())))
    names = [str(grade) for grade in range(size)] if grade_names is None else list(grade_names)
    right = [f"{title}: {counts.trace() / counts.sum():.0%} right" for title, counts in counted.items()]
    missed = [
        f"{title.rsplit(', ', 1)[0]} finds least of {names[worst]} ({recall[worst]:.0%})"
        for title, counts in counted.items()
        if (recall := recall_of(counts)) is not None and (worst := int(np.nanargmin(recall))) >= 0
    ]
    return (
        "<h2>Grade by grade</h2>\n"
        + html_figure(
            plot_confusion(counted, names),
            "confusion",
            f"Which grades were taken for which. {'; '.join(right)}.",
            "Rows are true grades, columns what was given; counts over all runs, shades are shares of a row.",
        )
        + html_figure(
            plot_recall(runs, names),
            "recall",
            f"How much of each grade was found. {'; '.join(missed)}.",
            "How much of each true grade was found: mean of the runs, and their range.",
        )
    )


def pretext_section(histories: Mapping[str, Mapping[str, Sequence[float]]] | None) -> str:
    """The pretext's own curves."""
    if not histories:
        return ""
    ends = [
        f"{title}: loss from {history['loss'][0]:.3f} to {history['loss'][-1]:.3f}"
        for title, history in histories.items()
        if history.get("loss")
    ]
    says = f"Curves of pretraining against epochs. {'; '.join(ends)}."
    caption = "The pretext's own curves. A low loss of the pretext alone is no evidence of good features."
    return "<h2>Pretraining</h2>\n" + html_figure(plot_history(histories), "pretext", says, caption)


def other_figures(figures: "Mapping[str, Figure]") -> str:
    """Further figures, by caption."""
    if not figures:
        return ""
    return "<h2>Further figures</h2>\n" + "".join(
        html_figure(figure, f"other{number}", caption, caption)
        for number, (caption, figure) in enumerate(figures.items())
    )


def all_runs(runs: _Runs, metric: str) -> str:
    """Every run, failed ones too, with every single value of its record."""
    present = dict.fromkeys(name for run in runs for name in run)
    first = ("arm", "task", "fraction", "repetition", "fold", "status", metric)
    names = [name for name in dict.fromkeys((*first, *present)) if name in present and name not in _VERSIONS]
    names = [name for name in names if not any(isinstance(run.get(name), (list, dict)) for run in runs)]
    rows = tuple(tuple(_scalar(run.get(name)) for name in names) for run in runs)
    failed = len(runs) - len(completed(runs))
    caption = f"All {len(runs)} runs, {failed} of them failed; one row a run"
    return "<h2>All runs</h2>\n" + html_table(Table(plain_columns(*names), rows), caption)


def _scalar(value: Any) -> str:
    if value is None or str(value) == "nan":
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def versions(runs: _Runs) -> str:
    """With which software the runs were made."""
    found = {
        name: list(dict.fromkeys(str(run[name]) for run in runs if run.get(name)))
        for name in _VERSIONS
        if any(run.get(name) for run in runs)
    }
    if not found:
        return ""
    return "<h2>Versions</h2>\n" + html_pairs(
        found, "Software that the runs were made with", ("what", "version")
    )


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
        provenance: where the images come from, by name: counts, copies found, license.
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
    atomic_write(Path(path), lambda aside: aside.write_text(page, encoding="utf-8"))
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


def report_study(
    records: Iterable[Mapping[str, Any]],
    folder: str | os.PathLike[str],
    *,
    metric: str = "qw_kappa",
    title: str = "How many labels does pretraining save?",
    grade_names: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    figures: "Mapping[str, Figure] | None" = None,
) -> Path:
    """Write `report.html` into the folder of a study, and its main figures as PNG files beside it.

    These are `label_efficiency.png` and, where records hold what they show, `convergence.png` and
    `confusion.png`. Settings, counts of the data and curves of the pretext are read from the folder.

    Args:
        records: runs of the study, as `keras_ssl.evaluation.label_efficiency` gives them.
        folder: the `output_dir` of the study.
        metric: what arms are compared by.
        title: of the page.
        grade_names: one name per grade or class; numbers by default.
        provenance: where the images come from, by name; stands above what the folder says of them, and in
            place of it under the same name.
        figures: further figures by caption.

    Returns:
        The path of the page.

    Raises:
        ValueError: there are no records of runs that ended well.
        OSError: the folder holds no study.
    """
    records, folder, said = list(records), Path(folder), dict(provenance or {})
    study = json.loads((folder / "study.json").read_text())
    page = write_report(
        records,
        folder / "report.html",
        metric=metric,
        title=title,
        grade_names=grade_names,
        settings=study["settings"],
        provenance={**said, **study["data"], **said},
        pretext_histories=pretext_histories(folder),
        figures=figures,
    )
    drawn = {"label_efficiency.png": plot_label_efficiency(records, metric)}
    curves = curves_held(records, metric)
    if curves:
        drawn["convergence.png"] = plot_convergence(records, curves[0])
    if grade_names is not None and any(record.get("test_predictions") for record in records):
        counted = confusions(records, num_grades=len(grade_names))
        drawn["confusion.png"] = plot_confusion(counted, grade_names)
    for name, figure in drawn.items():
        # The name decides the format, and the file aside bears the same.
        atomic_write(folder / name, figure.savefig)
    return page


def pretext_histories(folder: str | os.PathLike[str]) -> dict[str, dict[str, list[float]]]:
    """Read the curves of every pretraining of a study, by the name of its encoder.

    Args:
        folder: the `output_dir` of the study.

    Returns:
        By name, such as `"rotation-r0-f1"`, the values of each quantity by epoch; empty where nothing was
        pretrained there.

    >>> pretext_histories("nowhere")
    {}
    """
    files = sorted((Path(folder) / "encoders").glob("*.json"))
    return {file.stem: json.loads(file.read_text())["history"] for file in files}
