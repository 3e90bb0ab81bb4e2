"""What every figure shares: panels, a colour and a marker for each line, names that readers understand."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ssl.evaluation.records import completed, line_names, sort_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito, told apart by the colour-blind too; markers tell them apart where there is no colour.
_STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
)

# Never pure black, which pages replace by the colour of their text: this stays dark on light grounds.
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

    A line all of whose runs failed keeps its place, so that colours mean the same in every figure.

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
    """Give the colour and the marker of the line of this number."""
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
    """Scale an image for Matplotlib: three channels as colours, else the first one in grey.

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
