"""Figures of images: pretext views, graded images, embeddings, segmentations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from keras_ssl._checks import check_grades, check_labels
from keras_ssl.reports.figures import displayable, legend, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from typing import TYPE_CHECKING

from keras_ssl.reports.figures import style

_MARKERS = "os^DvP*X<>"


def plot_pretext(images: Any, seen: Any, titles: Sequence[str]) -> "Figure":
    """Draw what a pretext task was given (above) and what the network saw of it (below).

    Args:
        images: `(n, *spatial, channels)`, one or three channels; of volumes the slice in the middle of the
            first spatial axis is drawn.
        seen: the same number of images, after the task's preprocessing.
        titles: a title for each pair, such as the true and the predicted class.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: shapes are not those, or there is no image.

    >>> len(plot_pretext(np.ones((2, 4, 4, 3)), np.ones((2, 4, 4, 3)), ["0°", "90°"]).axes)
    4
    """
    columns = len(titles)
    pairs = [_images(name, given, columns) for name, given in (("images", images), ("seen", seen))]
    figure, panels = new_figure(2 * columns, columns, size=(1.5, 1.7))
    for axes, image in zip(panels, [*pairs[0], *pairs[1]], strict=True):
        axes.imshow(displayable(image), cmap="gray")
        axes.set_axis_off()
    for axes, title in zip(panels[columns:], titles, strict=True):
        axes.set_title(plain(title), fontsize=8)
    return figure


def plot_graded(
    images: Any,
    true_grades: Sequence[int],
    predicted_grades: Sequence[int],
    grade_names: Sequence[str],
    heat_maps: Any = None,
) -> "Figure":
    r"""Draw images with their true and predicted grade, and below each, where given, its heat map.

    Args:
        images: `(n, *spatial, channels)`, one or three channels; of volumes the slice in the middle of the
            first spatial axis is drawn.
        true_grades: `(n,)`, whole numbers from 0.
        predicted_grades: `(n,)`, likewise.
        grade_names: one name per grade.
        heat_maps: `(n, rows, columns)` in [0, 1], of any resolution, with an axis more of volumes; drawn over
            the image, the more opaque the higher.

    Returns:
        A Matplotlib figure, in rows of five images.

    Raises:
        ValueError: shapes are not those, a grade has no name, or a heat map leaves [0, 1].

    >>> figure = plot_graded(np.ones((1, 4, 4, 1)), [1], [0], ["healthy", "ill"])
    >>> figure.axes[0].get_title()
    'graded healthy\nwas ill'
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
    # A row of images, below it the row of their heat maps, and so on; the last row may be short.
    rows = copies * -(-len(true) // columns)
    figure, panels = new_figure(rows * columns, columns, size=(2.1, 2.3))
    for axes in panels:
        axes.set_axis_off()
    for number, picture in enumerate(pictures):
        place = number // columns * columns * copies + number % columns
        panels[place].imshow(displayable(picture), cmap="gray")
        given, was = grade_names[predicted[number]], grade_names[true[number]]
        title = f"graded {given}\n" + ("rightly" if given == was else f"was {was}")
        panels[place].set_title(plain(title), fontsize=9)
        if maps is not None:
            _overlay(panels[place + columns], picture, maps[number])
    return figure


def plot_embedding(
    embeddings: Any,
    labels: Sequence[int],
    grade_names: Sequence[str],
    method: Literal["pca", "tsne", "umap"] = "pca",
    seed: int = 0,
) -> "Figure":
    """Draw a map of images, those near each other that an encoder finds alike, colored by grade.

    Args:
        embeddings: pooled features of an encoder, `(n, features)`, at least three images.
        labels: the grade of each image, `(n,)`, whole numbers from 0.
        grade_names: one name per grade.
        method: how features become a plane: `"pca"` keeps distances as far as a plane can; `"tsne"` and
            `"umap"` keep neighbors, and their distances between groups mean nothing. `"umap"` needs the
            package umap-learn.
        seed: of t-SNE and UMAP.

    Returns:
        A Matplotlib figure.

    Raises:
        ValueError: shapes are not those, a feature is not finite, a grade has no name, or `method` is none
            of these.
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
    # Neither end of the color map, so that dots are seen on white and on black.
    shades = colormaps["plasma"](np.linspace(0.1, 0.85, len(grade_names)))
    for grade, name in enumerate(grade_names):
        x, y = points[grades == grade].T
        marker = _MARKERS[grade % len(_MARKERS)]
        # Black, which is the color of a page's text, rims dots that would sink into its ground.
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

        # One feature alone spans no plane; the second axis then is flat.
        pca = PCA(min(2, features.shape[1]), svd_solver="full")
        points = pca.fit_transform(features)
        first, second = np.pad(np.nan_to_num(pca.explained_variance_ratio_), (0, 2))[:2]
        names = f"first component ({first:.0%} of variance)", f"second component ({second:.0%})"
        return np.pad(points, ((0, 0), (0, 2)))[:, :2], names
    if method == "tsne":
        from sklearn.manifold import TSNE

        # scikit-learn refuses a perplexity that is not below the number of points; a third is the usual cap.
        perplexity = min(30.0, (len(features) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)
        return points, ("t-SNE, first axis", "t-SNE, second axis")
    if method == "umap":
        try:
            import umap
        except ImportError as error:
            raise ImportError(
                '`method="umap"` needs the package umap-learn: pip install umap-learn.'
            ) from error
        neighbors = min(15, len(features) - 1)
        points = umap.UMAP(n_neighbors=neighbors, random_state=seed).fit_transform(features)
        return points, ("UMAP, first axis", "UMAP, second axis")
    raise ValueError(f'`method` must be "pca", "tsne" or "umap". Received {method!r}.')


def _images(name: str, given: Any, count: int) -> np.ndarray:
    images = np.asarray(given)
    if images.ndim not in (4, 5) or images.shape[-1] not in (1, 3) or len(images) != count or not count:
        raise ValueError(
            f"`{name}` must have shape (n, *spatial, channels) with two or three spatial axes and 1 or 3 "
            f"channels, n = {count} and at least 1. Received {images.shape}."
        )
    return _middle(images) if images.ndim == 5 else images


def _middle(volumes: np.ndarray) -> np.ndarray:
    return volumes[:, volumes.shape[1] // 2]


def _heat_maps(given: Any, count: int) -> np.ndarray:
    maps = np.asarray(given, dtype="float64")
    maps = _middle(maps) if maps.ndim == 4 else maps
    if maps.ndim != 3 or len(maps) != count:
        raise ValueError(f"`heat_maps` must have shape ({count}, rows, columns). Received {maps.shape}.")
    if not (np.isfinite(maps).all() and maps.min() >= 0 and maps.max() <= 1):
        raise ValueError(f"`heat_maps` must lie in [0, 1]. Received {maps.min():g} to {maps.max():g}.")
    return maps


def _overlay(axes: Any, picture: np.ndarray, heat: np.ndarray) -> None:
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
        check_labels(masks, len(class_names), name=name, hint=" `class_names` must have one name per class.")
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
                axes.imshow(_colored(part, len(class_names)))
            if row == 0:
                axes.set_title(title, fontsize=9)
    _name_classes(figure, class_names)
    return figure


def _colored(mask: np.ndarray, classes: int) -> np.ndarray:
    """The classes' colors, half transparent, and nothing where the background is."""
    from matplotlib.colors import to_rgba

    return np.array([(0, 0, 0, 0), *(to_rgba(style(k)[0], 0.5) for k in range(1, classes))])[mask]


def _name_classes(figure: "Figure", class_names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=style(k)[0], label=plain(name)) for k, name in enumerate(class_names) if k]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
