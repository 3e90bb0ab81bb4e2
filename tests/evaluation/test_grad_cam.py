"""Grad-CAM: equal to its closed form where there is one, for any head, rank and way to plug an encoder."""

import keras
import numpy as np
import pytest

from keras_ssl import ClassificationHead, FineTuner, MultiHotHead, OrdinalHead, RegressionHead
from keras_ssl.evaluation.grad_cam import grad_cam
from tests.tiny import (
    SHAPE,
    SubclassedEncoder,
    assert_same,
    functional_encoder,
    images,
    sequential_encoder,
    weights,
)

VOLUME = (4, 6, 8, 1)


def one_layer(shape, strides=1, activation="tanh"):
    """An encoder whose feature map is of the images' size, where `strides` are 1, else smaller."""
    conv = {3: keras.layers.Conv2D, 4: keras.layers.Conv3D}[len(shape)]
    return keras.Sequential([keras.Input(shape), conv(4, 3, strides, padding="same", activation=activation)])


def run(model, photos):
    return keras.ops.convert_to_numpy(model(photos, training=False))


def normalized(maps):
    largest = maps.max(axis=tuple(range(1, maps.ndim)), keepdims=True)
    return maps / np.where(largest > 0, largest, 1)


def slopes(head, outputs):
    """How much the expected grade rises with each of the head's weighted sums, by hand."""
    if isinstance(head, RegressionHead):
        return np.ones_like(outputs)
    if isinstance(head, ClassificationHead):
        grades = np.arange(outputs.shape[1])
        return outputs * (grades - outputs @ grades[:, None])
    slope = outputs * (1 - outputs)
    if isinstance(head, MultiHotHead):
        slope[:, 0] = 0
    return slope


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        (OrdinalHead(4), SHAPE),
        (MultiHotHead(4), SHAPE),
        (ClassificationHead(3), SHAPE),
        (RegressionHead(4), VOLUME),
    ],
)
def test_average_pooling_and_one_layer_have_a_closed_form(head, shape):
    tuner, photos = FineTuner(one_layer(shape), head, seed=0), images(5, shape)
    found = grad_cam(tuner.model, photos, head=head, batch_size=2)
    features = run(tuner.encoder, photos)
    kernel = tuner.model.get_layer("head_outputs").get_weights()[0]
    rise = slopes(head, run(tuner.model, photos)) @ kernel.T
    expected = np.maximum(np.einsum("n...c,nc->n...", features, rise), 0)
    assert found.shape == photos.shape[:-1]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, normalized(expected), atol=1e-4)


def test_a_score_of_ones_own_explains_a_class():
    head = ClassificationHead(3)
    tuner, photos = FineTuner(one_layer(SHAPE), head, seed=0), images(4)
    outputs = run(tuner.model, photos)
    kernel = tuner.model.get_layer("head_outputs").get_weights()[0]
    # Of a softmax: p_2 rises with z_k by p_2 (1[k = 2] - p_k).
    rise = (outputs[:, 2:] * (np.eye(3)[2] - outputs)) @ kernel.T
    features = run(tuner.encoder, photos)
    expected = np.maximum(np.einsum("nhwc,nc->nhw", features, rise), 0)
    found = grad_cam(tuner.model, photos, score=lambda outputs: outputs[:, 2])
    np.testing.assert_allclose(found, normalized(expected), atol=1e-4)


def enlarged(coarse, shape):
    """Linear interpolation between the centers of the coarse pixels, an axis at a time."""
    for axis, size in enumerate(shape):
        own = coarse.shape[axis]
        at = (np.arange(size) + 0.5) * own / size - 0.5
        coarse = np.apply_along_axis(lambda row, at=at, own=own: np.interp(at, range(own), row), axis, coarse)
    return coarse


@pytest.mark.parametrize("shape", [SHAPE, VOLUME])
def test_coarse_maps_are_enlarged_linearly(shape):
    tuner, photos = FineTuner(one_layer(shape, 2, "relu"), RegressionHead(), seed=0), images(3, shape)
    features = run(tuner.encoder, photos)
    assert features.shape[1:-1] == tuple(size // 2 for size in shape[:-1])
    kernel = tuner.model.get_layer("head_outputs").get_weights()[0]
    found = grad_cam(tuner.model, photos, head=tuner.head)
    coarse = np.maximum(features @ kernel[:, 0], 0)
    expected = np.stack([enlarged(image, shape[:-1]) for image in coarse])
    np.testing.assert_allclose(found, normalized(expected), atol=1e-4)
    assert (found.max(axis=tuple(range(1, found.ndim))) == 1).any()


def test_it_finds_what_a_grader_was_made_to_look_for():
    encoder = one_layer(SHAPE)
    tuner = FineTuner(encoder, OrdinalHead(2), seed=0)
    sees_red = np.zeros((3, 3, 3, 4), "float32")
    sees_red[1, 1, 0, 0] = 1
    encoder.set_weights([sees_red, np.zeros(4)])
    tuner.model.get_layer("head_outputs").set_weights([np.eye(4, 1), np.zeros(1)])
    photos = np.zeros((2, *SHAPE), "float32")
    photos[0, 2, 5, 0] = photos[1, 6, 1, 0] = 1
    photos[:, 4, 4, 1] = 9  # green, which it does not look at
    expected = (photos[..., 0] > 0).astype("float32")
    np.testing.assert_allclose(grad_cam(tuner.model, photos, head=tuner.head), expected, atol=1e-6)
    # All that speaks for a lower grade: nothing to show, and no division by zero.
    tuner.model.get_layer("head_outputs").set_weights([-np.eye(4, 1), np.zeros(1)])
    assert not grad_cam(tuner.model, photos, head=tuner.head).any()


@pytest.mark.parametrize("make", [functional_encoder, sequential_encoder])
def test_a_saved_grader_gives_the_same_maps_in_batches_of_any_size(make, tmp_path):
    head = OrdinalHead(3, hidden_units=(16,), batch_norm=True, dropout=0.5, pooling="max")
    encoder = make()
    FineTuner(encoder, head)  # another graph on the same encoder, which must not be taken for this one
    tuner, photos = FineTuner(encoder, head, seed=0), images(4)

    def for_and_against(model, batch_size):
        found = [
            grad_cam(model, photos, score=lambda o, sign=sign: sign * o[:, 0], batch_size=batch_size)
            for sign in (1, -1)
        ]
        return np.stack(found)

    before = weights(tuner.model)
    maps = for_and_against(tuner.model, 4)
    assert_same(before, weights(tuner.model))
    assert maps.min() >= 0
    # Nothing speaks both ways for an image only where the model does not look at it at all.
    assert (maps.max(axis=(0, 2, 3)) == 1).all()
    tuner.model.save(tmp_path / "grader.keras")
    loaded = keras.saving.load_model(tmp_path / "grader.keras", compile=False)
    np.testing.assert_allclose(for_and_against(loaded, 2), maps, atol=1e-4)


def test_models_without_a_map_are_refused():
    tuner = FineTuner(SubclassedEncoder(), OrdinalHead(3), input_shape=SHAPE)
    with pytest.raises(ValueError, match=r"must have a feature map .* encoder outputs a vector"):
        grad_cam(tuner.model, images(), head=tuner.head)
    with pytest.raises(ValueError, match=r"must be functional or sequential .* SubclassedEncoder"):
        grad_cam(SubclassedEncoder(), images(), head=tuner.head)


def test_bad_arguments_are_refused():
    tuner = FineTuner(one_layer(SHAPE), OrdinalHead(3))
    with pytest.raises(ValueError, match="one of `head` and `score` must be given"):
        grad_cam(tuner.model, images())
    with pytest.raises(ValueError, match="one of `head` and `score` must be given"):
        grad_cam(tuner.model, images(), head=tuner.head, score=lambda outputs: outputs[:, 0])
    with pytest.raises(TypeError, match="`head` must be a Head"):
        grad_cam(tuner.model, images(), head="ordinal")
    with pytest.raises(ValueError, match=r"`score` must return shape \(batch,\). Received \(12, 2\)"):
        grad_cam(tuner.model, images(), score=lambda outputs: outputs)
    with pytest.raises(ValueError, match=r"must have shape \(n, 8, 8, 3\)"):
        grad_cam(tuner.model, images(shape=(16, 16, 3)), head=tuner.head)
