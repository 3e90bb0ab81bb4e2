"""ColorizationTask: lightness in, colors out, against scikit-image and NumPy, and that it is learned."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops
from skimage.color import rgb2lab

from keras_ssl import ColorizationTask, SelfSupervisedModel
from keras_ssl.preprocessing.color import ab_bins
from keras_ssl.random import ReplaySeeds

RNG = np.random.default_rng(0)
# Images of 9 by 14 pixels have 2 by 3 squares of 4.
UNIT = RNG.uniform(size=(3, 9, 14, 3)).astype("float32")
IMAGES = 255 * UNIT


def squares_of(images):
    """Colors, a and b, averaged over squares of 4 by 4 pixels."""
    return rgb2lab(images)[:, :8, :12, 1:].reshape(len(images), 2, 4, 3, 4, 2).mean(axis=(2, 4))


def drawn(task, images):
    return [ops.convert_to_numpy(each) for each in task.preprocess(images, ReplaySeeds())]


@pytest.mark.parametrize("value_range", [(0, 1), (0, 255), (-1, 1)])
def test_lightness_is_shown_in_the_range_of_the_images(value_range):
    black, white = value_range
    inputs, colors = drawn(
        ColorizationTask(value_range=value_range, mode="regression"), black + (white - black) * UNIT
    )
    expected = black + (white - black) * rgb2lab(UNIT)[..., :1] / 100
    np.testing.assert_allclose(inputs, np.repeat(expected, 3, axis=-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(colors, squares_of(UNIT) / 110, atol=1e-5)


def test_bins_are_those_of_the_mean_colors():
    _, bins = drawn(ColorizationTask(), IMAGES)
    np.testing.assert_array_equal(bins, ops.convert_to_numpy(ab_bins(squares_of(UNIT))))


def test_bins_of_the_strongest_colors_are_among_the_logits():
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), axis=-1).reshape(8, 1, 1, 3)
    for bin_step in (7.0, 10.0, 200.0):
        task = ColorizationTask(bin_step=bin_step, stride=1)
        _, bins = drawn(task, 255 * corners.astype("float32"))
        network = task.build_network(keras.layers.Conv2D(2, 1), (1, 1, 3))
        assert bins.min() >= 0
        assert bins.max() < network.output_shape[-1]


def test_values_a_little_beyond_the_range_are_clipped_and_far_beyond_refused():
    inputs, _ = drawn(ColorizationTask(), 1.05 * IMAGES)
    np.testing.assert_array_equal(inputs, drawn(ColorizationTask(), np.minimum(1.05 * IMAGES, 255))[0])
    task = ColorizationTask(filters=4)
    model = SelfSupervisedModel(task, tiny.functional_encoder((9, 14, 3)), seed=0)
    for scaled in (257 * IMAGES, UNIT, 2 * UNIT - 1):
        with pytest.raises(
            ValueError, match=r"`value_range` must be that of the images, .* Received \(0.0, 2"
        ):
            model.fit_pretext(scaled, verbose=0, epochs=1)


def test_losses():
    bins, logits = RNG.integers(0, 5, size=(2, 3, 4)), RNG.normal(size=(2, 3, 4, 9)).astype("float32")
    frequencies = np.bincount(bins.ravel(), minlength=9) / bins.size
    weights = 1 / (0.8 * frequencies + 0.2 / 9)
    weights /= (weights * frequencies).sum()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    right = np.take_along_axis(probabilities, bins[..., None], axis=-1)[..., 0]
    loss = ops.convert_to_numpy(ColorizationTask(uniform_fraction=0.2).compute_loss(bins, logits))
    np.testing.assert_allclose(loss, -(weights[bins] * np.log(right)).mean(axis=(1, 2)), rtol=1e-5)
    colors, outputs = RNG.normal(size=(2, 2, 3, 4, 2)).astype("float32")
    loss = ops.convert_to_numpy(ColorizationTask(mode="regression").compute_loss(colors, outputs))
    np.testing.assert_allclose(loss, ((colors - outputs) ** 2).mean(axis=(1, 2, 3)), rtol=1e-5)


def test_metrics():
    (accuracy,) = ColorizationTask().build_metrics()
    accuracy.update_state(np.array([[[0, 1]], [[2, 2]]]), np.eye(3, dtype="float32")[[[[0, 1]], [[2, 0]]]])
    assert float(accuracy.result()) == 0.75
    (error,) = ColorizationTask(mode="regression").build_metrics()
    error.update_state(np.zeros((1, 1, 2, 2), "float32"), np.array([[[[0.3, 0.4], [0, 0]]]], "float32"))
    np.testing.assert_allclose(float(error.result()), 110 * 0.25, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["bins", "regression"])
def test_it_is_learned(mode):
    # What is bright is red, what is dark is blue.
    bright = RNG.uniform(size=(32, 4, 4, 1)) < 0.5
    images = 255 * np.where(bright, [1.0, 0.6, 0.6], [0.0, 0.0, 0.5]).repeat(4, axis=1).repeat(4, axis=2)
    encoder = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 4, strides=4, activation="relu"),
        ]
    )
    model = SelfSupervisedModel(ColorizationTask(mode=mode, filters=16), encoder, seed=0)
    model.compile(keras.optimizers.Adam(0.02), jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(
        images.astype("float32"), augment=None, batch_size=16, epochs=15, verbose=0
    ).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    if mode == "bins":
        # Either color alone is right half the time.
        assert history["accuracy"][-1] > 0.9
    else:
        # The two lie 98 apart, and their mean half of it from either.
        assert history["color_error"][-1] < 20


@pytest.mark.parametrize("shape", [(16, 16, 1), (16, 16, 16, 3), (3, 16, 3)])
def test_images_without_colors_or_too_small_are_refused(shape):
    with pytest.raises(ValueError, match=r"`input_shape` must be \(height, width, 3\), .* Received \("):
        SelfSupervisedModel(ColorizationTask(), tiny.functional_encoder(shape))


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="The task needs a feature map"):
        SelfSupervisedModel(ColorizationTask(), tiny.SubclassedEncoder(), input_shape=(12, 12, 3))


@pytest.mark.parametrize(
    ("argument", "value", "constraint"),
    [
        ("mode", "soft", '"bins" or "regression"'),
        ("value_range", (1, 0), r"\(black, white\), rising"),
        ("stride", 0, "at least 1"),
        ("bin_step", 0, "above 0"),
        ("uniform_fraction", 0, r"in \(0, 1\]"),
        ("uniform_fraction", 1.5, r"in \(0, 1\]"),
    ],
)
def test_bad_settings_are_refused(argument, value, constraint):
    with pytest.raises(ValueError, match=f"`{argument}` must be {constraint}. Received"):
        ColorizationTask(**{argument: value})
