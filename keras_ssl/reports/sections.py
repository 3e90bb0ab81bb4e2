"""The sections of a report; each gives HTML, or nothing where records do not hold its numbers."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ssl.evaluation.intervals import kappa_intervals
from keras_ssl.evaluation.records import completed, line_names
from keras_ssl.evaluation.statistics import still_rising, summarize
from keras_ssl.reports.canvas import metric_name, percent
from keras_ssl.reports.figures import plot_convergence, plot_history, plot_label_efficiency
from keras_ssl.reports.grades import confusions, plot_confusion, plot_recall, recall_of
from keras_ssl.reports.markup import html_figure, html_pairs, html_table
from keras_ssl.reports.tables import (
    Table,
    differences_table,
    labels_saved_table,
    plain_columns,
    summary_table,
    thesis_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
            "<p>Runs of one repetition and fold share split, labelled images and seed, and are compared with "
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
