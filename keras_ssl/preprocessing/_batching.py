"""Execution on batches: random parameters, XLA compilation, memory-bounded parts, floating dtype."""

import functools
import math
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops


def floating_dtype(images: Any) -> str:
    """Return the dtype of floating images, `"float32"` for images of integers and booleans."""
    dtype = keras.backend.standardize_dtype(images.dtype)
    return dtype if keras.backend.is_float_dtype(dtype) else "float32"


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


Generator: TypeAlias = np.random.Generator | keras.random.SeedGenerator


class Draws:
    """Draws for the images of a batch: the first axis of all that is returned is that of the images.

    Args:
        generator: what is drawn from.
        batch: number of images, an integer or, within a graph, a tensor.

    Raises:
        ValueError: `generator` is neither NumPy's nor Keras'.
    """

    def __init__(self, generator: Generator, batch: Any) -> None:
        if not isinstance(generator, (np.random.Generator, keras.random.SeedGenerator)):
            raise ValueError(
                "`generator` must be a numpy.random.Generator or a keras.random.SeedGenerator. "
                f"Received {generator!r}."
            )
        self.generator = generator
        self.batch = batch

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> Any:
        """Draw float32 numbers `(batch, *shape)` from `low` to `high`."""
        shape = (self.batch, *shape)
        if isinstance(self.generator, np.random.Generator):
            return self.generator.uniform(low, high, shape).astype("float32")
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self.generator)

    def constant(self, values: Any) -> Any:
        """Give float32 numbers the type of what is drawn."""
        array = np.asarray(values, "float32")
        return array if isinstance(self.generator, np.random.Generator) else ops.convert_to_tensor(array)

    def ones(self) -> Any:
        """Give `(batch,)` of 1, nothing drawn."""
        shape = (self.batch,)
        if isinstance(self.generator, np.random.Generator):
            return np.ones(shape, "float32")
        return ops.ones(shape, "float32")

    def sometimes(self, probability: float) -> Any:
        """Draw `(batch,)` of 1, each with this probability, and 0."""
        drawn = self.uniform((), 0.0, 1.0) < probability
        return drawn.astype("float32") if isinstance(drawn, np.ndarray) else ops.cast(drawn, "float32")

    def normal(self, shape: tuple[int, ...], amounts: Any) -> Any:
        """Draw standard normal numbers `(batch, *shape)`; where an amount is 0 they may be 0."""
        if not isinstance(self.generator, np.random.Generator):
            return keras.random.normal((self.batch, *shape), dtype="float32", seed=self.generator)
        numbers = np.zeros((self.batch, *shape), "float32")

        # The largest draw by far, of which NumPy uses one core for each generator.
        def fill(generator: np.random.Generator, row: int) -> None:
            generator.standard_normal(dtype="float32", out=numbers[row])

        rows = np.flatnonzero(amounts)
        with ThreadPoolExecutor() as pool:
            list(pool.map(fill, self.generator.spawn(len(rows)), rows))
        return numbers
