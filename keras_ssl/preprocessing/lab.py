"""Colours by lightness and hue as people see them: CIE Lab."""

import functools
from typing import Any

import numpy as np
from keras import ops

# Of sRGB (IEC 61966-2-1), linear, to CIE XYZ, and the white of D65 for an observer at 2 degrees.
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)
# Colours of sRGB have a and b within -108 and 99.
AB_LIMIT = 110.0


def rgb_to_lab(images: Any) -> Any:
    """Turn sRGB colours into CIE Lab, white being that of daylight (D65).

    Args:
        images: `(..., 3)`, red, green and blue in [0, 1].

    Returns:
        float32 `(..., 3)`: lightness from 0 to 100, then a (green to red) and b (blue to yellow), which for
        sRGB are within -108 and 99, and 0 for grey.

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


def ab_bins(colours: Any, step: float = 10.0) -> Any:
    """Number the squares of a grid of a and b in which colours lie, of those that sRGB can show.

    Args:
        colours: `(..., 2)`, a and b, such as those of `rgb_to_lab`.
        step: side of a square, above 0; grey is in the middle of one.

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
    steps = ops.cast(ops.round(ops.cast(colours, "float32") / step), "int32") + side // 2
    steps = ops.clip(steps, 0, side - 1)
    return ops.take(ops.convert_to_tensor(table.ravel()), steps[..., 0] * side + steps[..., 1])


def count_ab_bins(step: float = 10.0) -> int:
    """Return how many squares of side `step` sRGB has colours in; see `ab_bins`.

    Raises:
        ValueError: `step` is not above 0.

    >>> count_ab_bins(10)
    261
    """
    return int(_bin_table(step).max()) + 1


@functools.lru_cache
def _bin_table(step: float) -> np.ndarray:
    """Number of the nearest square with colours of sRGB, for every square of a grid over all of a and b."""
    # Late: they take their time to be imported.
    from scipy.spatial import KDTree
    from skimage.color import rgb2lab

    if not step > 0:
        raise ValueError(f"`step` must be above 0. Received {step}.")
    levels = np.linspace(0, 1, 64)
    colours = rgb2lab(np.stack(np.meshgrid(levels, levels, levels), axis=-1))[..., 1:].reshape(-1, 2)
    half = round(AB_LIMIT / step)
    shown = np.unique(np.clip(np.rint(colours / step), -half, half), axis=0)
    places = np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 2, indexing="ij"), axis=-1)
    return KDTree(shown).query(places)[1].astype("int32")
