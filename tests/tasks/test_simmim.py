"""SimMIMTask: what is masked, that it is not seen, the loss, and that it is learned by any encoder."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import SelfSupervisedModel, SimMIMTask
from keras_ssl.encoders import vit_encoder
from keras_ssl.random import ReplaySeeds

RNG = np.random.default_rng(0)


def as_arrays(tree):
    return keras.tree.map_structure(ops.convert_to_numpy, tree)


@pytest.mark.parametrize(
    ("shape", "patch_size", "patch"),
    [((12, 18, 3), None, (2, 3)), ((12, 18, 3), (4, 6), (4, 6)), ((8, 8, 12, 1), 2, (2, 2, 2))],
)
def test_whole_patches_are_masked_as_many_in_every_image(shape, patch_size, patch):
    images = np.repeat(tiny.images(1, shape), 4, axis=0)
    inputs, targets = as_arrays(SimMIMTask(patch_size=patch_size).preprocess(images, ReplaySeeds()))
    np.testing.assert_array_equal(inputs["images"], images)
    np.testing.assert_array_equal(inputs["masked"], targets["masked"])
    masked = inputs["masked"][..., 0]
    assert masked.shape == images.shape[:-1]
    patches = masked[:, *(slice(None, None, side) for side in patch)]
    np.testing.assert_array_equal(masked, [np.kron(each, np.ones(patch, bool)) for each in patches])
    count = patches[0].size
    assert patches.reshape(4, -1).sum(axis=1).tolist() == [round(0.6 * count)] * 4
    assert len({each.tobytes() for each in patches}) == 4
    values = images - images.mean(axis=tuple(range(1, images.ndim - 1)), keepdims=True)
    values = values / values.std(axis=tuple(range(1, images.ndim)), keepdims=True)
    np.testing.assert_allclose(targets["images"], values, rtol=1e-4, atol=1e-5)


def test_loss_is_the_absolute_error_of_masked_pixels():
    targets = {
        "images": RNG.normal(size=(3, 6, 4, 2)).astype("float32"),
        "masked": RNG.uniform(size=(3, 6, 4, 1)) < 0.5,
    }
    outputs = RNG.normal(size=(3, 6, 4, 2)).astype("float32")
    rows = list(zip(targets["images"], outputs, targets["masked"][..., 0], strict=True))
    expected = [abs(image - output)[mask].mean() for image, output, mask in rows]
    loss = ops.convert_to_numpy(SimMIMTask().compute_loss(targets, outputs))
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    (metric,) = SimMIMTask().build_metrics()
    metric.update_state(targets, outputs)
    error = sum(((image - output)[mask] ** 2).mean() for image, output, mask in rows)
    baseline = sum((image[mask] ** 2).mean() for image, _, mask in rows)
    np.testing.assert_allclose(float(metric.result()), error / baseline, rtol=1e-4)


def test_nothing_of_a_masked_pixel_is_seen():
    shape = (8, 12, 3)
    network = SimMIMTask(patch_size=2).build_network(tiny.functional_encoder(shape), shape)
    images, masked = tiny.images(2, shape), RNG.uniform(size=(2, 8, 12, 1)) < 0.5
    outputs = as_arrays(network({"images": images, "masked": masked}))
    spoilt = as_arrays(network({"images": np.where(masked, 1 - images, images), "masked": masked}))
    np.testing.assert_array_equal(spoilt, outputs)
    other = as_arrays(network({"images": np.where(masked, images, 1 - images), "masked": masked}))
    assert tiny.differ([other], [outputs])


def ramps(count, side=12):
    """Images that grow brighter in a direction of their own."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)[:, None, None]
    y, x = np.mgrid[:side, :side] / side
    return (np.cos(angles) * x + np.sin(angles) * y)[..., None].astype("float32")


def convolutional():
    conv = keras.layers.Conv2D
    layers = [conv(16, 3, strides=s, padding="same", activation="gelu") for s in (2, 2)]
    return keras.Sequential([keras.Input((12, 12, 1)), *layers, conv(16, 3, padding="same")])


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [convolutional, lambda: vit_encoder((12, 12, 1), 4, embedding_dim=16, depth=1, num_heads=2)]
)
def test_it_is_learned(make):
    keras.utils.set_random_seed(0)
    model = SelfSupervisedModel(SimMIMTask(), make(), seed=0)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(ramps(16), batch_size=16, epochs=60, verbose=0).history
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert history["relative_error"][-1] < 0.4
    assert abs(np.asarray(model.network.get_layer("fill_masked").get_weights()[0])).max() > 0


@pytest.mark.parametrize(("shape", "strides"), [((10, 15, 1), 2), ((10, 15, 5, 2), (2, 2, 1))])
def test_maps_that_do_not_tile_the_image(shape, strides):
    conv = {3: keras.layers.Conv2D, 4: keras.layers.Conv3D}[len(shape)]
    encoder = keras.Sequential([conv(4, 3, strides=strides, padding="same")])
    model = SelfSupervisedModel(SimMIMTask(), encoder, input_shape=shape, seed=0)
    assert model(tiny.images(2, shape))["outputs"].shape == (2, *shape)


def test_settings_that_come_from_a_file_are_the_same():
    task = SimMIMTask(patch_size=(4, 6))
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(task)) == task


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_fraction": 0.0}, r"`mask_fraction` must lie in \(0, 1\). Received 0"),
        ({"mask_fraction": 1}, r"`mask_fraction` must lie in \(0, 1\). Received 1"),
        ({"patch_size": 0}, "`patch_size` must hold one or more integers of at least 1"),
        ({"patch_size": (4, 0)}, "`patch_size` must hold one or more integers of at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SimMIMTask(**settings)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({}, (29, 24, 1), r"an eighth to a quarter. Received sides \(29, 24\)"),
        (
            {"patch_size": 5},
            (24, 24, 1),
            r"multiples of the patch's. Received sides \(24, 24\) and patches of \(5, 5",
        ),
        ({"patch_size": (4, 4)}, (24, 24, 24, 1), r"Received sides \(24, 24, 24\) and patches of \(4, 4\)"),
        ({"patch_size": 24}, (24, 24, 1), "for images of 1 patches"),
    ],
)
def test_images_that_do_not_suit_are_refused(settings, shape, message):
    with pytest.raises(ValueError, match=message):
        SelfSupervisedModel(SimMIMTask(**settings), tiny.sequential_encoder(shape))


def test_an_encoder_of_vectors_is_refused():
    with pytest.raises(ValueError, match="feature map"):
        SelfSupervisedModel(SimMIMTask(), tiny.SubclassedEncoder(), input_shape=(12, 12, 3))
