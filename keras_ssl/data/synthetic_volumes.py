"""Drawn MR volumes around a hippocampus with its two parts: the labelled volumes that need no download."""

import dataclasses
from collections.abc import Sequence

import numpy as np

# Brightness of tissues in T1: fluid is dark, grey matter grey, white matter bright.
_FLUID, _GREY, _WHITE = 0.12, 0.50, 0.80


@dataclasses.dataclass(frozen=True)
class _Anatomy:
    """What differs between patients, in half sides of the field of view."""

    side: float
    centre: np.ndarray
    turn: np.ndarray
    length: float
    width: float
    bend: float
    hook: float
    border: float
    ventricle: float
    folds: np.ndarray

    @staticmethod
    def draw(rng: np.random.Generator) -> "_Anatomy":
        return _Anatomy(
            side=float(rng.choice([-1.0, 1.0])),
            centre=rng.normal(0.0, 0.05, 3),
            turn=_small_turn(rng.normal(0.0, 0.08, 3)),
            length=rng.uniform(0.66, 0.80),
            width=rng.uniform(0.20, 0.26),
            bend=rng.uniform(0.18, 0.32),
            hook=rng.uniform(0.10, 0.20),
            border=rng.uniform(0.10, 0.30),
            ventricle=rng.uniform(0.05, 0.12),
            folds=rng.uniform(0.0, 2 * np.pi, 2),
        )


def synthetic_volumes(
    n: int, shape: Sequence[int] = (32, 32, 32), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Drawn MR volumes and their label maps: a stand-in to try things on, not evidence.

    Each shows a hippocampus, of the left or the right side, in the orientation of `VolumePreparation` (axes
    to the right, front and top): a curved body whose head, in front, is thick and low and whose tail is
    thin and rises. Head (1) and body with tail (2) are told apart by place more than by brightness, and grey
    matter that is neither touches the head, as in real scans. A dark horn of the ventricle lies above and
    outside, folded cortex and fluid below, so that up, down, front and back are to be seen. Noise, an
    uneven field and an intensity scale over three orders of magnitude differ between volumes:
    prepare them as real ones. Results on these volumes say nothing about patients.

    Volume `i` depends on `seed` and `i` alone: a larger `n` adds volumes and changes none.

    Args:
        n: how many volumes, at least 1.
        shape: voxels along x, y, z, each at least 16.
        seed: a whole number, not negative.

    Returns:
        Images, float32, shape `(n, *shape, 1)`, not negative, and masks, uint8, shape `(n, *shape)`:
        background 0, head 1, body 2.

    Raises:
        ValueError: `n`, `shape` or `seed` is too small.

    >>> images, masks = synthetic_volumes(2, shape=(24, 24, 24))
    >>> images.shape, masks.shape, np.unique(masks).tolist()
    ((2, 24, 24, 24, 1), (2, 24, 24, 24), [0, 1, 2])
    """
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"`{name}` must be a whole number of at least {least}. Received {value!r}.")
    if len(shape) != 3 or min(shape) < 16:
        raise ValueError(f"`shape` must be three sides of at least 16. Received {shape!r}.")
    images, masks = np.empty((n, *shape, 1), np.float32), np.empty((n, *shape), np.uint8)
    for index in range(n):
        rng = np.random.default_rng((seed, index))
        brightness, masks[index] = _draw(_Anatomy.draw(rng), shape)
        images[index, ..., 0] = _scan(brightness, rng)
    return images, masks


def _draw(anatomy: _Anatomy, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Brightness and labels of every voxel, without noise."""
    axes = [(np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1 for side in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij")) - anatomy.centre[:, None, None, None]
    x, y, z = np.tensordot(anatomy.turn, grid, axes=1).astype(np.float32)
    x = x * anatomy.side
    # Where along the body a voxel lies, -1 at the tail's end and 1 at the head's.
    t = y / anatomy.length
    # The middle line: the tail turns in and up, the head in and down.
    middle_x = -0.10 - np.where(t < 0, 0.8 * anatomy.bend, anatomy.hook) * t**2
    middle_z = anatomy.bend * (0.5 * t**2 - 0.9 * t - 0.1)
    taper = np.sqrt(np.clip(1 - t**2, 1e-6, None))
    thickness = anatomy.width * (1 + 0.35 * np.tanh(4 * (t - 0.3))) * taper
    # How far a voxel lies outside of the surface; negative inside.
    outside = np.hypot((x - middle_x) / 1.25, z - middle_z) - thickness
    inside = (outside < 0) & (np.abs(t) < 1)
    labels = np.where(inside, np.where(t > anatomy.border, 1, 2), 0).astype(np.uint8)
    # Edges as wide as a voxel, as a scanner averages over each.
    voxel = 2 / min(shape)
    body = _soft(-outside, voxel) * (np.abs(t) < 1)
    horn = np.hypot((x - middle_x - 0.26) / 2.2, z - middle_z - 0.24)
    horn = _soft(anatomy.ventricle - horn, voxel) * _soft(0.75 - np.abs(t + 0.05), voxel)
    neighbour = np.sqrt((x + 0.2) ** 2 + (y - anatomy.length) ** 2 + (z - 0.15) ** 2)
    fold = 0.08 * np.sin(7 * x + anatomy.folds[0]) + 0.06 * np.sin(6 * y + anatomy.folds[1])
    depth = z + 0.72 + fold + 0.15 * x
    brightness = np.full(shape, _WHITE, np.float32)
    for share, tissue in (
        (_soft(0.16 - depth, voxel), _GREY),
        (_soft(-depth, voxel), _FLUID),
        (_soft(0.24 - neighbour, voxel), _GREY),
        (horn, _FLUID),
        (body, _GREY + 0.03 * (t > anatomy.border)),
    ):
        brightness += share * (tissue - brightness)
    return brightness, labels


def _scan(brightness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a scanner makes of it: texture, an uneven field, noise, and a scale of its own."""
    from scipy.ndimage import zoom

    sides = np.array(brightness.shape)
    coarse = rng.normal(0.0, 0.04, (6, 6, 6)).astype(np.float32)
    texture = zoom(coarse, sides / 6, order=1, grid_mode=True, mode="nearest")
    field = np.zeros(sides, np.float32)
    for axis, side in enumerate(sides):
        ramp = np.linspace(-1, 1, side, dtype=np.float32).reshape(np.roll([side, 1, 1], axis))
        slope, bow = rng.normal(0.0, (0.10, 0.05)).astype(np.float32)
        field += slope * ramp + bow * ramp**2
    clean = (brightness + texture) * np.exp(field)
    spread = rng.uniform(0.02, 0.05)
    # Of magnitudes: noise in both parts of a complex signal.
    real, imaginary = rng.standard_normal((2, *sides), dtype=np.float32) * np.float32(spread)
    return np.hypot(clean + real, imaginary) * np.float32(10 ** rng.uniform(1.0, 4.0))


def _soft(distance: np.ndarray, width: float) -> np.ndarray:
    """From 0 to 1 as a signed distance goes from outside to inside."""
    return np.clip(0.5 + distance / width, 0, 1)


def _small_turn(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix about x, then y, then z."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[one, one] = step[two, two] = np.cos(angle)
        step[one, two], step[two, one] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn
