"""Conversion of tensors, lists and columns of tables to NumPy arrays."""

from typing import Any

import keras
import numpy as np

from keras_ssl.data.stored_images import StoredImages


def is_array(values: Any) -> bool:
    """Return True if `values` is an array, `StoredImages` or a tensor, not a data set."""
    return hasattr(values, "shape") and hasattr(values, "dtype")


def as_numpy(values: Any, name: str = "images") -> Any:
    """Convert tensors of any backend, columns of tables and lists of equal arrays to a NumPy array.

    NumPy arrays, memory-mapped ones included, and `StoredImages` are returned as they are; bfloat16 becomes
    float32.

    Args:
        values: what is to be converted.
        name: name of the argument, for errors.

    Raises:
        ValueError: a list holds arrays of unequal shapes.

    >>> as_numpy([np.zeros((8, 8, 3)), np.ones((8, 8, 3))]).shape
    (2, 8, 8, 3)
    """
    if isinstance(values, StoredImages):
        return values
    if hasattr(values, "detach"):
        # PyTorch's, of any device; NumPy has no bfloat16.
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    if isinstance(values, (list, tuple)):
        return _stack(values, name)
    array = values
    if not isinstance(values, np.ndarray):
        own = keras.ops.is_tensor(values)
        array = keras.ops.convert_to_numpy(values) if own else np.asarray(values)
    if array.dtype == object and array.ndim == 1 and len(array) and is_image(array[0]):
        return _stack(list(array), name)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def is_image(value: Any) -> bool:
    """Return True if `value` is an array or a Pillow image, which has no shape."""
    return is_array(value) or hasattr(value, "__array_interface__")


def rank_of(value: Any) -> int | None:
    """Return the number of axes of an array, an image of Pillow or nested lists of numbers; `None` otherwise.

    >>> rank_of(np.zeros((2, 3))), rank_of([[1, 2], [3, 4]]), rank_of([np.zeros(2), 1])
    (2, 2, None)
    """
    if is_array(value):
        return len(value.shape)
    if is_image(value):
        return np.asarray(value).ndim
    if isinstance(value, list) and value:
        below = rank_of(value[0]) if isinstance(value[0], list) else 0 if np.isscalar(value[0]) else None
        return None if below is None else 1 + below
    return None


def _stack(values: list[Any] | tuple[Any, ...], name: str) -> np.ndarray:
    """Stack a list of equal arrays, or of numbers."""
    if any(is_image(value) for value in values):
        parts = [as_numpy(value, name) for value in values]
    else:
        try:
            return np.asarray(values)
        except ValueError:
            parts = [as_numpy(value, name) for value in values]
    shapes = list(dict.fromkeys(part.shape for part in parts))
    if len(shapes) > 1:
        more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
        raise ValueError(
            f"`{name}` must be of one shape to be stacked to an array. Received a list of {len(parts)} with "
            f"the shapes {', '.join(map(str, shapes[:3]))}{more}. Resize them, with data.Preparation or "
            "data.VolumePreparation say, or train on patches of one shape with data.PatchBatches."
        )
    return np.stack(parts)
