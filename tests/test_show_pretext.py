"""show_pretext: each image and beside it what the task makes of it, whole, in order and on one scale."""

import dataclasses
import io

import numpy as np
import pytest
import tiny
from keras import ops

import keras_ssl
from keras_ssl import ColorizationTask, MultiTask, PretextTask, RotationTask, SimCLRTask, show_pretext
from keras_ssl.random import ReplaySeeds

TASKS = [
    getattr(keras_ssl, name)
    for name in keras_ssl.__all__
    if name.endswith("Task") and getattr(keras_ssl, name) is not PretextTask
]
ROTATION = RotationTask(guards=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made(PretextTask):
    """A task whose inputs are what a function makes of the images."""

    make: object

    def preprocess(self, images, seed):
        return self.make(images), {}

    def build_network(self, encoder, input_shape):
        raise NotImplementedError

    def compute_loss(self, targets, outputs):
        raise NotImplementedError


def drawn(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def captions(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_a_row_has_the_image_and_what_was_made_of_it():
    images = 200 * tiny.images(3, (6, 6, 3))
    figure = show_pretext(ROTATION, images, count=2, seed=4)
    assert captions(figure) == ["image", "input"]
    inputs, labels = (ops.convert_to_numpy(part) for part in ROTATION.preprocess(images[:2], ReplaySeeds(4)))
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == [f"target {label}" for label in labels]
    expected = [part for pair in zip(images[:2], inputs, strict=True) for part in pair]
    for number, (picture, whole) in enumerate(zip(drawn(figure), expected, strict=True)):
        np.testing.assert_allclose(picture, whole / images[number // 2].max(), atol=1e-6)


def test_a_seed_makes_a_figure_and_another_another():
    images = tiny.images(2, (12, 12, 1))
    figures = [show_pretext(SimCLRTask(), images, seed=seed) for seed in (0, 0, 1)]
    assert captions(figures[0]) == ["image", "input 1", "input 2"]
    assert [axes.get_ylabel() for axes in figures[0].axes] == [""] * 6
    first, again, other = (drawn(figure) for figure in figures)
    tiny.assert_same(first, again)
    np.testing.assert_array_equal(first[3], other[3])
    assert not np.array_equal(first[4], other[4])


def test_of_volumes_the_middle_slice_and_of_other_channels_the_first():
    volumes = tiny.images(1, (5, 6, 8, 2))
    seen, mirrored = drawn(show_pretext(Made(make=lambda x: ops.flip(x, axis=1)), volumes))
    for picture in (seen, mirrored):
        np.testing.assert_allclose(picture, volumes[0, 2, ..., 0] / volumes[0, 2].max(), rtol=1e-6)


def test_many_inputs_of_an_image_share_a_panel_in_their_order():
    values = np.arange(1, 11, dtype="float32").reshape(2, 5) / 10
    parts = np.tile(values[..., None, None, None], (12, 12, 1))
    figure = show_pretext(Made(make=lambda x: ops.convert_to_tensor(parts)), np.ones((2, 24, 24, 1)))
    assert captions(figure) == ["image", "input 1 to 5\n12 x 12"]
    for tiles, expected in zip(drawn(figure)[1::2], values, strict=True):
        assert tiles.shape == (25, 38)
        for number in range(5):
            row, column = divmod(number, 3)
            tile = tiles[row * 13 : row * 13 + 12, column * 13 : column * 13 + 12]
            np.testing.assert_allclose(tile, np.full((12, 12), expected[number]), rtol=1e-6)
        # White stands between them and where one is missing.
        assert (tiles[12] == 1).all()
        assert (tiles[:, 12] == 1).all()
        assert (tiles[13:, 26:] == 1).all()


def test_inputs_are_named_as_in_their_structure_and_numbers_are_left_out():
    task = Made(make=lambda x: {"near": [x, x], "far": ops.concatenate([x, x]), "numbers": ops.arange(2)})
    assert captions(show_pretext(task, tiny.images(2))) == ["image", "far 1", "far 2", "near 1", "near 2"]
    both = MultiTask(tasks=(ROTATION, SimCLRTask()))
    assert captions(show_pretext(both, tiny.images(2))) == ["image", "rotation", "simclr 1", "simclr 2"]


def test_brightness_is_kept_and_another_scale_is_stretched():
    images = tiny.images(2, (8, 8, 1))
    image, darker = drawn(show_pretext(Made(make=lambda x: 0.5 * x), images))[:2]
    np.testing.assert_allclose(darker, 0.5 * image, rtol=1e-6)
    image, scaled = drawn(show_pretext(Made(make=lambda x: 100 * (x - 0.5)), images))[:2]
    low, high = np.percentile(images[0], (1, 99))
    np.testing.assert_allclose(scaled, np.clip((images[0, ..., 0] - low) / (high - low), 0, 1), atol=1e-5)


def test_constant_images_are_drawn():
    for value in (0, 7):
        image, made = drawn(show_pretext(Made(make=lambda x: x + 0.5), np.full((1, 4, 4, 1), value, "uint8")))
        assert np.isfinite(image).all()
        assert np.isfinite(made).all()


def test_a_task_may_draw_something_else_than_its_inputs():
    image, hidden = drawn(show_pretext(keras_ssl.MAETask(), tiny.images(1, (24, 24, 1))))
    changed = ~np.isclose(image, hidden, atol=1e-5)
    assert abs(changed.mean() - 0.75) < 0.02
    # Filled by one value.
    assert len(np.unique(hidden[changed].round(5))) == 1


@pytest.mark.parametrize("kind", tiny.cases(*TASKS), ids=lambda kind: kind.__name__)
def test_every_task_is_drawn(kind):
    figure = show_pretext(kind(), 255 * tiny.images(2, (24, 24, 3)))
    pictures = drawn(figure)
    assert len(pictures) >= 4
    assert all(np.isfinite(picture).all() for picture in pictures)
    # Something is to be seen in each of them.
    assert all(picture.std() > 0.01 for picture in pictures)


def test_the_figure_can_be_written():
    file = io.BytesIO()
    show_pretext(ROTATION, tiny.images(1), count=1).savefig(file, format="png")
    assert file.getvalue()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": "rotation"}, TypeError, "`task` must be a PretextTask.*'rotation'"),
        ({"count": 0}, ValueError, "`count` must be at least 1. Received 0"),
        ({"images": np.ones((2, 8, 8))}, ValueError, r"`images` must have shape \(n, \*spatial, channels\)"),
        ({"images": np.ones((0, 8, 8, 1))}, ValueError, "`images` must not be empty"),
        ({"images": np.full((1, 8, 8, 1), np.nan)}, ValueError, "`images` must be finite"),
        ({"images": np.ones((1, 8, 6, 1))}, ValueError, "square"),
        ({"task": ColorizationTask(), "images": tiny.images(2)}, ValueError, "value_range"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        show_pretext(**{"task": ROTATION, "images": tiny.images(2), **options})
