"""The shortcut check, on drawings where it is known what tells the rotation."""

import keras
import numpy as np
import pytest

from keras_ssl import RotationTask, SelfSupervisedModel
from keras_ssl.callbacks import rotation_shortcuts
from keras_ssl.preprocessing.masking import circle_mask
from keras_ssl.preprocessing.rotation import quarter_turns
from keras_ssl.tasks import RotationGuards
from tests.drawings import CUES, drawings, trained, untrained
from tests.tiny import SHAPE, assert_same, images, sequential_encoder, weights


@pytest.mark.parametrize("cue", CUES)
def test_the_accuracies_locate_the_cue(cue):
    model, _, _ = trained(cue)
    found = rotation_shortcuts(model, drawings(cue, seed=1))
    in_corner = cue == "stamp in a corner"
    assert found["accuracy"] > 0.95
    for name, cue_is_hidden in (("accuracy_masked", in_corner), ("border_only", not in_corner)):
        if cue_is_hidden:
            assert found[name] == pytest.approx(0.25, abs=0.15), name
        else:
            assert found[name] > 0.9, name
    if cue == "bright left of the center":
        assert found["accuracy_mirrored"] > 0.9
    else:  # taken for another rotation every time
        assert found["accuracy_mirrored"] < 0.05


def by_hand(model, photos, turns, inside):
    """The four shares by NumPy, an image and a rotation at a time, for a task without guards."""

    def hidden(image, kept):
        return np.where(kept[..., None], image, image[kept].mean(axis=0))

    views = {
        "accuracy": photos,
        "accuracy_masked": np.stack([hidden(image, inside) for image in photos]),
        "accuracy_mirrored": photos[:, ::-1],
        "border_only": np.stack([hidden(image, ~inside) for image in photos]),
    }
    shares = {}
    for name, view in views.items():
        right = []
        for label, rotation in enumerate(turns):
            turned = view
            for k, (first, second) in rotation:
                turned = np.rot90(turned, k, (1 + first, 1 + second))
            right.append(model.network.predict(turned.copy(), verbose=0).argmax(axis=1) == label)
        shares[name] = np.mean(right)
    return shares


@pytest.mark.parametrize(
    ("shape", "options"),
    [(SHAPE, {}), ((6, 6, 6, 1), {"rotations": "cube"})],
    ids=["2d", "cube"],
)
def test_the_accuracies_match_a_direct_count(shape, options):
    task = RotationTask(guards=None, **options)
    encoder = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(8, "tanh")])
    model, photos = SelfSupervisedModel(task, encoder, seed=0), images(7, shape)
    turns = quarter_turns(len(shape) - 1, task.rotations)
    found = rotation_shortcuts(model, photos, margin=0.2, batch_size=2 * len(turns))
    assert found == pytest.approx(by_hand(model, photos, turns, circle_mask(shape[:-1], 0.2)))


def test_a_cylinder_is_hidden_where_slices_are_turned():
    task = RotationTask(axes=((1, 2),))
    model = SelfSupervisedModel(task, sequential_encoder((4, 6, 6, 1)), seed=0)
    photos = images(5, (4, 6, 6, 1))
    kept = np.broadcast_to(circle_mask((6, 6), 0.1), (4, 6, 6))
    blank = np.where(kept[..., None], 0, photos).astype("float32")
    turns = quarter_turns(3, axes=((1, 2),))
    expected = by_hand(model, blank, turns, kept)["border_only"]
    assert rotation_shortcuts(model, photos)["border_only"] == pytest.approx(expected)


@pytest.mark.parametrize("guards", [RotationGuards(), RotationGuards(mask="border", margin=0.3)])
def test_the_mask_of_the_guards_is_kept_and_their_draws_are_not(guards):
    model = untrained(guards=guards)
    photos = drawings("stamp in a corner", seed=1)
    found = rotation_shortcuts(model, photos)
    assert found == rotation_shortcuts(model, photos)
    other = drawings("stamp in a corner", seed=1)
    other[:, 0, :3] = other[:, -1, 5:] = 7  # pixels that both masks hide
    assert rotation_shortcuts(model, other) == found
    if guards.mask == "circle":
        assert found["accuracy_masked"] == found["accuracy"]
        assert found["border_only"] == 0.25


def test_batches_do_not_matter_and_weights_stay():
    model, photos = untrained(fit="crop"), drawings("stamp in a corner", 5, 1)
    before = weights(model)
    found = rotation_shortcuts(model, photos, batch_size=1)
    assert found == rotation_shortcuts(model, photos, batch_size=64)
    assert_same(before, weights(model))


def test_images_that_are_not_square_are_cropped_where_the_task_does():
    model = SelfSupervisedModel(
        RotationTask(guards=None, fit="crop"), sequential_encoder(), input_shape=(8, 12, 3), seed=0
    )
    wide = images(4, (8, 12, 3))
    square = SelfSupervisedModel(RotationTask(guards=None), model.encoder, seed=0)
    square.network.set_weights(model.network.get_weights())
    assert rotation_shortcuts(model, wide) == rotation_shortcuts(square, wide[:, :, 2:10])


def test_invalid_arguments_raise():
    model = SelfSupervisedModel(RotationTask(), sequential_encoder(), seed=0)
    with pytest.raises(TypeError, match="`model` must be a SelfSupervisedModel of a RotationTask"):
        rotation_shortcuts(model.network, images())
    with pytest.raises(ValueError, match="`margin` must be at least 0 and below 1"):
        rotation_shortcuts(model, images(), margin=1.0)
    with pytest.raises(ValueError, match=r"must have shape \(n, 8, 8, 3\)"):
        rotation_shortcuts(model, images(shape=(9, 9, 3)))
