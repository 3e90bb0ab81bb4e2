"""How functions on whole batches are run: compiled by XLA, or a volume at a time."""

import functools
import math
from collections.abc import Callable, Hashable
from typing import Any

import keras


@functools.lru_cache(maxsize=256)
def compiled(function: Callable[..., Any], *settings: Hashable) -> Callable[..., Any]:
    """Return `function` with its first arguments set, compiled by XLA on TensorFlow and JAX.

    Called within a function that is compiled already, it becomes a part of that. Each new shape of the
    remaining arguments, which are tensors, takes seconds to compile.
    """
    bound = functools.partial(function, *settings)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # A gather of 2 million voxels takes a seventh of the time that it takes as a graph without XLA.
        return tf.function(bound, jit_compile=True, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(bound)
    return bound


def stored(values: Any) -> Any:
    """Have XLA compute values once, within a function made by `compiled`, and read them where they are used.

    It would compute them anew for each use: a sampled image seven times and more for a blur.
    """
    if keras.backend.backend() == "tensorflow":
        from tensorflow.compiler.tf2xla.python import xla

        return xla.optimization_barrier(values)[0]
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.optimization_barrier(values)
    return values


def in_parts(function: Callable[..., Any], parameters: Any, images: Any, *others: Any) -> Any:
    """Apply a function to every volume of a batch on its own, on PyTorch; on others to the batch.

    PyTorch makes a new array at every step. Those of one volume fit into memory that it has used before
    and, some of them, into the cache: a fifth faster for volumes of 128 voxels a side.
    """
    if keras.backend.backend() != "torch" or len(images) < 2 or math.prod(images.shape[1:]) < 2**20:
        return function(parameters, images, *others)
    batches = (parameters, images, *others)
    parts = [
        function(*keras.tree.map_structure(lambda batch, row=row: batch[row : row + 1], batches))
        for row in range(len(images))
    ]
    return keras.tree.map_structure(lambda *rows: keras.ops.concatenate(rows), *parts)
