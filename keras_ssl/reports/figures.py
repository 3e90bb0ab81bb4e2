"""The figures of a label-efficiency study; each function draws on one new figure and returns it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ssl.reports.tables import summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue and vermilion of Okabe and Ito, told apart by the colour-blind too, then their further colours.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def plot_label_efficiency(
    records: Iterable[Mapping[str, Any]], metric: str = "qwk", label: str = "quadratic weighted kappa"
) -> "Figure":
    """Draw a metric against the percentage of labels, one line an arm, the band from worst to best run.

    Args:
        records: runs, as `summarize` takes them; every run is also drawn as a dot.
        metric: what is drawn.
        label: what the axis says.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: there are no records.
    """
    records = list(records)
    rows = summarize(records, metric)
    figure, (axes,) = _figure(1)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    for colour, arm in zip(_colours(len(arms)), arms, strict=True):
        mine = [row for row in rows if row["arm"] == arm]
        percent = [100 * row["fraction"] for row in mine]
        axes.plot(percent, [row["mean"] for row in mine], marker="o", color=colour, label=arm)
        axes.fill_between(
            percent,
            [row["min"] for row in mine],
            [row["max"] for row in mine],
            color=colour,
            alpha=0.15,
            lw=0,
        )
        runs = [record for record in records if record["arm"] == arm]
        axes.scatter(
            [100 * float(run["fraction"]) for run in runs],
            [float(run[metric]) for run in runs],
            s=12,
            color=colour,
            alpha=0.5,
        )
    ticks = sorted({100 * row["fraction"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="labels used (%)", ylabel=f"{label}, test images")
    axes.legend(title="mean, and range of all runs", frameon=False)
    return figure


def plot_convergence(
    histories: Mapping[tuple[str, float], Sequence[Sequence[float]]], label: str = "accuracy"
) -> "Figure":
    """Draw a metric against epochs: one panel per fraction, one line per arm, thin lines for single runs.

    Args:
        histories: by `(arm, fraction)`, the values of each run, one value an epoch.
        label: what the axis says; name the kind of accuracy.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: there are no histories.
    """
    if not histories:
        raise ValueError("`histories` must hold at least one run. Received none.")
    fractions = sorted({fraction for _, fraction in histories})
    arms = list(dict.fromkeys(arm for arm, _ in histories))
    figure, panels = _figure(len(fractions))
    for axes, fraction in zip(panels, fractions, strict=True):
        for colour, arm in zip(_colours(len(arms)), arms, strict=True):
            runs = histories.get((arm, fraction), ())
            for run in runs:
                axes.plot(range(1, len(run) + 1), run, color=colour, lw=0.7, alpha=0.35)
            if runs:
                mean = np.mean(runs, axis=0)
                axes.plot(range(1, len(mean) + 1), mean, color=colour, lw=2, label=arm)
        axes.set(title=f"{100 * fraction:g} % of the labels", xlabel="epoch", ylabel=label)
    panels[0].legend(frameon=False)
    return figure


def plot_confusion(confusions: Mapping[str, Any], grade_names: Sequence[str]) -> "Figure":
    """Draw confusion matrices side by side, each row as shares of its true grade, counts written in.

    Args:
        confusions: by title, counts of shape `(grades, grades)`, rows true, columns predicted.
        grade_names: one name per grade.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: there are no matrices, or one is not of `(grades, grades)`.
    """
    if not confusions:
        raise ValueError("`confusions` must hold at least one matrix. Received none.")
    size = len(grade_names)
    figure, panels = _figure(len(confusions), width=4.6)
    for axes, (title, counts) in zip(panels, confusions.items(), strict=True):
        counts = np.asarray(counts)
        if counts.shape != (size, size):
            raise ValueError(f"`confusions` must have shape ({size}, {size}). Received {counts.shape}.")
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(size, size):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]:g}", ha="center", va="center", color=shade)
        axes.set(title=title, xlabel="predicted grade", ylabel="true grade")
        axes.set_xticks(range(size), grade_names, rotation=45, ha="right")
        axes.set_yticks(range(size), grade_names)
        axes.spines[:].set_visible(False)
    return figure


def plot_pretext(images: Any, seen: Any, titles: Sequence[str]) -> "Figure":
    """Draw what a pretext task was given (above) and what the network saw of it (below).

    Args:
        images: `(n, height, width, channels)`, one or three channels.
        seen: the same number of images, after the task's preprocessing.
        titles: a title for each pair, such as the true and the predicted class.

    Returns:
        A Matplotlib figure.
    """
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        2, len(titles), figsize=(1.5 * len(titles), 3.4), squeeze=False, layout="constrained"
    )
    for column, title in enumerate(titles):
        for axes, image in zip(panels[:, column], (images[column], seen[column]), strict=True):
            axes.imshow(_displayable(np.asarray(image)), cmap="gray")
            axes.set_axis_off()
        panels[1, column].set_title(title, fontsize=8)
    return figure


def _displayable(image: np.ndarray) -> np.ndarray:
    image = image.astype("float32")
    low, high = min(0.0, float(image.min())), float(image.max())
    image = (image - low) / max(high - low, 1e-6)
    return image[..., 0] if image.shape[-1] == 1 else image


def _figure(panels: int, width: float = 5.2) -> "tuple[Figure, Sequence[Axes]]":
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, panels, figsize=(width * panels, 4.0), squeeze=False, layout="constrained", dpi=120
    )
    for panel in axes[0]:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def _colours(count: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]
