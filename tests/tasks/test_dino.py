"""DINOTask: what parts local views show, who sees what, and that it is learned without a collapse."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import DINOTask, SelfSupervisedModel
from keras_ssl.losses.self_distillation import assignment_information, sinkhorn
from keras_ssl.metrics.probes import is_collapsed
from keras_ssl.preprocessing import Augmentation
from keras_ssl.random import ReplaySeeds

RNG = np.random.default_rng(0)
SMALL = {"hidden_units": (16,), "bottleneck_dim": 8, "num_prototypes": 12}


def same(images, seed):
    return images


def test_views_of_an_image_are_next_to_each_other_and_there_are_no_targets():
    images = tiny.images(3, (12, 12, 3))
    task = DINOTask(views=same, local_views=same, num_local_views=5)
    inputs, targets = task.preprocess(images, ReplaySeeds())
    np.testing.assert_array_equal(ops.convert_to_numpy(inputs["global"]), np.repeat(images, 2, axis=0))
    np.testing.assert_array_equal(ops.convert_to_numpy(inputs["local"]), np.repeat(images, 5, axis=0))
    assert targets == {}


@pytest.mark.parametrize("shape", [(20, 20, 1), (16, 16, 16, 1)])
def test_local_views_show_smaller_parts_of_the_image(shape):
    # Brightness is the place along the first axis, so its steps are those of the resampling.
    ramp = np.arange(shape[0], dtype="float32").reshape(-1, *[1] * (len(shape) - 1))
    images = np.broadcast_to(ramp, (2, *shape))
    inputs, _ = DINOTask(views=Augmentation(fill="edge")).preprocess(images, ReplaySeeds())
    np.testing.assert_allclose(ops.convert_to_numpy(inputs["global"]), images.repeat(2, axis=0), atol=1e-4)
    views = ops.convert_to_numpy(inputs["local"])
    assert views.shape == (8, *shape)
    steps = np.diff(views[:, 3:-3], axis=1).reshape(8, -1)
    shares = steps.mean(axis=1)
    np.testing.assert_allclose(steps, shares[:, None].repeat(steps.shape[1], axis=1), atol=1e-3)
    assert 0.22 <= shares.min() < shares.max() <= 0.63


def test_recipes_of_local_views():
    images = tiny.images(2, (12, 12, 3))
    whole = DINOTask(local_views=Augmentation(), num_local_views=2, local_size=(6, 6))
    views = ops.convert_to_numpy(whole.preprocess(images, ReplaySeeds())[0]["local"])
    blocks = images.reshape(2, 6, 2, 6, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(views[::2], blocks, atol=1e-5)
    assert set(DINOTask(num_local_views=0).preprocess(images, ReplaySeeds())[0]) == {"global"}


def outputs_of(task, images):
    keras.utils.set_random_seed(0)
    model = SelfSupervisedModel(task, tiny.functional_encoder(), seed=0)
    return model, keras.tree.map_structure(ops.convert_to_numpy, model(images)["outputs"])


def test_teacher_assigns_as_the_student_does_at_first():
    task = DINOTask(views=same, local_views=same, num_local_views=3, **SMALL)
    _, outputs = outputs_of(task, tiny.images(4))
    logits = outputs["logits"]
    assert logits.shape == (4, 5, 12)
    np.testing.assert_allclose(logits, logits[:, :1].repeat(5, axis=1), atol=1e-5)
    assert not np.allclose(logits[0], logits[1], atol=1e-5)
    shares = np.exp(logits[:, :2].astype("float64") / 0.04)
    shares /= shares.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(outputs["assignments"], shares, rtol=1e-3, atol=1e-6)


def test_local_views_come_after_global_ones_and_are_not_shown_to_the_teacher():
    def dark(images, seed):
        return 0 * images

    images = tiny.images(3)
    _, outputs = outputs_of(DINOTask(views=same, local_views=dark, num_local_views=2, **SMALL), images)
    _, expected = outputs_of(DINOTask(views=same, num_local_views=0, **SMALL), images)
    np.testing.assert_allclose(outputs["logits"][:, :2], expected["logits"], atol=1e-5)
    np.testing.assert_allclose(outputs["assignments"], expected["assignments"], atol=1e-5)
    local = outputs["logits"][:, 2:]
    np.testing.assert_allclose(local, local[:1, :1].repeat(3, axis=0).repeat(2, axis=1), atol=1e-5)


def test_sinkhorn_assigns():
    _, outputs = outputs_of(
        DINOTask(views=same, num_local_views=0, assignment="sinkhorn", **SMALL), tiny.images(4)
    )
    expected = ops.convert_to_numpy(sinkhorn(outputs["logits"].reshape(8, 12), 0.04))
    np.testing.assert_allclose(outputs["assignments"].reshape(8, 12), expected, rtol=1e-3, atol=1e-6)


def test_center_and_teacher_move_in_training_only():
    model, _ = outputs_of(DINOTask(views=same, num_local_views=0, **SMALL), tiny.images(4))
    before = tiny.weights(model.network)
    model(tiny.images(4))
    tiny.assert_same(before, tiny.weights(model.network))
    center = model.network.get_layer("centering")
    model(tiny.images(4), training=True)
    assert np.abs(ops.convert_to_numpy(center.center)).max() > 0
    assert not model.network.get_layer("teacher").trainable_variables


def test_metric_is_what_assignments_tell():
    (metric,) = DINOTask().build_metrics()
    shares = RNG.dirichlet(np.ones(5), (6, 2)).astype("float32")
    metric.update_state({}, {"assignments": shares})
    expected = ops.convert_to_numpy(assignment_information(shares)).mean()
    assert float(metric.result()) == pytest.approx(expected, rel=1e-5)


def noisy(images, seed):
    # Compiled faster than an augmentation.
    return images + 0.2 * keras.random.normal(ops.shape(images), seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("assignment", ["centering", "sinkhorn"])
def test_it_is_learned_without_a_collapse(assignment):
    # Each of a color of its own, and views that change them.
    images = RNG.uniform(size=(16, 1, 1, 3)) + RNG.normal(0, 0.1, size=(16, 8, 8, 3))
    images = images.astype("float32")
    task = DINOTask(
        views=noisy,
        local_views=lambda images, seed: noisy(images[:, 2:6, 2:6], seed),
        num_local_views=2,
        local_size=(4, 4),
        momentum=0.9,
        teacher_temperature=0.04,
        assignment=assignment,
        **SMALL,
    )
    # Sides that are open.
    inputs = keras.Input((None, None, 3))
    encoder = keras.Model(inputs, keras.layers.Conv2D(8, 3, activation="relu")(inputs))
    model = SelfSupervisedModel(task, encoder, input_shape=(8, 8, 3), seed=0)
    model.compile(keras.optimizers.Adam(0.003), jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(images, batch_size=16, epochs=50, verbose=0).history
    # Not against the first loss, of a teacher that does not yet tell images apart.
    assert np.mean(history["loss"][-5:]) < 0.7 * np.log(SMALL["num_prototypes"])
    # In a collapse it would be 0.
    assert np.mean(history["information"][-5:]) > 0.5
    assert not is_collapsed(ops.convert_to_numpy(encoder(images)))


def test_size_of_local_views_is_refused_by_an_encoder_of_another_size():
    task = DINOTask(local_size=(4, 4), **SMALL)
    with pytest.raises(ValueError, match=r"`local_size` must be None, unless .*\(4, 4\).*\(8, 8, 3\)"):
        SelfSupervisedModel(task, tiny.functional_encoder())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"assignment": "none"}, '`assignment` must be "centering" or "sinkhorn". Received \'none\''),
        (
            {"teacher_temperature": 0},
            "`teacher_temperature` must be one number above 0, or a tuple of two. Received 0",
        ),
        ({"teacher_temperature": (0.1, 0.0)}, "`teacher_temperature` must be one number above 0"),
        ({"student_temperature": -1}, "`student_temperature` must be above 0. Received -1"),
        ({"num_local_views": -1}, "`num_local_views` must be at least 0. Received -1"),
        ({"views": same}, "`local_views` must be given unless `views` is an Augmentation"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DINOTask(**settings)


def test_smallest_batch():
    assert DINOTask().smallest_batch() == 1
    assert DINOTask(assignment="sinkhorn").smallest_batch() == 2
