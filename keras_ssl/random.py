"""Repeatable random draws."""

import keras

from keras_ssl._types import Images, Tensor

__all__ = ["ReplaySeeds"]


class ReplaySeeds(keras.random.SeedGenerator):
    """Seed generator that repeats the same random draws for every new instance.

    Replaces `keras.random.SeedGenerator` wherever `keras.random` takes a `seed`, and yields the seeds of a
    new `SeedGenerator(seed)`. Its counter is a Python integer and not a Keras variable: it can be
    created inside a compiled function, where every run repeats the same draws, and is never saved with a
    model. Create one per call instead of keeping it as an attribute of a layer.

    Args:
        seed: initial seed, a non-negative integer below 2^31.
        images: a batch of images that the draws also depend on, so that each batch of an evaluation gets
            different ones; `None` for the seed alone.

    Raises:
        ValueError: `seed` is not such an integer.

    >>> import keras
    >>> from keras_ssl.random import ReplaySeeds
    >>> first, again = ReplaySeeds(1), ReplaySeeds(1)
    >>> draws = [float(keras.random.uniform((), seed=seeds)) for seeds in (first, first, again, again)]
    >>> draws[0] == draws[2], draws[1] == draws[3], draws[0] == draws[1]
    (True, True, False)
    """

    # No super().__init__: it would create the variable that this class exists to avoid.
    def __init__(self, seed: int = 0, images: Images | None = None) -> None:
        if not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise ValueError(f"`seed` must be an integer from 0 to 2^31 - 1. Received: seed={seed!r}")
        self._seed = seed
        self._draws = 0
        # JAX takes keys of unsigned integers only, TensorFlow seeds of signed ones only.
        self._dtype = "uint32" if keras.backend.backend() == "jax" else "int64"
        self._offset: Tensor = 0
        if images is not None:
            sum_ = keras.ops.sum(keras.ops.cast(images, "float32"))
            self._offset = keras.ops.cast(keras.ops.mod(keras.ops.abs(sum_) * 997, 2.0**20), self._dtype)

    def next(self, ordered: bool = True) -> Tensor:
        """Return the next seed, a tensor of two integers; `ordered` is accepted for Keras and ignored."""
        state = keras.ops.convert_to_tensor([self._seed, self._draws], self._dtype)
        self._draws += 1
        return state + self._offset * keras.ops.convert_to_tensor([0, 1024], self._dtype)

    def get_config(self) -> dict[str, int]:
        """Return the seed."""
        return {"seed": self._seed}
