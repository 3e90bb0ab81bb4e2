"""Weights by rarity, and the cross-entropy that they are in, against NumPy."""

import numpy as np
import pytest
from keras import ops

from keras_ssl.losses import rebalanced_crossentropy, rebalancing_weights

RNG = np.random.default_rng(0)


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
