"""Seeding of weights, layers and the order of images."""

import contextlib
import random
from collections.abc import Iterator

import keras
import numpy as np

from keras_ssl._keras_private import default_seeds_from


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Fix the initial weights and default seeds that Keras draws in the context; `None` changes nothing.

    Python's global generator is unchanged, in other threads too.

    >>> def first_seed():
    ...     return keras.ops.convert_to_numpy(keras.random.SeedGenerator().state)[0]
    >>> with seeded(0):
    ...     seed = first_seed()
    >>> with seeded(0):
    ...     bool(first_seed() == seed)
    True
    """
    with contextlib.nullcontext() if seed is None else default_seeds_from(random.Random(seed)):
        yield


def resolve_seed(seed: int | None) -> int:
    """Return `seed` as a plain integer; for `None`, draw one from Python's `random`.

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


def seed_states(layer: keras.Layer) -> list[keras.Variable]:
    """Return the states of all seed generators of a layer or model, such as dropout's, in a fixed order.

    >>> len(seed_states(keras.Sequential([keras.layers.Dropout(0.5), keras.layers.GaussianNoise(0.1)])))
    2
    """
    others = {id(variable) for variable in [*layer.weights, *getattr(layer, "metrics_variables", [])]}
    return [variable for variable in layer.variables if id(variable) not in others]


@contextlib.contextmanager
def preserve_torch_generator() -> Iterator[None]:
    """Restore the state of PyTorch's global generator, which a fit reseeds every epoch."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
