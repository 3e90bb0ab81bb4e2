"""What losses over classes have in common: how truth is read, and how classes are weighed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops


def one_hot_targets(true: Any, predicted: Any) -> tuple[Any, Any]:
    """Bring truth to the shape of predictions, both in float32.

    Args:
        true: integer label maps `(batch, *spatial)` or `(batch, *spatial, 1)`, or one-hot or soft targets
            of the shape of `predicted`.
        predicted: probabilities `(batch, *spatial, classes)`, at least two classes.

    Returns:
        Targets and predictions, both `(batch, *spatial, classes)`, with a spatial axis of 1 where there was
        none. Where a label is no whole number in 0..classes - 1, its targets are NaN, and so is any loss made
        of them: nothing can be raised inside a compiled graph, and a voxel that counts for nothing would go
        unseen.

    Raises:
        ValueError: `predicted` has fewer than two classes, or `true` another shape.

    >>> targets, _ = one_hot_targets([[0, 2]], [[[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]])
    >>> ops.convert_to_numpy(targets).tolist()
    [[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]
    """
    true = ops.cast(ops.convert_to_tensor(true), "float32")
    # Before any arithmetic: sums over voxels overflow in float16 and stand still in bfloat16.
    predicted = ops.cast(ops.convert_to_tensor(predicted), "float32")
    shape, wanted = tuple(true.shape), tuple(predicted.shape)
    if len(wanted) < 2 or wanted[-1] is None or wanted[-1] < 2:
        raise ValueError(
            "`predicted` must be of shape (batch, *spatial, classes) with at least 2 classes: write one "
            f"foreground and its background as a softmax of 2. Received shape {wanted}."
        )
    if not _fit(shape, wanted):
        true = _one_hot(true, wanted)
    if len(wanted) == 2:
        return ops.expand_dims(true, 1), ops.expand_dims(predicted, 1)
    return true, predicted


def checked_weights(class_weights: Sequence[float] | None) -> tuple[float, ...] | None:
    """Class weights as plain numbers, or an error on any that are none."""
    if class_weights is None:
        return None
    weights = np.asarray(class_weights, dtype="float64")
    if weights.ndim != 1 or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ValueError(
            "`class_weights` must be one finite number a class, none below 0 and not all 0. "
            f"Received {class_weights}."
        )
    return tuple(map(float, weights))


def weights_of_classes(class_weights: Sequence[float] | None, classes: int) -> np.ndarray:
    """Float32 `(classes,)`, all 1 where none are given."""
    weights = checked_weights(class_weights)
    if weights is None:
        return np.ones(classes, "float32")
    if len(weights) != classes:
        raise ValueError(
            f"`class_weights` must have one weight for each of {classes} classes, the background first. "
            f"Received {len(weights)} weights."
        )
    return np.asarray(weights, "float32")


def spatial_axes(images: Any) -> tuple[int, ...]:
    """All axes but the first and the last."""
    return tuple(range(1, len(images.shape) - 1))


def _one_hot(labels: Any, wanted: tuple[int | None, ...]) -> Any:
    shape = tuple(labels.shape)
    if _fit(shape, wanted[:-1]):
        labels = ops.expand_dims(labels, -1)
    elif not _fit(shape, (*wanted[:-1], 1)):
        raise ValueError(
            f"`true` must be label maps of shape {wanted[:-1]} or {(*wanted[:-1], 1)}, or targets of the "
            f"shape of `predicted`, {wanted}. Received shape {shape}."
        )
    hit = labels == ops.arange(wanted[-1], dtype="float32")
    readable = ops.any(hit, axis=-1, keepdims=True)
    return ops.where(readable, ops.cast(hit, "float32"), np.nan)


def _fit(shape: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether two shapes are the same, as far as a graph knows them."""
    return len(shape) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(shape, wanted, strict=True)
    )
