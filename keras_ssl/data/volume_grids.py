"""The grid of a volume and what moves voxels between grids: turn, resample, crop and pad."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class VolumeGrid(NamedTuple):
    """Where voxels lie: how many along each axis, and the affine `(4, 4)` from indices to millimetres."""

    shape: tuple[int, int, int]
    affine: np.ndarray


def orientation_of(affine: np.ndarray) -> np.ndarray:
    """For each axis of the volume the axis of the patient that it runs along, and 1 or -1, `(3, 2)`."""
    import nibabel

    return nibabel.io_orientation(affine).astype(int)


def to_canonical(voxels: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Voxels `(x, y, z, ...)` turned and flipped, as a view, so that axes run right, front, top."""
    flips = tuple(slice(None, None, int(sign)) for sign in orientation[:, 1])
    order = [int(axis) for axis in np.argsort(orientation[:, 0])]
    return voxels[flips].transpose([*order, *range(3, voxels.ndim)])


def from_canonical(voxels: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """The inverse of `to_canonical`."""
    turned = voxels.transpose([*map(int, orientation[:, 0]), *range(3, voxels.ndim)])
    return turned[tuple(slice(None, None, int(sign)) for sign in orientation[:, 1])]


def canonical_grid(grid: VolumeGrid) -> VolumeGrid:
    """The grid of `to_canonical`'s result."""
    from nibabel.orientations import inv_ornt_aff

    orientation = orientation_of(grid.affine)
    x, y, z = (grid.shape[int(axis)] for axis in np.argsort(orientation[:, 0]))
    return VolumeGrid((x, y, z), grid.affine @ inv_ornt_aff(orientation, grid.shape))


def spaced_grid(grid: VolumeGrid, spacing: Sequence[float] | None) -> VolumeGrid:
    """The grid of another spacing, which keeps its centre and, to half a voxel, its extent."""
    if spacing is None:
        return grid
    old = np.linalg.norm(grid.affine[:3, :3], axis=0)
    ratios = np.asarray(spacing) / old
    # Equal to rounding, as headers have it: 0.99999994 mm is 1 mm, and such voxels are left as they are.
    ratios[np.abs(ratios - 1) < 1e-4] = 1.0
    x, y, z = (max(1, int(side / ratio + 0.5)) for side, ratio in zip(grid.shape, ratios, strict=True))
    offsets = [
        (side - 1) / 2 - (new - 1) / 2 * ratio
        for side, new, ratio in zip(grid.shape, (x, y, z), ratios, strict=True)
    ]
    step = np.diag([*ratios, 1.0])
    step[:3, 3] = offsets
    return VolumeGrid((x, y, z), grid.affine @ step)


def fitted_grid(grid: VolumeGrid, shape: tuple[int, int, int] | None) -> VolumeGrid:
    """The grid of `fit_shape`'s result."""
    if shape is None:
        return grid
    step = np.eye(4)
    step[:3, 3] = [_first_kept(old, new) for old, new in zip(grid.shape, shape, strict=True)]
    return VolumeGrid(shape, grid.affine @ step)


def fit_shape(voxels: np.ndarray, shape: Sequence[int], fill: float | None = None) -> np.ndarray:
    """Voxels `(x, y, z)` cropped and padded around their centre to `shape`.

    Fitting the result to the shape that it came from brings each voxel that is left back to its place.

    Args:
        voxels: `(x, y, z)`.
        shape: the shape of the result.
        fill: the value of what is added; `None` repeats the outermost voxels.
    """
    starts = [_first_kept(old, new) for old, new in zip(voxels.shape, shape, strict=True)]
    kept = voxels[tuple(slice(max(0, at), max(0, at) + new) for at, new in zip(starts, shape, strict=True))]
    before = [max(0, -at) for at in starts]
    pads = [(b, new - b - side) for b, new, side in zip(before, shape, kept.shape, strict=True)]
    if not np.any(pads):
        return kept
    if fill is None:
        return np.pad(kept, pads, mode="edge")
    return np.pad(kept, pads, mode="constant", constant_values=fill)


def resample_linear(voxels: np.ndarray, source: VolumeGrid, target: VolumeGrid) -> np.ndarray:
    """Voxels `(x, y, z)` at the places of another grid with the same axes, float32.

    Beyond the outermost voxels their values go on.
    """
    from scipy.ndimage import affine_transform

    steps, offsets = _steps(source, target)
    if source.shape == target.shape and np.allclose(steps, 1) and np.allclose(offsets, 0):
        return voxels.astype(np.float32, copy=False)
    return affine_transform(
        voxels.astype(np.float32, copy=False),
        steps,
        offsets,
        output_shape=target.shape,
        order=1,
        mode="nearest",
    )


def resample_nearest(voxels: np.ndarray, source: VolumeGrid, target: VolumeGrid) -> np.ndarray:
    """For each place of another grid with the same axes the voxel nearest to it: never a new value.

    Halfway between two voxels, the one of the higher index.
    """
    steps, offsets = _steps(source, target)
    rows = [
        # Rounded, so that all that lie halfway fall to the same side.
        np.clip(np.floor(np.round(np.arange(new) * step + offset, 6) + 0.5).astype(int), 0, old - 1)
        for new, old, step, offset in zip(target.shape, source.shape, steps, offsets, strict=True)
    ]
    return voxels[np.ix_(*rows)]


def _first_kept(old: int, new: int) -> int:
    """The index at which a centred crop begins; negative, how much is added before, where it grows."""
    return (old - new) // 2 if old >= new else -((new - old) // 2)


def _steps(source: VolumeGrid, target: VolumeGrid) -> tuple[np.ndarray, np.ndarray]:
    """Index in `source` of index `i` of `target`, per axis: `i * step + offset`."""
    between = np.linalg.inv(source.affine) @ target.affine
    return np.diag(between)[:3], between[:3, 3]
