"""Cross-entropies against Keras, scikit-learn and arithmetic done by hand."""

import keras
import numpy as np
import pytest
from sklearn.metrics import log_loss

from keras_ssl.losses import (
    DiceCrossentropy,
    WeightedCategoricalCrossentropy,
    dice_crossentropy,
    soft_dice_loss,
    weighted_categorical_crossentropy,
)


def pair(spatial, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, (3, *spatial))
    return true, rng.dirichlet(np.ones(classes), (3, *spatial)).astype("float32")


@pytest.mark.parametrize("spatial", [(), (9,), (6, 5), (4, 3, 5)])
def test_without_weights_it_is_that_of_keras(spatial):
    true, predicted = pair(spatial)
    expected = keras.losses.sparse_categorical_crossentropy(true, predicted)
    expected = keras.ops.convert_to_numpy(expected).reshape(3, -1).mean(axis=1)
    loss = keras.ops.convert_to_numpy(weighted_categorical_crossentropy(true, predicted))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(weighted_categorical_crossentropy(np.eye(4)[true], predicted)), loss
    )


@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")  # they do in float32
def test_with_weights_it_is_that_of_scikit_learn():
    true, predicted = pair((6, 5))
    weights = np.array([0.1, 1.0, 0.0, 3.0])
    loss = keras.ops.convert_to_numpy(weighted_categorical_crossentropy(true, predicted, weights))
    for image, probabilities, found in zip(true, predicted, loss, strict=True):
        of_voxels = weights[image.ravel()]
        total = log_loss(
            image.ravel(),
            probabilities.reshape(-1, 4).astype("float64"),
            labels=range(4),
            sample_weight=of_voxels,
            normalize=False,
        )
        assert found == pytest.approx(total / image.size, rel=1e-5)
    doubled = keras.ops.convert_to_numpy(weighted_categorical_crossentropy(true, predicted, 2 * weights))
    np.testing.assert_allclose(doubled, 2 * loss, rtol=1e-6)


def test_soft_targets():
    loss = weighted_categorical_crossentropy([[[0.25, 0.75]]], [[[0.5, 0.5]]], [1, 2])
    assert float(loss[0]) == pytest.approx((0.25 + 2 * 0.75) * np.log(2))


def test_voxels_that_are_most_wrong_keep_their_gradient():
    """The gradient of softmax and cross-entropy is p - t; clipping at 1e-7, as Keras does, makes it 0."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, activation="softmax")])
    model.layers[0].set_weights([np.zeros((1, 2)), np.array([0.0, -60.0])])
    model.compile(keras.optimizers.SGD(1.0), WeightedCategoricalCrossentropy())
    loss = model.train_on_batch(np.zeros((1, 1)), np.array([1]))
    assert float(loss) == pytest.approx(60)
    np.testing.assert_allclose(model.layers[0].get_weights()[1], [-1, -59], rtol=1e-6)


def test_probability_of_zero_is_finite():
    loss = dice_crossentropy([[1, 0]], [[[1.0, 0.0], [1.0, 0.0]]])
    assert np.isfinite(float(loss[0]))


@pytest.mark.parametrize("label", [4, -1, 0.5, np.nan])
def test_label_that_is_no_class_makes_its_image_nan(label):
    true, predicted = pair((6, 5))
    true = true.astype("float32")
    true[1, 2, 3] = label
    for function in (weighted_categorical_crossentropy, dice_crossentropy):
        loss = keras.ops.convert_to_numpy(function(true, predicted))
        assert np.isnan(loss).tolist() == [False, True, False]


def test_half_precision_is_summed_in_float32():
    true = np.random.default_rng(0).integers(0, 2, (1, 300, 300))
    for dtype in ("float16", "bfloat16"):
        predicted = keras.ops.cast(np.full((1, 300, 300, 2), 0.5), dtype)
        loss = weighted_categorical_crossentropy(true, predicted)
        assert keras.backend.standardize_dtype(loss.dtype) == "float32"
        assert float(loss[0]) == pytest.approx(np.log(2), rel=1e-5)


def test_dice_crossentropy_is_the_sum_of_both():
    true, predicted = pair((4, 3, 5))
    for arguments in ({}, {"include_background": True, "smooth": 3.0}, {"class_weights": [0, 1, 2, 3]}):
        weights = arguments.get("class_weights")
        both = soft_dice_loss(true, predicted, **arguments)
        both = both + weighted_categorical_crossentropy(true, predicted, weights)
        loss = keras.ops.convert_to_numpy(dice_crossentropy(true, predicted, **arguments))
        np.testing.assert_allclose(loss, keras.ops.convert_to_numpy(both), rtol=1e-6)
        made = DiceCrossentropy(**arguments)
        assert float(made(true, predicted)) == pytest.approx(loss.mean(), rel=1e-6)


def test_refused():
    true, predicted = pair((6,))
    with pytest.raises(ValueError, match=r"one weight for each of 4 classes.*Received 2 weights"):
        weighted_categorical_crossentropy(true, predicted, [1, 1])
    with pytest.raises(ValueError, match="`class_weights` must be one finite number a class, none below 0"):
        WeightedCategoricalCrossentropy([1, -1])
    with pytest.raises(ValueError, match=r"`true` must be label maps.*Received shape \(3, 5\)"):
        weighted_categorical_crossentropy(true[:, :5], predicted)
    with pytest.raises(ValueError, match=r"`smooth` must be above 0. Received -1"):
        DiceCrossentropy(smooth=-1)
