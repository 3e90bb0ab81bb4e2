"""XLA compilation of functions on images, and their floating dtype."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import keras

from keras_ssl._types import Tensor


def floating_dtype(images: Tensor) -> str:
    """Return the dtype of floating images, `"float32"` for images of integers and booleans."""
    dtype = keras.backend.standardize_dtype(images.dtype)
    return dtype if keras.backend.is_float_dtype(dtype) else "float32"


@functools.lru_cache(maxsize=256)
def compiled(function: Callable[..., Any], *settings: Hashable) -> Callable[..., Any]:
    """Bind the first arguments of a function; compile it with XLA on TensorFlow and JAX.

    Inside a function that is being compiled, it becomes part of that. The remaining arguments are tensors;
    each new shape of them takes seconds to compile.
    """
    bound = functools.partial(function, *settings)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # With XLA, gathering 2 million voxels takes a seventh of the time of a graph without it.
        return tf.function(bound, jit_compile=True, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(bound)
    return bound


def optimization_barrier(values: Tensor) -> Tensor:
    """Make XLA compute values once, inside a function made by `compiled`, and not again for each use.

    A blur, for example, would sample an image seven times or more.
    """
    if keras.backend.backend() == "tensorflow":
        from tensorflow.compiler.tf2xla.python import xla

        return xla.optimization_barrier(values)[0]
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.optimization_barrier(values)
    return values
