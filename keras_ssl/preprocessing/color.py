"""Intensity and color of images: standardization, contrast, gamma, noise, blur, hue, stains, CIE Lab."""

import functools
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_ssl._types import Tensor
from keras_ssl.preprocessing._compilation import compiled, floating_dtype, optimization_barrier


def standardize(
    values: Tensor,
    axes: Sequence[int] | None = None,
    scale_axes: Sequence[int] | None = None,
    epsilon: float = 0.0,
) -> Tensor:
    """Subtract the mean and divide by the standard deviation (z-score).

    By default, each channel of an image gets mean 0 and the image as a whole gets standard deviation 1: a
    channel with little contrast keeps little.

    Args:
        values: tensor of any shape; `(batch, *spatial, channels)` by default.
        axes: axes of the mean; `None` for the spatial axes.
        scale_axes: axes of the standard deviation. `None` for `axes`, or for all but the first axis if
            `axes` is `None`.
        epsilon: added to the variance. With 0, constant values become exactly 0.

    Returns:
        float32 tensor of the shape of `values`.

    >>> import numpy as np
    >>> np.asarray(standardize(np.array([1.0, 3.0]).reshape(1, 2, 1))).ravel().tolist()
    [-1.0, 1.0]
    >>> np.asarray(standardize(np.array([[1.0, 5.0], [3.0, 5.0]]), axes=(0,))).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    values = ops.cast(values, "float32")
    if scale_axes is None:
        scale_axes = tuple(range(1, len(values.shape))) if axes is None else axes
    if axes is None:
        axes = tuple(range(1, len(values.shape) - 1))
    if not epsilon:
        # The float32 mean of a constant is inexact: subtract the minimum first to get exactly 0.
        values = values - ops.min(values, axis=axes, keepdims=True)
    values = values - ops.mean(values, axis=axes, keepdims=True)
    variance = ops.mean(ops.square(values), axis=scale_axes, keepdims=True)
    if epsilon:
        return values * ops.rsqrt(variance + epsilon)
    deviation = ops.sqrt(variance)
    return values / ops.where(deviation > 0, deviation, 1.0)


def standard_deviation(values: Tensor, axes: Sequence[int]) -> Tensor:
    """Return the standard deviation over `axes`, which stay as 1; `ops.std` takes two to three times longer.

    >>> import numpy as np
    >>> np.asarray(standard_deviation(np.array([[1.0, 3.0]]), (1,))).tolist()
    [[1.0]]
    """
    values = ops.convert_to_tensor(values)
    centered = values - ops.mean(values, axis=axes, keepdims=True)
    return ops.sqrt(ops.mean(ops.square(centered), axis=axes, keepdims=True))


def adjust_intensity(
    images: Tensor,
    brightness: Tensor | None = None,
    contrast: Tensor | None = None,
    color: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """Change brightness, contrast and color, relative to each image.

    Nothing is clipped: images in [0, 1] and in [0, 255] change alike.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        brightness: `(batch,)`, factors for all values of an image; `None` for 1.
        contrast: `(batch,)`, factors for the distance of values from their channel's mean; `None` for 1.
        color: `(batch, channels)`, factors for the values of a channel; `None` for 1.
        offset: `(batch,)`, added to all values, in standard deviations of their channel before any change;
            `None` for 0. It is the brightness of values that may be negative, as in scans.

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
    added = None if offset is None else _channel_deviation(values) * _per_image(offset, rank)
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


def adjust_gamma(images: Tensor, gammas: Tensor) -> Tensor:
    """Apply gamma correction, between the smallest and largest value of each channel of an image.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        gammas: `(batch,)`, exponents above 0; below 1, dark values become brighter.

    Returns:
        Tensor of the shape of `images`, with the same smallest and largest values; floating images keep
        their dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([-1.0, 0.0, 3.0]).reshape(1, 3, 1, 1)
    >>> [round(float(value), 3) for value in np.asarray(adjust_gamma(image, [0.5])).ravel()]
    [-1.0, 1.0, 3.0]
    """
    images = ops.convert_to_tensor(images)
    values, spatial = ops.cast(images, "float32"), tuple(range(1, len(images.shape) - 1))
    low = ops.min(values, axis=spatial, keepdims=True)
    span = ops.max(values, axis=spatial, keepdims=True) - low
    # In place where possible: on PyTorch, allocation costs more than arithmetic. The maximum is needed as XLA
    # may compute a value twice with different rounding, and a negative number has no logarithm.
    fraction = ops.maximum(values - low, 0.0)
    fraction /= ops.where(span > 0, span, 1.0)
    # A quarter of the time of a power with the same result, also for 0.
    powers = ops.log(fraction)
    powers *= _per_image(gammas, len(images.shape))
    powers = ops.exp(powers)
    powers *= span
    powers += low
    return ops.cast(powers, floating_dtype(images))


def add_noise(images: Tensor, noise: Tensor, amounts: Tensor) -> Tensor:
    """Add noise, in proportion to the standard deviation of each channel of an image.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        noise: standard normal numbers of the shape of `images`.
        amounts: `(batch,)`, standard deviation of the noise, in that of the values.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image, noise = np.array([1.0, 5.0]).reshape(1, 2, 1, 1), np.array([1.0, -1.0]).reshape(1, 2, 1, 1)
    >>> [round(float(value), 3) for value in np.asarray(add_noise(image, noise, [0.1])).ravel()]
    [1.2, 4.8]
    """
    images = ops.convert_to_tensor(images)
    values, rank = ops.cast(images, "float32"), len(images.shape)
    noisy = _channel_deviation(values) * _per_image(amounts, rank) * ops.cast(noise, "float32")
    noisy += values
    return ops.cast(noisy, floating_dtype(images))


def _channel_deviation(values: Tensor) -> Tensor:
    return standard_deviation(values, tuple(range(1, len(values.shape) - 1)))


def _per_image(factors: Tensor, rank: int) -> Tensor:
    return ops.reshape(ops.cast(factors, "float32"), (-1, *(1,) * (rank - 1)))


def gaussian_blur(images: Tensor, sigmas: Tensor, radius: int) -> Tensor:
    """Apply a Gaussian blur along all spatial axes, with edge padding.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        sigmas: `(batch,)`, standard deviation of the Gaussian in voxels; 0 changes nothing.
        radius: radius of the kernel in voxels, at least 1, the same for all images.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    Raises:
        ValueError: `radius` is not an integer of at least 1.

    >>> import numpy as np
    >>> image = np.array([0.0, 0.0, 1.0, 0.0, 0.0]).reshape(1, 5, 1, 1)
    >>> [round(float(value), 3) for value in np.asarray(gaussian_blur(image, [0.5], radius=1)).ravel()]
    [0.0, 0.107, 0.787, 0.107, 0.0]
    """
    if not isinstance(radius, (int, np.integer)) or radius < 1:
        raise ValueError(f"`radius` must be an integer of at least 1. Received {radius!r}.")
    return compiled(_blur, int(radius))(ops.convert_to_tensor(images), ops.cast(sigmas, "float32"))


def _blur(radius: int, images: Tensor, sigmas: Tensor) -> Tensor:
    steps = ops.arange(-radius, radius + 1, dtype="float32")
    # Below a thousandth of a voxel there is no blur; the minimum avoids a division by 0.
    weights = ops.exp(-((steps / ops.maximum(sigmas, 1e-3)[:, None]) ** 2) / 2)
    weights = weights / ops.sum(weights, axis=1, keepdims=True)
    values = ops.cast(images, "float32")
    for axis, size in enumerate(images.shape[1:-1], start=1):
        first, last = _slice(values, axis, 0, 1), _slice(values, axis, size - 1, 1)
        padded = optimization_barrier(
            ops.concatenate([*[first] * radius, values, *[last] * radius], axis=axis)
        )
        values = _weighted_sum(
            [_slice(padded, axis, start, size) for start in range(2 * radius + 1)],
            [
                ops.reshape(weights[:, k], (-1, *(1,) * (len(images.shape) - 1)))
                for k in range(2 * radius + 1)
            ],
        )
    return ops.cast(values, floating_dtype(images))


def _slice(values: Tensor, axis: int, start: int, size: int) -> Tensor:
    return values[(*(slice(None),) * axis, slice(start, start + size))]


def _weighted_sum(slices: list[Tensor], weights: list[Tensor]) -> Tensor:
    total = slices[0] * weights[0]
    for values, weight in zip(slices[1:], weights[1:], strict=True):
        # PyTorch would allocate two arrays in each step; XLA allocates none.
        in_place = keras.backend.backend() == "torch"
        total = total.addcmul_(values, weight) if in_place else total + values * weight
    return total


# From RGB to luma, in-phase and quadrature (NTSC, 1953); gray has neither of the last two.
_YIQ_FROM_RGB = np.array(
    [[0.299, 0.587, 0.114], [0.59590059, -0.27455667, -0.32134392], [0.21153661, -0.52273617, 0.31119955]]
)


def adjust_colors(images: Tensor, hues: Tensor, saturations: Tensor) -> Tensor:
    """Rotate the hue and scale the saturation of each image about its gray values, in YIQ color space.

    Luma, a weighted mean of the channels, does not change, nor does gray. One matrix multiplies the colors of
    an image, whose rows sum to 1: images in [0, 1], in [0, 255] and shifted ones change alike. Nothing is
    clipped.

    Args:
        images: tensor `(batch, *spatial, 3)`, channels red, green and blue.
        hues: `(batch,)`, rotation of the hue in degrees.
        saturations: `(batch,)`, factors for the saturation; 0 for gray.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> red = np.array([1.0, 0.0, 0.0]).reshape(1, 1, 1, 3)
    >>> [round(float(value), 3) for value in np.asarray(adjust_colors(red, [0.0], [0.0])).ravel()]
    [0.299, 0.299, 0.299]
    """
    images = ops.convert_to_tensor(images)
    radians = ops.cast(hues, "float32") * (np.pi / 180)
    inverse = np.linalg.inv(_YIQ_FROM_RGB)
    quarter_turn = inverse @ [[0, 0, 0], [0, 0, -1], [0, 1, 0]] @ _YIQ_FROM_RGB
    gray = np.outer(np.ones(3), _YIQ_FROM_RGB[0])

    def matrix(values: np.ndarray) -> Tensor:
        return ops.convert_to_tensor(values.T[None].astype("float32"))

    turned = _per_image(ops.cos(radians), 3) * matrix(np.eye(3) - gray)
    turned += _per_image(ops.sin(radians), 3) * matrix(quarter_turn)
    matrices = matrix(gray) + _per_image(saturations, 3) * turned
    return ops.cast(_mix_channels(ops.cast(images, "float32"), matrices), floating_dtype(images))


def _mix_channels(values: Tensor, matrices: Tensor) -> Tensor:
    """Multiply the channels of images by matrices `(batch, in, out)`.

    Not a matrix product, which has lower precision on some accelerators.
    """
    shape = (-1, *(1,) * (len(values.shape) - 2), matrices.shape[2])
    channels = range(matrices.shape[1])
    return _weighted_sum(
        [values[..., channel : channel + 1] for channel in channels],
        [ops.reshape(matrices[:, channel], shape) for channel in channels],
    )


def solarize(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror values above the middle between an image's smallest and largest value.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        chosen: `(batch,)`, 1 for images to change, otherwise 0.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([0.0, 1.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    >>> np.asarray(solarize(image, [1.0])).ravel().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    images = ops.convert_to_tensor(images)
    values, axes = ops.cast(images, "float32"), tuple(range(1, len(images.shape)))
    total = ops.min(values, axis=axes, keepdims=True) + ops.max(values, axis=axes, keepdims=True)
    chosen = _per_image(chosen, len(images.shape))
    mirrored = ops.where(chosen > 0, ops.minimum(values, total - values), values)
    return ops.cast(mirrored, floating_dtype(images))


# Optical density in red, green and blue of hematoxylin, eosin and diaminobenzidine.
_RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def adjust_stains(images: Tensor, factors: Tensor, offsets: Tensor) -> Tensor:
    """Scale and shift the amounts of hematoxylin, eosin and DAB in images of histology.

    Amounts are optical densities, natural logarithms of the light that is lost (color deconvolution). The
    largest value of an image counts as white and 0 as black, so that images in [0, 1] and in [0, 255] change
    alike; values below a 256th of white count as that. Nothing is clipped above.

    Args:
        images: tensor `(batch, *spatial, 3)`, channels red, green and blue, values from 0.
        factors: `(batch, 3)`, factors for the amounts.
        offsets: `(batch, 3)`, added to the amounts.

    Returns:
        Tensor of the shape of `images`; floating images keep their dtype, others become float32.

    >>> import numpy as np
    >>> image = np.array([[100.0, 90.0, 150.0], [200.0, 200.0, 200.0]]).reshape(1, 2, 1, 3)
    >>> changed = adjust_stains(image, [[1.0, 1.5, 1.0]], [[0.0, 0.0, 0.0]])
    >>> [round(float(value)) for value in np.asarray(changed).ravel()]
    [100, 87, 149, 200, 200, 200]

    References:
        Ruifrok, A. C., Johnston, D. A. (2001). Quantification of histochemical staining by color
        deconvolution. Analytical and Quantitative Cytology and Histology 23(4).
        Tellez, D. et al. (2019). Quantifying the effects of data augmentation and stain color normalization
        in convolutional neural networks for computational pathology. Medical Image Analysis 58.
    """
    images = ops.convert_to_tensor(images)
    values, rank = ops.cast(images, "float32"), len(images.shape)
    white = ops.max(values, axis=tuple(range(1, rank)), keepdims=True)
    # Black images have no density.
    light = ops.clip(values / ops.where(white > 0, white, 1.0), 1 / 256, 1.0)
    unmixed = ops.convert_to_tensor(np.linalg.inv(_RGB_FROM_HED)[None].astype("float32"))
    mixed = ops.convert_to_tensor(_RGB_FROM_HED[None].astype("float32"))
    per_stain = (-1, *(1,) * (rank - 2), 3)
    amounts = _mix_channels(-ops.log(light), unmixed)
    amounts = amounts * ops.reshape(ops.cast(factors, "float32"), per_stain)
    amounts = amounts + ops.reshape(ops.cast(offsets, "float32"), per_stain)
    changed = white * ops.exp(-_mix_channels(amounts, mixed))
    return ops.cast(changed, floating_dtype(images))


def drop_colors(images: Tensor, kept: Tensor, noise: Tensor, amount: float = 0.01) -> Tensor:
    """Keep one channel of every image and replace the others by noise (color dropping).

    Args:
        images: tensor `(batch, *spatial, channels)`.
        kept: integers `(batch,)`, the channel to keep.
        noise: standard normal numbers of the shape of `images`.
        amount: standard deviation of the noise, in that of the kept channel; 0.01 in the paper.

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


def project_colors(images: Tensor) -> Tensor:
    """Project out the green-magenta axis (color projection), against cues from chromatic aberration.

    Lenses shift green relative to red and blue.

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


# From linear sRGB (IEC 61966-2-1) to CIE XYZ, and the white point of D65 for the 2 degree observer.
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)

# The a and b of sRGB colors lie between -108 and 99.
AB_LIMIT = 110.0


def rgb_to_lab(images: Tensor) -> Tensor:
    """Convert sRGB to CIE Lab, with the white point of daylight (D65).

    Args:
        images: `(..., 3)`, red, green and blue in [0, 1].

    Returns:
        float32 `(..., 3)`: lightness from 0 to 100, a (green to red) and b (blue to yellow), which for sRGB
        lie between -108 and 99 and are 0 for gray.

    >>> import numpy as np
    >>> [round(float(value), 1) for value in np.asarray(rgb_to_lab([1.0, 0.0, 0.0]))]
    [53.2, 80.1, 67.2]

    References:
        International Commission on Illumination (2018). Colorimetry, 4th edition. CIE 015.
    """
    rgb = ops.cast(images, "float32")
    light = ops.where(rgb > 0.04045, ((ops.maximum(rgb, 0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    # Not a matrix product, which has lower precision on some accelerators.
    x, y, z = (
        _lightness(sum(weight / white * light[..., channel] for channel, weight in enumerate(row)))
        for row, white in zip(_XYZ_FROM_RGB, _WHITE, strict=True)
    )
    return ops.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _lightness(amount: Tensor) -> Tensor:
    """Return the cube root of light relative to white; for the darkest values a linear function."""
    root = ops.maximum(amount, 0.008856) ** (1 / 3)
    return ops.where(amount > 0.008856, root, 7.787 * amount + 16 / 116)


def ab_bins(colors: Tensor, step: float = 10.0) -> Tensor:
    """Quantize a and b of CIE Lab into the bins, squares of a grid, that have sRGB colors.

    Args:
        colors: `(..., 2)`, a and b, such as those of `rgb_to_lab`.
        step: side of a bin, above 0; gray is in the middle of one.

    Returns:
        int32 `(...)` from 0 to `count_ab_bins(step)` - 1; the nearest bin for colors outside.

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
    """Return the number of bins of side `step` that have sRGB colors; see `ab_bins`.

    Raises:
        ValueError: `step` is not above 0.

    >>> count_ab_bins(10)
    261
    """
    return int(_bin_table(step).max()) + 1


@functools.lru_cache
def _bin_table(step: float) -> np.ndarray:
    """Return the nearest bin with sRGB colors for each square of a grid over all a and b."""
    # Imported here since they take long to import.
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
