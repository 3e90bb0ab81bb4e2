"""Segmentations beside the truth: which slice is drawn, which way up, what is refused."""

import numpy as np
import pytest

from keras_ssl.reports import plot_masks

pytestmark = pytest.mark.no_backend

NAMES = ["background", "head", "body"]


def test_of_a_volume_the_slice_with_most_foreground_is_drawn_the_right_way_up():
    images = np.random.default_rng(0).uniform(size=(1, 5, 4, 3, 1))
    masks = np.zeros((1, 5, 4, 3), int)
    masks[0, 4, 0, 2] = 2
    figure = plot_masks(images, masks, 0 * masks, NAMES)
    scan, truth, predicted = figure.axes
    # The first axis runs to the right, the second up: its beginning is the last row.
    np.testing.assert_allclose(scan.images[0].get_array(), images[0, :, :, 2, 0].T[::-1])
    colored = truth.images[1].get_array()
    assert np.argwhere(colored[..., 3] > 0).tolist() == [[3, 4]]
    assert not predicted.images[1].get_array()[..., 3].any()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == NAMES[1:]


def test_classes_have_colors_of_their_own():
    masks = np.array([[[0, 1], [2, 2]]])
    figure = plot_masks(np.ones((1, 2, 2, 1)), masks, masks, NAMES)
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
            r"`predicted_masks` must be whole numbers in 0\.\.2. Received 3 in row 0",
        ),
    ],
)
def test_what_is_refused(changed, message):
    masks = np.zeros((2, 4, 4), int)
    given = {"images": np.ones((2, 4, 4, 1)), "true_masks": masks, "predicted_masks": masks}
    with pytest.raises(ValueError, match=message):
        plot_masks(**{**given, "class_names": NAMES, **changed})
