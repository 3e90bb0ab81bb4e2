"""Rotations: each equal to numpy.rot90, whatever the rank, dtype and backend; all of them different."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_ssl.preprocessing import random_rotate, rotate
from keras_ssl.preprocessing.rotation import quarter_turns, rotate_all
from keras_ssl.random import ReplaySeeds

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def noise(shape, dtype="float32"):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def planar(volume):
    """The ten classes of the planar rotations of a volume, written out."""
    return [
        volume,
        np.rot90(volume, 1, (0, 1)),
        np.rot90(volume, 2, (0, 1)),
        np.rot90(volume, 3, (0, 1)),
        np.rot90(volume, 1, (0, 2)),
        np.rot90(volume, 2, (0, 2)),
        np.rot90(volume, 3, (0, 2)),
        np.rot90(volume, 1, (1, 2)),
        np.rot90(volume, 2, (1, 2)),
        np.rot90(volume, 3, (1, 2)),
    ]


def composed(image, rotation):
    for k, plane in rotation:
        image = np.rot90(image, k, plane)
    return image


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int16", "int32", "bool"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_equal_rot90(dtype, channels):
    images = noise((7, 5, 5, channels), dtype)
    labels = np.array([0, 1, 2, 3, 3, 0, 1])
    rotated = ops.convert_to_numpy(rotate(images, labels))
    assert rotated.dtype == images.dtype
    expected = [np.rot90(image, label) for image, label in zip(images, labels, strict=True)]
    np.testing.assert_array_equal(rotated, expected)


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("label", range(10))
def test_every_class_of_volumes_equals_rot90_and_is_another_one(label, size):
    volume = noise((size, size, size, 2))
    rotated = ops.convert_to_numpy(rotate(volume[None], [label]))[0]
    same = [np.array_equal(rotated, expected) for expected in planar(volume)]
    assert same == [label == other for other in range(10)]


def test_cube_rotations_are_the_24_of_a_cube_and_form_a_group():
    volume = np.arange(27).reshape(3, 3, 3)
    turns = quarter_turns(3, "cube")
    images = [composed(volume, rotation).tobytes() for rotation in turns]
    assert len(set(images)) == 24
    for first, second in itertools.product(turns, turns):
        assert composed(volume, first + second).tobytes() in images
    mirrored = volume[::-1].copy()
    assert mirrored.tobytes() not in images
    labels = np.arange(24)
    batch = np.repeat(volume[None, ..., None], 24, axis=0)
    rotated = ops.convert_to_numpy(rotate(batch, labels, "cube"))[..., 0]
    assert [image.tobytes() for image in rotated.astype(volume.dtype)] == images


def test_axes_restrict_the_planes():
    volumes = noise((4, 3, 6, 6, 1))
    rotated = ops.convert_to_numpy(rotate(volumes, [0, 1, 2, 3], axes=[(1, 2)]))
    expected = [np.rot90(volume, k, (1, 2)) for k, volume in enumerate(volumes)]
    np.testing.assert_array_equal(rotated, expected)
    assert quarter_turns(3, axes=[(1, 2), (0, 1)])[4] == ((1, (0, 1)),)


@pytest.mark.compiled
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_equal_in_a_compiled_model(batch, jit_compile):
    class Rotator(keras.Model):
        def call(self, data):
            return rotate(data["images"], data["labels"])

    model = Rotator()
    model.compile(jit_compile=jit_compile and keras.backend.backend() != "torch")
    volumes, labels = noise((batch, 4, 4, 4, 1)), np.array([9, 6, 4, 0, 2])[:batch]
    rotated = model.predict({"images": volumes, "labels": labels}, verbose=0)
    expected = [planar(volume)[label] for volume, label in zip(volumes, labels, strict=True)]
    np.testing.assert_array_equal(rotated, expected)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="keras.ops run in tf.data on the TensorFlow backend only")
def test_runs_in_tf_data_with_an_unknown_batch_size():
    import tensorflow as tf

    images, labels = noise((5, 4, 4, 3), "uint8"), np.array([0, 1, 2, 3, 1])
    pairs = tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)
    rotated = np.concatenate([batch.numpy() for batch in pairs.map(rotate)])
    np.testing.assert_array_equal(rotated, [np.rot90(i, k) for i, k in zip(images, labels, strict=True)])
    drawn = list(tf.data.Dataset.from_tensor_slices(images).batch(2).map(lambda x: random_rotate(x, 0)))
    assert [batch.shape[0] for batch, _ in drawn] == [2, 2, 1]
    every = list(tf.data.Dataset.from_tensor_slices(images).batch(2).map(rotate_all))
    assert [batch.shape[0] for batch, _ in every] == [8, 8, 4]


def test_random_rotate_tells_what_it_did_and_repeats_with_the_seed():
    images = noise((400, 3, 3, 1))
    rotated, labels = random_rotate(images, ReplaySeeds(1))
    np.testing.assert_array_equal(ops.convert_to_numpy(rotated), ops.convert_to_numpy(rotate(images, labels)))
    np.testing.assert_array_equal(ops.convert_to_numpy(rotated), random_rotate(images, ReplaySeeds(1))[0])
    counts = np.bincount(ops.convert_to_numpy(labels), minlength=4)
    # Four standard deviations of a binomial of 400 draws at one in four.
    assert len(counts) == 4
    assert abs(counts - 100).max() < 4 * np.sqrt(400 * 0.25 * 0.75)


@pytest.mark.parametrize(
    ("shape", "rotations", "axes"),
    [((2, 4, 4, 3), None, None), ((2, 4, 4, 4, 1), "cube", None), ((2, 2, 4, 4, 1), None, [(1, 2)])],
)
def test_rotate_all_is_rotate_of_each(shape, rotations, axes):
    images = noise(shape)
    rotated, labels = rotate_all(images, rotations, axes)
    number = len(quarter_turns(len(shape) - 2, rotations, axes))
    np.testing.assert_array_equal(ops.convert_to_numpy(labels), np.tile(np.arange(number), 2))
    each = rotate(np.repeat(images, number, axis=0), labels, rotations, axes)
    np.testing.assert_array_equal(ops.convert_to_numpy(rotated), ops.convert_to_numpy(each))


def test_fit_crops_the_center_of_the_rotated_plane():
    images = noise((2, 4, 7, 1))
    rotated = ops.convert_to_numpy(rotate(images, [0, 1], fit="crop"))
    np.testing.assert_array_equal(rotated[0], images[0, :, 1:5])
    np.testing.assert_array_equal(rotated[1], np.rot90(images[1, :, 1:5]))
    volumes = noise((1, 9, 4, 5, 1))
    assert tuple(rotate(volumes, [1], axes=[(1, 2)], fit="crop").shape) == (1, 9, 4, 4, 1)


def test_gradient_is_turned_back():
    images, weights = noise((3, 4, 4, 1)), noise((3, 4, 4, 1))
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")

    class Weighted(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layer

        def call(self, data):
            return ops.sum(rotate(self.dense(data["x"]), data["k"]) * data["w"], axis=(1, 2, 3))

    model = Weighted()
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss=lambda _, y: ops.mean(y), jit_compile=False)
    data = {"x": images, "k": np.array([1, 2, 3]), "w": weights}
    model.predict(data, verbose=0)
    before = float(ops.convert_to_numpy(layer.kernel).squeeze())
    model.fit(data, np.zeros(3), batch_size=3, verbose=0)
    turned = [np.rot90(image, k) for k, image in zip((1, 2, 3), images, strict=True)]
    expected = before - (np.array(turned) * weights).sum() / 3
    np.testing.assert_allclose(ops.convert_to_numpy(layer.kernel).squeeze(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 4, 5, 3), {}, r"square in the rotated plane.*Received shape \(2, 4, 5, 3\).*Crop or pad first"),
        ((2, 4, 4, 5, 1), {}, r"square in the rotated plane, here along spatial axes \(0, 1, 2\)"),
        ((2, 4, 4, 5, 1), {"axes": [(1, 2)]}, r"here along spatial axes \(1, 2\)"),
        ((2, 4, 5, 3), {"fit": "pad"}, "`fit` must be None or \"crop\". Received 'pad'"),
        ((2, 4, 4, 3), {"rotations": "cube"}, "takes volumes"),
        ((2, 4, 4, 4, 1), {"rotations": "cube", "axes": [(0, 1)]}, "rotates them in all planes"),
        ((2, 4, 4, 4, 1), {"rotations": "all"}, "`rotations` must be None"),
        ((2, 4, 4, 3), {"axes": [(0, 2)]}, "`axes` must be one or more different planes"),
        ((2, 4, 4, 3), {"axes": [(1, 0)]}, "in increasing order"),
        ((2, 4, 4, 3), {"axes": []}, "`axes` must be one or more"),
        ((2, 4, 4, 3), {"axes": [(0, 1), (0, 1)]}, "different planes"),
        ((4, 4, 3), {}, "two or three spatial axes to be rotated. Received 1"),
    ],
)
def test_refuses(shape, options, message):
    with pytest.raises(ValueError, match=message):
        rotate(np.zeros(shape, "float32"), np.zeros(shape[0], int), **options)
