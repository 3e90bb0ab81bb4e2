"""Reconstruction losses, relative error and rebalanced cross-entropy against NumPy."""

import numpy as np
import pytest
from keras import ops

from keras_ssl.losses.reconstruction import (
    masked_absolute_error,
    rebalanced_crossentropy,
    rebalancing_weights,
    weighted_squared_error,
)
from keras_ssl.metrics.probes import relative_error

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("spatial", [(4, 5), (2, 3, 4)])
def test_it_is_the_weighted_mean(spatial):
    targets, outputs = RNG.normal(size=(2, 3, *spatial, 2))
    weights = RNG.uniform(size=(3, *spatial, 1)) * (RNG.uniform(size=(3, *spatial, 1)) < 0.5)
    expected = [
        np.average(((target - output) ** 2).mean(axis=-1), weights=weight[..., 0])
        for target, output, weight in zip(targets, outputs, weights, strict=True)
    ]
    loss = ops.convert_to_numpy(weighted_squared_error(targets, outputs, weights))
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_booleans_are_weights_and_none_at_all_give_0():
    targets = np.array([[1.0, 2.0], [1.0, 2.0]])[..., None]
    weights = np.array([[False, True], [False, False]])[..., None]
    loss = weighted_squared_error(targets, np.zeros_like(targets), weights)
    assert ops.convert_to_numpy(loss).tolist() == [4, 0]


@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (3, 4, 2, 2, 1)])
def test_absolute_error_of_masked_voxels(shape):
    targets, outputs = RNG.normal(size=(2, *shape)).astype("float32")
    masked = RNG.uniform(size=(*shape[:-1], 1)) < 0.5
    expected = [
        abs(target - output)[mask].mean()
        for target, output, mask in zip(targets, outputs, masked[..., 0], strict=True)
    ]
    np.testing.assert_allclose(
        ops.convert_to_numpy(masked_absolute_error(targets, outputs, masked)), expected, rtol=1e-5
    )


def test_nothing_masked_is_no_error_and_half_precision_gives_float32():
    loss = masked_absolute_error(
        np.ones((2, 4, 1), "float16"), np.zeros((2, 4, 1)), np.zeros((2, 4, 1), bool)
    )
    assert ops.convert_to_numpy(loss).tolist() == [0, 0]
    assert ops.convert_to_numpy(loss).dtype == np.float32


def test_relative_error():
    targets, outputs = RNG.normal(size=(2, 3, 4, 4, 2)).astype("float32")
    masked = RNG.uniform(size=(3, 4, 4, 1)) < 0.5
    mask = np.broadcast_to(masked, targets.shape)
    shares = mask.sum(axis=(1, 2, 3))
    error = (((targets - outputs) ** 2 * mask).sum(axis=(1, 2, 3)) / shares).sum()
    baseline = ((targets**2 * mask).sum(axis=(1, 2, 3)) / shares).sum()
    np.testing.assert_allclose(float(relative_error(targets, outputs, masked)), error / baseline, rtol=1e-5)
    assert float(relative_error(targets, 0 * targets, masked)) == 1
    assert float(relative_error(targets, targets, masked)) == 0
    assert float(relative_error(0 * targets, outputs, masked)) == 1


def expected_weights(labels, num_classes, uniform_fraction):
    frequencies = np.array([(labels == number).mean() for number in range(num_classes)])
    weights = 1 / ((1 - uniform_fraction) * frequencies + uniform_fraction / num_classes)
    return weights / np.sum(frequencies * weights)


@pytest.mark.parametrize("uniform_fraction", [0.1, 0.5, 1.0])
def test_weights(uniform_fraction):
    labels = RNG.integers(0, 4, size=(3, 5, 5)) ** 2 // 2  # unequally often, and 1 and 3 never
    weights = ops.convert_to_numpy(rebalancing_weights(labels, 6, uniform_fraction))
    np.testing.assert_allclose(weights, expected_weights(labels, 6, uniform_fraction), rtol=1e-5)
    np.testing.assert_allclose(weights[labels].mean(), 1, rtol=1e-5)


def test_loss_is_the_weighted_mean_over_pixels():
    labels, logits = RNG.integers(0, 4, size=(3, 4, 5)), RNG.normal(size=(3, 4, 5, 6))
    logarithms = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(logarithms, labels[..., None], axis=-1)[..., 0]
    expected = -(expected_weights(labels, 6, 0.3)[labels] * chosen).mean(axis=(1, 2))
    loss = ops.convert_to_numpy(rebalanced_crossentropy(labels, logits, 0.3))
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("label", [-1, 6])
def test_unknown_labels_give_nan(label):
    loss = rebalanced_crossentropy(np.array([[0, label], [0, 1]]), np.zeros((2, 2, 6), "float32"))
    assert np.isnan(ops.convert_to_numpy(loss)).tolist() == [True, False]
