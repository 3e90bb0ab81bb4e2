"""Every layer saves and loads inside a functional model of the user."""

import importlib
import pkgutil

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import layers
from keras_ssl.layers.centering import Sharpening
from keras_ssl.layers.mask_tokens import AppendMaskTokens, FillMasked
from keras_ssl.layers.projection_heads import Prototypes

ROWS = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
MAPS = np.random.default_rng(0).uniform(size=(3, 6, 6, 2)).astype("float32")


def student(shape=(4,)):
    return keras.Sequential([keras.Input(shape), keras.layers.Dense(2), keras.layers.BatchNormalization()])


def masked_model():
    images, masked = keras.Input((6, 6, 2)), keras.Input((6, 6, 1), dtype="bool")
    return keras.Model([images, masked], FillMasked()(images, masked))


def model_of(layer, shape=(4,)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


MODELS = {
    "AppendMaskTokens": (
        lambda: model_of(AppendMaskTokens(3), (5, 4)),
        np.stack([ROWS] * 5, axis=1),
    ),
    "Centering": (lambda: model_of(layers.Centering(0.5)), ROWS),
    "FeatureQueue": (lambda: model_of(layers.FeatureQueue(3)), ROWS),
    "FillMasked": (masked_model, [MAPS, MAPS[..., :1] > 0.5]),
    "Prototypes": (lambda: model_of(Prototypes(3, frozen_fraction=0.5)), ROWS),
    "Sharpening": (lambda: model_of(Sharpening((0.04, 0.07))), ROWS),
    "EMATeacher": (lambda: model_of(layers.EMATeacher(student(), 0.9, batch_statistics=True)), ROWS),
}
"""A model with each layer, and its inputs."""


def test_every_layer_is_tested():
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.iter_modules(layers.__path__, "keras_ssl.layers.")
    ]
    found = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, keras.Layer) and value.__module__ == module.__name__
    }
    # A clock is a part of a model, but not of a graph.
    assert found - {"RunClock"} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_functional_model_with_it_is_saved_and_loaded(name, tmp_path):
    make, inputs = MODELS[name]
    model = make()
    # In training, so that what moves has moved.
    model(inputs, training=True)
    expected = ops.convert_to_numpy(model(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(ops.convert_to_numpy(loaded(inputs)), expected, rtol=1e-6, atol=1e-7)
    tiny.assert_same(tiny.weights(model), tiny.weights(loaded))
    assert [weight.trainable for weight in loaded.weights] == [weight.trainable for weight in model.weights]


def test_a_loaded_teacher_follows_a_student_that_it_is_told(tmp_path):
    inputs = keras.Input((4,))
    followed = student()
    outputs = [followed(inputs), layers.EMATeacher(followed, 0.5, name="teacher")(inputs)]
    keras.Model(inputs, outputs).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    teacher, again = loaded.get_layer("teacher"), loaded.get_layer(followed.name)
    with pytest.raises(ValueError, match=r"'teacher' was loaded or .*follow\(student\)"):
        loaded(ROWS, training=True)
    with pytest.raises(ValueError, match=r"`student` must have weights of the shapes"):
        teacher.follow(student((5,)))
    teacher.follow(again)
    again.layers[0].kernel.assign(again.layers[0].kernel + 1)
    before = tiny.weights(teacher)[0]
    teacher(ROWS, training=True)
    np.testing.assert_allclose(tiny.weights(teacher)[0], before + 0.5, rtol=1e-5)
