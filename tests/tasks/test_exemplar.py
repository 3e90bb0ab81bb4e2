"""ExemplarTask: views next to each other, the triplets of a batch, and that it is learned."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl import ExemplarTask, SelfSupervisedModel
from keras_ssl.losses.contrastive import triplet_margin
from keras_ssl.preprocessing import Augmentation, Intensity

RNG = np.random.default_rng(0)


def distances(outputs):
    unit = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    return np.linalg.norm(unit[0::2, None] - unit[None, 1::2], axis=-1)


@pytest.mark.parametrize("margin", [0.2, 1.0])
@pytest.mark.parametrize(("negatives", "reduce"), [("all", np.mean), ("hardest", np.max)])
def test_loss_is_the_mean_or_greatest_hinge_over_the_other_images(margin, negatives, reduce):
    outputs = RNG.normal(size=(10, 4))
    between, expected = distances(outputs), []
    for image in range(5):
        others = [other for other in range(5) if other != image]
        expected.append(reduce(np.maximum(0, between[image, image] - between[image, others] + margin)))
    loss = ExemplarTask(margin=margin, negatives=negatives).compute_loss({}, outputs.astype("float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(loss), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("negatives", ["all", "hardest"])
def test_no_view_of_the_image_itself_is_a_negative(negatives):
    # Both views of an image alike, images at right angles: an own view as negative would cost the margin.
    outputs = np.repeat(np.eye(4, dtype="float32"), 2, axis=0)
    loss = ExemplarTask(negatives=negatives).compute_loss({}, outputs)
    np.testing.assert_array_equal(ops.convert_to_numpy(loss), 0)


def test_metric_is_the_share_of_images_whose_positive_is_nearest():
    outputs = RNG.normal(size=(40, 3))
    expected = np.mean(distances(outputs).argmin(axis=1) == np.arange(20))
    (metric,) = ExemplarTask().build_metrics()
    metric.update_state({}, outputs.astype("float32"))
    assert 0 < expected < 1
    assert float(metric.result()) == pytest.approx(expected)
    metric.reset_state()
    metric.update_state({}, np.ones((40, 3), "float32"))
    assert float(metric.result()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("negatives", ["all", "hardest"])
def test_it_is_learned(negatives):
    # Flat images, each of a brightness of its own, and views that change it little.
    images = np.linspace(0, 1, 8, dtype="float32")[:, None, None, None] * np.ones((1, 8, 8, 1), "float32")
    images = np.concatenate([images, 1 - images], axis=-1)
    task = ExemplarTask(
        views=Augmentation(intensity=Intensity(noise=0.01)),
        negatives=negatives,
        hidden_units=(16,),
        embedding_dim=8,
    )
    encoder = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(8, 3, activation="tanh")])
    model = SelfSupervisedModel(task, encoder, seed=0)
    model.compile(keras.optimizers.Adam(0.02), jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(images, batch_size=8, epochs=60, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    # By chance one image in 8.
    assert history["accuracy"][-1] > 0.8


@pytest.mark.parametrize("margin", [0, -1.0, float("nan")])
def test_bad_margin_is_refused(margin):
    with pytest.raises(ValueError, match=f"`margin` must be above 0. Received {margin}"):
        ExemplarTask(margin=margin)


def test_unknown_negatives_are_refused():
    with pytest.raises(ValueError, match=r'`negatives` must be "all" or "hardest". Received \'random\''):
        ExemplarTask(negatives="random")
    with pytest.raises(ValueError, match='`negatives` must be "all" or "hardest"'):
        triplet_margin(np.eye(2), np.eye(2), negatives="random")
