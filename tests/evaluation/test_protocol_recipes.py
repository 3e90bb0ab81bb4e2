"""The recipe of a pretext task: what it holds out, and what it refuses."""

import keras
import numpy as np
import pytest
import tiny

import keras_ssl
from keras_ssl.evaluation import PretextRecipe

TASK = keras_ssl.RotationTask(guards=None)


def curves(folder, images, **settings):
    keras.utils.set_random_seed(0)
    recipe = PretextRecipe(task=TASK, epochs=2, batch_size=4, verbose=0, **settings)
    return recipe(tiny.sequential_encoder(), images, 3, folder)


def test_held_out_images_have_curves_of_their_own(tmp_path):
    assert set(curves(tmp_path / "without", tiny.images(12))) == {"accuracy", "loss"}
    found = curves(tmp_path / "with", tiny.images(12), validation_fraction=0.25)
    assert {len(found[name]) for name in ("accuracy", "val_accuracy", "loss", "val_loss")} == {2}


def test_held_out_images_are_not_trained_on(tmp_path):
    """Images that are held out have no influence on the weights."""
    images = tiny.images(12)
    held_out = np.random.default_rng(3).permutation(12)[:3]
    others = images.copy()
    others[held_out] = 1 - others[held_out]
    first, second = (
        curves(tmp_path / name, given, validation_fraction=0.25)
        for name, given in (("first", images), ("second", others))
    )
    assert first["loss"] == second["loss"]
    assert first["val_loss"] != second["val_loss"]
    others[np.setdiff1d(np.arange(12), held_out)[0]] = 0
    assert curves(tmp_path / "third", others, validation_fraction=0.25)["loss"] != first["loss"]


def test_no_epochs_are_refused():
    with pytest.raises(ValueError, match=r"`epochs` must be at least 1\. Received 0"):
        PretextRecipe(task=TASK, epochs=0)


def test_fractions_that_hold_out_nothing_or_all_raise(tmp_path):
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"`validation_fraction` must be at least 0 and below 1"):
            PretextRecipe(task=TASK, epochs=1, validation_fraction=fraction)
    for fraction in (0.01, 0.99):
        with pytest.raises(ValueError, match=r"at least one of 12 images and leave one\. Received"):
            curves(tmp_path, tiny.images(12), validation_fraction=fraction)
