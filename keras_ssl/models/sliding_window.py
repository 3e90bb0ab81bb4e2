"""Prediction for images and volumes of any size by a model of one size: window by window, blended."""

from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np

from keras_ssl.data.patch_sampling import grid_positions, read_patch
from keras_ssl.distribution import predict_on_batch

# What weighs nothing at a window's corner would divide by nothing at an image's.
_LEAST_WEIGHT = 1e-3


def sliding_window_predict(
    model: keras.Model,
    image: np.ndarray,
    window: Sequence[int] | None = None,
    *,
    overlap: float = 0.5,
    blending: Literal["gaussian", "constant"] = "gaussian",
    batch_size: int = 1,
) -> np.ndarray:
    """Predict every pixel or voxel of an image that is larger, or smaller, than what a model takes.

    Windows lie evenly over the image, from edge to edge, and are averaged where they overlap. An image
    smaller than a window is padded around with the smallest value of each channel, and the result is cut
    back.

    Args:
        model: from `(batch, *window, channels)` to `(batch, *window, classes)`.
        image: `(*spatial, channels)`.
        window: sides of a window; `None` for those that the model takes.
        overlap: least share of a window's side that two neighbors have in common, in [0, 1).
        blending: how windows are averaged: `"gaussian"`, by their distance from the window's center (a
            standard deviation of an eighth of its side), since a network knows least about its edges; or
            `"constant"`, all alike.
        batch_size: windows in a batch.

    Returns:
        float32, `(*spatial, classes)`.

    Raises:
        ValueError: `window` is not known, or an argument is out of range or not of the image's rank.

    >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.ReLU()])
    >>> image = np.arange(-6.0, 24.0).reshape(6, 5, 1)
    >>> bool(np.allclose(sliding_window_predict(model, image), np.maximum(image, 0)))
    True

    References:
        Isensee, F. et al. (2021). nnU-Net: a self-configuring method for deep learning-based biomedical
        image segmentation. Nature Methods 18.
    """
    window = _checked_window(model, image, window)
    if blending not in ("gaussian", "constant"):
        raise ValueError(f'`blending` must be "gaussian" or "constant". Received {blending!r}.')
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received {batch_size}.")
    starts = grid_positions(image.shape[:-1], window, overlap)
    weights = _weights(window, blending)[..., None]
    least = image.min(axis=tuple(range(image.ndim - 1)))
    total, sums = np.zeros((), np.float32), np.zeros((*image.shape[:-1], 1), np.float32)
    for first in range(0, len(starts), batch_size):
        batch = starts[first : first + batch_size]
        outputs = predict_on_batch(
            model, np.stack([read_patch(image, start, window, least) for start in batch])
        )
        if not total.ndim:
            total = np.zeros((*image.shape[:-1], outputs.shape[-1]), np.float32)
        for start, output in zip(batch, outputs, strict=True):
            there, here = _common(start, window, image.shape)
            total[there] += weights[here] * output[here]
            sums[there] += weights[here]
    return total / sums


def _common(
    start: np.ndarray, window: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What a window and the image have in common, as places of the image and as places of the window."""
    ends = [min(size, at + side) for size, at, side in zip(shape, start, window, strict=False)]
    there = tuple(slice(max(0, at), end) for at, end in zip(start, ends, strict=True))
    here = tuple(slice(max(0, -at), end - at) for at, end in zip(start, ends, strict=True))
    return there, here


def _weights(window: Sequence[int], blending: str) -> np.ndarray:
    if blending == "constant":
        return np.ones(window, np.float32)
    weights = np.ones((), np.float32)
    for side in window:
        distance = (np.arange(side) - (side - 1) / 2) / (side / 8)
        weights = np.multiply.outer(weights, np.exp(-(distance**2) / 2))
    return np.maximum(weights, _LEAST_WEIGHT * weights.max()).astype(np.float32)


def _checked_window(model: keras.Model, image: np.ndarray, window: Sequence[int] | None) -> tuple[int, ...]:
    if image.ndim not in (3, 4):
        raise ValueError(
            f"`image` must have shape (*spatial, channels), 2 or 3 spatial axes. Received {image.shape}."
        )
    if window is None:
        window = model.input_shape[1:-1]
    sides = tuple(window)
    if len(sides) != image.ndim - 1 or not all(
        isinstance(side, (int, np.integer)) and side > 0 for side in sides
    ):
        raise ValueError(
            f"`window` must be {image.ndim - 1} sides of at least 1, and be given where the model takes any. "
            f"Received {sides} for an image of shape {image.shape}."
        )
    return sides
