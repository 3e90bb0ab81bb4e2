"""Resampling: affine matrices, elastic displacements, crops."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_ssl._types import Plane
from keras_ssl.preprocessing._batching import compiled, floating_dtype, stored


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
    as long along all axes, and are counted from the center of the image. What is not given is not done.

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


def center_crop(images: Any, spatial_shape: Sequence[int]) -> Any:
    """Cut the center out of every image; where a pixel is left over, one more is cut off at the end.

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


Interpolation = Literal["linear", "nearest"]


Fill = Literal["edge", "minimum"] | float


def resample(
    images: Any,
    matrices: Any,
    output_shape: Sequence[int] | None = None,
    *,
    displacement: Any = None,
    interpolation: Interpolation = "linear",
    fill: Fill = "edge",
) -> Any:
    """Move the voxels of images by affine matrices and a smooth displacement, reading the images once.

    Every voxel of the output is displaced first and sent through the matrix of its image then; there the
    image is read. The same values come out on every backend, but for rounding: on PyTorch linear
    interpolation loses about 1e-7 of the contrast per voxel of the image's side.

    Args:
        images: tensor `(batch, *spatial, channels)`, two or three spatial axes.
        matrices: `(batch, rank, rank + 1)`, from positions in the output to positions in the image, in voxels
            from the centers; see `affine_matrices`.
        output_shape: spatial shape of the output, whose center lies on the image's where a matrix does
            not shift it: a smaller one crops. `None` for the images' own.
        displacement: `(batch, rank, *grid)`, voxels by which points of a grid over the output are moved, at
            least 4 along each axis. In between, cubic B-splines interpolate: `grid - 3` cells along an axis,
            and one more point beyond either end. Voxels move no further than the points. `None` for none.
        interpolation: `"linear"`, or `"nearest"` for labels.
        fill: value outside the image, which linear interpolation approaches within the voxel next to the
            border. `"edge"` goes on with the value at the border, `"minimum"` takes the least of each
            channel.

    Returns:
        Tensor `(batch, *output_shape, channels)`. Nearest keeps the dtype; linear that of floating images,
        others become float32.

    Raises:
        ValueError: an argument is not as described.

    >>> import numpy as np
    >>> image, half_a_pixel_up = np.array([[0.0], [1.0], [4.0]]), np.array([[1, 0, 0.5], [0, 1, 0]])
    >>> np.asarray(resample(image[None, :, :, None], half_a_pixel_up[None])).ravel().round(3).tolist()
    [0.5, 2.5, 4.0]

    References:
        Rueckert, D. et al. (1999). Nonrigid registration using free-form deformations. IEEE Transactions
        on Medical Imaging 18(8).
    """
    images = ops.convert_to_tensor(images)
    sizes, rank = tuple(images.shape[1:-1]), len(images.shape) - 2
    if rank not in (2, 3) or None in sizes:
        raise ValueError(
            "`images` must have two or three spatial axes of known sizes, (batch, *spatial, channels). "
            f"Received shape {tuple(images.shape)}."
        )
    matrices = ops.cast(matrices, "float32")
    if tuple(matrices.shape[1:]) != (rank, rank + 1):
        raise ValueError(
            f"`matrices` must have shape (batch, {rank}, {rank + 1}). Received shape {tuple(matrices.shape)}."
        )
    if displacement is not None:
        displacement = ops.cast(displacement, "float32")
        grid = tuple(displacement.shape[2:])
        if tuple(displacement.shape[1:2]) != (rank,) or len(grid) != rank or min(grid) < 4:
            raise ValueError(
                f"`displacement` must have shape (batch, {rank}, *grid) with a grid of {rank} axes, each at "
                f"least 4. Received shape {tuple(displacement.shape)}."
            )
    if interpolation not in ("linear", "nearest"):
        raise ValueError(f'`interpolation` must be "linear" or "nearest". Received {interpolation!r}.')
    check_fill(fill)
    shape = sizes if output_shape is None else tuple(output_shape)
    if len(shape) != rank or min(shape) < 1:
        raise ValueError(f"`output_shape` must be {rank} sizes of at least 1. Received {output_shape}.")
    return compiled(_resample, shape, interpolation, fill)(images, matrices, displacement)


def check_fill(fill: Any) -> None:
    """Refuse what `resample` cannot fill with."""
    if fill not in ("edge", "minimum") and not (isinstance(fill, (int, float)) and np.isfinite(fill)):
        raise ValueError(f'`fill` must be "edge", "minimum" or a finite number. Received {fill!r}.')


def _resample(
    shape: tuple[int, ...],
    interpolation: Interpolation,
    fill: Fill,
    images: Any,
    matrices: Any,
    displacement: Any,
) -> Any:
    if interpolation == "nearest":
        return stored(
            _nearest(images, _places(images, matrices, displacement, shape, 0.5), _outside(images, fill))
        )
    values = ops.cast(images, "float32")
    outside = _outside(values, fill)
    if keras.backend.backend() == "torch":
        sampled = _torch_linear(values, matrices, displacement, shape, outside)
    else:
        sampled = _linear(values, _places(values, matrices, displacement, shape, 0.0), outside)
    return stored(ops.cast(sampled, floating_dtype(images)))


def _outside(images: Any, fill: Fill) -> Any:
    """Return the value outside the images, `None` for that at the edge."""
    if fill == "edge":
        return None
    if fill == "minimum":
        return ops.min(images, axis=tuple(range(1, len(images.shape) - 1)), keepdims=True)
    return ops.cast(fill, images.dtype)


def _positions(matrices: Any, displacement: Any, shape: tuple[int, ...]) -> Any:
    """Say where in the image each voxel of the output is found: `(batch, rank, *shape)`, from the center."""
    rank = len(shape)
    rows = matrices.shape[1]

    def column(axis: int) -> Any:
        return ops.reshape(matrices[:, :, axis], (-1, rows, *(1,) * rank))

    def along(axis: int) -> Any:
        steps = ops.arange(shape[axis], dtype="float32") - (shape[axis] - 1) / 2
        return column(axis) * ops.reshape(steps, (-1, *(1,) * (rank - 1 - axis)))

    # All but the first axis are added up while they are small.
    positions = sum((along(axis) for axis in range(1, rank)), start=column(rank))
    if displacement is None:
        return along(0) + positions
    # Through the matrix while there are few points.
    points = ops.matmul(matrices[:, :, :rank], ops.reshape(displacement, (-1, rank, _count(displacement))))
    field = ops.reshape(points, (-1, rows, *displacement.shape[2:]))
    for size in shape:
        # The first of the remaining axes becomes the last: after all of them the order is the old one.
        field = ops.tensordot(field, _spline_weights(field.shape[2], size), axes=[[2], [0]])
    # In place where the backend can.
    field += along(0)
    field += positions
    return field


def _count(displacement: Any) -> int:
    return int(np.prod(displacement.shape[2:]))


def _spline_weights(points: int, size: int) -> np.ndarray:
    """Return the weight that each point of the grid has at each voxel of an axis, `(points, size)`."""
    place = (np.arange(size) + 0.5) / size * (points - 3)
    cell = np.floor(place).astype(int)
    t = place - cell
    weights = np.zeros((points, size), "float32")
    cubics = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for neighbor, cubic in enumerate(cubics):
        weights[cell + neighbor, np.arange(size)] = cubic / 6
    return weights


def _places(images: Any, matrices: Any, displacement: Any, shape: tuple[int, ...], start: float) -> list[Any]:
    """Say for each axis of the image where on it voxels are found, `(batch, *shape)`, from `start` on."""
    # One axis at a time: XLA computes what it needs of each where it needs it, and would store them together.
    places = []
    for axis, size in enumerate(images.shape[1:-1]):
        center = np.zeros(matrices.shape[2], "float32")
        center[-1] = (size - 1) / 2 + start
        row = matrices[:, axis : axis + 1] + ops.convert_to_tensor(center)
        places.append(_positions(row, displacement, shape)[:, 0])
    return places


def _nearest(images: Any, places: list[Any], outside: Any) -> Any:
    """Pick the voxels around whose centers, in each axis from 0.5 on, the places lie."""
    inside: Any = True
    index = _first_of_each(images)
    for place, size in zip(places, images.shape[1:-1], strict=True):
        # Cut off at a half: so ties go up on every backend, while `round` would send them to even numbers.
        within = ops.clip(place, 0.0, float(np.nextafter(np.float32(size), np.float32(0))))
        index = index * size + ops.cast(within, "int32")
        if outside is not None:
            inside = ops.logical_and(inside, within == place)
    values = gather_voxels(images, index)
    return values if outside is None else ops.where(ops.expand_dims(inside, -1), values, outside)


def _linear(images: Any, places: list[Any], outside: Any) -> Any:
    """Interpolate between the 4 or 8 voxels around each place."""
    sizes = images.shape[1:-1]
    coverage: Any = 1.0
    index, fractions, strides = _first_of_each(images), [], []
    for axis, (place, size) in enumerate(zip(places, sizes, strict=True)):
        # Towards a constant outside, all that lies outside weighs as much as its neighbors inside lack.
        coverage = coverage * ops.clip(ops.minimum(place + 1.0, size - place), 0.0, 1.0)
        place = ops.clip(place, 0.0, size - 1.0)
        near = ops.minimum(ops.floor(place), float(max(size - 2, 0)))
        index = index * size + ops.cast(near, "int32")
        fractions.append(ops.expand_dims(place - near, -1))
        strides.append(int(np.prod(sizes[axis + 1 :])) if size > 1 else 0)

    def along(axis: int, offset: int) -> Any:
        if axis == len(sizes):
            return gather_voxels(images, index + offset)
        near, far = along(axis + 1, offset), along(axis + 1, offset + strides[axis])
        return near + (far - near) * fractions[axis]

    values = along(0, 0)
    return values if outside is None else outside + (values - outside) * ops.expand_dims(coverage, -1)


def _first_of_each(images: Any) -> Any:
    """Return the numbers 0, 1 ... of the images, of the rank of an index into their voxels."""
    return ops.reshape(ops.arange(ops.shape(images)[0], dtype="int32"), (-1, *(1,) * (len(images.shape) - 2)))


def gather_voxels(images: Any, index: Any) -> Any:
    """Pick voxels, with all their channels, by numbers that count through the whole batch."""
    voxels = ops.reshape(images, (-1, images.shape[-1]))
    if keras.backend.backend() == "jax":
        return voxels.at[index].get(mode="promise_in_bounds")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(voxels, index)
    return ops.reshape(voxels.index_select(0, index.reshape(-1)), (*index.shape, voxels.shape[1]))


def _torch_linear(images: Any, matrices: Any, displacement: Any, shape: tuple[int, ...], outside: Any) -> Any:
    """Interpolate by PyTorch's own kernel: without a compiler, eight gathers take several times longer."""
    import torch
    from torch.nn.functional import grid_sample

    # It counts axes from the last, from -1 to 1 between the outer sides of the outermost voxels.
    scale = ops.convert_to_tensor(2 / np.array(images.shape[1:-1], "float32"))
    matrices = (matrices * scale[:, None]).flip(1)
    grid = _positions(matrices, displacement, shape).movedim(1, -1)
    values = (images if outside is None else images - outside).movedim(-1, 1)
    padding = "border" if outside is None else "zeros"
    # By parts, as turned volumes are read across all their rows: of a whole one, no row would stay in the
    # cache.
    parts = [
        grid_sample(values, part, mode="bilinear", padding_mode=padding, align_corners=False)
        for part in grid.split(16 if len(shape) == 3 else shape[1], dim=2)
    ]
    values = torch.cat(parts, dim=3).movedim(1, -1)
    if outside is not None:
        values += outside
    return values
