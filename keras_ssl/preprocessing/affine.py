"""Flips, turns, rotations, scaling and shifts of a batch, composed into one matrix for each image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_ssl.preprocessing.rotation import Plane


def affine_matrices(
    rank: int,
    *,
    flips: Any = None,
    turns: Any = None,
    angles: Any = None,
    scales: Any = None,
    shifts: Any = None,
    planes: Sequence[Plane] | None = None,
) -> Any:
    """Compose matrices that flip, turn, rotate, scale and shift images, in this order, for `resample`.

    A matrix leads from where a value is needed to where it is found: multiplied with a position in the
    output, and 1 below it, it gives the position in the input. Positions are in voxels, which are taken to be
    as long along all axes, and are counted from the centre of the image. What is not given is not done.

    Args:
        rank: number of spatial axes, 2 or 3.
        flips: booleans `(batch, rank)`, axes that are reversed.
        turns: integers `(batch, planes)`, quarter turns in each plane, as `np.rot90` counts them.
        angles: `(batch, planes)`, rotation in each plane in degrees, in the direction of `turns`.
        scales: `(batch,)` or `(batch, rank)`, factors by which things become larger, above 0.
        shifts: `(batch, rank)`, voxels by which things move towards the end of each axis.
        planes: pairs of spatial axes that `turns` and `angles` are about, done one after the other; `None`
            for all pairs: (0, 1), and in 3D (0, 2) and (1, 2).

    Returns:
        Float32 tensor `(batch, rank, rank + 1)`, exact for flips and quarter turns.

    Raises:
        ValueError: nothing is given, or an argument is not of the shape above.

    >>> import numpy as np
    >>> np.asarray(affine_matrices(2, scales=[2.0], shifts=[[4.0, 2.0]])).tolist()
    [[[0.5, 0.0, -2.0], [0.0, 0.5, -1.0]]]
    """
    planes = all_planes(rank) if planes is None else planes
    given = {
        "flips": (flips, (rank,)),
        "turns": (turns, (len(planes),)),
        "angles": (angles, (len(planes),)),
        "scales": (scales, () if len(np.shape(scales)) == 1 else (rank,)),
        "shifts": (shifts, (rank,)),
    }
    values = {
        name: _checked(name, value, shape) for name, (value, shape) in given.items() if value is not None
    }
    if not values:
        raise ValueError(f"At least one of {', '.join(f'`{name}`' for name in given)} must be given.")
    batch = ops.shape(next(iter(values.values())))[0]
    # Columns say where a step along an axis of the output leads. A rotation mixes two of them: no
    # product of matrices, which some devices compute with few digits.
    columns = [ops.zeros((batch, rank)) + ops.eye(rank)[axis] for axis in range(rank)]
    if flips is not None:
        columns = [column * (1 - 2 * values["flips"]) for column in columns]
    if turns is not None:
        quarter = ops.cast(values["turns"], "int32") % 4
        table = np.array([1, 0, -1, 0], "float32")
        columns = _rotated(columns, ops.take(table, quarter), ops.take(table, (quarter + 3) % 4), planes)
    if angles is not None:
        radians = values["angles"] * (np.pi / 180)
        columns = _rotated(columns, ops.cos(radians), ops.sin(radians), planes)
    if scales is not None:
        # Not by a reshape, after which TensorFlow no longer knows the number of factors in an unknown batch.
        factors = values["scales"] if len(values["scales"].shape) == 2 else values["scales"][:, None]
        columns = [column / factors[:, axis % factors.shape[1], None] for axis, column in enumerate(columns)]
    offset = ops.zeros((batch, rank))
    if shifts is not None:
        offset = -sum(column * values["shifts"][:, axis, None] for axis, column in enumerate(columns))
    return ops.stack([*columns, offset], axis=-1)


def all_planes(rank: int) -> tuple[Plane, ...]:
    """List all pairs of spatial axes.

    >>> all_planes(3)
    ((0, 1), (0, 2), (1, 2))
    """
    return tuple((a, b) for a in range(rank) for b in range(a + 1, rank))


def _checked(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    values = ops.cast(value, "float32")
    if tuple(values.shape[1:]) != shape or not len(values.shape):
        raise ValueError(
            f"`{name}` must have shape ({', '.join(('batch', *map(str, shape)))}). "
            f"Received shape {tuple(values.shape)}."
        )
    return values


def _rotated(columns: list[Any], cosines: Any, sines: Any, planes: Sequence[Plane]) -> list[Any]:
    columns = list(columns)
    for number, (a, b) in enumerate(planes):
        cos, sin = cosines[:, number, None], sines[:, number, None]
        columns[a], columns[b] = cos * columns[a] - sin * columns[b], sin * columns[a] + cos * columns[b]
    return columns
