"""Drawn images of which it is known what tells their rotation, and networks that learned it."""

import functools
import warnings

import keras

from keras_ssl import RotationTask, SelfSupervisedModel
from keras_ssl.callbacks import ShortcutCheck
from tests.tiny import SHAPE, images

# Rows and columns of the only cue in an image of 8 x 8.
CUES = {
    "stamp in a corner": ([0, 0, 1], [0, 1, 0]),
    "bright above the center": ([1, 1, 2, 2], [3, 4, 3, 4]),
    "bright left of the center": ([3, 4, 3, 4], [1, 1, 2, 2]),
}


def drawings(cue, count=32, seed=0):
    """Noise with a bright spot."""
    drawn = 0.3 * images(count, seed=seed)
    rows, columns = CUES[cue]
    drawn[:, rows, columns] = 1
    return drawn


def untrained(**task):
    encoder = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(16, "relu")])
    return SelfSupervisedModel(RotationTask(**{"guards": None, **task}), encoder, seed=0)


@functools.cache
def trained(cue):
    """A network that learned the cue, the history with what the check logged, and what it warned of.

    Trained once for all tests: they may read it, not change it.
    """
    keras.utils.set_random_seed(0)
    model = untrained()
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    check = ShortcutCheck(drawings(cue, seed=1), every=4, tolerance=0.2)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = model.fit_pretext(drawings(cue), epochs=12, batch_size=8, callbacks=[check], verbose=0)
    return model, history.history, [str(one.message) for one in told if one.category is UserWarning]
