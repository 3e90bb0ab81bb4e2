"""MoCoTask: who is asked and who answers, the queue in between, and that it is learned."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import MoCoTask, SelfSupervisedModel
from keras_ssl.preprocessing import Augmentation, Geometry, Intensity

RNG = np.random.default_rng(0)


def outputs_of(queries, keys, negatives):
    return {
        name: np.array(rows, "float32")
        for name, rows in (("queries", queries), ("keys", keys), ("negatives", negatives))
    }


def test_queries_are_of_first_views_keys_of_second_ones_and_keys_are_put_in_the_queue():
    task = MoCoTask(queue_size=5, hidden_units=(6,), projection_dim=4)
    network = task.build_network(tiny.functional_encoder(dropout=0.0), tiny.SHAPE)
    views = tiny.images(6)
    outputs = {name: ops.convert_to_numpy(rows) for name, rows in network(views).items()}
    student, teacher = network.get_layer("student"), network.get_layer("teacher")
    for name, model, rows in (("queries", student, views[::2]), ("keys", teacher, views[1::2])):
        expected = ops.convert_to_numpy(model(rows))
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-4, atol=1e-6)
    first = {name: ops.convert_to_numpy(rows) for name, rows in network(views, training=True).items()}
    np.testing.assert_array_equal(first["negatives"], outputs["negatives"])
    then = ops.convert_to_numpy(network(views)["negatives"])
    np.testing.assert_array_equal(then, np.concatenate([first["keys"], first["negatives"][:2]]))
    assert not any("teacher" in weight.path or "queue" in weight.path for weight in network.trainable_weights)


def test_loss_is_the_cross_entropy_of_the_own_key():
    queries, keys, negatives = RNG.normal(size=(4, 5)), RNG.normal(size=(4, 5)), RNG.normal(size=(7, 5))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, keys, negatives)]
    expected = []
    for query, key in zip(*unit[:2], strict=True):
        own, others = np.exp(query @ key / 0.3), np.exp(unit[2] @ query / 0.3)
        expected.append(-np.log(own / (own + others.sum())))
    task = MoCoTask(temperature=0.3)
    loss = ops.convert_to_numpy(task.compute_loss({}, outputs_of(queries, keys, negatives)))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_metric_is_the_share_of_own_keys_that_are_nearest():
    (metric,) = MoCoTask().build_metrics()
    # By cosine: the second query is nearer to a shorter negative.
    queries, keys, negatives = [[1, 0], [0, 1]], [[2, 0.1], [1, 1]], [[-1, 0], [0.1, 0.5]]
    metric.update_state({}, outputs_of(queries, keys, negatives))
    assert float(metric.result()) == 0.5


@pytest.mark.slow
def test_it_is_learned():
    # Flat images, each of a color of its own, and views that change it little.
    images = np.random.default_rng(0).uniform(size=(32, 1, 1, 3)) * np.ones((1, 8, 8, 1))
    task = MoCoTask(
        views=Augmentation(geometry=Geometry(flip_axes=(0,)), intensity=Intensity(noise=0.1)),
        momentum=0.9,
        queue_size=8,
        hidden_units=(16,),
        projection_dim=8,
    )
    encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3, activation="tanh")])
    model = SelfSupervisedModel(task, encoder, seed=0)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(images.astype("float32"), batch_size=8, epochs=20, verbose=0).history
    # The first epoch begins with a queue of random directions, which are easily told from keys.
    assert history["loss"][-1] < 0.7 * history["loss"][1]
    # By chance one in 9.
    assert history["accuracy"][-1] > 0.6


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("temperature", 0, "above 0"),
        ("momentum", -0.1, "within 0 and 1"),
        ("queue_size", 0, "at least 1"),
        ("projection_dim", 0, "at least 1"),
    ],
)
def test_setting_out_of_range_is_refused(name, value, limit):
    with pytest.raises(ValueError, match=rf"`{name}` must be {limit}\. Received {value}\."):
        MoCoTask(**{name: value})
