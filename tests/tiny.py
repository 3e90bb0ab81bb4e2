"""The smallest images, encoders and runs on which the library's promises can be tested."""

import contextlib

import keras
import numpy as np
import pytest
from keras.src.backend.common import global_state

from keras_ssl import RotationTask, SelfSupervisedModel
from keras_ssl.encoders.vit import transformer_block

SHAPE = (8, 8, 3)


def images(count=12, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, *shape)).astype("float32")


def grades(count=12, num_grades=3):
    return np.arange(count) % num_grades


def functional_encoder(shape=SHAPE, dropout=0.3):
    rank = len(shape) - 1
    conv = {2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[rank]
    inputs = keras.Input(shape)
    x = conv(4, 3, padding="same")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Dropout(dropout)(x)
    return keras.Model(inputs, conv(4, 3, strides=2, padding="same", activation="relu")(x))


@keras.saving.register_keras_serializable("tests")
class SubclassedEncoder(keras.Model):
    """An encoder that knows no input shape until it is called, and gives a vector."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.conv = keras.layers.Conv2D(units, 3, activation="relu")
        self.pool = keras.layers.GlobalAveragePooling2D()

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.built = True

    def call(self, inputs):
        return self.pool(self.conv(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class TokenEmbedding(keras.layers.Layer):
    """Like that of Keras Hub: tokens before those of patches, positions, and a stated output shape."""

    def __init__(self, count, prefix=0, **kwargs):
        super().__init__(**kwargs)
        self.count, self.prefix = count, prefix

    def build(self, input_shape):
        dim = input_shape[-1]
        self.positions = self.add_weight(shape=(1, self.count + self.prefix, dim), initializer="normal")
        self.first = self.add_weight(shape=(1, self.prefix, dim), initializer="normal")

    def call(self, patches):
        patches = keras.ops.reshape(patches, (keras.ops.shape(patches)[0], -1, patches.shape[-1]))
        first = keras.ops.tile(keras.ops.convert_to_tensor(self.first), (keras.ops.shape(patches)[0], 1, 1))
        tokens = keras.ops.concatenate([first, patches], axis=1) if self.prefix else patches
        return tokens + self.positions

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.count + self.prefix, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "count": self.count, "prefix": self.prefix}


def token_encoder(shape=SHAPE, patch=4, dim=12, prefix=1, pack=lambda inputs: inputs):
    """An encoder of tokens like the ViT of Keras Hub; `pack` puts its input into a dictionary, as there."""
    conv = {3: keras.layers.Conv2D, 4: keras.layers.Conv3D}[len(shape)]
    inputs = keras.Input(shape, name="images")
    x = conv(dim, patch, strides=patch)(inputs)
    x = TokenEmbedding(int(np.prod(x.shape[1:-1])), prefix)(x)
    for number in range(2):
        x = transformer_block(x, 2, 2 * dim, name=f"block{number}")
    return keras.Model(pack(inputs), keras.layers.LayerNormalization()(x))


def sequential_encoder(shape=SHAPE):
    conv = {3: keras.layers.Conv2D, 4: keras.layers.Conv3D}[len(shape)]
    return keras.Sequential([keras.Input(shape), conv(4, 3, activation="relu")])


@contextlib.contextmanager
def without_weights():
    """Models built in here are symbolic: to make the weights of large ones would take most of the time."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        # Otherwise the next scope of Keras' own would make them all.
        global_state.set_global_attribute("uninitialized_variables", [])


def pretext_model(encoder=None, seed=0, **task):
    if encoder is None:
        keras.utils.set_random_seed(0)
        encoder = functional_encoder()
    return SelfSupervisedModel(RotationTask(**task), encoder, input_shape=SHAPE, seed=seed)


def quick_model():
    """The model that compiles fastest, for what depends neither on guards nor on dropout and BatchNorm."""
    keras.utils.set_random_seed(0)
    return pretext_model(sequential_encoder(), guards=None)


def quick(function):
    """Compile a function of arrays on JAX, which else compiles every operation of it by itself."""
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


def weights(model):
    # Copies: on PyTorch the arrays share memory with the weights.
    return [np.array(weight) for weight in model.get_weights()]


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def differ(first, second):
    return any(not np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def cases(*every):
    """All cases of a test on PyTorch; elsewhere, where each takes far longer, the first and the last."""
    return list(every) if keras.backend.backend() == "torch" else [every[0], every[-1]]


class Stop(keras.callbacks.Callback):
    """Is among the callbacks of two runs; in the one it interrupts."""

    epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def stop(epoch):
    callback = Stop()
    callback.epoch = epoch
    return callback


def multi_optimizer(choose, others=None):
    """A `MultiOptimizer` by a function of the variable, or of a default and others by path; skips without."""
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("Keras before 3.15 has no MultiOptimizer")
    if isinstance(choose, keras.optimizers.Optimizer):
        choose = keras.optimizers.OptimizerMap(choose, others)
    return keras.optimizers.MultiOptimizer(choose)
