"""Overlap losses and cross-entropies against Keras, scikit-learn and NumPy; NaN labels, half precision."""

import keras
import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score, log_loss

from keras_ssl.losses import DiceCrossentropy, SoftDice, WeightedCategoricalCrossentropy
from keras_ssl.losses.segmentation import (
    JaccardDistance,
    dice_crossentropy,
    jaccard_distance,
    soft_dice_loss,
    weighted_categorical_crossentropy,
)

OVERLAPS = [soft_dice_loss, jaccard_distance]
BOTH = pytest.mark.parametrize("function", OVERLAPS)
EVERY = pytest.mark.parametrize("function", [*OVERLAPS, weighted_categorical_crossentropy, dice_crossentropy])
RANKS = pytest.mark.parametrize("spatial", [(), (9,), (6, 5), (4, 3, 5)])


def pair(spatial, classes=4, seed=0):
    """Label maps of three images and probabilities for them."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, (3, *spatial))
    return true, rng.dirichlet(np.ones(classes), (3, *spatial)).astype("float32")


def reference(function, true, predicted, weights, smooth):
    """One image after the other, one class after the other."""
    losses = []
    for image, probabilities in zip(true, predicted.astype("float64"), strict=True):
        terms = []
        for c in range(predicted.shape[-1]):
            t, p = (image == c).astype("float64"), probabilities[..., c]
            both, total = (t * p).sum(), t.sum() + p.sum()
            if function is soft_dice_loss:
                terms.append(1 - (2 * both + smooth) / (total + smooth))
            else:
                terms.append(1 - (both + smooth) / (total - both + smooth))
        losses.append(np.average(terms, weights=weights))
    return losses


@BOTH
@RANKS
def test_loss_is_one_minus_overlap_averaged_over_classes(function, spatial):
    true, predicted = pair(spatial)
    loss = function(true, predicted)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    for arguments, weights, smooth in [
        ({}, [0, 1, 1, 1], 1),
        ({"include_background": True}, [1, 1, 1, 1], 1),
        ({"class_weights": [9, 1, 0.5, 3], "smooth": 0.1}, [0, 1, 0.5, 3], 0.1),
        ({"class_weights": [9, 1, 0, 3], "include_background": True}, [9, 1, 0, 3], 1),
    ]:
        loss = keras.ops.convert_to_numpy(function(true, predicted, **arguments))
        np.testing.assert_allclose(loss, reference(function, true, predicted, weights, smooth), atol=1e-6)


@pytest.mark.parametrize(
    ("function", "score"), [(soft_dice_loss, f1_score), (jaccard_distance, jaccard_score)]
)
def test_loss_of_whole_voxels_is_that_of_scikit_learn(function, score):
    true, predicted = pair((5, 4, 6))
    found = predicted.argmax(axis=-1)
    loss = keras.ops.convert_to_numpy(function(true, np.eye(4)[found], smooth=1e-6))
    expected = [
        1 - score(a.ravel(), b.ravel(), labels=[1, 2, 3], average="macro")
        for a, b in zip(true, found, strict=True)
    ]
    np.testing.assert_allclose(loss, expected, atol=1e-6)


def test_soft_dice_of_one_class_is_that_of_keras():
    true, predicted = pair((5, 4), classes=2)
    smooth = 1e-6
    expected = [
        float(keras.losses.Dice()(a[None].astype("float32"), b[None, ..., 1]))
        for a, b in zip(true, predicted, strict=True)
    ]
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(soft_dice_loss(true, predicted, smooth=smooth)), expected, atol=1e-6
    )


@EVERY
def test_truth_may_be_written_in_three_ways_and_softly(function):
    true, predicted = pair((4, 3, 5))
    one_hot = np.eye(4)[true]
    expected = keras.ops.convert_to_numpy(function(true, predicted))
    for written in (true[..., None], true.astype("float32"), true.astype("uint8"), one_hot):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(function(written, predicted)), expected)
    softly = keras.ops.convert_to_numpy(function(0.8 * one_hot + 0.05, predicted))
    assert not np.allclose(softly, expected, atol=1e-3)


@BOTH
def test_absent_classes(function):
    true = np.zeros((1, 30), "int64")
    nothing = function(true, np.eye(3)[true])
    assert float(nothing[0]) == 0
    losses = []
    for voxels in (1, 10, 30):
        found = np.where(np.arange(30) < voxels, 1, 0)[None]
        # Class 1 is predicted, class 2 is absent from both.
        losses.append(float(function(true, np.eye(3)[found])[0]))
    np.testing.assert_allclose(losses, [0.5 * n / (n + 1) for n in (1, 10, 30)], rtol=1e-6)


@EVERY
def test_images_do_not_change_one_anothers_loss(function):
    true, predicted = pair((6, 5))
    together = keras.ops.convert_to_numpy(function(true, predicted))
    alone = [float(function(true[i : i + 1], predicted[i : i + 1])[0]) for i in range(3)]
    np.testing.assert_allclose(together, alone, atol=1e-6)


@EVERY
@pytest.mark.parametrize("label", [4, -1, 0.5, np.nan])
def test_label_that_is_no_class_makes_its_image_nan(function, label):
    true, predicted = pair((6, 5))
    true = true.astype("float32")
    true[1, 2, 3] = label
    loss = keras.ops.convert_to_numpy(function(true, predicted))
    assert np.isnan(loss).tolist() == [False, True, False]


@EVERY
def test_half_precision_is_summed_in_float32(function):
    """In float16 sums end at 65504, in bfloat16 they saturate at 256."""
    true = np.random.default_rng(0).integers(0, 2, (1, 300, 300))
    probabilities = np.full((1, 300, 300, 2), 0.5)
    expected = float(function(true, probabilities)[0])
    for dtype in ("float16", "bfloat16"):
        loss = function(true, keras.ops.cast(probabilities, dtype))
        assert keras.backend.standardize_dtype(loss.dtype) == "float32"
        assert float(loss[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("function", "loss"), [(soft_dice_loss, SoftDice), (jaccard_distance, JaccardDistance)]
)
def test_class_averages_over_images(function, loss):
    true, predicted = pair((6, 5))
    by_image = keras.ops.convert_to_numpy(function(true, predicted, [0, 1, 2, 3], smooth=2.0))
    made = loss([0, 1, 2, 3], smooth=2.0)
    assert float(made(true, predicted)) == pytest.approx(by_image.mean(), abs=1e-6)
    weight = np.array([1.0, 0.0, 3.0])
    assert float(made(true, predicted, weight)) == pytest.approx((by_image * weight).sum() / 3, abs=1e-6)


@BOTH
@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ((2, 4, 5), (2, 4, 5, 1), r"`predicted` must be.*at least 2 classes.*Received shape \(2, 4, 5, 1\)"),
        ((2,), (2,), r"`predicted` must be of shape.*Received shape \(2,\)"),
        ((2, 4), (2, 4, 5, 3), r"`true` must be label maps of shape \(2, 4, 5\).*Received shape \(2, 4\)"),
        ((2, 4, 6), (2, 4, 5, 3), r"`true` must be.*Received shape \(2, 4, 6\)"),
        ((2, 4, 5, 4), (2, 4, 5, 3), r"`true` must be.*\(2, 4, 5, 3\)\. Received shape \(2, 4, 5, 4\)"),
        ((3, 4, 5), (2, 4, 5, 3), r"`true` must be.*Received shape \(3, 4, 5\)"),
    ],
)
def test_refused_shapes(function, true, predicted, message):
    with pytest.raises(ValueError, match=message):
        function(np.zeros(true), np.zeros(predicted))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": [1, -1]}, r"`class_weights` must be.*none below 0.*Received \[1, -1\]"),
        ({"class_weights": [0, 0]}, "`class_weights` must be.*not all 0"),
        ({"class_weights": [1, np.nan]}, "`class_weights` must be one finite number"),
        ({"class_weights": [[1, 1]]}, "`class_weights` must be one finite number a class"),
        ({"class_weights": [1, 0]}, "weight above 0 for a class other than the background"),
        ({"smooth": 0}, "`smooth` must be above 0. Received 0"),
        ({"smooth": np.nan}, "`smooth` must be above 0"),
    ],
)
def test_refused_settings(arguments, message):
    true, predicted = pair((6,), classes=2)
    for function in (soft_dice_loss, jaccard_distance, SoftDice, JaccardDistance):
        with pytest.raises(ValueError, match=message):
            function(**arguments) if isinstance(function, type) else function(true, predicted, **arguments)


@BOTH
def test_refused_number_of_class_weights(function):
    with pytest.raises(ValueError, match=r"one weight for each of 4 classes.*Received 3 weights"):
        function(*pair((6,)), class_weights=[1, 1, 1])


@RANKS
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
