import keras
import numpy as np
import pytest
import tiny

import keras_ssl
from keras_ssl.encoders import rematerialize


def nested_encoder(shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, tiny.functional_encoder(shape)(keras.layers.Rescaling(2.0)(inputs)))


def with_functions(shape):
    """Functions beside layers, a layer that is called twice, and one with two tensors."""
    inputs = keras.Input(shape)
    x = keras.ops.relu(keras.layers.Conv2D(4, 3, padding="same")(inputs)) * 2.0
    same = keras.layers.Conv2D(4, 3, padding="same")
    x = same(same(x) + x) + x
    x = keras.layers.Reshape((-1, 4))(x)
    return keras.Model(inputs, keras.layers.MultiHeadAttention(1, 4)(x, x))


def with_losses(shape):
    inputs = keras.Input(shape)
    regular = {"activity_regularizer": keras.regularizers.L2(1.0), "kernel_regularizer": "l2"}
    x = keras.layers.Conv2D(4, 3, **regular)(inputs)
    return keras.Model(inputs, keras.layers.ReLU()(keras.layers.BatchNormalization()(x)))


def small_encoder(shape):
    return keras_ssl.encoders.small_encoder(shape, filters=(4, 8))


BUILDERS = [tiny.functional_encoder, tiny.sequential_encoder, nested_encoder, small_encoder, with_losses]
SHAPE = (12, 12, 3)


def fitted(encoder):
    model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(), encoder, seed=0)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(tiny.images(8, SHAPE), batch_size=4, epochs=2, verbose=0).history
    return history, tiny.weights(model)


@pytest.mark.compiled
@pytest.mark.parametrize("build", tiny.cases(*BUILDERS), ids=lambda build: build.__name__)
def test_training_is_the_same_with_dropout_and_batch_statistics(build):
    found = []
    for change in (lambda encoder: encoder, rematerialize):
        keras.utils.set_random_seed(0)
        found.append(fitted(change(build(SHAPE))))
    for name, values in found[0][0].items():
        np.testing.assert_allclose(values, found[1][0][name], rtol=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("segments", tiny.cases(None, 1, 2, 3, 100))
@pytest.mark.parametrize("build", [*BUILDERS, with_functions], ids=lambda build: build.__name__)
def test_weights_are_shared_and_predictions_the_same(build, segments):
    encoder = build(SHAPE)
    frugal = rematerialize(encoder, segments)
    assert all(one is other for one, other in zip(encoder.weights, frugal.weights, strict=True))
    images = tiny.images(2, SHAPE)
    np.testing.assert_allclose(
        encoder.predict(images, verbose=0), frugal.predict(images, verbose=0), rtol=1e-6
    )


def test_saving_and_loading(tmp_path):
    frugal = rematerialize(small_encoder(SHAPE))
    frugal.save(tmp_path / "frugal.keras")
    loaded = keras.saving.load_model(tmp_path / "frugal.keras")
    images = tiny.images(2, SHAPE)
    np.testing.assert_allclose(
        frugal.predict(images, verbose=0), loaded.predict(images, verbose=0), rtol=1e-6
    )


def test_segments_are_cut_where_only_one_tensor_passes():
    encoder = keras_ssl.encoders.densenet121((32, 32, 3))
    names = [layer.name for layer in rematerialize(encoder).layers]
    # About as many as layers in each.
    assert 10 < len(names) < 30
    # As many as its graph allows, and everything at once.
    assert len(rematerialize(encoder, segments=1000).layers) > len(names)
    assert len(rematerialize(encoder, segments=1).layers) == 2


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match="`segments` must be at least 1"):
        rematerialize(small_encoder(SHAPE), segments=0)
    with pytest.raises(ValueError, match="`encoder` must be a functional model"):
        rematerialize(tiny.SubclassedEncoder())
