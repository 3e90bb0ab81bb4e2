"""Figures of what a pretext task shows an encoder."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_ssl._checks import as_numpy, check_images
from keras_ssl.random import ReplaySeeds
from keras_ssl.reports.figures import displayable, new_figure, plain
from keras_ssl.tasks.base import PretextTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# More inputs of one image than that, such as the patches of a puzzle, share one panel.
_PANELS = 4


# What is drawn black, and what white.
Window: TypeAlias = tuple[float, float]


def show_pretext(task: PretextTask, images: Any, count: int = 4, seed: int = 0) -> "Figure":
    """Draw images, a row each, and beside each what the task makes of it for the encoder to see.

    Tells at a glance whether views keep what matters, patches hold anything but background and enough
    is hidden. Whole numbers that are to be found out of an image, such as the number of a rotation, stand
    beside its row.

    Black and white are those of the image in all of its row, except for inputs on a scale of their own, such
    as standardized patches: these are stretched, all of a row alike.

    Args:
        task: any pretext task.
        images: array or tensor `(n, *spatial, channels)`, with values as in training. One or three channels
            are drawn, or else the first; of volumes the slice in the middle of the first spatial axis.
        count: how many of the images to draw, from the first, at least 1.
        seed: what the task draws from; each gives another figure.

    Returns:
        A Matplotlib figure: a notebook shows it, `figure.savefig("pretext.png")` writes it.

    Raises:
        TypeError: `task` is no `PretextTask`.
        ValueError: `count` is below 1, or images are empty, not finite or not for this task.

    >>> import keras_ssl
    >>> images, _ = keras_ssl.data.synthetic_fundus(2, size=32)
    >>> figure = show_pretext(keras_ssl.SimCLRTask(), images)
    >>> [axes.get_title() for axes in figure.axes][:3]
    ['image', 'input 1', 'input 2']
    """
    if not isinstance(task, PretextTask):
        raise TypeError(f"`task` must be a PretextTask, such as RotationTask(). Received {task!r}.")
    if count < 1:
        raise ValueError(f"`count` must be at least 1. Received {count}.")
    images = as_numpy(images[:count])
    check_images(images)
    task.check_images(images)
    task.encoder_input_shape(images.shape[1:])
    inputs, targets = task.preprocess(ops.convert_to_tensor(images, "float32"), ReplaySeeds(seed))
    own = _by_image(images, images)
    windows = [(min(0.0, float(image.min())), float(image.max())) for image in own]
    columns = [("image", _panels(own, windows))]
    for path, leaf in keras.tree.flatten_with_path(task.shown(inputs)):
        if len(leaf.shape) >= images.ndim:
            columns += _columns(path, as_numpy(leaf), images, windows)
    # Panels of many pictures need room.
    side = 2.6 if any(" to " in caption for caption, _ in columns) else 1.7
    figure, panels = new_figure(len(images) * len(columns), len(columns), size=(side, side + 0.1))
    for number, axes in enumerate(panels):
        row, column = divmod(number, len(columns))
        caption, drawn = columns[column]
        axes.imshow(drawn[row], cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if row == 0:
            axes.set_title(plain(caption), fontsize=9)
        if column == 0:
            axes.set_ylabel(_answers(targets, row, len(images)), fontsize=9)
    return figure


def _columns(
    path: tuple[Any, ...], leaf: np.ndarray, images: np.ndarray, windows: Sequence[Window]
) -> list[tuple[str, list[np.ndarray]]]:
    """Give each input made of an image a column, or all of them one: a caption, and a panel for each row."""
    made = _by_image(leaf, images)
    if not _on_the_scale(made, windows):
        windows = [tuple(np.percentile(row, (1, 99))) for row in made]
    name = " ".join(str(part + 1 if isinstance(part, int) else part) for part in path) or "input"
    count, size = made.shape[1], leaf.shape[1 - images.ndim : -1]
    if count == 1:
        groups = {name: made}
    elif count > _PANELS:
        groups = {f"{name} 1 to {count}": made}
    else:
        groups = {f"{name} {number + 1}": made[:, number : number + 1] for number in range(count)}
    note = "" if size == images.shape[1:-1] else "\n" + " x ".join(map(str, size))
    return [(title + note, _panels(group, windows)) for title, group in groups.items()]


def _by_image(leaf: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Sort inputs by image: `(images, inputs of each, rows, columns, channels)`, slices of volumes."""
    made = leaf.reshape(len(images), -1, *leaf.shape[1 - images.ndim :]).astype("float32")
    return made[:, :, made.shape[2] // 2] if images.ndim == 5 else made


def _on_the_scale(made: np.ndarray, windows: Sequence[Window]) -> bool:
    """Whether anything is seen of inputs where black and white are those of their images."""
    bottom, top = min(low for low, _ in windows), max(high for _, high in windows)
    low, high = np.percentile(made, (1, 99))
    margin = (top - bottom) / 4
    return bool(bottom - margin <= low and high <= top + margin and high - low >= margin)


def _panels(made: np.ndarray, windows: Sequence[Window]) -> list[np.ndarray]:
    """Make a picture for each image: its input, or all of them in lines with white between them."""
    return [
        _tiled([displayable(one, window) for one in group])
        for group, window in zip(made, windows, strict=True)
    ]


def _tiled(pictures: list[np.ndarray]) -> np.ndarray:
    across = math.ceil(math.sqrt(len(pictures)))
    gap = math.ceil(pictures[0].shape[1] / 12) if across > 1 else 0
    edges = ((0, gap), (0, gap), (0, 0))[: pictures[0].ndim]
    pictures = [np.pad(picture, edges, constant_values=1.0) for picture in pictures]
    pictures += [np.ones_like(pictures[0])] * (-len(pictures) % across)
    tiled = np.concatenate(
        [np.concatenate(pictures[k : k + across], axis=1) for k in range(0, len(pictures), across)]
    )
    return tiled[: len(tiled) - gap, : tiled.shape[1] - gap]


def _answers(targets: Any, row: int, count: int) -> str:
    """Name the whole numbers that are to be found out of an image."""
    leaves = [as_numpy(leaf) for leaf in keras.tree.flatten(targets)]
    numbers = [str(leaf[row]) for leaf in leaves if leaf.shape == (count,) and leaf.dtype.kind in "iu"]
    return f"target {', '.join(numbers)}" if numbers else ""
