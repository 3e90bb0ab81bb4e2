"""Barlow Twins and VICReg against NumPy, and that neither is ever without a number."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.losses import barlow_twins, vicreg
from keras_ssl.losses.redundancy_reduction import cross_correlation, standard_deviations

RNG = np.random.default_rng(0)
FIRST = RNG.normal(3.0, 2.0, (7, 5)).astype("float32")
SECOND = (FIRST + RNG.normal(size=(7, 5))).astype("float32")


def test_barlow_twins_is_numpys():
    first, second = (
        (view - view.mean(0)) / np.sqrt(view.var(0) + 1e-5)
        for view in (FIRST.astype("float64"), SECOND.astype("float64"))
    )
    correlations = np.array([[np.mean(a * b) for b in second.T] for a in first.T])
    same = np.eye(5, dtype=bool)
    expected = np.sum((1 - correlations[same]) ** 2) + 0.3 * np.sum(correlations[~same] ** 2)
    np.testing.assert_allclose(float(barlow_twins(FIRST, SECOND, 0.3)), expected, rtol=1e-5)
    ours = ops.convert_to_numpy(cross_correlation(FIRST, SECOND))
    np.testing.assert_allclose(ours, correlations, rtol=1e-4, atol=1e-6)


def test_correlations_are_pearsons():
    both = np.corrcoef(FIRST, SECOND, rowvar=False)
    ours = ops.convert_to_numpy(cross_correlation(FIRST, SECOND))
    np.testing.assert_allclose(ours, both[:5, 5:], atol=1e-4)


@pytest.mark.parametrize("batch", [2, 7])
def test_vicreg_is_numpys(batch):
    first, second = FIRST[:batch].astype("float64") / 3, SECOND[:batch].astype("float64") / 3
    invariance = np.mean((first - second) ** 2)
    spread, repeated = [], []
    for view in (first, second):
        spread.append(np.maximum(0, 1 - np.sqrt(view.var(axis=0, ddof=1) + 1e-4)).mean())
        covariance = np.cov(view, rowvar=False)
        repeated.append(np.sum(covariance[~np.eye(5, dtype=bool)] ** 2) / 5)
    expected = 2 * invariance + 3 * np.mean(spread) + 0.5 * np.sum(repeated)
    loss = float(vicreg(first.astype("float32"), second.astype("float32"), 2.0, 3.0, 0.5))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_deviations_are_numpys():
    ours = ops.convert_to_numpy(standard_deviations(FIRST))
    np.testing.assert_allclose(ours, np.sqrt(FIRST.var(axis=0, ddof=1) + 1e-4), rtol=1e-5)


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_loss_and_slope_are_finite_where_all_images_are_alike(loss, batch):
    # One image, too, as the rest of an evaluation may be.
    layer = keras.layers.Dense(3)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile("sgd", loss=lambda _, features: loss(features, features), jit_compile=False)
    model.train_on_batch(np.ones((batch, 2), "float32"), np.zeros((batch, 3), "float32"))
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert np.isfinite(float(loss(np.ones((batch, 3), "float32"), np.ones((batch, 3), "float32"))))


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
def test_loss_of_half_precision_is_float32(loss):
    value = loss(ops.cast(FIRST, "bfloat16"), ops.cast(SECOND, "bfloat16"))
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
