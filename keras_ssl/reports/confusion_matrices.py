"""Confusion matrices and recall per grade, from records."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from keras_ssl._types import Record
from keras_ssl.evaluation.records import arm_label
from keras_ssl.reports.figures import DARK, legend, new_figure, percent, plain, runs_by_arm, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusions(
    records: Iterable[Record], fraction: float | None = None, num_grades: int | None = None
) -> dict[str, np.ndarray]:
    """Compute the confusion matrix of each arm, summed over its runs.

    Args:
        records: records with `test_grades` and `test_predictions`; others, and failed runs, are left out.
        fraction: fraction of the labels; the largest by default.
        num_grades: number of grades; by default, as many as occur.

    Returns:
        Confusion matrices by title (arm and fraction), shape `(num_grades, num_grades)`, rows true, columns
        predicted. An image tested in several repetitions counts several times.

    Raises:
        ValueError: no record holds predictions at this fraction; a grade is `num_grades` or above.

    >>> run = {"arm": "random", "fraction": 1.0, "test_grades": [0, 1, 1], "test_predictions": [0, 0, 1]}
    >>> confusions([run])["from scratch (100 % of the labels)"].tolist()
    [[1, 0], [1, 1]]
    """
    fraction, graded = _graded(records, fraction)
    highest = max(int(run.max()) for runs in graded.values() for run in runs)
    size = highest + 1 if num_grades is None else num_grades
    if highest >= size:
        raise ValueError(
            f"`num_grades` must be above every grade in `records`. Received {size} and grade {highest}."
        )
    return {
        f"{arm_label(name)} ({percent(fraction)} of the labels)": np.sum(
            [_count(run, size) for run in runs], axis=0
        )
        for name, runs in graded.items()
    }


def _graded(records: Iterable[Record], fraction: float | None) -> tuple[float, dict[str, list[np.ndarray]]]:
    """Return the fraction, and true and predicted grades `(2, images)` of each run, by arm."""
    with_grades = {
        name: [run for run in runs if run.get("test_grades") and run.get("test_predictions")]
        for name, runs in runs_by_arm(records).items()
    }
    fractions = sorted({float(run["fraction"]) for runs in with_grades.values() for run in runs})
    if not fractions or (fraction is not None and fraction not in fractions):
        raise ValueError(
            "`records` must hold at least one run with `test_grades` and `test_predictions`"
            f"{'' if fraction is None else f' of `fraction` {fraction}'}. Received those of {fractions}."
        )
    chosen = fractions[-1] if fraction is None else fraction
    graded = {
        name: [
            np.array([run["test_grades"], run["test_predictions"]], dtype="int64")
            for run in runs
            if float(run["fraction"]) == chosen
        ]
        for name, runs in with_grades.items()
    }
    return chosen, {name: runs for name, runs in graded.items() if runs}


def _count(run: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(run[0] * size + run[1], minlength=size * size).reshape(size, size)


def plot_confusion(matrices: Mapping[str, npt.ArrayLike], grade_names: Sequence[str]) -> "Figure":
    """Plot confusion matrices side by side, colored by fractions of each row, labeled with counts.

    Args:
        matrices: by title, counts of shape `(grades, grades)`, rows true, columns predicted.
        grade_names: name of each grade.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: there are no matrices, or one is not of `(grades, grades)`.

    >>> figure = plot_confusion({"random": [[5, 1], [0, 3]]}, ["healthy", "ill"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['5', '1', '0', '3']
    """
    from matplotlib import colormaps

    if not matrices:
        raise ValueError("`matrices` must hold at least one matrix. Received none.")
    size = len(grade_names)
    names = [plain(name) for name in grade_names]
    figure, panels = new_figure(len(matrices), size=(4.6, 4.4))
    for axes, (title, matrix) in zip(panels, matrices.items(), strict=True):
        counts = np.asarray(matrix)
        if counts.shape != (size, size):
            raise ValueError(f"`matrices` must have shape ({size}, {size}). Received {counts.shape}.")
        fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        # A mesh rather than an image, which would blur when the page is zoomed.
        axes.pcolormesh(fractions, cmap="Blues", vmin=0, vmax=1)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        for row, column in np.ndindex(size, size):
            luminance = np.dot(colormaps["Blues"](fractions[row, column])[:3], (0.21, 0.72, 0.07))
            shade = DARK if luminance > 0.45 else "white"
            number = f"{counts[row, column]:g}"
            axes.text(column + 0.5, row + 0.5, number, ha="center", va="center", color=shade)
        axes.set(xlabel="predicted grade", ylabel="true grade")
        axes.set_title(plain("\n".join(textwrap.wrap(title, 40))), fontsize=10)
        axes.set_xticks(np.arange(size) + 0.5, names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(size) + 0.5, names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def plot_recall(
    records: Iterable[Record], grade_names: Sequence[str], fraction: float | None = None
) -> "Figure":
    """Plot the recall of each grade: bars for the mean of the runs, lines from worst to best run.

    Args:
        records: runs with `test_grades` and `test_predictions`; runs without, and failed ones, are left out.
        grade_names: name of each grade. Runs without test images of a grade are left out for it.
        fraction: of the labels; the largest by default.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: no record holds predictions at this fraction; a grade has no name.

    >>> run = {"arm": "random", "fraction": 1.0, "test_grades": [0, 1, 1], "test_predictions": [0, 0, 1]}
    >>> [float(bar.get_height()) for bar in plot_recall([run], ["healthy", "ill"]).axes[0].patches]
    [1.0, 0.5]
    """
    records, size = list(records), len(grade_names)
    chosen, graded = _graded(records, fraction)
    highest = max(int(run.max()) for runs in graded.values() for run in runs)
    if highest >= size:
        raise ValueError(
            f"`grade_names` must name every grade in `records`, up to {highest}. Received {size} names."
        )
    figure, (axes,) = new_figure(1, size=(max(6.4, 1.3 * size), 4.4))
    numbers = {name: number for number, name in enumerate(runs_by_arm(records))}
    width = 0.8 / len(graded)
    for place, (name, runs) in enumerate(graded.items()):
        positions = np.arange(size) - 0.4 + width * (place + 0.5)
        # Masked if a run has no image of a grade; NaN, which is not plotted, if no run has.
        recall = np.ma.masked_invalid([recall_of(_count(run, size)) for run in runs])
        low, mean, high = (part.filled(np.nan) for part in (recall.min(0), recall.mean(0), recall.max(0)))
        axes.bar(positions, mean, 0.92 * width, color=style(numbers[name])[0], label=plain(arm_label(name)))
        if len(runs) > 1:
            spread = [mean - low, high - mean]
            axes.errorbar(positions, mean, spread, fmt="none", color="black", lw=1, capsize=2)
    axes.set_xticks(range(size), [plain(name) for name in grade_names])
    axes.set(ylim=(0, 1.02), xlabel="true grade", ylabel="recall, test images")
    axes.set_title(f"{percent(chosen)} of the labels", fontsize=10)
    legend(figure, axes, "mean and range of the runs")
    return figure


def recall_of(counts: np.ndarray) -> np.ndarray:
    """Return the recall of each grade from a confusion matrix; NaN for a grade without images.

    >>> recall_of(np.array([[3, 1], [0, 0]])).tolist()
    [0.75, nan]
    """
    total = counts.sum(axis=1)
    return np.where(total > 0, counts.diagonal() / np.maximum(total, 1), np.nan)
