"""RotationTask: learns, takes any encoder and rank, guards without a trace of the turn, saves and loads."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl import RotationTask, SelfSupervisedModel
from keras_ssl.preprocessing import rotate
from keras_ssl.preprocessing.masking import circle_mask
from keras_ssl.random import ReplaySeeds
from keras_ssl.tasks import RotationGuards

RNG = np.random.default_rng(0)
PHOTOS = RNG.uniform(size=(4, 8, 8, 3)).astype("float32")
VOLUMES = RNG.uniform(size=(3, 4, 4, 4, 1)).astype("float32")


def encoder(rank, units=4):
    conv = {2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[rank]
    return keras.Sequential([conv(units, 3, strides=2, padding="same", activation="relu")])


def array(tensor):
    return ops.convert_to_numpy(tensor)


def ramps(count):
    """Images whose only cue is a change of brightness from top to bottom, which tells the turn."""
    ramp = np.linspace(-1, 1, 8)[None, :, None, None]
    return (ramp + 0.1 * RNG.uniform(size=(count, 8, 8, 3))).astype("float32")


@pytest.mark.compiled
@pytest.mark.parametrize("options", [{"guards": None}, {}, {"copies": "all", "hidden_units": (8,)}])
def test_learns_and_reaches_the_encoder(options):
    backbone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    backbone.add(keras.layers.Dense(16, activation="tanh"))
    model = SelfSupervisedModel(RotationTask(**options), backbone, seed=0)
    before = [np.array(weight) for weight in backbone.get_weights()]
    # JAX is slow uncompiled; on TensorFlow compiling takes longer than this run.
    on_jax = keras.backend.backend() == "jax"
    model.compile(optimizer=keras.optimizers.Adam(0.02), jit_compile=on_jax)
    images = ramps(32)
    first = model.evaluate(images, verbose=0)[0]
    model.fit_pretext(images, batch_size=8, epochs=15, verbose=0)
    assert model.evaluate(images, verbose=0)[0] < 0.5 * first
    assert all(not np.array_equal(old, new) for old, new in zip(before, backbone.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("images", "options", "classes"),
    [
        (PHOTOS, {"guards": None}, 4),
        (VOLUMES, {}, 10),
        (VOLUMES, {"rotations": "cube"}, 24),
        (VOLUMES, {"axes": ((1, 2),)}, 4),
    ],
)
def test_copies_are_rotations_of_the_images(images, options, classes):
    one, labels = RotationTask(**options).preprocess(images, ReplaySeeds())
    where = {name: value for name, value in options.items() if name != "guards"}
    np.testing.assert_array_equal(array(one), array(rotate(images, labels, **where)))
    every, labels = RotationTask(copies="all", **options).preprocess(images, ReplaySeeds())
    np.testing.assert_array_equal(array(labels), np.tile(np.arange(classes), len(images)))
    expected = rotate(np.repeat(images, classes, axis=0), labels, **where)
    np.testing.assert_array_equal(array(every), array(expected))
    network = RotationTask(**options).build_network(encoder(images.ndim - 2), images.shape[1:])
    assert network(one).shape == (len(images), classes)


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, x):
        return self.dense(keras.ops.mean(x, axis=(1, 2)))


def functional():
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))


@pytest.mark.parametrize("make", [Subclassed, functional, lambda: encoder(2), lambda: keras.layers.Flatten()])
def test_any_encoder(make):
    network = RotationTask().build_network(make(), (8, 8, 3))
    assert network.output_shape == (None, 4)


def test_wide_head():
    task = RotationTask(hidden_units=(16, 8), batch_norm=True, dropout=0.5, pooling="max")
    kinds = [type(layer).__name__ for layer in task.build_network(encoder(2), (8, 8, 3)).layers[2:]]
    block = ["Dense", "BatchNormalization", "Dropout"]
    assert kinds == ["GlobalMaxPooling2D", *block, *block, "Dense"]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_and_loss_are_float32_under_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        network = RotationTask().build_network(encoder(2), (8, 8, 3))
        images = PHOTOS.astype("float16") * 255
        inputs, targets = RotationTask().preprocess(images, ReplaySeeds())
        loss = RotationTask().compute_loss(targets, network(inputs))
    finally:
        keras.config.set_dtype_policy("float32")
    assert network.layers[1].compute_dtype == policy.removeprefix("mixed_")
    assert network.outputs[0].dtype == "float32"
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert np.isfinite(array(loss)).all()


def test_guards_are_on_for_photographs_only():
    for images in (PHOTOS, PHOTOS[..., :1], VOLUMES):
        plain = RotationTask(guards=None).preprocess(images, ReplaySeeds())[0]
        auto = RotationTask(copies="all").preprocess(images, ReplaySeeds())[0][
            :: 10 if images is VOLUMES else 4
        ]
        assert np.array_equal(array(auto), images) == (images is not PHOTOS), images.shape
        assert plain.shape == images.shape
    inputs, _ = RotationTask(copies="all").preprocess(PHOTOS, ReplaySeeds(2))
    explicit, _ = RotationTask(copies="all", guards=RotationGuards()).preprocess(PHOTOS, ReplaySeeds(2))
    np.testing.assert_array_equal(array(inputs), array(explicit))


def test_guards_repeat_with_the_seed_and_differ_without():
    task = RotationTask(guards=RotationGuards())
    first, again, other = (array(task.preprocess(PHOTOS, ReplaySeeds(seed))[0]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("images", "options"), [(PHOTOS, {}), (VOLUMES, {}), (VOLUMES, {"axes": ((1, 2),)}), (PHOTOS * 255, {})]
)
def test_nothing_but_the_turn_differs_between_guarded_copies(images, options):
    guards = RotationGuards(margin=0.1)
    inputs, labels = RotationTask(copies="all", guards=guards, **options).preprocess(images, ReplaySeeds())
    classes = int(array(labels).max()) + 1
    upright = array(inputs)[::classes]
    np.testing.assert_array_equal(
        array(inputs), array(rotate(np.repeat(upright, classes, axis=0), labels, **options))
    )
    axes = (1, 2) if options else None
    outside = array(inputs)[:, ~circle_mask(images.shape[1:-1], 0.1, axes)]
    assert np.ptp(outside, axis=1).max() == 0


def test_guards_can_each_be_left_out():
    off = {"mask": None, "margin": 0.2, "crop": 1.0, "brightness": 0.0, "contrast": 0.0, "color": 0.0}
    for name, value in {
        "mask": "border",
        "crop": 0.5,
        "brightness": 0.5,
        "contrast": 0.5,
        "color": 0.5,
    }.items():
        guards = RotationGuards(**{**off, name: value})
        changed = RotationTask(guards=guards, copies="all").preprocess(PHOTOS, ReplaySeeds())[0]
        assert not np.allclose(array(changed)[::4], PHOTOS), name
    nothing = RotationTask(guards=RotationGuards(**off), copies="all").preprocess(PHOTOS, ReplaySeeds())[0]
    np.testing.assert_array_equal(array(nothing)[::4], PHOTOS)


def test_fit_crops_images_and_network():
    task = RotationTask(fit="crop", guards=None)
    network = task.build_network(encoder(2), (8, 12, 3))
    assert network.input_shape == (None, 8, 8, 3)
    inputs, _ = task.preprocess(RNG.uniform(size=(2, 8, 12, 3)), ReplaySeeds())
    assert network(inputs).shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotations": "all"}, "`rotations` must be None"),
        ({"copies": "two"}, "`copies` must be"),
        ({"guards": "on"}, "`guards` must be"),
        ({"fit": "pad"}, "`fit` must be"),
    ],
)
def test_refuses_unknown_values(options, message):
    with pytest.raises(ValueError, match=message):
        RotationTask(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "square"}, "`mask` must be"),
        ({"crop": 0}, "`crop` must be above 0"),
        ({"margin": 1}, "`margin` must be at least 0"),
        ({"contrast": -0.1}, "`contrast` must be at least 0"),
    ],
)
def test_guards_refuse_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        RotationGuards(**options)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (8, 3), "two or three spatial axes to be rotated. Received 1"),
        ({}, (8, 9, 3), r"square in the rotated plane.*Received shape \(None, 8, 9, 3\)"),
        ({}, (None, None, 3), "known spatial shape"),
        ({"rotations": "cube"}, (8, 8, 3), "takes volumes"),
        ({"axes": ()}, (8, 8, 3), "`axes` must be one or more"),
        ({"pooling": "min"}, (8, 8, 3), "`pooling` must be"),
        ({"dropout": 1.0}, (8, 8, 3), "`dropout` must"),
        ({"hidden_units": (0,)}, (8, 8, 3), "`hidden_units` must"),
    ],
)
def test_build_network_refuses(options, shape, message):
    with pytest.raises(ValueError, match=message):
        RotationTask(**options).build_network(encoder(2), shape)


def test_build_network_refuses_an_encoder_of_no_features():
    scalars = keras.Sequential([keras.layers.Reshape((2, 2, 2, 2, 12))])
    with pytest.raises(
        ValueError, match=r"The encoder must give one feature vector .* \(None, 2, 2, 2, 2, 12"
    ):
        RotationTask().build_network(scalars, (8, 8, 3))
