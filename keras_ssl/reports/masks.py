"""Segmentations beside the truth, image by image; of volumes the slice that shows most."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ssl.reports.canvas import new_figure, plain, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_masks(images: Any, true_masks: Any, predicted_masks: Any, class_names: Sequence[str]) -> "Figure":
    """Draw images, a row each: as they are, with the true labels over them, and with the predicted ones.

    Of a volume the slice along the last axis with the most true foreground is drawn; the first axis runs to
    the right and the second up, as in the patient where axes run right, front and top.

    Args:
        images: `(n, *spatial, channels)` with two or three spatial axes; the first channel is drawn.
        true_masks: whole numbers, `(n, *spatial)`.
        predicted_masks: likewise.
        class_names: one name per class, the background first.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: shapes are not those, there is no image, or a class has no name.

    >>> masks = np.zeros((2, 8, 8, 8), int)
    >>> figure = plot_masks(np.ones((2, 8, 8, 8, 1)), masks, masks, ["background", "lesion"])
    >>> [axes.get_title() for axes in figure.axes][:3]
    ['scan', 'truth', 'predicted']
    """
    scans, maps = np.asarray(images), [np.asarray(true_masks), np.asarray(predicted_masks)]
    for name, masks in zip(("true_masks", "predicted_masks"), maps, strict=True):
        if scans.ndim not in (4, 5) or not len(scans) or masks.shape != scans.shape[:-1]:
            raise ValueError(
                f"`images` must have shape (n, *spatial, channels) and `{name}` (n, *spatial). Received "
                f"{scans.shape} and {masks.shape}."
            )
        if masks.min() < 0 or masks.max() >= len(class_names):
            raise ValueError(
                f"`{name}` must be whole numbers in 0..{len(class_names) - 1}, one for each of "
                f"`class_names`. Received {np.unique(masks).tolist()}."
            )
    figure, panels = new_figure(3 * len(scans), 3, size=(2.2, 2.3))
    for row, (scan, *labels) in enumerate(zip(scans[..., 0], *maps, strict=True)):
        if scan.ndim == 3:
            fullest = int(np.argmax((labels[0] > 0).sum(axis=(0, 1))))
            scan, labels = scan[..., fullest].T[::-1], [part[..., fullest].T[::-1] for part in labels]
        for column, (title, part) in enumerate(
            zip(("scan", "truth", "predicted"), (None, *labels), strict=True)
        ):
            axes = panels[3 * row + column]
            axes.imshow(scan, cmap="gray")
            axes.set_axis_off()
            if part is not None:
                axes.imshow(_coloured(part, len(class_names)))
            if row == 0:
                axes.set_title(title, fontsize=9)
    _name_classes(figure, class_names)
    return figure


def _coloured(mask: np.ndarray, classes: int) -> np.ndarray:
    """The classes' colours, half transparent, and nothing where the background is."""
    from matplotlib.colors import to_rgba

    return np.array([(0, 0, 0, 0), *(to_rgba(style(k)[0], 0.5) for k in range(1, classes))])[mask]


def _name_classes(figure: "Figure", class_names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=style(k)[0], label=plain(name)) for k, name in enumerate(class_names) if k]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
