"""BYOLTask: what the teacher answers, the regression on it, and that it is learned without collapse."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import BYOLTask, SelfSupervisedModel
from keras_ssl.metrics.probes import embedding_spread, is_collapsed
from keras_ssl.preprocessing import Augmentation, Geometry, Intensity

RNG = np.random.default_rng(0)


def test_targets_are_what_the_student_projected_when_it_was_made():
    task = BYOLTask(hidden_units=(6,), projection_dim=4)
    encoder = tiny.functional_encoder()
    network = task.build_network(encoder, tiny.SHAPE)
    projector = keras.Model(network.input, network.get_layer("projector_output").output)
    outputs = network(tiny.images(6))
    expected = ops.convert_to_numpy(projector(tiny.images(6)))
    np.testing.assert_allclose(ops.convert_to_numpy(outputs["targets"]), expected, rtol=1e-5, atol=1e-7)
    assert outputs["predictions"].shape == (6, 4)
    # Encoder, projector and predictor learn, the teacher does not.
    learned = [weight.path.split("/")[0] for weight in network.trainable_weights]
    assert len(learned) == len(encoder.trainable_weights) + 2 * 5
    assert not any("teacher" in path for path in learned)


def test_loss_is_the_distance_of_each_prediction_from_the_other_views_target():
    predictions, targets = RNG.normal(size=(2, 6, 5))
    outputs = {"predictions": predictions.astype("float32"), "targets": targets.astype("float32")}
    predictions, targets = (
        values / np.linalg.norm(values, axis=1, keepdims=True) for values in (predictions, targets)
    )
    both = np.sum((predictions - targets[[1, 0, 3, 2, 5, 4]]) ** 2, axis=1)
    loss = ops.convert_to_numpy(BYOLTask().compute_loss({}, outputs))
    np.testing.assert_allclose(loss, (both[::2] + both[1::2]) / 2, rtol=1e-5)


def test_metric_is_the_spread_of_the_targets():
    (metric,) = BYOLTask().build_metrics()
    targets = RNG.normal(size=(6, 5)).astype("float32")
    metric.update_state({}, {"predictions": np.ones((6, 5), "float32"), "targets": targets})
    expected = np.sqrt(np.mean(embedding_spread(targets) ** 2))
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-5)


@pytest.mark.slow
def test_it_is_learned_without_collapse():
    # Flat images, each of a brightness of its own, and views that change it little.
    images = np.linspace(0, 1, 8, dtype="float32")[:, None, None, None] * np.ones((1, 8, 8, 1), "float32")
    images = np.concatenate([images, 1 - images], axis=-1)
    task = BYOLTask(
        views=Augmentation(geometry=Geometry(flip_axes=(0,)), intensity=Intensity(noise=0.1, brightness=0.1)),
        momentum=0.9,
        hidden_units=(16,),
        projection_dim=8,
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


def test_momentum_and_units_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"`momentum` must be within 0 and 1\. Received 1\.5"):
        BYOLTask(momentum=1.5)
    with pytest.raises(ValueError, match="`hidden_units` and `projection_dim` must be at least 1"):
        SelfSupervisedModel(BYOLTask(hidden_units=(0,)), tiny.functional_encoder())
