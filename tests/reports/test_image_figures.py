"""Figures of images: content, order and invalid arguments."""

import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA

from keras_ssl.reports import plot_embedding, plot_graded, plot_masks
from keras_ssl.reports.image_figures import plot_pretext

pytestmark = pytest.mark.no_backend

GENERATOR = np.random.default_rng(0)
NAMES = ["none", "mild", "severe"]


@pytest.mark.parametrize("channels", [1, 3])
def test_pretext_draws_pairs(channels):
    images = GENERATOR.uniform(0, 255, (2, 4, 4, channels))
    figure = plot_pretext(images, images - 100, ["0", "90"])
    assert [axes.get_title() for axes in figure.axes] == ["", "", "0", "90"]
    shown = figure.axes[1].images[0].get_array()
    expected = images[1] / images[1].max()
    np.testing.assert_allclose(shown, expected[..., 0] if channels == 1 else expected, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_graded_images_with_heat_maps_below(channels):
    images = GENERATOR.uniform(0, 1, (7, 6, 8, channels))
    maps = GENERATOR.uniform(0, 1, (7, 3, 4))
    figure = plot_graded(images, [0, 1, 2] * 2 + [2], [0, 2, 2] * 2 + [0], NAMES, maps)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == ["true none\npredicted none", "true mild\npredicted severe"]
    # Five in a row, their maps below, then the other two and theirs.
    assert titles[10:12] == ["true severe\npredicted severe", "true severe\npredicted none"]
    heat = figure.axes[15].images[1]
    np.testing.assert_allclose(heat.get_array(), maps[5])
    assert tuple(heat.get_extent()) == (-0.5, 7.5, 5.5, -0.5)


def test_volumes_are_shown_by_their_middle_slice():
    volumes = GENERATOR.uniform(0, 1, (2, 5, 6, 8, 1))
    maps = GENERATOR.uniform(0, 1, (2, 3, 2, 4))
    given, seen = plot_pretext(volumes, volumes[:, ::-1], ["a", "b"]).axes[1:4:2]
    for axes in (given, seen):
        np.testing.assert_allclose(axes.images[0].get_array(), volumes[1, 2, ..., 0] / volumes[1, 2].max())
    graded = plot_graded(volumes, [0, 1], [0, 0], NAMES, maps)
    np.testing.assert_allclose(graded.axes[3].images[1].get_array(), maps[1, 1])


def test_graded_images_without_heat_maps():
    figure = plot_graded(np.ones((3, 4, 4, 1)), [0, 1, 2], [0, 0, 0], NAMES)
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.ones((2, 4, 4))}, r"`images` must have shape \(n, \*spatial, channels\)"),
        ({"images": np.ones((3, 4, 4, 1))}, "n = 2"),
        ({"true_grades": [0, 3]}, r"`true_grades` must be whole numbers in 0..2. Received 3 in row 1"),
        ({"predicted_grades": [0, -1]}, "`predicted_grades` must be whole numbers"),
        ({"predicted_grades": [0]}, r"Received \(2,\) and \(1,\)"),
        ({"heat_maps": np.ones((2, 4))}, r"`heat_maps` must have shape \(2, rows, columns\)"),
        ({"heat_maps": np.full((2, 4, 4), 1.5)}, r"`heat_maps` must lie in \[0, 1\]. Received 1.5 to 1.5"),
        ({"heat_maps": np.full((2, 4, 4), np.nan)}, "Received nan"),
    ],
)
def test_graded_images_of_wrong_shapes_or_values_raise(changed, message):
    right = {"images": np.ones((2, 4, 4, 3)), "true_grades": [0, 1], "predicted_grades": [1, 1]}
    with pytest.raises(ValueError, match=message):
        plot_graded(**{**right, "grade_names": NAMES, **changed})


def test_map_of_features_is_that_of_pca():
    features, labels = GENERATOR.normal(size=(20, 6)), np.arange(20) % 3
    axes = plot_embedding(features, labels, NAMES).axes[0]
    points = PCA(2).fit_transform(features)
    for grade, dots in enumerate(axes.collections):
        assert dots.get_label() == NAMES[grade]
        np.testing.assert_allclose(dots.get_offsets(), points[labels == grade], atol=1e-9)
    share = PCA(2).fit(features).explained_variance_ratio_[0]
    assert f"{share:.0%}" in axes.get_xlabel()


def test_map_by_tsne_is_seeded_and_keeps_groups_apart():
    features = np.concatenate([GENERATOR.normal(0, 1, (12, 5)), GENERATOR.normal(40, 1, (12, 5))])
    labels = np.repeat([0, 2], 12)
    first, again = (plot_embedding(features, labels, NAMES, "tsne", seed=1).axes[0] for _ in range(2))
    points = [np.array(dots.get_offsets()) for dots in first.collections]
    np.testing.assert_array_equal(points[0], again.collections[0].get_offsets())
    assert [len(part) for part in points] == [12, 0, 12]
    spread = max(np.ptp(part, axis=0).max() for part in (points[0], points[2]))
    assert np.linalg.norm(points[0].mean(0) - points[2].mean(0)) > spread / 2


def test_umap_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        plot_embedding(np.ones((4, 2)), [0, 0, 1, 1], NAMES, "umap")


@pytest.mark.parametrize(
    ("features", "labels", "method", "message"),
    [
        (np.ones((2, 3)), [0, 1], "pca", "n at least 3"),
        (np.ones((4, 3)), [0, 1], "pca", r"Received \(4, 3\) and \(2,\)"),
        (np.ones((4, 2, 2, 3)), [0] * 4, "pca", r"\(n, features\)"),
        (np.full((4, 3), np.nan), [0] * 4, "pca", "must be finite"),
        (np.ones((4, 3)), [0, 1, 2, 3], "pca", "`labels` must be whole numbers in 0..2"),
        (np.ones((4, 3)), [0] * 4, "lda", "Received 'lda'"),
    ],
)
def test_invalid_embeddings_raise(features, labels, method, message):
    with pytest.raises(ValueError, match=message):
        plot_embedding(features, labels, NAMES, method)


def test_one_feature_is_a_flat_map():
    axes = plot_embedding(np.arange(4.0)[:, None], [0, 0, 1, 1], NAMES).axes[0]
    assert {float(y) for dots in axes.collections for y in dots.get_offsets()[:, 1]} == {0.0}


CLASSES = ["background", "head", "body"]


def test_volumes_are_shown_by_the_slice_with_most_foreground():
    images = np.random.default_rng(0).uniform(size=(1, 5, 4, 3, 1))
    masks = np.zeros((1, 5, 4, 3), int)
    masks[0, 4, 0, 2] = 2
    figure = plot_masks(images, masks, 0 * masks, CLASSES)
    scan, truth, predicted = figure.axes
    # The first axis runs to the right, the second up: its beginning is the last row.
    np.testing.assert_allclose(scan.images[0].get_array(), images[0, :, :, 2, 0].T[::-1])
    colored = truth.images[1].get_array()
    assert np.argwhere(colored[..., 3] > 0).tolist() == [[3, 4]]
    assert not predicted.images[1].get_array()[..., 3].any()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == CLASSES[1:]


def test_classes_have_colors_of_their_own():
    masks = np.array([[[0, 1], [2, 2]]])
    figure = plot_masks(np.ones((1, 2, 2, 1)), masks, masks, CLASSES)
    drawn = figure.axes[1].images[1].get_array()
    assert len({tuple(color) for color in drawn.reshape(-1, 4)}) == 3
    np.testing.assert_array_equal(drawn[1, 0], drawn[1, 1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.ones((2, 4, 4))}, r"`images` must have shape \(n, \*spatial, channels\)"),
        ({"true_masks": np.zeros((2, 4, 5), int)}, r"`true_masks` \(n, \*spatial\).*\(2, 4, 5\)"),
        (
            {"predicted_masks": np.full((2, 4, 4), 3)},
            r"`predicted_masks` must be whole numbers in 0\.\.2. Received 3",
        ),
    ],
)
def test_invalid_masks_raise(changed, message):
    masks = np.zeros((2, 4, 4), int)
    given = {"images": np.ones((2, 4, 4, 1)), "true_masks": masks, "predicted_masks": masks}
    with pytest.raises(ValueError, match=message):
        plot_masks(**{**given, "class_names": CLASSES, **changed})
