"""The range of the values that a model was trained on, kept in the name of its input."""

import math
import re
import warnings
from typing import Any

import keras
import numpy as np

from keras_ssl._checks import as_numpy
from keras_ssl._keras_private import operation_of
from keras_ssl.data.batches import ArrayBatches, ShuffledBatches
from keras_ssl.encoders._checks import input_scale, warn_of_scaling

_NUMBER = r"(-?[0-9.]+(?:e[+-]?[0-9]+)?)"


_NAME = re.compile(rf"images_{_NUMBER}_to_{_NUMBER}")


# Numbers that are looked at, of images spread evenly over all.
_SAMPLE = 1 << 24


# Less than this share of the values to come: photographs are never that dark, scaled ones are.
_LEAST = 0.02


_MARGIN = 0.05


Range = tuple[float, float]


def range_of(images: Any) -> Range:
    """Return the smallest and the largest value; of a large array, of images spread evenly over it.

    >>> range_of(np.array([[3, 7], [1, 5]], "uint8"))
    (1.0, 7.0)
    """
    count = max(1, min(len(images), _SAMPLE // max(1, math.prod(images.shape[1:]))))
    rows = np.unique(np.linspace(0, len(images) - 1, count).astype(int))
    sample = as_numpy(images)[rows] if count < len(images) else as_numpy(images)
    sample = np.asarray(sample)
    return float(sample.min()), float(sample.max())


def note_range(model: keras.Model, found: Range) -> None:
    """Widen the range that the name of a model's input states, so that it goes wherever the model goes."""
    known = noted_range(model) or found
    low, high = min(known[0], found[0]), max(known[1], found[1])
    operation_of(model.inputs[0]).name = f"images_{low:.4g}_to_{high:.4g}"


def noted_range(model: keras.Model) -> Range | None:
    """Return the range of values that a model was trained on, or `None` where it does not say."""
    match = _NAME.fullmatch(operation_of(model.inputs[0]).name)
    return (float(match[1]), float(match[2])) if match else None


def check_range(model: keras.Model, given: Range | None) -> None:
    """Refuse a model that was trained on values of another range than those that a preparation gives.

    Where a model does not say its range and does not scale values of 0 to 255 itself, warn.

    Args:
        model: the model.
        given: range of the values that the preparation gives; `None` where they have no bounds, and nothing
            is checked.

    Raises:
        ValueError: the ranges are of different scales.
    """
    if given is None:
        return
    trained, width = noted_range(model), given[1] - given[0]
    if trained is None:
        scale = input_scale(model) or 1.0
        if width * scale > 20:
            warnings.warn(
                f"`preparation` gives values from {given[0]:g} to {given[1]:g}. Whether `model` was trained "
                "on such values is not known: no FineTuner has trained it, nor does it scale them inside, "
                "see `value_range` of the encoders.",
                stacklevel=4,
            )
        return
    beyond = trained[0] < given[0] - _MARGIN * width or trained[1] > given[1] + _MARGIN * width
    if beyond or trained[1] - trained[0] < _LEAST * width:
        raise ValueError(
            f"`preparation` must give values of the range that `model` was trained on, {trained[0]:g} to "
            f"{trained[1]:g}. Received one that gives {given[0]:g} to {given[1]:g}. Train on values as the "
            "preparation gives them, and scale inside of the model: see `value_range` of the encoders."
        )


def watch_values(model: keras.Model, encoder: keras.Layer, data: Any) -> None:
    """Note the range of the values that a model is trained on, of a stream when its batches are read."""

    def saw(images: Any) -> None:
        found = range_of(images)
        if noted_range(model) is None:
            warn_of_scaling(encoder, *found)
        note_range(model, found)

    if isinstance(data, ArrayBatches):
        saw(data.arrays[0])
    elif isinstance(data, ShuffledBatches):
        saw(data[0][0])
    else:
        transform = data.transform

        def watched(batch: Any) -> Any:
            batch = transform(batch)
            saw(batch[0])
            return batch

        data.transform = watched
