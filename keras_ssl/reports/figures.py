"""Figures of a label-efficiency study."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ssl.evaluation.records import completed, line_names, sort_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from keras_ssl.evaluation.statistics import summarize, value_of

# Of Okabe and Ito, told apart by the color-blind too; markers tell them apart where there is no color.
_STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
)


# Never pure black, which pages replace by the color of their text: this stays dark on light grounds.
DARK = "#111111"


_NAMES = {
    "qw_kappa": "quadratic weighted kappa",
    "accuracy": "accuracy (share of right grades)",
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
    """Name a metric of records in words, and say of an accuracy which one it is.

    >>> metric_name("accuracy")
    'accuracy (share of right grades)'
    >>> metric_name("mine")
    'mine'
    """
    return _NAMES.get(metric, metric)


def percent(fraction: float) -> str:
    """Write a fraction of the labels as a reader says it.

    >>> percent(0.05)
    '5 %'
    """
    return f"{100 * fraction:g} %"


def plain(text: Any) -> str:
    """Make text from outside safe to draw: no formulas in it, and no characters that SVG forbids."""
    return "".join(mark for mark in str(text) if mark.isprintable() or mark == "\n").replace("$", r"\$")


def lines_of(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Give the runs that ended well by the line they belong to; lines in the order of their arms.

    A line all of whose runs failed keeps its place, so that colors mean the same in every figure.

    >>> list(lines_of([{"arm": "random", "fraction": 1.0}, {"arm": "frozen", "fraction": 0.1}]))
    ['frozen', 'random']
    """
    records = list(records)
    named = list(zip(line_names(records), records, strict=True))
    order = sort_records(
        {"arm": record["arm"], "task": record.get("task", ""), "line": name} for name, record in named
    )
    lines: dict[str, list[Mapping[str, Any]]] = {row["line"]: [] for row in order}
    for name, record in named:
        lines[name].extend(completed([record]))
    return lines


def style(number: int) -> tuple[str, str]:
    """Give the color and the marker of the line of this number."""
    return _STYLES[number % len(_STYLES)]


def new_figure(
    panels: int, columns: int = 3, size: tuple[float, float] = (5.2, 4.0)
) -> "tuple[Figure, Sequence[Axes]]":
    """Make a figure of panels in rows of `columns`; `size` is a panel's, in inches.

    The figure is not known to `matplotlib.pyplot`, hence needs no closing and is shown once in a notebook.
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
    """Scale an image for Matplotlib: three channels as colors, else the first one in gray.

    Args:
        image: `(rows, columns, channels)`.
        limits: what becomes 0 and 1, values beyond are cut; `None` for 0, or the least value where that is
            lower, and the greatest.

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
    """Put the legend of `axes` below the panels, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, title=title, loc="outside lower center", ncols=min(len(labels), 3), frameon=False
    )


def plot_label_efficiency(
    records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa", label: str | None = None
) -> "Figure":
    """Draw a metric against the percentage of labels, one line an arm, the band from worst to best run.

    Args:
        records: runs, as `summarize` takes them; every run that ended well is also drawn as a dot.
        metric: what is drawn.
        label: what the axis says; the metric's name by default.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: there are no records of runs that ended well.

    >>> runs = [{"arm": "random", "fraction": share, "labels": 9, "qw_kappa": share} for share in (0.1, 1.0)]
    >>> plot_label_efficiency(runs).axes[0].lines[0].get_xydata().tolist()
    [[10.0, 0.1], [100.0, 1.0]]
    """
    records = list(records)
    rows = summarize(records, metric)
    figure, (axes,) = new_figure(1, size=(6.4, 4.8))
    for number, (name, runs) in enumerate(lines_of(records).items()):
        if not runs:
            continue
        color, marker = style(number)
        mine = [row for row in rows if row["arm"] == name]
        shares = [100 * row["fraction"] for row in mine]
        axes.plot(shares, [row["mean"] for row in mine], marker=marker, color=color, label=plain(name))
        low, high = ([row[end] for row in mine] for end in ("min", "max"))
        axes.fill_between(shares, low, high, color=color, alpha=0.15, lw=0)
        spots = [100 * float(run["fraction"]) for run in runs]
        axes.scatter(spots, [value_of(run, metric) for run in runs], s=12, color=color, alpha=0.5)
    _share_axis(axes, sorted({100 * row["fraction"] for row in rows}))
    further = max(row["validation_labels"] or 0 for row in rows)
    plus = f", plus {further:.0f} labels for validation" if further else ""
    axes.set(
        xlabel=f"training labels used (%){plus}", ylabel=f"{plain(label or metric_name(metric))}, test images"
    )
    legend(figure, axes, "mean, and range of all runs")
    return figure


def plot_convergence(
    records: Iterable[Mapping[str, Any]], metric: str = "qw_kappa", label: str | None = None
) -> "Figure":
    """Draw a metric on the validation images against optimizer steps: whether training had converged.

    One panel per fraction of the labels, one line per arm, which is the mean of its runs; thin lines are
    the runs. Where runs were watched at other steps, the mean is of values read between them.

    Args:
        records: runs with `curve_steps` and `curve_<metric>`, as `records.jsonl` holds them; runs without,
            and runs that failed, are left out.
        metric: whose curve is drawn: "qw_kappa", "accuracy" or "loss".
        label: what the axis says; the metric's name by default.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: no record holds such a curve.

    >>> run = {"arm": "random", "fraction": 0.1, "curve_steps": [10, 20], "curve_loss": [0.7, 0.5]}
    >>> plot_convergence([run], "loss").axes[0].lines[-1].get_xydata().tolist()
    [[10.0, 0.7], [20.0, 0.5]]
    """
    lines = lines_of(records)
    curves = _curves(lines, metric)
    fractions = sorted({fraction for _, fraction in curves})
    figure, panels = new_figure(len(fractions), size=(4.4, 3.4))
    for axes, fraction in zip(panels, fractions, strict=True):
        for number, name in enumerate(lines):
            _draw_curves(axes, curves.get((name, fraction), []), plain(name), style(number)[0])
        axes.set(title=f"{percent(fraction)} of the labels", xlabel="optimizer steps")
    # One scale, so that panels can be compared too.
    lows, highs = zip(*(axes.get_ylim() for axes in panels), strict=True)
    for axes in panels:
        axes.set_ylim(min(lows), max(highs))
    for axes in panels[:: min(3, len(panels))]:
        axes.set_ylabel(f"{plain(label or metric_name(metric))}\nvalidation images")
    fullest = max(panels, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    legend(figure, fullest, "mean of runs; thin lines: single runs")
    return figure


_Curve = tuple[np.ndarray, np.ndarray]


def _curves(
    lines: Mapping[str, Iterable[Mapping[str, Any]]], metric: str
) -> dict[tuple[str, float], list[_Curve]]:
    name_of_curve = f"curve_{metric}"
    curves: dict[tuple[str, float], list[_Curve]] = {}
    for name, runs in lines.items():
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


def _draw_curves(axes: "Axes", runs: list[_Curve], name: str, color: str) -> None:
    if not runs:
        return
    if len(runs) > 1:
        for steps, values in runs:
            axes.plot(steps, values, color=color, lw=0.8, alpha=0.55)
    # Only as far as all runs went: a mean of the longest run alone would jump.
    shared = min(steps[-1] for steps, _ in runs)
    grid = np.unique(np.concatenate([steps for steps, _ in runs]))
    grid = grid[grid <= shared]
    mean = np.mean([np.interp(grid, steps, values) for steps, values in runs], axis=0)
    # One point is no line: without a marker it would not be seen.
    axes.plot(grid, mean, color=color, lw=2, marker="." if len(grid) == 1 else None, label=name)


def plot_history(
    histories: Mapping[str, Mapping[str, Sequence[float]]], quantities: Sequence[str] = ("loss", "accuracy")
) -> "Figure":
    """Draw the pretext's own curves against epochs, those of training and of validation in one panel.

    Args:
        histories: by task or fold, `History.history` of its pretraining: a value per epoch, by name.
        quantities: one panel each, as far as a history holds them; `val_` twins are dashed.

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
            for name, dashes, part in ((quantity, "-", ""), (f"val_{quantity}", "--", ", validation")):
                values = history.get(name, ())
                if len(values):
                    epochs = range(1, len(values) + 1)
                    axes.plot(epochs, values, dashes, color=style(number)[0], label=plain(title) + part)
        axes.set(xlabel="epoch of pretraining", ylabel=f"{plain(quantity)} of the pretext")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, panels[0])
    return figure


def _share_axis(axes: "Axes", shares: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.minorticks_off()
    # From the right, since 100 % is what the others are compared with; a label too near the last one is left
    # out: below a fifteenth of the axis the numbers would touch.
    room = np.log(shares[-1] / shares[0]) / 15
    labels: list[str] = []
    last = np.inf
    for share in reversed(shares):
        fits = np.log(last / share) >= room
        labels.append(f"{share:g}" if fits else "")
        last = share if fits else last
    axes.set_xticks(shares, labels[::-1])
