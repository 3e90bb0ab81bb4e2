"""Which grades were taken for which: confusion matrices and recall of each grade, from records."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ssl.reports.figures import DARK, legend, lines_of, new_figure, percent, plain, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusions(
    records: Iterable[Mapping[str, Any]], fraction: float | None = None, num_grades: int | None = None
) -> dict[str, np.ndarray]:
    """Count which grades were taken for which, summed over the runs of each arm.

    Args:
        records: runs with `test_grades` and `test_predictions`; runs without, and failed ones, are left out.
        fraction: of the labels; the largest by default.
        num_grades: how many grades there are; by default as many as were seen or given.

    Returns:
        By title (the arm and the fraction), counts of shape `(num_grades, num_grades)`, rows true, columns
        predicted. An image tested in several repetitions counts several times.

    Raises:
        ValueError: no record holds predictions of this fraction; a grade is `num_grades` or above.

    >>> run = {"arm": "random", "fraction": 1.0, "test_grades": [0, 1, 1], "test_predictions": [0, 0, 1]}
    >>> confusions([run])["random, 100 % of the labels"].tolist()
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
        f"{name}, {percent(fraction)} of the labels": sum(_count(run, size) for run in runs)
        for name, runs in graded.items()
    }


def _graded(
    records: Iterable[Mapping[str, Any]], fraction: float | None
) -> tuple[float, dict[str, list[np.ndarray]]]:
    """Give true and predicted grades, shape `(2, images)`, of each run, by line."""
    with_grades = {
        name: [run for run in runs if run.get("test_grades") and run.get("test_predictions")]
        for name, runs in lines_of(records).items()
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


def _count(run: np.ndarray, size: int) -> Any:
    return np.bincount(run[0] * size + run[1], minlength=size * size).reshape(size, size)


def plot_confusion(matrices: Mapping[str, Any], grade_names: Sequence[str]) -> "Figure":
    """Draw confusion matrices side by side, each row as shares of its true grade, counts written in.

    Args:
        matrices: by title, counts of shape `(grades, grades)`, rows true, columns predicted.
        grade_names: one name per grade.

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
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        # Cell by cell rather than an image, which would blur where a page is zoomed.
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        for row, column in np.ndindex(size, size):
            luminance = np.dot(colormaps["Blues"](shares[row, column])[:3], (0.21, 0.72, 0.07))
            shade = DARK if luminance > 0.45 else "white"
            number = f"{counts[row, column]:g}"
            axes.text(column + 0.5, row + 0.5, number, ha="center", va="center", color=shade)
        axes.set(xlabel="predicted grade", ylabel="true grade")
        axes.set_title(plain(title), fontsize=10)
        axes.set_xticks(np.arange(size) + 0.5, names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(size) + 0.5, names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def plot_recall(
    records: Iterable[Mapping[str, Any]], grade_names: Sequence[str], fraction: float | None = None
) -> "Figure":
    """Draw how much of each true grade was found: the mean of the runs as a bar, worst and best as a line.

    Args:
        records: runs with `test_grades` and `test_predictions`; runs without, and failed ones, are left out.
        grade_names: one name per grade. A grade that no test image of a run has plays no part in that run.
        fraction: of the labels; the largest by default.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: no record holds predictions of this fraction; a grade has no name.

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
    numbers = {name: number for number, name in enumerate(lines_of(records))}
    width = 0.8 / len(graded)
    for place, (name, runs) in enumerate(graded.items()):
        positions = np.arange(size) - 0.4 + width * (place + 0.5)
        # Masked where a run has no image of a grade; NaN, which is not drawn, where none has.
        recall = np.ma.masked_invalid([recall_of(_count(run, size)) for run in runs])
        low, mean, high = (part.filled(np.nan) for part in (recall.min(0), recall.mean(0), recall.max(0)))
        axes.bar(positions, mean, 0.92 * width, color=style(numbers[name])[0], label=plain(name))
        if len(runs) > 1:
            spread = [mean - low, high - mean]
            axes.errorbar(positions, mean, spread, fmt="none", color="black", lw=1, capsize=2)
    axes.set_xticks(range(size), [plain(name) for name in grade_names])
    axes.set(ylim=(0, 1.02), xlabel="true grade", ylabel="recall: share found, test images")
    axes.set_title(f"{percent(chosen)} of the labels", fontsize=10)
    legend(figure, axes, "mean, and range of all runs")
    return figure


def recall_of(counts: np.ndarray) -> np.ndarray:
    """Share of each true grade that was found, from a confusion matrix; NaN for a grade that was not seen.

    >>> recall_of(np.array([[3, 1], [0, 0]])).tolist()
    [0.75, nan]
    """
    total = counts.sum(axis=1)
    return np.where(total > 0, counts.diagonal() / np.maximum(total, 1), np.nan)
