"""Color, intensity, blur and noise."""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ssl.preprocessing._batching import compiled, floating_dtype, stored


def adjust_intensity(
    images: Any, brightness: Any = None, contrast: Any = None, color: Any = None, offset: Any = None
) -> Any:
    """Change brightness, contrast and color by factors, about each image's own mean.

    All is relative to the image and nothing is clipped, so that images in [0, 1] and in [0, 255] are changed
    alike. Every pixel of an image is changed in the same way.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        brightness: `(batch,)`, factors for all values of an image; `None` for 1.
        contrast: `(batch,)`, factors for the distance of values from their channel's mean; `None` for 1.
        color: `(batch, channels)`, factors for the values of a channel; `None` for 1.
        offset: `(batch,)`, what is added to all values, in standard deviations of their channel before any
            change; `None` for 0. Brightness for values that may be negative, as of scans, which a factor
            does not make brighter.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([1.0, 3.0]).reshape(1, 2, 1, 1)
    >>> np.asarray(adjust_intensity(image, contrast=[2.0])).ravel().tolist()
    [0.0, 4.0]
    """
    images = ops.convert_to_tensor(images)
    rank = len(images.shape)
    values = ops.cast(images, "float32")
    added = None if offset is None else _deviation(values) * _per_image(offset, rank)
    if contrast is not None:
        mean = ops.mean(values, axis=tuple(range(1, rank - 1)), keepdims=True)
        values = mean + (values - mean) * _per_image(contrast, rank)
    if brightness is not None:
        values = values * _per_image(brightness, rank)
    if color is not None:
        values = values * ops.reshape(ops.cast(color, "float32"), (-1, *(1,) * (rank - 2), images.shape[-1]))
    if added is not None:
        values = values + added
    return ops.cast(values, floating_dtype(images))


def adjust_gamma(images: Any, gammas: Any) -> Any:
    """Raise values to a power, between the least and the largest value of each channel of an image.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        gammas: `(batch,)`, exponents above 0: below 1 what is dark becomes brighter, 1 changes nothing.

    Returns:
        Tensor of the shape of `images`, with the same least and largest values; floating images keep their
        dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([-1.0, 0.0, 3.0]).reshape(1, 3, 1, 1)
    >>> [round(float(value), 3) for value in np.asarray(adjust_gamma(image, [0.5])).ravel()]
    [-1.0, 1.0, 3.0]
    """
    images = ops.convert_to_tensor(images)
    values, spatial = ops.cast(images, "float32"), tuple(range(1, len(images.shape) - 1))
    low = ops.min(values, axis=spatial, keepdims=True)
    span = ops.max(values, axis=spatial, keepdims=True) - low
    # Where they can be, values are changed in place: on PyTorch, new memory costs more than the sums.
    # XLA may compute a value twice and differently: what lies below the least has no logarithm.
    share = ops.maximum(values - low, 0.0)
    share /= ops.where(span > 0, span, 1.0)
    # A quarter of the time of a power, and the same: the logarithm of 0 gives 0 again.
    powers = ops.log(share)
    powers *= _per_image(gammas, len(images.shape))
    powers = ops.exp(powers)
    powers *= span
    powers += low
    return ops.cast(powers, floating_dtype(images))


def add_noise(images: Any, noise: Any, amounts: Any) -> Any:
    """Add noise in proportion to the standard deviation of each channel of an image.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        noise: of the shape of `images`, of standard deviation 1.
        amounts: `(batch,)`, the standard deviation of the noise in that of the values.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image, noise = np.array([1.0, 5.0]).reshape(1, 2, 1, 1), np.array([1.0, -1.0]).reshape(1, 2, 1, 1)
    >>> [round(float(value), 3) for value in np.asarray(add_noise(image, noise, [0.1])).ravel()]
    [1.2, 4.8]
    """
    images = ops.convert_to_tensor(images)
    values, rank = ops.cast(images, "float32"), len(images.shape)
    noisy = _deviation(values) * _per_image(amounts, rank) * ops.cast(noise, "float32")
    noisy += values
    return ops.cast(noisy, floating_dtype(images))


def _deviation(values: Any) -> Any:
    """Return the standard deviation of each channel; that of `keras.ops` takes two to three times longer."""
    spatial = tuple(range(1, len(values.shape) - 1))
    centered = values - ops.mean(values, axis=spatial, keepdims=True)
    return ops.sqrt(ops.mean(ops.square(centered), axis=spatial, keepdims=True))


def _per_image(factors: Any, rank: int) -> Any:
    return ops.reshape(ops.cast(factors, "float32"), (-1, *(1,) * (rank - 1)))


def gaussian_blur(images: Any, sigmas: Any, radius: int) -> Any:
    """Blur every image along all spatial axes; beyond the border it goes on with the value at the border.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        sigmas: `(batch,)`, standard deviation of the Gaussian in voxels; 0 changes nothing.
        radius: voxels on either side that are looked at, at least 1; the same for all images.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    Raises:
        ValueError: `radius` is no integer of at least 1.

    >>> import numpy as np
    >>> image = np.array([0.0, 0.0, 1.0, 0.0, 0.0]).reshape(1, 5, 1, 1)
    >>> [round(float(value), 3) for value in np.asarray(gaussian_blur(image, [0.5], radius=1)).ravel()]
    [0.0, 0.107, 0.787, 0.107, 0.0]
    """
    if not isinstance(radius, (int, np.integer)) or radius < 1:
        raise ValueError(f"`radius` must be an integer of at least 1. Received {radius!r}.")
    return compiled(_blur, int(radius))(ops.convert_to_tensor(images), ops.cast(sigmas, "float32"))


def _blur(radius: int, images: Any, sigmas: Any) -> Any:
    steps = ops.arange(-radius, radius + 1, dtype="float32")
    # Widths below a thousandth of a voxel are as good as none, and 0 would be divided by.
    weights = ops.exp(-((steps / ops.maximum(sigmas, 1e-3)[:, None]) ** 2) / 2)
    weights = weights / ops.sum(weights, axis=1, keepdims=True)
    values = ops.cast(images, "float32")
    for axis, size in enumerate(images.shape[1:-1], start=1):
        first, last = _part(values, axis, 0, 1), _part(values, axis, size - 1, 1)
        padded = stored(ops.concatenate([*[first] * radius, values, *[last] * radius], axis=axis))
        values = _weighted_sum(
            [_part(padded, axis, start, size) for start in range(2 * radius + 1)],
            [
                ops.reshape(weights[:, k], (-1, *(1,) * (len(images.shape) - 1)))
                for k in range(2 * radius + 1)
            ],
        )
    return ops.cast(values, floating_dtype(images))


def _part(values: Any, axis: int, start: int, size: int) -> Any:
    return values[(*(slice(None),) * axis, slice(start, start + size))]


def _weighted_sum(parts: list[Any], weights: list[Any]) -> Any:
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        # PyTorch would make two new arrays of each step; XLA makes none.
        in_place = keras.backend.backend() == "torch"
        total = total.addcmul_(part, weight) if in_place else total + part * weight
    return total


def drop_colors(images: Any, kept: Any, noise: Any, amount: float = 0.01) -> Any:
    """Keep one channel of every image and put noise in place of all others.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        kept: integers `(batch,)`, the channel that stays.
        noise: of the shape of `images`, of standard deviation 1.
        amount: standard deviation of the noise in that of the channel that stays; 0.01 in the paper.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([[1.0, 5.0], [3.0, 6.0]]).reshape(1, 2, 1, 2)
    >>> np.asarray(drop_colors(image, [0], np.ones((1, 2, 1, 2)), 0.5)).reshape(2, 2).tolist()
    [[1.0, 0.5], [3.0, 0.5]]

    References:
        Doersch, C., Gupta, A., Efros, A. A. (2015). Unsupervised visual representation learning by context
        prediction. ICCV.
    """
    images = ops.convert_to_tensor(images)
    values, spatial = ops.cast(images, "float32"), tuple(range(1, len(images.shape) - 1))
    stays = ops.one_hot(ops.cast(kept, "int32"), images.shape[-1], dtype="float32")
    stays = ops.reshape(stays, (-1, *(1,) * len(spatial), images.shape[-1]))
    deviation = ops.sum(stays * ops.std(values, axis=spatial, keepdims=True), axis=-1, keepdims=True)
    dropped = amount * deviation * ops.cast(noise, "float32")
    return ops.cast(ops.where(stays > 0, values, dropped), floating_dtype(images))


def project_colors(images: Any) -> Any:
    """Take the difference between green and magenta out of every pixel.

    Lenses shift green against red and blue; of that difference nothing is left.

    Args:
        images: tensor `(batch, *spatial, 3)`, channels red, green and blue.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> [round(float(x), 3) for x in np.asarray(project_colors(np.array([[[[0.0, 3.0, 0.0]]]]))).ravel()]
    [1.0, 1.0, 1.0]

    References:
        Doersch, C., Gupta, A., Efros, A. A. (2015). Unsupervised visual representation learning by context
        prediction. ICCV.
    """
    images = ops.convert_to_tensor(images)
    axis = np.array([[-1.0, 2.0, -1.0]])
    projection = (np.eye(3) - axis.T @ axis / (axis @ axis.T)).astype("float32")
    values = ops.matmul(ops.cast(images, "float32"), ops.convert_to_tensor(projection))
    return ops.cast(values, floating_dtype(images))


# Of sRGB (IEC 61966-2-1), linear, to CIE XYZ, and the white of D65 for an observer at 2 degrees.
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)


_WHITE = (0.95047, 1.0, 1.08883)


# Colors of sRGB have a and b within -108 and 99.
AB_LIMIT = 110.0


def rgb_to_lab(images: Any) -> Any:
    """Turn sRGB colors into CIE Lab, white being that of daylight (D65).

    Args:
        images: `(..., 3)`, red, green and blue in [0, 1].

    Returns:
        float32 `(..., 3)`: lightness from 0 to 100, then a (green to red) and b (blue to yellow), which for
        sRGB are within -108 and 99, and 0 for gray.

    >>> import numpy as np
    >>> [round(float(value), 1) for value in np.asarray(rgb_to_lab([1.0, 0.0, 0.0]))]
    [53.2, 80.1, 67.2]

    References:
        International Commission on Illumination (2018). Colorimetry, 4th edition. CIE 015.
    """
    rgb = ops.cast(images, "float32")
    light = ops.where(rgb > 0.04045, ((ops.maximum(rgb, 0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    # By channels: a matrix product would be of lower precision on some accelerators.
    x, y, z = (
        _lightness(sum(share / white * light[..., channel] for channel, share in enumerate(row)))
        for row, white in zip(_XYZ_FROM_RGB, _WHITE, strict=True)
    )
    return ops.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _lightness(amount: Any) -> Any:
    """Cube root of an amount of light in that of white, but for the darkest, where it is a line."""
    root = ops.maximum(amount, 0.008856) ** (1 / 3)
    return ops.where(amount > 0.008856, root, 7.787 * amount + 16 / 116)


def ab_bins(colors: Any, step: float = 10.0) -> Any:
    """Number the squares of a grid of a and b in which colors lie, of those that sRGB can show.

    Args:
        colors: `(..., 2)`, a and b, such as those of `rgb_to_lab`.
        step: side of a square, above 0; gray is in the middle of one.

    Returns:
        int32 `(...)` in 0..`count_ab_bins(step)` - 1. What lies outside is given the nearest square.

    Raises:
        ValueError: `step` is not above 0.

    >>> import numpy as np
    >>> np.asarray(ab_bins([[0.0, 0.0], [80.1, 67.2], [1e3, 1e3]], step=100)).tolist()
    [3, 7, 7]

    References:
        Zhang, R., Isola, P., Efros, A. A. (2016). Colorful image colorization. ECCV.
    """
    table = _bin_table(step)
    side = len(table)
    steps = ops.cast(ops.round(ops.cast(colors, "float32") / step), "int32") + side // 2
    steps = ops.clip(steps, 0, side - 1)
    return ops.take(ops.convert_to_tensor(table.ravel()), steps[..., 0] * side + steps[..., 1])


def count_ab_bins(step: float = 10.0) -> int:
    """Return how many squares of side `step` sRGB has colors in; see `ab_bins`.

    Raises:
        ValueError: `step` is not above 0.

    >>> count_ab_bins(10)
    261
    """
    return int(_bin_table(step).max()) + 1


@functools.lru_cache
def _bin_table(step: float) -> np.ndarray:
    """Number of the nearest square with colors of sRGB, for every square of a grid over all of a and b."""
    # Late: they take their time to be imported.
    from scipy.spatial import KDTree
    from skimage.color import rgb2lab

    if not step > 0:
        raise ValueError(f"`step` must be above 0. Received {step}.")
    levels = np.linspace(0, 1, 64)
    colors = rgb2lab(np.stack(np.meshgrid(levels, levels, levels), axis=-1))[..., 1:].reshape(-1, 2)
    half = round(AB_LIMIT / step)
    shown = np.unique(np.clip(np.rint(colors / step), -half, half), axis=0)
    places = np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 2, indexing="ij"), axis=-1)
    return KDTree(shown).query(places)[1].astype("int32")
