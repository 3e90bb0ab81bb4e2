"""InpaintingTask: what is hidden does not show, the loss is that of blocks and rims, and it is learned."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops
from tiny import functional_encoder

from keras_ssl import InpaintingTask, SelfSupervisedModel
from keras_ssl.random import ReplaySeeds

RNG = np.random.default_rng(0)


def drawn(task, images, seed=0):
    inputs, targets = task.preprocess(images, ReplaySeeds(seed))
    return [ops.convert_to_numpy(each) for each in (inputs, targets["images"], targets["hidden"])]


@pytest.mark.parametrize("shape", [(12, 20, 3), (12, 20, 8, 1)])
def test_one_block_an_image_of_the_size_asked_for_at_places_of_its_own(shape):
    task = InpaintingTask(num_blocks=1, block_size=0.25)
    hidden = drawn(task, tiny.images(30, shape))[2][..., 0]
    block = tuple(size // 4 for size in shape[:-1])
    corners = []
    for image in hidden:
        places = np.argwhere(image)
        corners.append(places.min(axis=0))
        assert len(places) == np.prod(block)
        assert tuple(np.ptp(places, axis=0) + 1) == block
    # Each place of the shortest axis is found among thirty, the first and the last included.
    last = np.array(shape[:-1]) - block
    shortest = int(np.argmin(last))
    assert {corner[shortest] for corner in corners} == set(range(last[shortest] + 1))
    assert len({tuple(corner) for corner in corners}) > 20


@pytest.mark.parametrize("shape", [(12, 12, 3), (8, 8, 8, 2)])
def test_what_is_hidden_is_filled_by_the_mean_of_the_rest_and_asked_for(shape):
    images = tiny.images(4, shape) * 255
    inputs, asked, hidden = drawn(InpaintingTask(), images)
    for image, seen, target, mask in zip(images, inputs, asked, hidden[..., 0], strict=True):
        np.testing.assert_array_equal(seen[~mask], image[~mask])
        np.testing.assert_allclose(seen[mask], np.tile(image[~mask].mean(axis=0), (mask.sum(), 1)), rtol=1e-5)
        centered = image - image.mean(axis=tuple(range(mask.ndim)))
        np.testing.assert_allclose(target, centered / np.sqrt((centered**2).mean()), atol=1e-5)
        assert 0 < mask.mean() <= 0.25


def test_constant_images_ask_for_0():
    _, asked, _ = drawn(InpaintingTask(), np.full((2, 12, 12, 3), 0.1, "float32"))
    np.testing.assert_array_equal(asked, np.zeros_like(asked))


@pytest.mark.parametrize(
    ("shape", "rim", "width"),
    [
        ((16, 24, 3), 0.25, (2, 3)),
        ((16, 24, 3), 0.01, (1, 1)),
        ((16, 24, 3), 0.0, (0, 0)),
        ((16, 8, 8, 1), 0.25, (2, 1, 1)),
    ],
)
def test_loss_is_the_weighted_error_where_hidden(shape, rim, width):
    task = InpaintingTask(num_blocks=2, block_size=0.5, rim=rim, rim_weight=7)
    _, asked, hidden = drawn(InpaintingTask(num_blocks=2), tiny.images(3, shape))
    outputs = RNG.normal(size=asked.shape).astype("float32")
    expected = []
    for target, output, mask in zip(asked, outputs, hidden[..., 0], strict=True):
        total = weights = 0.0
        for place in map(tuple, np.argwhere(mask)):
            around = tuple(slice(max(0, at - by), at + by + 1) for at, by in zip(place, width, strict=True))
            weight = 1 if mask[around].all() else 7
            total += weight * ((target[place] - output[place]) ** 2).mean()
            weights += weight
        expected.append(total / weights)
    loss = task.compute_loss({"images": asked, "hidden": hidden}, outputs)
    np.testing.assert_allclose(ops.convert_to_numpy(loss), expected, rtol=1e-5)


def test_metric_is_1_for_the_mean_and_0_for_the_image():
    _, targets = InpaintingTask().preprocess(tiny.images(4, (12, 12, 3)), ReplaySeeds())
    for outputs, expected in ((0 * targets["images"], 1), (targets["images"], 0), (-targets["images"], 4)):
        (metric,) = InpaintingTask().build_metrics()
        metric.update_state(targets, outputs)
        np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-5)


def test_metric_of_constant_images_is_1():
    _, targets = InpaintingTask().preprocess(np.ones((2, 12, 12, 3), "float32"), ReplaySeeds())
    (metric,) = InpaintingTask().build_metrics()
    metric.update_state(targets, targets["images"] + 1)
    assert float(metric.result()) == 1


@pytest.mark.slow
def test_it_is_learned():
    # Stripes, which go on behind a block.
    lines = np.sin(np.arange(16) * np.pi / 4 + RNG.uniform(0, 2 * np.pi, (32, 1)))
    images = lines[:, None, :, None].repeat(16, axis=1)
    encoder = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(16, 5, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 5, padding="same", activation="relu"),
        ]
    )
    model = SelfSupervisedModel(InpaintingTask(filters=16), encoder, seed=0)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(images.astype("float32"), batch_size=16, epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    # The mean alone gives 1.
    assert history["relative_error"][-1] < 0.5


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="The task needs a feature map"):
        SelfSupervisedModel(InpaintingTask(), tiny.SubclassedEncoder(), input_shape=(12, 12, 3))


def test_blocks_that_could_hide_all_are_refused():
    task = InpaintingTask(num_blocks=4, block_size=0.5)
    with pytest.raises(
        ValueError, match=r"must leave a part of every image visible. Received 4 and 0.5: blo"
    ):
        SelfSupervisedModel(task, functional_encoder((12, 12, 3)))
    assert task.encoder_input_shape((12, 12, 12, 1)) == (12, 12, 12, 1)


@pytest.mark.parametrize(
    ("argument", "value", "constraint"),
    [
        ("num_blocks", 0, "at least 1"),
        ("block_size", 0, "above 0 and below 1"),
        ("block_size", 1.0, "above 0 and below 1"),
        ("rim", 0.6, "from 0 to 0.5"),
        ("rim", -0.1, "from 0 to 0.5"),
        ("rim_weight", 0, "above 0"),
        ("stride", 0, "at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(argument, value, constraint):
    with pytest.raises(ValueError, match=f"`{argument}` must be {constraint}. Received {value}"):
        InpaintingTask(**{argument: value})
