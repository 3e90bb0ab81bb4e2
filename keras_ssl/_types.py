"""Types that annotations share. Keras ships no types of its own, so the aliases name what is meant."""

from typing import Any, TypeAlias

import numpy.typing as npt

# A tensor of the backend, a symbolic `keras.KerasTensor` or a NumPy array.
Tensor: TypeAlias = Any
# Tensors in a structure of dictionaries, lists or tuples, as `keras.tree` walks them.
Structure: TypeAlias = Any
# A batch of images `(batch, *spatial, channels)` as users pass it: array, tensor, list of arrays.
Images: TypeAlias = Any
# Labels as users pass them: array, tensor, list or column of a table.
Labels: TypeAlias = npt.ArrayLike
# What `fit` takes: arrays, a `PyDataset`, a `tf.data.Dataset`, a PyTorch `DataLoader`, a generator.
Dataset: TypeAlias = Any
# An integer or a `keras.random.SeedGenerator`, as the functions of `keras.random` take it.
Seed: TypeAlias = Any
# One record of a run: names to plain values.
Record: TypeAlias = dict[str, Any]
# The configuration of an object, as `get_config` returns it.
Config: TypeAlias = dict[str, Any]

# Two spatial axes, numbered without the batch axis.
Plane: TypeAlias = tuple[int, int]
# Quarter turns, one after another: how many, and in which plane.
Rotation: TypeAlias = tuple[tuple[int, Plane], ...]
