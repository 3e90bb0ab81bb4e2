"""Functional encoders on images of other sides than they were built for: tasks on patches, and heads."""

import warnings

import keras
import numpy as np
import pytest
import tiny
from keras import ops

import keras_ssl
from keras_ssl import FineTuner, OrdinalHead, SegmentationHead, SelfSupervisedModel, encoders
from keras_ssl.callbacks import check_representation
from keras_ssl.encoders._checks import encoder_for
from keras_ssl.encoders.densenet import default_encoder
from keras_ssl.encoders.functional_graph import reshaped

FLAT, DEEP = (48, 48, 3), (18, 18, 18, 1)
TASKS = {
    "jigsaw": keras_ssl.JigsawTask(num_permutations=5),
    "relative patch": keras_ssl.RelativePatchTask(),
    "CPC": keras_ssl.CPCTask(embedding_dim=6, context_filters=(5,), steps=(1,)),
}


def small(shape):
    return encoders.small_encoder(shape, filters=(4, 8))


def nested(shape):
    return encoders.with_rescaling(encoders.with_rescaling(small(shape), 2.0), 1.0, -0.5)


def sequential(shape):
    return keras.Sequential([keras.Input(shape), keras.layers.Rescaling(2.0), small(shape)])


def from_applications(shape):
    return keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(*shape[:2], 3), alpha=0.35
    )


ENCODERS = {
    "own": small,
    "nested": nested,
    "sequential": sequential,
    "rematerialized": lambda shape: encoders.rematerialize(small(shape)),
    "applications": from_applications,
}


def outputs(model, images):
    return np.array(ops.convert_to_numpy(model(images, training=False)))


@pytest.mark.parametrize("name", tiny.cases(*ENCODERS))
def test_other_sides_give_what_an_encoder_of_open_sides_gives(name):
    encoder = ENCODERS[name](FLAT)
    open_sides = ENCODERS[name]((None, None, 3))
    open_sides.set_weights(encoder.get_weights())
    images = tiny.images(2, (32, 40, 3))
    view = encoder_for(encoder, images.shape[1:])
    np.testing.assert_allclose(outputs(view, images), outputs(open_sides, images), rtol=1e-4, atol=1e-5)
    assert {id(weight) for weight in view.weights} == {id(weight) for weight in encoder.weights}
    assert encoder_for(encoder, FLAT) is encoder
    assert encoder_for(open_sides, images.shape[1:]) is open_sides


def assert_pretrains_and_fine_tunes(task, encoder, shape, path):
    images = tiny.images(2, shape)
    model = SelfSupervisedModel(task, encoder, input_shape=shape, seed=0)
    assert model.encoder is encoder
    layers = len(model.encoder.layers)
    before = tiny.weights(encoder)
    model.fit_pretext(images, batch_size=2, epochs=1, verbose=0)
    assert tiny.differ(before, encoder.get_weights())
    assert len(model.encoder.layers) == layers
    check_representation(encoder, images)

    model.save(path / "model.keras")
    loaded = keras.saving.load_model(path / "model.keras")
    tiny.assert_same(tiny.weights(loaded), tiny.weights(model))
    expected, found = (each.evaluate(images, batch_size=2, verbose=0) for each in (model, loaded))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    encoder.save(path / "encoder.keras")
    reloaded = keras.saving.load_model(path / "encoder.keras")
    for each in (encoder, loaded.encoder, reloaded):
        tuner = FineTuner(each, OrdinalHead(3), input_shape=shape, seed=0, warmup_epochs=1)
        assert tuner.model.input_shape[1:] == shape
        assert {id(w) for w in each.weights} < {id(w) for w in tuner.model.weights}
    frozen = tiny.weights(reloaded)
    tuner.fit(images, [0, 1], epochs=1, verbose=0)
    tiny.assert_same(tiny.weights(reloaded), frozen)
    tuner.fit(images, [0, 1], epochs=2, verbose=0)
    assert tiny.differ(frozen, reloaded.get_weights())


@pytest.mark.filterwarnings("ignore:The encoder .* is never trained")
@pytest.mark.parametrize("task", TASKS)
def test_encoders_of_fixed_size_are_pretrained_on_patches(task, tmp_path):
    assert_pretrains_and_fine_tunes(TASKS[task], small(FLAT), FLAT, tmp_path)


@pytest.mark.filterwarnings("ignore:The encoder .* is never trained")
@pytest.mark.parametrize("build", tiny.cases(nested, sequential, from_applications))
def test_nested_encoders_are_pretrained_on_patches(build, tmp_path):
    task, shape = TASKS["jigsaw"], FLAT
    if build is from_applications:
        # Patches of 32 pixels, about the smallest for MobileNetV2.
        task, shape = keras_ssl.JigsawTask(num_permutations=5, patch_fraction=1.0), (96, 96, 3)
    assert_pretrains_and_fine_tunes(task, build(shape), shape, tmp_path)


@pytest.mark.filterwarnings("ignore:The encoder .* is never trained")
@pytest.mark.parametrize("sides", ["whole", "patch", "open"])
def test_volumes_too_whatever_the_declared_sides(sides, tmp_path):
    task = TASKS["jigsaw"]
    shape = {"whole": DEEP, "patch": task.encoder_input_shape(DEEP), "open": (None, None, None, 1)}[sides]
    assert_pretrains_and_fine_tunes(task, tiny.functional_encoder(shape), DEEP, tmp_path)


def test_segmentation_on_other_sides():
    encoder = encoders.unet_encoder((16, 16, 1), filters=(4, 8))
    tuner = FineTuner(encoder, SegmentationHead(2), input_shape=(24, 20, 1), seed=0)
    assert tuner.model.output_shape == (None, 24, 20, 2)
    assert {id(weight) for weight in encoder.weights} < {id(weight) for weight in tuner.model.weights}


def flattened(shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(inputs)))


class Flattening(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(4)

    def call(self, images):
        return self.dense(self.flatten(images))


OF_ONE_SIZE = {
    "flattened": flattened,
    "sine positions": lambda shape: encoders.vit_encoder(shape, 4, embedding_dim=12, depth=1),
    "learned positions": lambda shape: encoders.vit_encoder(
        shape, 4, embedding_dim=12, depth=1, position="learned"
    ),
    "tokens that state their number": tiny.token_encoder,
    "subclassed": lambda shape: Flattening(),
}


@pytest.mark.parametrize("of", ["images", "patches"])
@pytest.mark.parametrize("name", OF_ONE_SIZE)
def test_encoders_of_one_size_are_refused_before_training(name, of):
    task = keras_ssl.JigsawTask(num_permutations=5, patch_fraction=0.5)
    encoder = OF_ONE_SIZE[name](FLAT if of == "images" else task.encoder_input_shape(FLAT))
    with pytest.raises(ValueError, match=r"`encoder` must take (whole )?images of shape"):
        SelfSupervisedModel(task, encoder, input_shape=FLAT)


def test_default_encoder_of_patches_has_open_sides_and_fewer_blocks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with tiny.without_weights():
            encoder = default_encoder((96, 96, 3), (32, 32, 3))
    assert encoder.input_shape == (None, None, None, 3)
    assert encoder.output_shape == (None, None, None, 1024)
    few = pytest.warns(UserWarning, match=r"sides \(24, 24\) are too small .* first 3 of its 4 blocks")
    with few, tiny.without_weights():
        encoder = default_encoder((96, 96, 3), (24, 24, 3))
    assert encoder.output_shape == (None, None, None, 1024)
    with pytest.warns(UserWarning, match="first 1 of its 4 blocks"), tiny.without_weights():
        encoder = default_encoder((12, 12, 12, 1), (4, 3, 3, 1))
    assert encoder.compute_output_shape((None, 4, 3, 3, 1))[1:-1] == (1, 1, 1)


def test_reshaped_needs_a_functional_model():
    with pytest.raises(ValueError, match="`model` must be a functional model"):
        reshaped(tiny.SubclassedEncoder(), (8, 8, 3))
