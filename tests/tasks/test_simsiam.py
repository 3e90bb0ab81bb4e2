"""SimSiamTask: one network for both views, the regression of one on the other, learned without collapse."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import SelfSupervisedModel, SimSiamTask
from keras_ssl.metrics.probes import embedding_spread, is_collapsed
from keras_ssl.preprocessing import Augmentation, Geometry, Intensity

RNG = np.random.default_rng(0)


def test_projection_is_normalized_and_the_predictor_a_bottleneck_behind_it():
    task = SimSiamTask(hidden_units=(6, 5), projection_dim=4, predictor_dim=(2,))
    network = task.build_network(tiny.functional_encoder(), tiny.SHAPE)
    units = [layer.units for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    assert units == [6, 5, 4, 2, 4]
    outputs = {
        name: ops.convert_to_numpy(values) for name, values in network(tiny.images(6), training=True).items()
    }
    np.testing.assert_allclose(outputs["targets"].mean(axis=0), 0, atol=1e-4)
    behind = keras.Model(network.get_layer("projector_output_bn").output, network.output["predictions"])
    predictions = ops.convert_to_numpy(behind(outputs["targets"], training=True))
    np.testing.assert_allclose(outputs["predictions"], predictions, rtol=1e-4, atol=1e-5)


def test_loss_is_the_distance_of_each_prediction_from_the_other_views_projection():
    predictions, targets = RNG.normal(size=(2, 6, 5))
    outputs = {"predictions": predictions.astype("float32"), "targets": targets.astype("float32")}
    cosines = np.sum(predictions * targets[[1, 0, 3, 2, 5, 4]], axis=1)
    cosines /= np.linalg.norm(predictions, axis=1) * np.linalg.norm(targets[[1, 0, 3, 2, 5, 4]], axis=1)
    loss = ops.convert_to_numpy(SimSiamTask().compute_loss({}, outputs))
    np.testing.assert_allclose(loss, 2 - cosines[::2] - cosines[1::2], rtol=1e-5)


def test_metric_is_the_spread_of_the_features():
    (metric,) = SimSiamTask().build_metrics()
    features = RNG.normal(size=(6, 5)).astype("float32")
    metric.update_state({}, {"predictions": np.ones((6, 5), "float32"), "features": features})
    expected = np.sqrt(np.mean(embedding_spread(features) ** 2))
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-5)


@pytest.mark.slow
def test_it_is_learned_without_collapse():
    # Flat images, each of a brightness of its own, and views that change it little.
    images = np.linspace(0, 1, 8, dtype="float32")[:, None, None, None] * np.ones((1, 8, 8, 1), "float32")
    images = np.concatenate([images, 1 - images], axis=-1)
    task = SimSiamTask(
        views=Augmentation(geometry=Geometry(flip_axes=(0,)), intensity=Intensity(noise=0.1, brightness=0.1)),
        hidden_units=(16,),
        projection_dim=8,
        predictor_dim=(4,),
    )
    encoder = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(8, 3, activation="tanh")])
    model = SelfSupervisedModel(task, encoder, seed=0)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=keras.backend.backend() == "jax")
    before = model.evaluate(images, batch_size=8, verbose=0, return_dict=True)
    history = model.fit_pretext(images, batch_size=8, epochs=60, verbose=0).history
    after = model.evaluate(images, batch_size=8, verbose=0, return_dict=True)
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert after["loss"] < 0.5 * before["loss"]
    assert after["spread"] > 0.5
    assert not is_collapsed(encoder.predict(images, verbose=0), min_spread=0.1)


@pytest.mark.parametrize("setting", ["hidden_units", "predictor_dim"])
def test_layers_without_units_are_refused(setting):
    with pytest.raises(ValueError, match="`hidden_units` and `projection_dim` must be at least 1"):
        SelfSupervisedModel(SimSiamTask(**{setting: (0,)}), tiny.functional_encoder())
