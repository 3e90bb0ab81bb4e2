"""Figure of the inputs that a pretext task makes of images."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_ssl._checks import as_numpy, check_images
from keras_ssl._types import Images, Structure
from keras_ssl.random import ReplaySeeds
from keras_ssl.reports.figures import displayable, new_figure, plain
from keras_ssl.tasks.base import PretextTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# More inputs per image, such as the patches of a puzzle, share one panel.
_MAX_PANELS = 4


# Values shown as black and as white.
Window: TypeAlias = tuple[float, float]


def show_pretext(task: PretextTask, images: Images, count: int = 4, seed: int = 0) -> "Figure":
    """Plot a row for each image: the image and the network inputs that a pretext task makes of it.

    Shows whether views keep the relevant content, whether patches contain more than background, and how
    much is hidden. Integer targets of an image, such as the class of a rotation, are shown beside its row.

    All panels of a row share the gray scale of the image, except for inputs on another scale, such as
    standardized patches, which are stretched, all of a row alike.

    Args:
        task: the pretext task.
        images: array or tensor `(n, *spatial, channels)`, with values as in training. One or three channels
            are shown, otherwise the first; for volumes, the middle slice of the first spatial axis.
        count: number of images to show, from the first, at least 1.
        seed: seed of the preprocessing.

    Returns:
        A Matplotlib figure; notebooks show it, `figure.savefig("pretext.png")` saves it.

    Raises:
        TypeError: `task` is not a `PretextTask`.
        ValueError: `count` is below 1, or images are empty, not finite or not suitable for the task.

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
    # Panels of several inputs need more room.
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
            axes.set_ylabel(_target_label(targets, row, len(images)), fontsize=9)
    return figure


def _columns(
    path: tuple[str | int, ...], leaf: np.ndarray, images: np.ndarray, windows: Sequence[Window]
) -> list[tuple[str, list[np.ndarray]]]:
    """Return a column for each input of an image, or one for all: a caption and a panel per row."""
    inputs = _by_image(leaf, images)
    if not _fits_windows(inputs, windows):
        windows = [tuple(np.percentile(row, (1, 99))) for row in inputs]
    name = " ".join(str(part + 1 if isinstance(part, int) else part) for part in path) or "input"
    count, size = inputs.shape[1], leaf.shape[1 - images.ndim : -1]
    if count == 1:
        groups = {name: inputs}
    elif count > _MAX_PANELS:
        groups = {f"{name} 1 to {count}": inputs}
    else:
        groups = {f"{name} {number + 1}": inputs[:, number : number + 1] for number in range(count)}
    note = "" if size == images.shape[1:-1] else "\n" + " x ".join(map(str, size))
    return [(title + note, _panels(group, windows)) for title, group in groups.items()]


def _by_image(leaf: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Group inputs by image: `(images, inputs of each, rows, columns, channels)`, slices of volumes."""
    inputs = leaf.reshape(len(images), -1, *leaf.shape[1 - images.ndim :]).astype("float32")
    return inputs[:, :, inputs.shape[2] // 2] if images.ndim == 5 else inputs


def _fits_windows(inputs: np.ndarray, windows: Sequence[Window]) -> bool:
    """Return True if inputs are visible on the gray scale of their images."""
    bottom, top = min(low for low, _ in windows), max(high for _, high in windows)
    low, high = np.percentile(inputs, (1, 99))
    margin = (top - bottom) / 4
    return bool(bottom - margin <= low and high <= top + margin and high - low >= margin)


def _panels(inputs: np.ndarray, windows: Sequence[Window]) -> list[np.ndarray]:
    """Return a panel for each image: its input, or several inputs tiled with white gaps."""
    return [
        _tiled([displayable(image, window) for image in group])
        for group, window in zip(inputs, windows, strict=True)
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


def _target_label(targets: Structure, row: int, count: int) -> str:
    """Return the integer targets of an image as a label."""
    leaves = [as_numpy(leaf) for leaf in keras.tree.flatten(targets)]
    numbers = [str(leaf[row]) for leaf in leaves if leaf.shape == (count,) and leaf.dtype.kind in "iu"]
    return f"target {', '.join(numbers)}" if numbers else ""
