"""Figures of images: inputs of pretext tasks, predicted grades, embeddings, segmentation masks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from keras_ssl._checks import check_grades, check_labels
from keras_ssl._types import Images, Labels, Tensor
from keras_ssl.reports.figures import displayable, legend, new_figure, plain, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "os^DvP*X<>"


def plot_pretext(images: Images, inputs: Images, titles: Sequence[str]) -> "Figure":
    """Plot images (above) and the network inputs that a pretext task made of them (below).

    Args:
        images: `(n, *spatial, channels)`, one or three channels; for volumes, the middle slice of the first
            spatial axis is shown.
        inputs: as many images after the preprocessing of the task.
        titles: title of each pair, such as the true and the predicted class.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: a shape is wrong, or there is no image.

    >>> len(plot_pretext(np.ones((2, 4, 4, 3)), np.ones((2, 4, 4, 3)), ["0°", "90°"]).axes)
    4
    """
    columns = len(titles)
    pairs = [_images(name, values, columns) for name, values in (("images", images), ("inputs", inputs))]
    figure, panels = new_figure(2 * columns, columns, size=(1.5, 1.7))
    for axes, image in zip(panels, [*pairs[0], *pairs[1]], strict=True):
        axes.imshow(displayable(image), cmap="gray")
        axes.set_axis_off()
    for axes, title in zip(panels[columns:], titles, strict=True):
        axes.set_title(plain(title), fontsize=8)
    return figure


def plot_graded(
    images: Images,
    true_grades: Sequence[int],
    predicted_grades: Sequence[int],
    grade_names: Sequence[str],
    heat_maps: Tensor = None,
) -> "Figure":
    r"""Plot images with their true and predicted grades, and optionally heat maps below.

    Args:
        images: `(n, *spatial, channels)`, one or three channels; for volumes, the middle slice of the first
            spatial axis is shown.
        true_grades: integers from 0, `(n,)`.
        predicted_grades: likewise.
        grade_names: name of each grade.
        heat_maps: `(n, rows, columns)` in [0, 1], of any resolution, with one more axis for volumes; plotted
            over the image, with opacity by value.

    Returns:
        A Matplotlib figure with rows of five images.

    Raises:
        ValueError: a shape is wrong, a grade has no name, or a heat map exceeds [0, 1].

    >>> figure = plot_graded(np.ones((1, 4, 4, 1)), [1], [0], ["healthy", "ill"])
    >>> figure.axes[0].get_title()
    'true ill\npredicted healthy'
    """
    true, predicted = np.asarray(true_grades), np.asarray(predicted_grades)
    pictures = _images("images", images, len(true))
    if predicted.shape != true.shape or true.ndim != 1:
        raise ValueError(
            "`true_grades` and `predicted_grades` must both have shape (n,). "
            f"Received {true.shape} and {predicted.shape}."
        )
    true, predicted = (
        check_grades(grades, len(grade_names), several=False, name=name)
        for name, grades in (("true_grades", true), ("predicted_grades", predicted))
    )
    maps = None if heat_maps is None else _heat_maps(heat_maps, len(true))
    columns, copies = min(5, len(true)), 1 if maps is None else 2
    # A row of images, then the row of their heat maps, and so on; the last row may be shorter.
    rows = copies * -(-len(true) // columns)
    figure, panels = new_figure(rows * columns, columns, size=(2.1, 2.3))
    for axes in panels:
        axes.set_axis_off()
    for number, picture in enumerate(pictures):
        place = number // columns * columns * copies + number % columns
        panels[place].imshow(displayable(picture), cmap="gray")
        title = f"true {grade_names[true[number]]}\npredicted {grade_names[predicted[number]]}"
        panels[place].set_title(plain(title), fontsize=9)
        if maps is not None:
            _overlay(panels[place + columns], picture, maps[number])
    return figure


def plot_embedding(
    embeddings: Tensor,
    labels: Sequence[int],
    grade_names: Sequence[str],
    method: Literal["pca", "tsne", "umap"] = "pca",
    seed: int = 0,
) -> "Figure":
    """Plot embeddings of images in two dimensions, colored by grade.

    Args:
        embeddings: pooled features of an encoder, `(n, features)`, at least three images.
        labels: grade of each image, integers from 0, `(n,)`.
        grade_names: name of each grade.
        method: dimension reduction: `"pca"` preserves distances as far as possible in a plane; `"tsne"` and
            `"umap"` preserve neighbors, while distances between clusters have no meaning. `"umap"` requires
            the package umap-learn.
        seed: seed of t-SNE and UMAP.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: a shape is wrong, a feature is not finite, a grade has no name, or `method` is unknown.
        ImportError: umap-learn is not installed.

    References:
        van der Maaten, L., Hinton, G. (2008). Visualizing data using t-SNE. JMLR 9.
        McInnes, L. et al. (2018). UMAP: uniform manifold approximation and projection. arXiv:1802.03426.

    >>> features = np.random.default_rng(0).normal(size=(6, 4))
    >>> figure = plot_embedding(features, [0, 1, 0, 1, 0, 1], ["healthy", "ill"])
    >>> [len(dots.get_offsets()) for dots in figure.axes[0].collections]
    [3, 3]
    """
    from matplotlib import colormaps

    features, grades = np.asarray(embeddings, dtype="float64"), np.asarray(labels)
    if features.ndim != 2 or len(features) < 3 or grades.shape != features.shape[:1]:
        raise ValueError(
            "`embeddings` must have shape (n, features), n at least 3, and `labels` (n,). "
            f"Received {features.shape} and {grades.shape}."
        )
    if not np.isfinite(features).all():
        raise ValueError("`embeddings` must be finite. Received NaN or infinite values.")
    grades = check_grades(grades, len(grade_names), several=False, name="labels")
    points, axis_names = _project(features, method, seed)
    figure, (axes,) = new_figure(1, size=(6.0, 5.2))
    # Without the ends of the color map, so that dots are visible on white and on black.
    shades = colormaps["plasma"](np.linspace(0.1, 0.85, len(grade_names)))
    for grade, name in enumerate(grade_names):
        x, y = points[grades == grade].T
        marker = _MARKERS[grade % len(_MARKERS)]
        # Black edges take the text color of the HTML page and separate dots from its background.
        dots = {"facecolor": shades[grade], "edgecolor": "black", "linewidth": 0.3, "alpha": 0.85}
        axes.scatter(x, y, s=24, marker=marker, label=plain(name), **dots)
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
    axes.set_xticks([])
    axes.set_yticks([])
    legend(figure, axes)
    return figure


def _project(features: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, tuple[str, str]]:
    if method == "pca":
        from sklearn.decomposition import PCA

        # A single feature has one component; the second axis is then flat.
        pca = PCA(min(2, features.shape[1]), svd_solver="full")
        points = pca.fit_transform(features)
        first, second = np.pad(np.nan_to_num(pca.explained_variance_ratio_), (0, 2))[:2]
        names = f"first component ({first:.0%} of variance)", f"second component ({second:.0%})"
        return np.pad(points, ((0, 0), (0, 2)))[:, :2], names
    if method == "tsne":
        from sklearn.manifold import TSNE

        # scikit-learn requires a perplexity below the number of points; a third is the usual maximum.
        perplexity = min(30.0, (len(features) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)
        return points, ("t-SNE, first axis", "t-SNE, second axis")
    if method == "umap":
        try:
            import umap
        except ImportError as error:
            raise ImportError(
                '`method="umap"` requires the package umap-learn: pip install umap-learn.'
            ) from error
        neighbors = min(15, len(features) - 1)
        points = umap.UMAP(n_neighbors=neighbors, random_state=seed).fit_transform(features)
        return points, ("UMAP, first axis", "UMAP, second axis")
    raise ValueError(f'`method` must be "pca", "tsne" or "umap". Received {method!r}.')


def _images(name: str, values: Images, count: int) -> np.ndarray:
    images = np.asarray(values)
    if images.ndim not in (4, 5) or images.shape[-1] not in (1, 3) or len(images) != count or not count:
        raise ValueError(
            f"`{name}` must have shape (n, *spatial, channels) with two or three spatial axes and 1 or 3 "
            f"channels, n = {count} and at least 1. Received {images.shape}."
        )
    return _middle(images) if images.ndim == 5 else images


def _middle(volumes: np.ndarray) -> np.ndarray:
    return volumes[:, volumes.shape[1] // 2]


def _heat_maps(values: Tensor, count: int) -> np.ndarray:
    maps = np.asarray(values, dtype="float64")
    maps = _middle(maps) if maps.ndim == 4 else maps
    if maps.ndim != 3 or len(maps) != count:
        raise ValueError(f"`heat_maps` must have shape ({count}, rows, columns). Received {maps.shape}.")
    if not (np.isfinite(maps).all() and maps.min() >= 0 and maps.max() <= 1):
        raise ValueError(f"`heat_maps` must lie in [0, 1]. Received {maps.min():g} to {maps.max():g}.")
    return maps


def _overlay(axes: "Axes", picture: np.ndarray, heat: np.ndarray) -> None:
    height, width = picture.shape[:2]
    axes.imshow(displayable(picture), cmap="gray")
    axes.imshow(
        heat,
        cmap="inferno",
        vmin=0,
        vmax=1,
        alpha=0.75 * heat,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="bilinear",
    )


def plot_masks(
    images: Images, true_masks: Labels, predicted_masks: Labels, class_names: Sequence[str]
) -> "Figure":
    """Plot a row for each image: the image alone, with its true mask, and with its predicted mask.

    For volumes, the slice of the last axis with the most true foreground is shown; the first axis points
    right and the second up, as is usual for axes in RAS+ orientation.

    Args:
        images: `(n, *spatial, channels)` with two or three spatial axes; the first channel is shown.
        true_masks: integers, `(n, *spatial)`.
        predicted_masks: likewise.
        class_names: name of each class, the background first.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: a shape is wrong, there is no image, or a class has no name.

    >>> masks = np.zeros((2, 8, 8, 8), int)
    >>> figure = plot_masks(np.ones((2, 8, 8, 8, 1)), masks, masks, ["background", "lesion"])
    >>> [axes.get_title() for axes in figure.axes][:3]
    ['image', 'true mask', 'predicted mask']
    """
    scans, maps = np.asarray(images), [np.asarray(true_masks), np.asarray(predicted_masks)]
    for name, masks in zip(("true_masks", "predicted_masks"), maps, strict=True):
        if scans.ndim not in (4, 5) or not len(scans) or masks.shape != scans.shape[:-1]:
            raise ValueError(
                f"`images` must have shape (n, *spatial, channels) and `{name}` (n, *spatial). Received "
                f"{scans.shape} and {masks.shape}."
            )
        check_labels(masks, len(class_names), name=name, hint=" `class_names` must have one name per class.")
    figure, panels = new_figure(3 * len(scans), 3, size=(2.2, 2.3))
    for row, (scan, *labels) in enumerate(zip(scans[..., 0], *maps, strict=True)):
        if scan.ndim == 3:
            fullest = int(np.argmax((labels[0] > 0).sum(axis=(0, 1))))
            scan, labels = scan[..., fullest].T[::-1], [part[..., fullest].T[::-1] for part in labels]
        for column, (title, part) in enumerate(
            zip(("image", "true mask", "predicted mask"), (None, *labels), strict=True)
        ):
            axes = panels[3 * row + column]
            axes.imshow(scan, cmap="gray")
            axes.set_axis_off()
            if part is not None:
                axes.imshow(_colored(part, len(class_names)))
            if row == 0:
                axes.set_title(title, fontsize=9)
    _class_legend(figure, class_names)
    return figure


def _colored(mask: np.ndarray, classes: int) -> np.ndarray:
    """Color the classes, half transparent, and leave the background transparent."""
    from matplotlib.colors import to_rgba

    return np.array([(0, 0, 0, 0), *(to_rgba(style(k)[0], 0.5) for k in range(1, classes))])[mask]


def _class_legend(figure: "Figure", class_names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=style(k)[0], label=plain(name)) for k, name in enumerate(class_names) if k]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
