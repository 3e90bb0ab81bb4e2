"""Resampling of images: affine transforms, elastic deformation, crops."""

from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np
from keras import ops

from keras_ssl._types import Plane, Tensor
from keras_ssl.preprocessing._compilation import compiled, floating_dtype, optimization_barrier

Interpolation = Literal["linear", "nearest"]
Fill = Literal["edge", "minimum"] | float


def affine_matrices(
    rank: int,
    *,
    flips: Tensor | None = None,
    turns: Tensor | None = None,
    angles: Tensor | None = None,
    scales: Tensor | None = None,
    shifts: Tensor | None = None,
    planes: Sequence[Plane] | None = None,
) -> Tensor:
    """Compose the matrices of flips, quarter turns, rotation, scaling and shift, in this order.

    The matrices map output to input coordinates, as `resample` takes them: a matrix times a position in the
    output, extended by 1, is the position in the input. Positions are in voxels, counted from the center of
    the image; voxels are taken to be cubes.

    Args:
        rank: number of spatial axes, 2 or 3.
        flips: booleans `(batch, rank)`, axes to flip.
        turns: integers `(batch, planes)`, quarter turns in each plane, as in `np.rot90`.
        angles: `(batch, planes)`, rotation in each plane in degrees, in the direction of `turns`.
        scales: `(batch,)` or `(batch, rank)`, scaling factors above 0; above 1 enlarges.
        shifts: `(batch, rank)`, shift in voxels towards the end of each axis.
        planes: planes of `turns` and `angles`, pairs of spatial axes, applied one after the other; `None` for
            all pairs: (0, 1), and in 3D (0, 2) and (1, 2).

    Returns:
        Float32 tensor `(batch, rank, rank + 1)`, exact for flips and quarter turns.

    Raises:
        ValueError: nothing is given, or an argument does not have the shape above.

    >>> import numpy as np
    >>> np.asarray(affine_matrices(2, scales=[2.0], shifts=[[4.0, 2.0]])).tolist()
    [[[0.5, 0.0, -2.0], [0.0, 0.5, -1.0]]]
    """
    planes = all_planes(rank) if planes is None else planes
    given = {
        "flips": (flips, (rank,)),
        "turns": (turns, (len(planes),)),
        "angles": (angles, (len(planes),)),
        "scales": (scales, (rank,) if scales is None or len(np.shape(scales)) != 1 else ()),
        "shifts": (shifts, (rank,)),
    }
    values = {
        name: _checked(name, value, shape) for name, (value, shape) in given.items() if value is not None
    }
    if not values:
        raise ValueError(f"At least one of {', '.join(f'`{name}`' for name in given)} must be given.")
    batch = ops.shape(next(iter(values.values())))[0]
    # A column is the step in the input for a step along an axis of the output. A rotation mixes two columns:
    # not a matrix product, which has low precision on some devices.
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
        # Not a reshape: TensorFlow would lose the number of factors if the batch size is unknown.
        factors = values["scales"] if len(values["scales"].shape) == 2 else values["scales"][:, None]
        columns = [column / factors[:, axis % factors.shape[1], None] for axis, column in enumerate(columns)]
    offset = ops.zeros((batch, rank))
    if shifts is not None:
        offset = -sum(column * values["shifts"][:, axis, None] for axis, column in enumerate(columns))
    return ops.stack([*columns, offset], axis=-1)


def all_planes(rank: int) -> tuple[Plane, ...]:
    """Return all pairs of spatial axes.

    >>> all_planes(3)
    ((0, 1), (0, 2), (1, 2))
    """
    return tuple((a, b) for a in range(rank) for b in range(a + 1, rank))


def _checked(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    values = ops.cast(value, "float32")
    if tuple(values.shape[1:]) != shape or not len(values.shape):
        raise ValueError(
            f"`{name}` must have shape ({', '.join(('batch', *map(str, shape)))}). "
            f"Received shape {tuple(values.shape)}."
        )
    return values


def _rotated(columns: list[Tensor], cosines: Tensor, sines: Tensor, planes: Sequence[Plane]) -> list[Tensor]:
    columns = list(columns)
    for number, (a, b) in enumerate(planes):
        cos, sin = cosines[:, number, None], sines[:, number, None]
        columns[a], columns[b] = cos * columns[a] - sin * columns[b], sin * columns[a] + cos * columns[b]
    return columns


def center_crop(images: Tensor, spatial_shape: Sequence[int]) -> Tensor:
    """Crop the center of every image; an odd pixel is cut off at the end of the axis.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        spatial_shape: size of the crop along each spatial axis.

    Returns:
        Tensor `(batch, *spatial_shape, channels)`.

    Raises:
        ValueError: `spatial_shape` has another rank than the images, or is larger.

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


def zoom_crop(images: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """Crop every image and enlarge the crop to the image's size, with linear interpolation.

    All spatial axes are treated alike: a crop commutes with flips and quarter turns, if its offsets are
    flipped or turned, too.

    Args:
        images: tensor `(batch, *spatial, channels)`.
        scales: `(batch,)`, side of the crop as a fraction of the image's, in (0, 1].
        offsets: `(batch, spatial axes)`, place of the crop, from -1 at the start of the axis to 1 at its end.

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
        # Move the next spatial axis to the sampled place; after the last one, the order is the old one.
        pixels = ops.transpose(pixels, (0, *range(2, rank + 1), 1, rank + 1))
    return ops.cast(pixels, dtype)


def _sample_lines(pixels: Tensor, size: int, positions: Tensor) -> Tensor:
    """Interpolate along axis 1, of length `size`, at positions `(batch, size)`."""
    shape = ops.shape(pixels)
    before = ops.minimum(ops.floor(positions), max(size - 2, 0))
    # Gathering whole lines is many times faster than gathering pixels.
    lines = ops.reshape(pixels, (shape[0] * size, -1))
    first = ops.expand_dims(ops.arange(shape[0], dtype="int32") * size, 1)
    index = ops.cast(before, "int32") + first
    near, far = ops.take(lines, index, axis=0), ops.take(lines, index + min(size - 1, 1), axis=0)
    return ops.reshape(near + (far - near) * ops.expand_dims(positions - before, 2), shape)


def resample(
    images: Tensor,
    matrices: Tensor,
    output_shape: Sequence[int] | None = None,
    *,
    displacement: Tensor | None = None,
    interpolation: Interpolation = "linear",
    fill: Fill = "edge",
) -> Tensor:
    """Apply affine transforms and an elastic deformation to images, in one resampling.

    Each voxel of the output is displaced first and then mapped by the matrix of its image to the position
    where the image is sampled. Backends give the same values up to rounding; on PyTorch, the error of linear
    interpolation is about 1e-7 of the contrast per voxel of the image's side.

    Args:
        images: tensor `(batch, *spatial, channels)`, two or three spatial axes.
        matrices: `(batch, rank, rank + 1)`, from positions in the output to positions in the image, in voxels
            from the centers; see `affine_matrices`.
        output_shape: spatial shape of the output; a smaller one crops around the center. `None` for that of
            the images.
        displacement: `(batch, rank, *grid)`, displacement in voxels of a grid of control points over the
            output, at least 4 along each axis, interpolated by cubic B-splines: `grid - 3` intervals along an
            axis, and one more point beyond each end. No voxel moves further than the points. `None` for none.
        interpolation: `"linear"`, or `"nearest"` for labels.
        fill: value outside the image; linear interpolation approaches it within one voxel of the border.
            `"edge"` repeats the value at the border, `"minimum"` is the smallest value of each channel.

    Returns:
        Tensor `(batch, *output_shape, channels)`. `"nearest"` keeps the dtype; `"linear"` keeps that of
        floating images, others become float32.

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


def check_fill(fill: Fill) -> None:
    """Validate the argument `fill` of `resample`."""
    if fill not in ("edge", "minimum") and not (isinstance(fill, (int, float)) and np.isfinite(fill)):
        raise ValueError(f'`fill` must be "edge", "minimum" or a finite number. Received {fill!r}.')


def _resample(
    shape: tuple[int, ...],
    interpolation: Interpolation,
    fill: Fill,
    images: Tensor,
    matrices: Tensor,
    displacement: Tensor | None,
) -> Tensor:
    if interpolation == "nearest":
        positions = _input_positions(images, matrices, displacement, shape, 0.5)
        return optimization_barrier(_nearest(images, positions, _outside(images, fill)))
    values = ops.cast(images, "float32")
    outside = _outside(values, fill)
    if keras.backend.backend() == "torch":
        sampled = _torch_linear(values, matrices, displacement, shape, outside)
    else:
        sampled = _linear(values, _input_positions(values, matrices, displacement, shape, 0.0), outside)
    return optimization_barrier(ops.cast(sampled, floating_dtype(images)))


def _outside(images: Tensor, fill: Fill) -> Tensor | None:
    """Return the value outside the images; `None` repeats that at the edge."""
    if fill == "edge":
        return None
    if fill == "minimum":
        return ops.min(images, axis=tuple(range(1, len(images.shape) - 1)), keepdims=True)
    return ops.cast(fill, images.dtype)


def _positions(matrices: Tensor, displacement: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Return the input position of each voxel of the output, `(batch, rank, *shape)`, from the center."""
    rank = len(shape)
    rows = matrices.shape[1]

    def column(axis: int) -> Tensor:
        return ops.reshape(matrices[:, :, axis], (-1, rows, *(1,) * rank))

    def along(axis: int) -> Tensor:
        steps = ops.arange(shape[axis], dtype="float32") - (shape[axis] - 1) / 2
        return column(axis) * ops.reshape(steps, (-1, *(1,) * (rank - 1 - axis)))

    # Add up all axes but the first while the tensors are small.
    positions = sum((along(axis) for axis in range(1, rank)), start=column(rank))
    if displacement is None:
        return along(0) + positions
    # Apply the matrix to the control points, which are few.
    points = ops.matmul(matrices[:, :, :rank], ops.reshape(displacement, (-1, rank, _count(displacement))))
    field = ops.reshape(points, (-1, rows, *displacement.shape[2:]))
    for size in shape:
        # The first remaining axis becomes the last: after all of them, the order is the old one.
        field = ops.tensordot(field, _spline_weights(field.shape[2], size), axes=[[2], [0]])
    # In place on backends that support it.
    field += along(0)
    field += positions
    return field


def _count(displacement: Tensor) -> int:
    return int(np.prod(displacement.shape[2:]))


def _spline_weights(points: int, size: int) -> np.ndarray:
    """Return the B-spline weight of each control point at each voxel of an axis, `(points, size)`."""
    place = (np.arange(size) + 0.5) / size * (points - 3)
    first = np.floor(place).astype(int)
    t = place - first
    weights = np.zeros((points, size), "float32")
    cubics = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for neighbor, cubic in enumerate(cubics):
        weights[first + neighbor, np.arange(size)] = cubic / 6
    return weights


def _input_positions(
    images: Tensor, matrices: Tensor, displacement: Tensor | None, shape: tuple[int, ...], start: float
) -> list[Tensor]:
    """Return the input position of each voxel along each axis, `(batch, *shape)`, counted from `start`."""
    # One axis at a time: XLA then fuses each into its use instead of storing all of them.
    places = []
    for axis, size in enumerate(images.shape[1:-1]):
        center = np.zeros(matrices.shape[2], "float32")
        center[-1] = (size - 1) / 2 + start
        row = matrices[:, axis : axis + 1] + ops.convert_to_tensor(center)
        places.append(_positions(row, displacement, shape)[:, 0])
    return places


def _nearest(images: Tensor, places: list[Tensor], outside: Tensor | None) -> Tensor:
    """Gather the voxels that contain the places; the first voxel of an axis reaches from 0 to 1."""
    inside: Tensor = True
    index = _image_numbers(images)
    for place, size in zip(places, images.shape[1:-1], strict=True):
        # Truncated, so that ties go up on every backend; `round` would round them to even numbers.
        within = ops.clip(place, 0.0, float(np.nextafter(np.float32(size), np.float32(0))))
        index = index * size + ops.cast(within, "int32")
        if outside is not None:
            inside = ops.logical_and(inside, within == place)
    values = gather_voxels(images, index)
    return values if outside is None else ops.where(ops.expand_dims(inside, -1), values, outside)


def _linear(images: Tensor, places: list[Tensor], outside: Tensor | None) -> Tensor:
    """Interpolate between the 4 or 8 voxels around each place."""
    sizes = images.shape[1:-1]
    coverage: Tensor = 1.0
    index, fractions, strides = _image_numbers(images), [], []
    for axis, (place, size) in enumerate(zip(places, sizes, strict=True)):
        # Weight of the image at the place; the constant outside has the rest.
        coverage = coverage * ops.clip(ops.minimum(place + 1.0, size - place), 0.0, 1.0)
        place = ops.clip(place, 0.0, size - 1.0)
        near = ops.minimum(ops.floor(place), float(max(size - 2, 0)))
        index = index * size + ops.cast(near, "int32")
        fractions.append(ops.expand_dims(place - near, -1))
        strides.append(int(np.prod(sizes[axis + 1 :])) if size > 1 else 0)

    def along(axis: int, offset: int) -> Tensor:
        if axis == len(sizes):
            return gather_voxels(images, index + offset)
        near, far = along(axis + 1, offset), along(axis + 1, offset + strides[axis])
        return near + (far - near) * fractions[axis]

    values = along(0, 0)
    return values if outside is None else outside + (values - outside) * ops.expand_dims(coverage, -1)


def _image_numbers(images: Tensor) -> Tensor:
    """Return the numbers 0, 1, ... of the images, with the rank of an index into their voxels."""
    return ops.reshape(ops.arange(ops.shape(images)[0], dtype="int32"), (-1, *(1,) * (len(images.shape) - 2)))


def gather_voxels(images: Tensor, index: Tensor) -> Tensor:
    """Gather voxels, with all channels, by indices that run through the whole batch."""
    voxels = ops.reshape(images, (-1, images.shape[-1]))
    if keras.backend.backend() == "jax":
        return voxels.at[index].get(mode="promise_in_bounds")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(voxels, index)
    return ops.reshape(voxels.index_select(0, index.reshape(-1)), (*index.shape, voxels.shape[1]))


def _torch_linear(
    images: Tensor,
    matrices: Tensor,
    displacement: Tensor | None,
    shape: tuple[int, ...],
    outside: Tensor | None,
) -> Tensor:
    """Interpolate with PyTorch's own kernel; without a compiler, eight gathers take several times longer."""
    import torch
    from torch.nn.functional import grid_sample

    # It expects the last axis first, and positions from -1 to 1 between the outer faces of the image.
    scale = ops.convert_to_tensor(2 / np.array(images.shape[1:-1], "float32"))
    matrices = (matrices * scale[:, None]).flip(1)
    grid = _positions(matrices, displacement, shape).movedim(1, -1)
    values = (images if outside is None else images - outside).movedim(-1, 1)
    padding = "border" if outside is None else "zeros"
    # In parts: a rotated volume is read across all its rows, which would not stay in the cache otherwise.
    parts = [
        grid_sample(values, part, mode="bilinear", padding_mode=padding, align_corners=False)
        for part in grid.split(16 if len(shape) == 3 else shape[1], dim=2)
    ]
    values = torch.cat(parts, dim=3).movedim(1, -1)
    if outside is not None:
        values += outside
    return values
