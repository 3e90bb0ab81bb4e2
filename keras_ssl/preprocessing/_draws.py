"""Random numbers for a batch, from NumPy's generator as arrays or from Keras' as tensors."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

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
