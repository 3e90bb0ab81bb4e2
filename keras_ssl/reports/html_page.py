"""HTML report of a study."""

import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np

from keras_ssl._atomic import atomic_write
from keras_ssl._types import Record
from keras_ssl.evaluation.records import arm_label, completed, sort_records, starting_arms
from keras_ssl.evaluation.statistics import kappa_intervals, still_rising, summarize
from keras_ssl.reports.confusion_matrices import confusions, plot_confusion, plot_recall, recall_of
from keras_ssl.reports.figures import (
    metric_name,
    percent,
    plot_convergence,
    plot_history,
    plot_label_efficiency,
)
from keras_ssl.reports.summary import gains_of_pretraining, summary_text
from keras_ssl.reports.tables import (
    Table,
    arms_pretrained_on,
    differences_table,
    gains_table,
    labels_saved_table,
    plain_columns,
    summary_table,
    thesis_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Values by name, such as the configuration of a study.
_Values = Mapping[str, object]

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_VERSIONS = ("keras_ssl", "keras", "backend", "backend_version", "numpy", "python")


def write_report(
    records: Iterable[Record],
    path: str | os.PathLike[str],
    *,
    metric: str = "qw_kappa",
    title: str = "Label efficiency of pretraining",
    grade_names: Sequence[str] | None = None,
    configuration: _Values | None = None,
    provenance: _Values | None = None,
    pretext_histories: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    figures: "Mapping[str, Figure] | None" = None,
) -> Path:
    """Write the report of a study: a summary in words, then all figures and numbers.

    A single HTML file without external resources, for screens in light and dark mode, print and screen
    readers. Sections whose values the records lack (a CSV file has no curves and predictions) are left out.

    Args:
        records: one dictionary per run, see `keras_ssl.evaluation.read_records`.
        path: path of the file, written atomically.
        metric: metric to compare arms by.
        title: title of the page.
        grade_names: name of each grade; numbers by default.
        configuration: configuration of the study, by name.
        provenance: origin of the images, by name: counts, copies found, license.
        pretext_histories: `History.history` of pretraining, by task or fold.
        figures: further figures by caption, such as an embedding or graded images.

    Returns:
        The path.

    Raises:
        ValueError: no run completed.

    >>> import tempfile
    >>> runs = [
    ...     {"arm": arm, "fraction": 0.1, "labels": 20, "repetition": repetition, "qw_kappa": kappa}
    ...     for arm, kappa in (("initialized", 0.6), ("random", 0.5))
    ...     for repetition in range(3)
    ... ]
    >>> write_report(runs, Path(tempfile.mkdtemp()) / "report.html").read_text()[:15]
    '<!DOCTYPE html>'
    """
    import jinja2

    runs = sort_records(records)
    sections = {
        "Results by fraction of the labels": _thesis_section(runs, metric),
        "Label efficiency": _label_efficiency_section(runs, metric),
        "Paired differences": _differences_section(runs, metric),
        "Labels saved": _labels_saved_section(runs, metric),
        "Convergence": _convergence_section(runs, metric),
        "Results per grade": _grades_section(runs, grade_names),
        "Pretraining": _pretext_section(pretext_histories or {}),
        "Further figures": [
            _figure(figure, f"other{number}", caption, caption)
            for number, (caption, figure) in enumerate((figures or {}).items())
        ],
        "All runs": [_all_runs(runs, metric)],
        "Configuration": _value_table(configuration, "Configuration of the study"),
        "Data": _value_table(provenance, "Origin and counts of the images"),
        "Software versions": _value_table(_versions(runs), "Software that the runs were made with"),
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_ssl.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    page = environment.get_template("report.html.jinja").render(
        title=title,
        metric=metric_name(metric),
        notes=_pretraining_notes(runs),
        summary=summary_text(runs, metric).splitlines(),
        sections=sections.items(),
    )
    atomic_write(Path(path), lambda aside: aside.write_text(page, encoding="utf-8"))
    return Path(path)


def report_study(
    records: Iterable[Record],
    folder: str | os.PathLike[str],
    *,
    metric: str = "qw_kappa",
    title: str = "Label efficiency of pretraining",
    grade_names: Sequence[str] | None = None,
    provenance: _Values | None = None,
    figures: "Mapping[str, Figure] | None" = None,
) -> Path:
    """Write `report.html` into the folder of a study, with its main figures as PNG files.

    These are `label_efficiency.png` and, if records hold the values, `convergence.png` and `confusion.png`.
    The configuration, the counts of the data and the curves of pretraining are read from the folder.

    Args:
        records: records of the study, as from `keras_ssl.evaluation.label_efficiency`.
        folder: the `output_dir` of the study.
        metric: metric to compare arms by.
        title: title of the page.
        grade_names: name of each grade or class; numbers by default.
        provenance: origin of the images, by name; shown before the counts in the folder, which it overrides.
        figures: further figures by caption.

    Returns:
        The path of the page.

    Raises:
        ValueError: no run completed.
        OSError: the folder holds no study.
    """
    records, folder, first = list(records), Path(folder), dict(provenance or {})
    study = json.loads((folder / "study.json").read_text())
    page = write_report(
        records,
        folder / "report.html",
        metric=metric,
        title=title,
        grade_names=grade_names,
        configuration=study["configuration"],
        provenance={**first, **study["data"], **first},
        pretext_histories=pretext_histories(folder),
        figures=figures,
    )
    pngs = {"label_efficiency.png": plot_label_efficiency(records, metric)}
    curves = _available_curves(records, metric)
    if curves:
        pngs["convergence.png"] = plot_convergence(records, curves[0])
    if grade_names is not None and any(record.get("test_predictions") for record in records):
        matrices = confusions(records, num_grades=len(grade_names))
        pngs["confusion.png"] = plot_confusion(matrices, grade_names)
    for name, figure in pngs.items():
        # The suffix decides the format; the temporary file has the same.
        atomic_write(folder / name, figure.savefig)
    return page


def pretext_histories(folder: str | os.PathLike[str]) -> dict[str, dict[str, list[float]]]:
    """Read the curves of all pretrainings of a study, by the name of the encoder.

    Args:
        folder: the `output_dir` of the study.

    Returns:
        By name, such as `"rotation-r0-f1"`, the values of each quantity by epoch; empty if nothing was
        pretrained.

    >>> pretext_histories("nowhere")
    {}
    """
    files = sorted((Path(folder) / "encoders").glob("*.json"))
    return {file.stem: json.loads(file.read_text())["history"] for file in files}


class _Part(NamedTuple):
    """Paragraph, note, table or figure of a section; `text` is the caption of tables and figures."""

    text: str
    kind: Literal["paragraph", "note", "warning", "numbers", "words", "figure"] = "paragraph"
    table: Table | None = None
    svg: str = ""


def _numbers(table: Table, caption: str) -> _Part:
    return _Part(caption, "numbers", table)


def _figure(figure: "Figure", prefix: str, description: str, caption: str) -> _Part:
    return _Part(caption, "figure", svg=_inline_svg(figure, prefix, description))


def _value_table(values: _Values | None, caption: str) -> list[_Part]:
    rows = tuple((name, _as_text(value)) for name, value in (values or {}).items())
    return [_Part(caption, "words", Table(plain_columns("name", "value"), rows))] if rows else []


def _as_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_as_text(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple, set)):
        return ", ".join(_as_text(part) for part in value)
    return "" if value is None else str(value)


def _pretraining_notes(runs: list[Record]) -> list[_Part]:
    """Warn of arms whose pretraining included test images, or may have."""
    notes = []
    if arms := arms_pretrained_on(runs, "all"):
        text = (
            f"Test images were used in pretraining. Pretrained on all images, including test images: {arms}. "
            "Such results apply if the test images are available beforehand, and less to future images."
        )
        notes.append(_Part(text, "warning"))
    if arms := arms_pretrained_on(runs, "given"):
        text = f"Pretrained elsewhere: {arms}. Whether test images were used in this pretraining is unknown."
        notes.append(_Part(text, "note"))
    return notes


def _thesis_section(runs: list[Record], metric: str) -> list[_Part]:
    caption = f"{metric_name(metric)} on test images: worst, mean and best run of each arm"
    return [_numbers(thesis_table(runs, metric), caption)]


def _label_efficiency_section(runs: list[Record], metric: str) -> list[_Part]:
    """Return the figure of label efficiency, its numbers, and intervals of kappa over test images."""
    rows = summarize(runs, metric)
    means = [
        f"at {percent(fraction)} of the labels "
        + "; ".join(f"{arm_label(row['arm'])} {row['mean']:.3f}" for row in group)
        for fraction, group in itertools.groupby(rows, key=lambda row: row["fraction"])
    ]
    description = f"Mean {metric_name(metric)} on test images: {'. '.join(means)}."
    caption = "Lines: means of the runs. Bands: range of the runs, which is not a confidence interval."
    parts = [_figure(plot_label_efficiency(runs, metric), "efficiency", description, caption)]
    if any(float(row["labels"]) >= 0 for row in rows):
        parts.append(_numbers(summary_table(runs, metric), f"Runs of each arm, {metric_name(metric)}"))
    has_predictions = all(run.get("test_rows") and run.get("test_grades") for run in completed(runs))
    if metric == "qw_kappa" and has_predictions:
        caption = (
            "Mean kappa of these runs with 95 % bootstrap intervals over test images; none for fewer than 30 "
            "images or patients"
        )
        parts.append(_numbers(_kappa_table(runs), caption))
    return parts


def _kappa_table(runs: list[Record]) -> Table:
    rows = (
        (
            percent(row["fraction"]),
            arm_label(row["arm"]),
            str(row["images"]),
            *("" if row[name] is None else f"{row[name]:.3f}" for name in ("mean", "low", "high")),
        )
        for row in kappa_intervals(runs)
    )
    return Table(plain_columns("labels", "arm", "images", "mean", "from", "to"), tuple(rows))


def _differences_section(runs: list[Record], metric: str) -> list[_Part]:
    text = (
        "Runs of the same repetition and fold share the split, the labeled images and the seed, and are "
        "compared in pairs. Gains above 0 are better than training from scratch. A difference is significant "
        "if its interval excludes 0; without true differences, 1 of 20 intervals excludes 0 by chance. "
        "With several folds, intervals are wider, since the training images of folds overlap."
    )
    caption = f"Gain over training from scratch in {metric_name(metric)}, 95 % intervals"
    parts = _comparison(text, lambda: differences_table(runs, metric), caption)
    if any(arm != start for arm, start in starting_arms(runs).items()):
        text = "Pretraining that continued from given weights, compared with these weights alone:"
        caption = f"Gain over the same weights without pretraining in {metric_name(metric)}, 95 % intervals"
        parts += _comparison(text, lambda: gains_table(gains_of_pretraining(runs, metric)), caption)
    return parts


def _labels_saved_section(runs: list[Record], metric: str) -> list[_Part]:
    used = max(row["validation_labels"] or 0 for row in summarize(runs, metric))
    text = (
        "The fraction of the labels at which training from scratch reaches each arm: where its monotonic "
        "(isotonic) mean curve does, interpolated between the measured fractions and never beyond them. Not "
        "reached: not even with the largest fraction. The ends of an interval are measured fractions, since "
        "the curve between them is unknown."
        + (f" Not counted: up to {used:.0f} validation labels that runs used." if used else "")
    )
    caption = "Labels needed by training from scratch, 95 % intervals"
    return _comparison(text, lambda: labels_saved_table(runs, metric), caption)


def _comparison(text: str, make_table: Callable[[], Table], caption: str) -> list[_Part]:
    """Return a comparison, or the reason why these records do not allow it."""
    try:
        return [_Part(text), _numbers(make_table(), caption)]
    except ValueError as error:
        return [_Part(f"Not available from these records: {error}")]


def _convergence_section(runs: list[Record], metric: str) -> list[_Part]:
    """Return validation curves and a note on the arms that were still rising."""
    curves = _available_curves(runs, metric)
    if not curves:
        return []
    rows = still_rising(runs, f"curve_{curves[0]}")
    rising = [
        f"{arm_label(row['arm'])} at {percent(row['fraction'])} ({row['gain']:+.3f})"
        for row in rows
        if row["rising"]
    ]
    if rising:
        note = (
            f"Still rising when training ended, by {metric_name(curves[0])}: {'; '.join(rising)}. These runs "
            "were stopped too early to be compared; train longer."
        )
    elif rows:
        note = (
            "No arm was still rising when training ended. A learning rate that decays to 0 flattens the end "
            "of a curve by itself."
        )
    else:
        note = "Whether an arm was still rising is unknown: this requires four validations or more."
    parts = [_Part(note, "note")]
    for number, name in enumerate(curves):
        caption = f"{metric_name(name)} on validation images during training, by fraction of the labels"
        description = (
            f"{metric_name(name)} against optimizer steps, a panel per fraction of the labels. {note}"
        )
        parts.append(_figure(plot_convergence(runs, name), f"curve{number}", description, caption))
    return parts


def _available_curves(runs: list[Record], metric: str) -> list[str]:
    """Return those of the metric, kappa and accuracy of which records hold curves, in this order."""
    held = {name for run in completed(runs) for name in run if name.startswith("curve_") and run[name]}
    names = dict.fromkeys((metric, "qw_kappa", "accuracy"))
    return [name for name in names if {f"curve_{name}", "curve_steps"} <= held]


def _grades_section(runs: list[Record], grade_names: Sequence[str] | None) -> list[_Part]:
    """Return confusion matrices and recall per grade."""
    if not any(run.get("test_grades") and run.get("test_predictions") for run in completed(runs)):
        return []
    matrices = confusions(runs, num_grades=None if grade_names is None else len(grade_names))
    size = len(next(iter(matrices.values())))
    names = [str(grade) for grade in range(size)] if grade_names is None else list(grade_names)
    accuracies = [
        f"{title}: {counts.trace() / counts.sum():.0%} correct" for title, counts in matrices.items()
    ]
    lowest = []
    for title, counts in matrices.items():
        recall = recall_of(counts)
        worst = int(np.nanargmin(recall))
        lowest.append(f"{title}: lowest for {names[worst]} ({recall[worst]:.0%})")
    return [
        _figure(
            plot_confusion(matrices, names),
            "confusion",
            f"Confusion matrices. {'; '.join(accuracies)}.",
            "Confusion matrices: rows are true grades, columns predicted grades; counts over all runs, "
            "colored by fraction of the row.",
        ),
        _figure(
            plot_recall(runs, names),
            "recall",
            f"Recall per grade. {'; '.join(lowest)}.",
            "Recall per grade: mean and range of the runs.",
        ),
    ]


def _pretext_section(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> list[_Part]:
    # A recipe that is a function may return other curves, or none.
    if not any(history.get(name) for history in histories.values() for name in ("loss", "accuracy")):
        return []
    ends = [
        f"{title}: loss from {history['loss'][0]:.3f} to {history['loss'][-1]:.3f}"
        for title, history in histories.items()
        if history.get("loss")
    ]
    description = f"Curves of pretraining against epochs. {'; '.join(ends)}."
    caption = "Curves of pretraining. A low loss of the pretext task is no evidence of good features."
    return [_figure(plot_history(histories), "pretext", description, caption)]


def _all_runs(runs: list[Record], metric: str) -> _Part:
    """Return a table of all runs, including failed ones, with all plain values of the records."""
    present = dict.fromkeys(name for run in runs for name in run)
    first = ("arm", "task", "fraction", "repetition", "fold", "status", metric)
    names = [name for name in dict.fromkeys((*first, *present)) if name in present and name not in _VERSIONS]
    names = [name for name in names if not any(isinstance(run.get(name), (list, dict)) for run in runs)]
    rows = tuple(
        tuple(_scalar(arm_label(run[name]) if name == "arm" else run.get(name)) for name in names)
        for run in runs
    )
    failed = len(runs) - len(completed(runs))
    caption = f"All {len(runs)} runs, {failed} of them failed; one row per run"
    return _numbers(Table(plain_columns(*names), rows), caption)


def _scalar(value: object) -> str:
    if value is None or str(value) == "nan":
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _versions(runs: list[Record]) -> dict[str, list[str]]:
    return {
        name: list(dict.fromkeys(str(run[name]) for run in runs if run.get(name)))
        for name in _VERSIONS
        if any(run.get(name) for run in runs)
    }


def _inline_svg(figure: "Figure", prefix: str, description: str) -> str:
    """Render a figure as deterministic `<svg>` text.

    Args:
        figure: any Matplotlib figure. Black, as of text and axes, becomes the text color of the page;
            backgrounds become transparent.
        prefix: prefix of all ids, of letters and digits, so that ids are unique within the page.
        description: alternative text.
    """
    from matplotlib import rc_context

    file = io.BytesIO()
    # Text stays text: small and searchable. The salt makes ids deterministic.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # The style element would apply to the whole page; its rules are set on the root below.
            if child.tag in {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}:
                parent.remove(child)
    _rename_ids(root, prefix)
    _use_page_colors(root)
    width = float(root.attrib["viewBox"].split()[2])
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {
        "role": "img",
        "aria-label": description,
        "fill": "currentColor",
        # At most one point per CSS point; below four fifths of a pixel per point, text is illegible.
        "style": f"max-width: {width * 4 / 3:.0f}px; min-width: {width * 0.8:.0f}px; "
        "stroke-linejoin: round; stroke-linecap: butt",
    }
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _rename_ids(root: ElementTree.Element, prefix: str) -> None:
    """Prefix ids that are referred to, and remove the others."""
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
        identifier = element.attrib.pop("id", None)
        if identifier in used:
            element.attrib["id"] = f"{prefix}-{identifier}"


def _use_page_colors(root: ElementTree.Element) -> None:
    for element in root.iter():
        for name in ("style", "stroke", "fill"):
            if name in element.attrib:
                element.attrib[name] = re.sub(r"#000000\b", "currentColor", element.attrib[name])
