"""VICRegTask: which views are compared, and that variance keeps features from collapsing."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl import SelfSupervisedModel, VICRegTask
from keras_ssl.losses import vicreg
from keras_ssl.metrics.probes import is_collapsed

RNG = np.random.default_rng(0)


def test_first_views_are_compared_with_second_ones():
    outputs = RNG.normal(size=(12, 4)).astype("float32")
    task = VICRegTask(invariance_weight=1.0, variance_weight=2.0, covariance_weight=3.0)
    expected = float(vicreg(outputs[::2], outputs[1::2], 1.0, 2.0, 3.0))
    assert float(task.compute_loss({}, outputs)) == pytest.approx(expected)


def test_metric_is_the_mean_deviation():
    (metric,) = VICRegTask().build_metrics()
    outputs = RNG.normal(size=(20, 2)).astype("float32")
    metric.update_state({}, outputs)
    assert float(metric.result()) == pytest.approx(outputs[::2].std(axis=0, ddof=1).mean(), rel=1e-3)


def noisy(images, seed):
    # Compiled faster than an augmentation.
    return images + 0.2 * keras.random.normal(ops.shape(images), seed=seed)


@pytest.mark.slow
def test_it_is_learned_and_would_collapse_without_variance():
    # Each of a color of its own, and views that change them.
    images = RNG.uniform(size=(16, 1, 1, 3)) + RNG.normal(0, 0.1, size=(16, 8, 8, 3))
    histories = []
    for weight in (25.0, 0.0):
        task = VICRegTask(
            views=noisy,
            variance_weight=weight,
            hidden_units=(16,),
            projection_dim=3,
        )
        encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3, activation="relu")])
        model = SelfSupervisedModel(task, encoder, seed=0)
        model.compile(keras.optimizers.Adam(0.02), jit_compile=keras.backend.backend() == "jax")
        histories.append(
            model.fit_pretext(images.astype("float32"), batch_size=16, epochs=50, verbose=0).history
        )
        if weight:
            assert not is_collapsed(ops.convert_to_numpy(encoder(images.astype("float32"))))
    kept, collapsed = histories
    assert kept["loss"][-1] < 0.5 * kept["loss"][0]
    assert kept["deviation"][-1] > 0.8
    assert collapsed["deviation"][-1] < 0.4


@pytest.mark.parametrize("name", ["invariance_weight", "variance_weight", "covariance_weight"])
def test_weights_below_0_are_refused(name):
    with pytest.raises(ValueError, match=rf"`{name}` must be at least 0. Received -1"):
        VICRegTask(**{name: -1})
