"""Windows cover images of any size; blending changes nothing where they agree, and weighs where not."""

import keras
import numpy as np
import pytest

from keras_ssl.models import sliding_window_predict


def pointwise(window, channels=2, classes=3):
    """A model that sees one pixel at a time: windows agree wherever they overlap."""
    inputs = keras.Input((*window, channels))
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(inputs))


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("spatial", "window"), [((13, 9), (4, 4)), ((7, 11, 5), (4, 3, 5)), ((3, 9, 4), (5, 4, 4))]
)
def test_windows_that_agree_give_the_prediction_of_the_whole(spatial, window, blending):
    model = pointwise(window)
    image = np.random.default_rng(0).normal(size=(*spatial, 2)).astype("float32")
    whole = keras.ops.convert_to_numpy(model.layers[-1](image))
    ours = sliding_window_predict(model, image, blending=blending, batch_size=3)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, whole, atol=1e-5)


class Counting:
    """Gives, for every pixel, its place within the window, and keeps what it was given."""

    input_shape = (None, 4, 1)

    def __init__(self, window):
        self.window, self.seen = window, []

    def predict_on_batch(self, batch):
        self.seen.append(batch)
        places = np.indices(self.window).sum(axis=0)[..., None]
        return np.stack([places] * len(batch)).astype("float32")


def test_weights_of_a_closed_form():
    """Two windows of four pixels, two apart: a pixel is the weighted mean of its places in both."""
    image = np.zeros((6, 4, 1))
    model = Counting((4, 4))
    ours = sliding_window_predict(model, image, (4, 4), overlap=0.5, batch_size=5)[:, 0, 0]
    weight = np.exp(-(((np.arange(4) - 1.5) / 0.5) ** 2) / 2)
    weight = np.maximum(weight, 1e-3 * weight.max())
    # Along the other axis every weight of column 0 is the same, unless the least weight cuts in.
    corner = np.maximum(np.outer(weight, weight), 1e-3 * np.outer(weight, weight).max())[:, 0]
    expected = [
        0,
        1,
        (2 * corner[2] + 0 * corner[0]) / (corner[2] + corner[0]),
        (3 * corner[3] + 1 * corner[1]) / (corner[3] + corner[1]),
        2,
        3,
    ]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    alike = sliding_window_predict(model, image, (4, 4), blending="constant")[:, 0, 0]
    np.testing.assert_allclose(alike, [0, 1, 1, 2, 2, 3])


def test_a_small_image_is_padded_with_the_smallest_of_all_its_values():
    model, image = Counting((4, 4)), np.arange(20.0).reshape(2, 10, 1) - 3
    sliding_window_predict(model, image, (4, 4))
    for batch in model.seen:
        np.testing.assert_array_equal(batch[:, [0, 3]], -3)


def test_batches_of_windows():
    model = Counting((4, 4))
    sliding_window_predict(model, np.zeros((10, 10, 1)), (4, 4), overlap=0.5, batch_size=5)
    assert [len(batch) for batch in model.seen] == [5, 5, 5, 1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": np.zeros((4, 4))}, r"`image` must have shape \(\*spatial, channels\).* Received \(4, 4\)"),
        ({"window": (4, 4, 4)}, r"`window` must be 2 sides .* Received \(4, 4, 4\)"),
        ({"window": (None, None)}, r"required if .*Received \(None, None\)"),
        ({"overlap": 1.0}, "`overlap` must be at least 0 and less than 1. Received 1.0"),
        ({"blending": "linear"}, "`blending` must be .* Received 'linear'"),
        ({"batch_size": 0}, "`batch_size` must be at least 1. Received 0"),
    ],
)
def test_invalid_arguments(changed, message):
    with pytest.raises(ValueError, match=message):
        sliding_window_predict(
            **{"model": Counting((4, 4)), "image": np.zeros((4, 4, 1)), "window": (4, 4), **changed}
        )
