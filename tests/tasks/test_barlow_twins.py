"""BarlowTwinsTask: which views are correlated, and that features come to agree and not to repeat."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl import BarlowTwinsTask, SelfSupervisedModel
from keras_ssl.losses import barlow_twins
from keras_ssl.losses.redundancy_reduction import cross_correlation
from keras_ssl.metrics.probes import is_collapsed

RNG = np.random.default_rng(0)


def test_first_views_are_correlated_with_second_ones():
    outputs = RNG.normal(size=(12, 4)).astype("float32")
    loss = BarlowTwinsTask(off_diagonal_weight=0.3).compute_loss({}, outputs)
    assert float(loss) == pytest.approx(float(barlow_twins(outputs[::2], outputs[1::2], 0.3)))


def test_metric_is_the_mean_correlation_of_the_same_features():
    (metric,) = BarlowTwinsTask().build_metrics()
    outputs = RNG.normal(size=(20, 2)).astype("float32")
    # The first feature is the same in both views, the second the opposite.
    outputs[1::2] = outputs[::2] * [1, -1]
    metric.update_state({}, outputs)
    assert float(metric.result()) == pytest.approx(0, abs=1e-4)
    metric.reset_state()
    metric.update_state({}, np.repeat(outputs[::2], 2, axis=0))
    assert float(metric.result()) == pytest.approx(1, abs=1e-4)


def noisy(images, seed):
    # Compiled faster than an augmentation.
    return images + 0.2 * keras.random.normal(ops.shape(images), seed=seed)


@pytest.mark.slow
def test_it_is_learned():
    # Each of a color of its own, and views that change them.
    images = RNG.uniform(size=(16, 1, 1, 3)) + RNG.normal(0, 0.1, size=(16, 8, 8, 3))
    images = images.astype("float32")
    task = BarlowTwinsTask(
        views=noisy,
        off_diagonal_weight=0.1,
        hidden_units=(16,),
        projection_dim=3,
    )
    encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3, activation="relu")])
    model = SelfSupervisedModel(task, encoder, seed=0)
    model.compile(keras.optimizers.Adam(0.02), jit_compile=keras.backend.backend() == "jax")
    before = _redundancy(model, images)
    history = model.fit_pretext(images, batch_size=16, epochs=50, verbose=0).history
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert history["correlation"][-1] > 0.9
    assert _redundancy(model, images) < 0.5 * before
    assert not is_collapsed(ops.convert_to_numpy(encoder(images)))


def _redundancy(model, images):
    outputs = model(images)["outputs"]
    correlations = ops.convert_to_numpy(cross_correlation(outputs[::2], outputs[1::2]))
    return np.abs(correlations[~np.eye(3, dtype=bool)]).mean()


def test_weight_below_0_is_refused():
    with pytest.raises(ValueError, match=r"`off_diagonal_weight` must be at least 0. Received -1"):
        BarlowTwinsTask(off_diagonal_weight=-1)
