"""Value range of the training images, stored in the name of a model's input."""

import math
import re
import warnings

import keras
import numpy as np

from keras_ssl._checks import as_numpy
from keras_ssl._keras_private import operation_of
from keras_ssl._types import Dataset, Images, Structure
from keras_ssl.data.batches import ArrayBatches, ShuffledBatches
from keras_ssl.encoders._checks import input_scale, warn_of_scaling

_NUMBER = r"(-?[0-9.]+(?:e[+-]?[0-9]+)?)"
_NAME = re.compile(rf"images_{_NUMBER}_to_{_NUMBER}")

# Sampled values of large arrays, from evenly spaced images.
_SAMPLE = 1 << 24
# A training range below this fraction of the new range means other scaling: no fundus images are that dark.
_MIN_FRACTION = 0.02
_MARGIN = 0.05

Range = tuple[float, float]


def range_of(images: Images) -> Range:
    """Return the minimum and maximum; for a large array, of evenly spaced images.

    >>> range_of(np.array([[3, 7], [1, 5]], "uint8"))
    (1.0, 7.0)
    """
    count = max(1, min(len(images), _SAMPLE // max(1, math.prod(images.shape[1:]))))
    rows = np.unique(np.linspace(0, len(images) - 1, count).astype(int))
    sample = as_numpy(images)[rows] if count < len(images) else as_numpy(images)
    sample = np.asarray(sample)
    return float(sample.min()), float(sample.max())


def note_range(model: keras.Model, found: Range) -> None:
    """Extend the range in the name of a model's input, which is saved with the model."""
    known = noted_range(model) or found
    low, high = min(known[0], found[0]), max(known[1], found[1])
    operation_of(model.inputs[0]).name = f"images_{low:.4g}_to_{high:.4g}"


def noted_range(model: keras.Model) -> Range | None:
    """Return the value range of the training images, or `None` if it is unknown."""
    match = _NAME.fullmatch(operation_of(model.inputs[0]).name)
    return (float(match[1]), float(match[2])) if match else None


def check_range(model: keras.Model, given: Range | None) -> None:
    """Check that a model was trained on images of the value range of a preparation.

    Warns if the model's range is unknown and it does not rescale values of 0 to 255.

    Args:
        model: the model.
        given: value range of the prepared images; `None` for an unbounded range, which is not checked.

    Raises:
        ValueError: the ranges have different scales.
    """
    if given is None:
        return
    trained, width = noted_range(model), given[1] - given[0]
    if trained is None:
        scale = input_scale(model) or 1.0
        if width * scale > 20:
            warnings.warn(
                f"`preparation` gives values from {given[0]:g} to {given[1]:g}. It is unknown whether "
                "`model` was trained on such values: no FineTuner has trained it, and it does not rescale "
                "its inputs, see `value_range` of the encoders.",
                stacklevel=4,
            )
        return
    beyond = trained[0] < given[0] - _MARGIN * width or trained[1] > given[1] + _MARGIN * width
    if beyond or trained[1] - trained[0] < _MIN_FRACTION * width:
        raise ValueError(
            f"`preparation` must have the value range that `model` was trained on, {trained[0]:g} to "
            f"{trained[1]:g}. Received {given[0]:g} to {given[1]:g}. Train on prepared images without "
            "rescaling them, and rescale inside the model: see `value_range` of the encoders."
        )


def record_range(model: keras.Model, encoder: keras.Layer, data: Dataset) -> None:
    """Record the value range of the training images; for a stream, as its batches are read."""

    def record(images: Images) -> None:
        found = range_of(images)
        if noted_range(model) is None:
            warn_of_scaling(encoder, *found)
        note_range(model, found)

    if isinstance(data, ArrayBatches):
        record(data.arrays[0])
    elif isinstance(data, ShuffledBatches):
        record(data[0][0])
    else:
        transform = data.transform

        def transform_and_record(batch: Structure) -> Structure:
            batch = transform(batch)
            record(batch[0])
            return batch

        data.transform = transform_and_record
