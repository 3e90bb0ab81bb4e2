"""Cuts out of image batches: the centre, or a part zoomed back to the full size."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_ssl.preprocessing._floats import floating_dtype


def center_crop(images: Any, spatial_shape: Sequence[int]) -> Any:
    """Cut the centre out of every image; where a pixel is left over, one more is cut off at the end.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        spatial_shape: size of the cut along each spatial axis.

    Returns:
        Tensor `(batch, *spatial_shape, channels)`.

    Raises:
        ValueError: `spatial_shape` is not of the images' rank, or larger than they are.

    >>> import numpy as np
    >>> center_crop(np.arange(5).reshape(1, 5, 1, 1), (3, 1)).ravel().tolist()
    [1, 2, 3]
    """
    sizes = tuple(images.shape[1:-1])
    if len(sizes) != len(spatial_shape) or any(s < c for s, c in zip(sizes, spatial_shape, strict=True)):
        raise ValueError(
            f"`spatial_shape` must have {len(sizes)} sizes within those of the images. "
            f"Received {tuple(spatial_shape)} for images of shape {tuple(images.shape)}."
        )
    starts = [(size - cut) // 2 for size, cut in zip(sizes, spatial_shape, strict=True)]
    window = tuple(slice(start, start + cut) for start, cut in zip(starts, spatial_shape, strict=True))
    return images if sizes == tuple(spatial_shape) else images[(slice(None), *window)]


def zoom_crop(images: Any, scales: Any, offsets: Any) -> Any:
    """Cut a part out of every image and enlarge it to the image's size, with linear interpolation.

    All spatial axes are treated alike: cropping a flipped or turned image at flipped or turned offsets is
    flipping or turning the cropped one.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        scales: `(batch,)`, side of the part as a share of the image's, in (0, 1]; 1 changes nothing.
        offsets: `(batch, spatial axes)`, where the part lies: -1 at the start of the axis, 0 in
            the middle, 1 at its end.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([0.0, 1.0, 2.0, 3.0]).reshape(1, 4, 1, 1)
    >>> np.asarray(zoom_crop(image, [0.5], [[-1.0, 0.0]])).ravel().tolist()
    [0.0, 0.25, 0.75, 1.25]
    """
    images = ops.convert_to_tensor(images)
    dtype, rank = floating_dtype(images), len(images.shape) - 2
    scales = ops.reshape(ops.cast(scales, "float32"), (-1, 1))
    offsets = ops.cast(offsets, "float32")
    pixels = ops.cast(images, "float32")
    for axis, size in enumerate(images.shape[1:-1]):
        start = (1 - scales) * size * (offsets[:, axis : axis + 1] + 1) / 2
        positions = start + (ops.arange(size, dtype="float32") + 0.5) * scales - 0.5
        pixels = _sample_lines(pixels, size, ops.clip(positions, 0.0, size - 1.0))
        # The next spatial axis comes to the place that is sampled; after the last, all are as they were.
        pixels = ops.transpose(pixels, (0, *range(2, rank + 1), 1, rank + 1))
    return ops.cast(pixels, dtype)


def _sample_lines(pixels: Any, size: int, positions: Any) -> Any:
    """Interpolate along axis 1, `size` long, at positions `(batch, size)`."""
    shape = ops.shape(pixels)
    before = ops.minimum(ops.floor(positions), max(size - 2, 0))
    # Whole lines of the batch are gathered: many times faster than pixels one by one.
    lines = ops.reshape(pixels, (shape[0] * size, -1))
    first = ops.expand_dims(ops.arange(shape[0], dtype="int32") * size, 1)
    index = ops.cast(before, "int32") + first
    near, far = ops.take(lines, index, axis=0), ops.take(lines, index + min(size - 1, 1), axis=0)
    return ops.reshape(near + (far - near) * ops.expand_dims(positions - before, 2), shape)
