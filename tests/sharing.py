"""The fit that devices share in tests of distribution: nothing in it is left to draws or batch statistics."""

import keras
import numpy as np
import tiny
from keras import ops

import keras_ssl


def _halves(views, seed):
    # Replicas of TensorFlow draw each for themselves.
    factors = 1 - ops.cast(ops.arange(ops.shape(views)[0]) % 2, "float32") / 2
    return views * factors[:, None, None, None]


TASKS = {
    # A loss for each image, and one that compares the images of a batch.
    "rotation": keras_ssl.RotationTask(copies="all", guards=None),
    "simclr": keras_ssl.SimCLRTask(views=_halves, hidden_units=(8,), projection_units=4),
}


def make(name):
    """The compiled model, alike each time."""
    keras.utils.set_random_seed(0)
    model = keras_ssl.SelfSupervisedModel(TASKS[name], tiny.sequential_encoder(), seed=0)
    model.compile(keras.optimizers.SGD(0.5), jit_compile=keras_ssl.default_jit_compile())
    return model


def fit(name):
    """Losses of two epochs of one step, and the weights at their end."""
    model = make(name)
    losses = model.fit_pretext(tiny.images(8), batch_size=8, epochs=2, verbose=0).history["loss"]
    return losses, tiny.weights(model)


def assert_same(one, other, rtol=1e-7, atol=1e-6):
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    for first, second in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(first, second, rtol=rtol, atol=atol)
