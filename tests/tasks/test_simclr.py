"""SimCLRTask: partners next to each other, the cross-entropy of finding them, and that it is learned."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import SelfSupervisedModel, SimCLRTask
from keras_ssl.preprocessing import Augmentation, Geometry

RNG = np.random.default_rng(0)


def test_loss_is_the_cross_entropy_of_the_partner():
    outputs = RNG.normal(size=(8, 5))
    unit = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    expected = []
    for row in range(8):
        others = [other for other in range(8) if other != row]
        similar = np.exp(unit[others] @ unit[row] / 0.2)
        partner = np.exp(unit[row ^ 1] @ unit[row] / 0.2)
        expected.append(-np.log(partner / similar.sum()))
    task = SimCLRTask(temperature=0.2)
    loss = ops.convert_to_numpy(task.compute_loss(None, outputs.astype("float32")))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_metric_is_the_share_of_partners_that_are_nearest():
    (metric,) = SimCLRTask().build_metrics()
    # The second pair has its members turned away from one another.
    metric.update_state({}, np.array([[1, 0.1], [1, 0], [0, 1], [0.9, -1]], "float32"))
    assert float(metric.result()) == 0.5


@pytest.mark.slow
def test_it_is_learned():
    # Flat images, each of a brightness of its own, and views that change it little.
    images = np.linspace(0, 1, 8, dtype="float32")[:, None, None, None] * np.ones((1, 8, 8, 1), "float32")
    images = np.concatenate([images, 1 - images], axis=-1)
    task = SimCLRTask(
        views=Augmentation(geometry=Geometry(flip_axes=(0,))), hidden_units=(16,), projection_dim=8
    )
    encoder = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(8, 3, activation="tanh")])
    model = SelfSupervisedModel(task, encoder, seed=0)
    model.compile(keras.optimizers.Adam(0.02), jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(images, batch_size=8, epochs=60, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    # By chance one view in 15.
    assert history["accuracy"][-1] > 0.8


def test_a_layer_of_keras_makes_views_and_draws_anew():
    model = SelfSupervisedModel(
        SimCLRTask(views=keras.layers.RandomTranslation(0.3, 0.3, seed=1), hidden_units=(4,)),
        tiny.functional_encoder(),
        seed=0,
    )
    before = [np.array(variable) for variable in model.task_layers[0].variables]
    model.fit_pretext(tiny.images(4), batch_size=4, verbose=0, epochs=1)
    after = [np.array(variable) for variable in model.task_layers[0].variables]
    assert tiny.differ(before, after)
    first, again = (model.evaluate(tiny.images(4), verbose=0) for _ in range(2))
    assert first == again
    tiny.assert_same(after, [np.array(variable) for variable in model.task_layers[0].variables])


def test_bad_temperature_is_refused():
    with pytest.raises(ValueError, match=r"`temperature` must be above 0. Received 0"):
        SimCLRTask(temperature=0)
