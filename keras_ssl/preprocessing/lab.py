"""Colours by lightness and hue as people see them: CIE Lab."""

from typing import Any

from keras import ops

# Of sRGB (IEC 61966-2-1), linear, to CIE XYZ, and the white of D65 for an observer at 2 degrees.
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)


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
