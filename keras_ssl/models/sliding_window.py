"""Sliding-window prediction for images and volumes of any size."""

from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np

from keras_ssl.data.patch_sampling import grid_positions, read_patch
from keras_ssl.distribution import predict_on_batch

# Lower bound of weights: a weight of 0 in a window's corner would divide by 0 in an image's corner.
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
    """Predict every pixel or voxel of an image that is larger or smaller than the model's input.

    Windows are evenly spaced over the image, from edge to edge, and averaged where they overlap. An image
    smaller than a window is padded on all sides with the smallest value of each channel, and the result is
    cropped.

    Args:
        model: from `(batch, *window, channels)` to `(batch, *window, classes)`.
        image: `(*spatial, channels)`.
        window: sides of a window; `None` for the model's input shape.
        overlap: minimum overlap of neighboring windows, as a fraction of their side, in [0, 1).
        blending: weights of the average: `"gaussian"`, by the distance from the window's center (standard
            deviation: an eighth of the side), since predictions are worst near edges; or `"constant"`.
        batch_size: windows in a batch.

    Returns:
        float32, `(*spatial, classes)`.

    Raises:
        ValueError: `window` is unknown, or an argument is out of range or does not match the image's rank.

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
    """Return the overlap of a window and the image, as slices of the image and of the window."""
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
            f"`window` must be {image.ndim - 1} sides of at least 1, and is required if the model has no "
            "fixed input shape. "
            f"Received {sides} for an image of shape {image.shape}."
        )
    return sides
