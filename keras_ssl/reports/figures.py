"""Figures of curves: label efficiency, convergence, pretraining; and what all figures share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_ssl._types import Record
from keras_ssl.evaluation.records import arm_label, arm_names, completed, sort_records
from keras_ssl.evaluation.statistics import summarize, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, which color-blind people distinguish; markers are for print without color.
_STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
)


# Not pure black, which the HTML page replaces by its text color: this stays dark on light cells.
DARK = "#111111"


_METRIC_NAMES = {
    "qw_kappa": "quadratic weighted kappa",
    "accuracy": "accuracy (fraction of correct grades)",
    "balanced_accuracy": "balanced accuracy (mean recall of the grades)",
    "macro_auc": "area under the ROC curve, mean of the grades",
    "grade_mae": "mean absolute error in grades",
    "referable_sensitivity": "sensitivity for referable disease",
    "referable_specificity": "specificity for referable disease",
    "calibration_error": "calibration error",
    "dice": "Dice, mean of the foreground",
    "jaccard": "Jaccard index, mean of the foreground",
    "loss": "loss",
}


def metric_name(metric: str) -> str:
    """Return the name of a metric for people; the name itself if it is unknown.

    >>> metric_name("accuracy")
    'accuracy (fraction of correct grades)'
    >>> metric_name("mine")
    'mine'
    """
    return _METRIC_NAMES.get(metric, metric)


def percent(fraction: float) -> str:
    """Format a fraction as a percentage.

    >>> percent(0.05)
    '5 %'
    """
    return f"{100 * fraction:g} %"


def plain(text: object) -> str:
    """Make untrusted text safe to plot: without formulas and characters that SVG does not allow."""
    printable = "".join(mark for mark in str(text) if mark.isprintable() or mark == "\n")
    return printable.replace("$", r"\$")


def runs_by_arm(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Group the completed runs by arm, in the order of `sort_records`.

    An arm without completed runs is kept, so that colors mean the same in every figure.

    >>> list(runs_by_arm([{"arm": "random", "fraction": 1.0}, {"arm": "frozen", "fraction": 0.1}]))
    ['frozen', 'random']
    """
    records = list(records)
    named = list(zip(arm_names(records), records, strict=True))
    order = sort_records(
        {"arm": record["arm"], "task": record.get("task", ""), "name": name} for name, record in named
    )
    runs: dict[str, list[Record]] = {row["name"]: [] for row in order}
    for name, record in named:
        runs[name].extend(completed([record]))
    return runs


def style(number: int) -> tuple[str, str]:
    """Return the color and the marker of an arm or class by its number."""
    return _STYLES[number % len(_STYLES)]


def new_figure(
    panels: int, columns: int = 3, size: tuple[float, float] = (5.2, 4.0)
) -> "tuple[Figure, Sequence[Axes]]":
    """Create a figure of panels in rows of `columns`, each of `size` inches.

    The figure is independent of `matplotlib.pyplot`: it needs no closing, and notebooks show it once.
    """
    from matplotlib.figure import Figure

    columns = min(columns, panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained", dpi=120)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes[:panels]:
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes[panels:]:
        panel.remove()
    return figure, axes[:panels]


def displayable(image: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Scale an image for Matplotlib: three channels as RGB, otherwise the first channel in gray.

    Args:
        image: `(rows, columns, channels)`.
        limits: values that become 0 and 1; values beyond are clipped. `None` for the lower of 0 and the
            minimum, and the maximum.

    Returns:
        float32 in [0, 1], `(rows, columns, 3)` or `(rows, columns)`.

    >>> displayable(np.array([[[0.0], [1.0], [4.0]]])).tolist()
    [[0.0, 0.25, 1.0]]
    """
    image = image.astype("float32")
    image = image if image.shape[-1] == 3 else image[..., 0]
    low, high = (min(0.0, float(image.min())), float(image.max())) if limits is None else limits
    return np.clip((image - low) / max(high - low, 1e-6), 0.0, 1.0)


def legend(figure: "Figure", axes: "Axes", title: str | None = None) -> None:
    """Place the legend of `axes` below the panels, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    # Three columns of short names fit the narrowest figure, or one column of long names.
    columns = max(1, min(len(labels), 3, int(72 / (6 + max(map(len, labels), default=0)))))
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=columns, frameon=False)


def plot_label_efficiency(
    records: Iterable[Record], metric: str = "qw_kappa", label: str | None = None
) -> "Figure":
    """Plot a metric against the percentage of labels: mean of each arm, band from worst to best run.

    Args:
        records: records as in `summarize`; every completed run is also plotted as a dot.
        metric: the metric.
        label: label of the axis; by default, the name of the metric.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: no run completed.

    >>> runs = [{"arm": "random", "fraction": value, "labels": 9, "qw_kappa": value} for value in (0.1, 1.0)]
    >>> plot_label_efficiency(runs).axes[0].lines[0].get_xydata().tolist()
    [[10.0, 0.1], [100.0, 1.0]]
    """
    records = list(records)
    rows = summarize(records, metric)
    figure, (axes,) = new_figure(1, size=(6.4, 4.8))
    for number, (name, runs) in enumerate(runs_by_arm(records).items()):
        if not runs:
            continue
        color, marker = style(number)
        own = [row for row in rows if row["arm"] == name]
        percentages = [100 * row["fraction"] for row in own]
        label_of_arm = plain(arm_label(name))
        axes.plot(percentages, [row["mean"] for row in own], marker=marker, color=color, label=label_of_arm)
        low, high = ([row[end] for row in own] for end in ("min", "max"))
        axes.fill_between(percentages, low, high, color=color, alpha=0.15, lw=0)
        spots = [100 * float(run["fraction"]) for run in runs]
        axes.scatter(spots, [value_of(run, metric) for run in runs], s=12, color=color, alpha=0.5)
    _percentage_axis(axes, sorted({100 * row["fraction"] for row in rows}))
    validation = max(row["validation_labels"] or 0 for row in rows)
    plus = f", plus {validation:.0f} validation labels" if validation else ""
    axes.set(
        xlabel=f"training labels used (%){plus}", ylabel=f"{plain(label or metric_name(metric))}, test images"
    )
    legend(figure, axes, "mean and range of the runs")
    return figure


def plot_convergence(
    records: Iterable[Record], metric: str = "qw_kappa", label: str | None = None
) -> "Figure":
    """Plot a metric on the validation set against optimizer steps, to see whether training converged.

    One panel per fraction of the labels; thick lines are means of the runs of an arm, thin lines single
    runs. Runs validated at different steps are interpolated for the mean.

    Args:
        records: records with `curve_steps` and `curve_<metric>`, as in `records.jsonl`; others, and failed
            runs, are left out.
        metric: metric of the curve, such as "qw_kappa", "accuracy" or "loss".
        label: label of the axis; by default, the name of the metric.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: no record holds such a curve.

    >>> run = {"arm": "random", "fraction": 0.1, "curve_steps": [10, 20], "curve_loss": [0.7, 0.5]}
    >>> plot_convergence([run], "loss").axes[0].lines[-1].get_xydata().tolist()
    [[10.0, 0.7], [20.0, 0.5]]
    """
    runs = runs_by_arm(records)
    curves = _curves(runs, metric)
    fractions = sorted({fraction for _, fraction in curves})
    figure, panels = new_figure(len(fractions), size=(4.4, 3.4))
    for axes, fraction in zip(panels, fractions, strict=True):
        for number, name in enumerate(runs):
            _plot_curves(axes, curves.get((name, fraction), []), plain(arm_label(name)), style(number)[0])
        axes.set(title=f"{percent(fraction)} of the labels", xlabel="optimizer steps")
    # The same scale in all panels, so that they can be compared.
    lows, highs = zip(*(axes.get_ylim() for axes in panels), strict=True)
    for axes in panels:
        axes.set_ylim(min(lows), max(highs))
    for axes in panels[:: min(3, len(panels))]:
        axes.set_ylabel(f"{plain(label or metric_name(metric))}\nvalidation images")
    fullest = max(panels, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    legend(figure, fullest, "mean of the runs; thin lines: single runs")
    return figure


_Curve = tuple[np.ndarray, np.ndarray]


def _curves(
    runs_by_arm: Mapping[str, Iterable[Record]], metric: str
) -> dict[tuple[str, float], list[_Curve]]:
    name_of_curve = f"curve_{metric}"
    curves: dict[tuple[str, float], list[_Curve]] = {}
    for name, runs in runs_by_arm.items():
        for run in runs:
            steps, values = run.get("curve_steps"), run.get(name_of_curve)
            if steps and values:
                curve = np.asarray(steps, dtype="float64"), np.asarray(values, dtype="float64")
                curves.setdefault((name, float(run["fraction"])), []).append(curve)
    if not curves:
        raise ValueError(
            f"`records` must hold at least one run with `curve_steps` and `{name_of_curve}`. Received none."
        )
    return curves


def _plot_curves(axes: "Axes", runs: list[_Curve], name: str, color: str) -> None:
    if not runs:
        return
    if len(runs) > 1:
        for steps, values in runs:
            axes.plot(steps, values, color=color, lw=0.8, alpha=0.55)
    # Only up to the last step that all runs reached: beyond, the mean would jump.
    shared = min(steps[-1] for steps, _ in runs)
    all_steps = np.unique(np.concatenate([steps for steps, _ in runs]))
    all_steps = all_steps[all_steps <= shared]
    mean = np.mean([np.interp(all_steps, steps, values) for steps, values in runs], axis=0)
    # A single point is visible only with a marker.
    axes.plot(all_steps, mean, color=color, lw=2, marker="." if len(all_steps) == 1 else None, label=name)


def plot_history(
    histories: Mapping[str, Mapping[str, Sequence[float]]], quantities: Sequence[str] = ("loss", "accuracy")
) -> "Figure":
    """Plot the curves of pretraining against epochs, training and validation in one panel.

    Args:
        histories: by task or fold, `History.history` of its pretraining.
        quantities: one panel each, if a history holds them; their `val_` curves are dashed.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: no history holds any of `quantities`.

    >>> figure = plot_history({"rotation": {"loss": [1.4, 0.9], "val_loss": [1.3, 1.1]}})
    >>> [line.get_linestyle() for line in figure.axes[0].lines]
    ['-', '--']
    """
    from matplotlib.ticker import MaxNLocator

    shown = [
        name
        for name in quantities
        if any(history.get(name) or history.get(f"val_{name}") for history in histories.values())
    ]
    if not shown:
        held = sorted({name for history in histories.values() for name in history})
        raise ValueError(f"`histories` must hold at least one of {tuple(quantities)}. Received {held}.")
    figure, panels = new_figure(len(shown), size=(4.8, 3.6))
    for axes, quantity in zip(panels, shown, strict=True):
        for number, (title, history) in enumerate(histories.items()):
            for name, line_style, part in ((quantity, "-", ""), (f"val_{quantity}", "--", ", validation")):
                values = history.get(name, ())
                if len(values):
                    epochs = range(1, len(values) + 1)
                    axes.plot(epochs, values, line_style, color=style(number)[0], label=plain(title) + part)
        axes.set(xlabel="epoch of pretraining", ylabel=f"{plain(quantity)} of the pretext task")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, panels[0])
    return figure


def _percentage_axis(axes: "Axes", percentages: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.minorticks_off()
    # From the right, since 100 % is the reference. A label within a fifteenth of the axis of the last one is
    # left out, since the numbers would touch.
    room = np.log(percentages[-1] / percentages[0]) / 15
    labels: list[str] = []
    last = np.inf
    for value in reversed(percentages):
        fits = np.log(last / value) >= room
        labels.append(f"{value:g}" if fits else "")
        last = value if fits else last
    axes.set_xticks(percentages, labels[::-1])
