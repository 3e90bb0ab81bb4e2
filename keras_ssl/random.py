"""Seeds that start again from the same place, so that an evaluation can be repeated exactly."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_ssl._keras_private import default_seeds_from


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Make every weight and seed that Keras draws inside follow from `seed`; `None` leaves it to Keras.

    Other threads draw from Python's global generator as ever.

    >>> def first_seed():
    ...     return keras.ops.convert_to_numpy(keras.random.SeedGenerator().state)[0]
    >>> with seeded(0):
    ...     seed = first_seed()
    >>> with seeded(0):
    ...     first_seed() == seed
    True
    """
    with contextlib.nullcontext() if seed is None else default_seeds_from(random.Random(seed)):
        yield


def resolve_seed(seed: int | None) -> int:
    """Return `seed` as a plain integer; draw one from Python's `random` where it is `None`.

    Raises:
        ValueError: `seed` is no integer from 0 to 2^31 - 1.

    >>> resolve_seed(3)
    3
    """
    if seed is None:
        return random.randrange(2**31)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31:
        raise ValueError(f"`seed` must be None or an integer from 0 to 2^31 - 1. Received {seed!r}.")
    return int(seed)


@contextlib.contextmanager
def _own_torch_generator() -> Iterator[None]:
    """On PyTorch, give back the state of the global generator, which a run reseeds every epoch."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


class ReplaySeeds(keras.random.SeedGenerator):
    """A seed generator whose draws are the same each time that one is made.

    It stands in for `keras.random.SeedGenerator` wherever `keras.random` takes a `seed`, and gives the seeds
    that a new `SeedGenerator(seed)` would give. The count of draws is a Python number and not a Keras
    variable: it may be made inside a compiled function, where every run replays the same draws, and is
    never saved with a model. Make one for each call instead of keeping it as an attribute of a layer.

    Args:
        seed: where the draws start, a non-negative integer below 2^31.
        images: a batch whose values the draws shall depend on too, so that each batch of an
            evaluation has its own; `None` for the seed alone.

    Raises:
        ValueError: `seed` is not such an integer.

    >>> import keras
    >>> from keras_ssl.random import ReplaySeeds
    >>> first, again = ReplaySeeds(1), ReplaySeeds(1)
    >>> draws = [float(keras.random.uniform((), seed=seeds)) for seeds in (first, first, again, again)]
    >>> draws[0] == draws[2], draws[1] == draws[3], draws[0] == draws[1]
    (True, True, False)
    """

    # No super().__init__: it would make the variable that this class exists to avoid.
    def __init__(self, seed: int = 0, images: Any = None) -> None:
        if not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise ValueError(f"`seed` must be an integer from 0 to 2^31 - 1. Received: seed={seed!r}")
        self._seed = seed
        self._draws = 0
        # JAX takes keys of unsigned integers only, TensorFlow seeds of signed ones only.
        self._dtype = "uint32" if keras.backend.backend() == "jax" else "int64"
        self._offset: Any = 0
        if images is not None:
            sum_ = keras.ops.sum(keras.ops.cast(images, "float32"))
            self._offset = keras.ops.cast(keras.ops.mod(keras.ops.abs(sum_) * 997, 2.0**20), self._dtype)

    def next(self, ordered: bool = True) -> Any:
        """Return the next seed, a tensor of two integers; `ordered` is accepted for Keras and ignored."""
        state = keras.ops.convert_to_tensor([self._seed, self._draws], self._dtype)
        self._draws += 1
        return state + self._offset * keras.ops.convert_to_tensor([0, 1024], self._dtype)

    def get_config(self) -> dict[str, int]:
        """Return the seed."""
        return {"seed": self._seed}


def seed_states(layer: keras.Layer) -> list[keras.Variable]:
    """Return the states of all seed generators of a layer or model, dropout's among them, in a fixed order.

    >>> import keras
    >>> len(seed_states(keras.Sequential([keras.layers.Dropout(0.5), keras.layers.GaussianNoise(0.1)])))
    2
    """
    others = {id(variable) for variable in [*layer.weights, *getattr(layer, "metrics_variables", [])]}
    return [variable for variable in layer.variables if id(variable) not in others]
