"""Drawn images of which it is known what tells their rotation, and networks that learnt it."""

import keras

from keras_ssl import RotationTask, SelfSupervisedModel
from tests.tiny import SHAPE, images

# Rows and columns of the only cue in an image of 8 x 8.
CUES = {
    "stamp in a corner": ([0, 0, 1], [0, 1, 0]),
    "bright above the centre": ([1, 1, 2, 2], [3, 4, 3, 4]),
    "bright left of the centre": ([3, 4, 3, 4], [1, 1, 2, 2]),
}


def drawings(cue, count=32, seed=0):
    """Noise with a bright spot."""
    drawn = 0.3 * images(count, seed=seed)
    rows, columns = CUES[cue]
    drawn[:, rows, columns] = 1
    return drawn


def trained(cue, epochs=12, callbacks=(), **task):
    encoder = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(16, "relu")])
    model = SelfSupervisedModel(RotationTask(**{"guards": None, **task}), encoder, seed=0)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    model.fit_pretext(drawings(cue), epochs=epochs, batch_size=8, callbacks=list(callbacks), verbose=0)
    return model
