"""Rotation of image batches by quarter turns, in two or three dimensions, equal to `numpy.rot90`."""

from collections.abc import Callable, Sequence
from typing import Literal

import keras
from keras import ops

from keras_ssl._types import Plane, Rotation, Seed, Tensor
from keras_ssl.preprocessing.resampling import all_planes, center_crop


def quarter_turns(
    rank: int,
    rotations: Literal["planar", "cube"] | None = None,
    axes: Sequence[Plane] | None = None,
) -> tuple[Rotation, ...]:
    """Return the rotations by quarter turns in the order of their labels; label 0 is no rotation.

    Args:
        rank: number of spatial axes, 2 or 3.
        rotations: `"planar"`, the default: no rotation, then one, two and three quarter turns in each plane,
            so 4 in 2D and 10 in 3D. `"cube"`, 3D only: all 24 rotations that map a cube to itself, label
            `4 * tilt + spin`, where a spin in plane (1, 2) is followed by one of six tilts.
        axes: planes of rotation, pairs of spatial axes, numbered from 0 without the batch axis, in increasing
            order; `None` for all. For volumes with thick slices along axis 0, `((1, 2),)` rotates within the
            slices only. Not with `"cube"`.

    Returns:
        Tuple of rotations. Each is a tuple of `(k, (first, second))`, meaning
        `np.rot90(image, k, axes=(first, second))`, one after the other; the empty tuple is no rotation.

    Raises:
        ValueError: another rank, an unknown name, `"cube"` in 2D or with `axes`, or invalid planes.

    >>> quarter_turns(2)
    ((), ((1, (0, 1)),), ((2, (0, 1)),), ((3, (0, 1)),))
    >>> len(quarter_turns(3)), len(quarter_turns(3, "cube")), len(quarter_turns(3, axes=[(1, 2)]))
    (10, 24, 4)

    References:
        Gidaris, S. et al. (2018). Unsupervised representation learning by predicting image rotations. ICLR.
        Taleb, A. et al. (2020). 3D self-supervised methods for medical imaging. NeurIPS.
    """
    if rank not in (2, 3):
        raise ValueError(f"Images must have two or three spatial axes to be rotated. Received {rank}.")
    if rotations not in (None, "planar", "cube"):
        raise ValueError(f'`rotations` must be None, "planar" or "cube". Received {rotations!r}.')
    if rotations == "cube":
        if rank == 2 or axes is not None:
            raise ValueError(
                '`rotations="cube"` takes volumes and rotates them in all planes. '
                f"Received {rank} spatial axes and axes={axes}."
            )
        tilts: list[Rotation] = [(), *(((k, (0, 1)),) for k in (1, 2, 3)), *(((k, (0, 2)),) for k in (1, 3))]
        spins: list[Rotation] = [(), *(((k, (1, 2)),) for k in (1, 2, 3))]
        return tuple(spin + tilt for tilt in tilts for spin in spins)
    every = all_planes(rank)
    planes = every if axes is None else tuple(tuple(plane) for plane in axes)
    if not planes or len(set(planes)) < len(planes) or not set(planes) <= set(every):
        raise ValueError(
            f"`axes` must be one or more different planes out of {every}, pairs of spatial axes in "
            f"increasing order. Received {axes}."
        )
    return ((), *(((k, (a, b)),) for a, b in planes for k in (1, 2, 3)))


def rotated_axes(turns: Sequence[Rotation]) -> tuple[int, ...]:
    """Return the spatial axes, numbered from 0, of the planes of the rotations.

    >>> rotated_axes(quarter_turns(3, axes=[(1, 2)]))
    (1, 2)
    """
    return tuple(sorted({axis for rotation in turns for _, plane in rotation for axis in plane}))


def square_shape(
    shape: Sequence[int | None], turns: Sequence[Rotation], fit: Literal["crop"] | None = None
) -> tuple[int, ...]:
    """Return the spatial shape that images must be cropped to, so that rotations keep it.

    Args:
        shape: shape of the images, `(batch, *spatial, channels)`.
        turns: rotations from `quarter_turns`.
        fit: `None` or `"crop"`, as in `rotate`.

    Returns:
        The spatial shape in which all rotated axes have the size of the shortest of them.

    Raises:
        ValueError: a spatial size is unknown, or rotated axes differ in size and `fit` is `None`.

    >>> square_shape((None, 32, 40, 3), quarter_turns(2), fit="crop")
    (32, 32)
    """
    if fit not in (None, "crop"):
        raise ValueError(f'`fit` must be None or "crop". Received {fit!r}.')
    axes = rotated_axes(turns)
    spatial = [size for size in shape[1:-1] if size is not None]
    if len(spatial) < len(shape) - 2:
        raise ValueError(f"`images` must have a known spatial shape. Received shape {tuple(shape)}.")
    sizes = {size for axis, size in enumerate(spatial) if axis in axes}
    if fit is None and len(sizes) > 1:
        raise ValueError(
            f"`images` must be square in the rotated plane, here along spatial axes {axes}. "
            f"Received shape {tuple(shape)}. Crop or pad first, choose `axes` of equal size such as "
            '((0, 2),), or pass fit="crop" for an encoder of the cropped shape.'
        )
    return tuple(min(sizes) if axis in axes else size for axis, size in enumerate(spatial))


def rotate(
    images: Tensor,
    labels: Tensor,
    rotations: Literal["planar", "cube"] | None = None,
    axes: Sequence[Plane] | None = None,
    fit: Literal["crop"] | None = None,
) -> Tensor:
    """Rotate each image of a batch by quarter turns, according to its label.

    Runs in compiled models on every backend and, on TensorFlow, in `tf.data`. Pixels are moved, not
    interpolated: any dtype, the same values.

    Args:
        images: tensor or array `(batch, *spatial, channels)`, two or three spatial axes, with equal sizes
            in the planes of rotation.
        labels: integers `(batch,)`, from 0 to the number of rotations minus 1.
        rotations: set of rotations, see `quarter_turns`. In 2D, label k is
            `np.rot90(image, k, axes=(0, 1))`.
        axes: planes of rotation, see `quarter_turns`.
        fit: `"crop"` crops the center of images that are not square in the rotated plane.

    Returns:
        Images of the same dtype and the same shape, or cropped.

    Raises:
        ValueError: images are not square in the rotated plane; or as `quarter_turns`.

    >>> import numpy as np
    >>> images = np.arange(8).reshape(2, 2, 2, 1)
    >>> np.asarray(rotate(images, [0, 1]))[..., 0].tolist()
    [[[0, 1], [2, 3]], [[5, 7], [4, 6]]]
    """
    images, turns = _prepare(images, rotations, axes, fit)
    labels = ops.cast(labels, "int32")

    # One image at a time: gathering pixels, or selecting between all rotations of the batch, is several
    # times slower on one backend or another.
    def branch(rotation: Rotation) -> Callable[[Tensor], Tensor]:
        return lambda index: _turn(images[index], rotation)

    branches = [branch(rotation) for rotation in turns]
    rotated = ops.map(
        lambda index: ops.switch(labels[index], branches, index), ops.arange(ops.shape(images)[0])
    )
    return ops.reshape(rotated, ops.shape(images))


def random_rotate(
    images: Tensor,
    seed: Seed,
    rotations: Literal["planar", "cube"] | None = None,
    axes: Sequence[Plane] | None = None,
    fit: Literal["crop"] | None = None,
) -> tuple[Tensor, Tensor]:
    """Rotate each image of a batch by random quarter turns, all rotations equally likely.

    Args:
        images: as in `rotate`.
        seed: seed of the labels.
        rotations: set of rotations, see `quarter_turns`.
        axes: planes of rotation, see `quarter_turns`.
        fit: as in `rotate`.

    Returns:
        `(rotated, labels)`, labels int32 `(batch,)`; `rotated` equals `rotate(images, labels)`.

    Raises:
        ValueError: as `rotate`.

    >>> import numpy as np
    >>> rotated, labels = random_rotate(np.zeros((5, 8, 8, 3)), seed=0)
    >>> tuple(rotated.shape), tuple(labels.shape)
    ((5, 8, 8, 3), (5,))
    """
    images, turns = _prepare(images, rotations, axes, fit)
    labels = keras.random.randint((ops.shape(images)[0],), 0, len(turns), seed=seed)
    return rotate(images, labels, rotations, axes), labels


def rotate_all(
    images: Tensor,
    rotations: Literal["planar", "cube"] | None = None,
    axes: Sequence[Plane] | None = None,
    fit: Literal["crop"] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return every rotation of every image, those of one image next to each other.

    Args:
        images: as in `rotate`.
        rotations: set of rotations, see `quarter_turns`.
        axes: planes of rotation, see `quarter_turns`.
        fit: as in `rotate`.

    Returns:
        `(rotated, labels)`, larger by the number of rotations; labels int32.

    Raises:
        ValueError: as `rotate`.

    >>> import numpy as np
    >>> rotated, labels = rotate_all(np.zeros((2, 8, 8, 3)))
    >>> tuple(rotated.shape), np.asarray(labels).tolist()
    ((8, 8, 8, 3), [0, 1, 2, 3, 0, 1, 2, 3])
    """
    images, turns = _prepare(images, rotations, axes, fit)
    rotated = ops.stack([_turn(images, rotation, batch_axes=1) for rotation in turns], axis=1)
    labels = ops.tile(ops.arange(len(turns), dtype="int32"), [ops.shape(images)[0]])
    return ops.reshape(rotated, (-1, *images.shape[1:])), labels


def _prepare(
    images: Tensor,
    rotations: Literal["planar", "cube"] | None,
    axes: Sequence[Plane] | None,
    fit: Literal["crop"] | None,
) -> tuple[Tensor, tuple[Rotation, ...]]:
    images = ops.convert_to_tensor(images)
    turns = quarter_turns(len(images.shape) - 2, rotations, axes)
    return center_crop(images, square_shape(images.shape, turns, fit)), turns


def _turn(image: Tensor, rotation: Rotation, batch_axes: int = 0) -> Tensor:
    for k, (first, second) in rotation:
        image = _quarter_turns_in_plane(image, k, first + batch_axes, second + batch_axes)
    return image


def _quarter_turns_in_plane(image: Tensor, k: int, first: int, second: int) -> Tensor:
    # No flip along the last spatial axis, for which TensorFlow takes ten times longer than for others.
    if k == 1:
        return ops.flip(_swap(image, first, second), first)
    if k == 3:
        return _swap(ops.flip(image, first), first, second)
    # Reversing all pixels from axis `first` to `second` flips both, and the axis between them, in one step.
    shape = ops.shape(image)
    pixels = ops.reshape(image, (*shape[:first], -1, *shape[second + 1 :]))
    flipped = ops.reshape(ops.flip(pixels, first), shape)
    return flipped if second == first + 1 else ops.flip(flipped, first + 1)


def _swap(image: Tensor, first: int, second: int) -> Tensor:
    order = list(range(len(image.shape)))
    if second - first == 2:
        # In two steps: in one, TensorFlow takes twice as long for 128 x 128 x 128, as reads are far apart.
        order[first : second + 1] = first + 1, second, first
        image = ops.transpose(image, order)
        return _swap(image, first, first + 1)
    order[first], order[second] = second, first
    return ops.transpose(image, order)
