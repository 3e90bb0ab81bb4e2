"""Validation of images, labels and weights, and conversion of what users pass to NumPy arrays."""

from collections.abc import Callable, Mapping

import keras
import numpy as np
import numpy.typing as npt

from keras_ssl._types import Images, Structure

GRADE_NAMES = ("no DR", "mild", "moderate", "severe", "proliferative")

# 64 MiB of float32 at a time: a check of a memory-mapped set must not pull all of it into memory.
_CHUNK_VALUES = 1 << 24


def is_array(values: Structure) -> bool:
    """Return True if `values` is an array, `LazyImages` or a tensor, not a data set."""
    return hasattr(values, "shape") and hasattr(values, "dtype")


def as_numpy(values: Structure, name: str = "images") -> Images:
    """Convert tensors of any backend, columns of tables and lists of equal arrays to a NumPy array.

    NumPy arrays, memory-mapped ones included, and `LazyImages` are returned as they are; bfloat16 becomes
    float32.

    Args:
        values: tensor, list, column or array.
        name: name of the argument, for errors.

    Raises:
        ValueError: a list holds arrays of unequal shapes.

    >>> as_numpy([np.zeros((8, 8, 3)), np.ones((8, 8, 3))]).shape
    (2, 8, 8, 3)
    """
    if getattr(values, "is_lazy", False):
        return values
    if hasattr(values, "detach"):
        # PyTorch's, of any device; NumPy has no bfloat16.
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    if isinstance(values, (list, tuple)):
        return _stack(values, name)
    array = values
    if not isinstance(values, np.ndarray):
        own = keras.ops.is_tensor(values)
        array = keras.ops.convert_to_numpy(values) if own else np.asarray(values)
    if array.dtype == object and array.ndim == 1 and len(array) and is_image(array[0]):
        return _stack(list(array), name)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def is_image(value: Structure) -> bool:
    """Return True if `value` is an array or a Pillow image, which has no shape."""
    return is_array(value) or hasattr(value, "__array_interface__")


def rank_of(value: Structure) -> int | None:
    """Return the number of axes of an array, an image of Pillow or nested lists of numbers; `None` otherwise.

    >>> rank_of(np.zeros((2, 3))), rank_of([[1, 2], [3, 4]]), rank_of([np.zeros(2), 1])
    (2, 2, None)
    """
    if is_array(value):
        return len(value.shape)
    if is_image(value):
        return np.asarray(value).ndim
    if isinstance(value, list) and value:
        below = rank_of(value[0]) if isinstance(value[0], list) else 0 if np.isscalar(value[0]) else None
        return None if below is None else 1 + below
    return None


def _stack(values: list[Structure] | tuple[Structure, ...], name: str) -> np.ndarray:
    """Stack a list of equal arrays, or of numbers."""
    if any(is_image(value) for value in values):
        parts = [as_numpy(value, name) for value in values]
    else:
        try:
            return np.asarray(values)
        except ValueError:
            parts = [as_numpy(value, name) for value in values]
    shapes = list(dict.fromkeys(part.shape for part in parts))
    if len(shapes) > 1:
        more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
        raise ValueError(
            f"`{name}` must be of one shape to be stacked to an array. Received a list of {len(parts)} with "
            f"the shapes {', '.join(map(str, shapes[:3]))}{more}. Resize them, with data.Preparation or "
            "data.VolumePreparation say, or train on patches of one shape with data.PatchBatches."
        )
    return np.stack(parts)


def check_images(images: npt.ArrayLike, channels: int | None = None, rank: int | None = None) -> None:
    """Check the type, shape and values of a batch of images.

    Float images are read once, a chunk at a time, so a memory-mapped set stays on disk. Integer
    images are not read at all.

    Args:
        images: shape `(n, *spatial, channels)` with two or three spatial axes; integers or floats.
        channels: number of channels that is expected; any where `None`.
        rank: number of spatial axes that is expected, 2 or 3; either where `None`.

    Raises:
        ValueError: `images` are not numbers, have another rank or number of channels, are empty, or
            hold NaN or infinity.

    >>> import numpy as np
    >>> check_images(np.zeros((4, 32, 32, 3), "uint8"), channels=3, rank=2)
    >>> check_images(np.zeros((4, 32, 32), "uint8"))
    Traceback (most recent call last):
        ...
    ValueError: `images` must have shape (n, *spatial, channels) with 2 or 3 spatial axes. Received shape \
(4, 32, 32). Images without channels need their axis, np.asarray(images)[..., None]; a single image that of \
the batch, images[None].
    """
    if rank not in (None, 2, 3):
        raise ValueError(f"`rank` must be 2, 3 or None. Received {rank!r}.")
    images = np.asarray(images)
    if images.dtype.kind not in "buif":
        raise ValueError(f"`images` must hold integers or floats. Received dtype {images.dtype}.")
    ranks = (2, 3) if rank is None else (rank,)
    if images.ndim - 2 not in ranks:
        hint = _missing_axis(images.shape, channels) if images.ndim - 1 in ranks else ""
        raise ValueError(
            f"`images` must have shape (n, *spatial, channels) with {' or '.join(map(str, ranks))} spatial "
            f"axes. Received shape {images.shape}.{hint}"
        )
    if 0 in images.shape:
        raise ValueError(f"`images` must not be empty. Received shape {images.shape}.")
    if channels is not None and images.shape[-1] != channels:
        raise ValueError(
            f"`images` must have {channels} channels, last. Received shape {images.shape}."
            f"{_channels_hint(images.shape, channels)}"
        )
    _check_finite(images)


def _missing_axis(shape: tuple[int, ...], channels: int | None) -> str:
    """Return advice for images that lack one axis."""
    if channels is None:
        return (
            " Images without channels need their axis, np.asarray(images)[..., None]; a single image that of "
            "the batch, images[None]."
        )
    if shape[-1] == channels:
        return " A single image needs the axis of the batch: images[None]."
    if channels == 1:
        return " Add the axis of channels: np.asarray(images)[..., None]."
    repeated = f"np.repeat(np.asarray(images)[..., None], {channels}, axis=-1)"
    return f" Give gray images {channels} channels: {repeated}."


def _channels_hint(shape: tuple[int, ...], channels: int) -> str:
    """Return advice for images with the wrong number of channels."""
    if shape[1] == channels:
        return (
            " Their channels come first: pass `data_format='channels_first'` where it is an argument, or "
            "np.moveaxis(images, 1, -1)."
        )
    if shape[-1] == 1:
        return f" Repeat the gray values: np.repeat(images, {channels}, axis=-1)."
    return ""


def _check_finite(images: np.ndarray) -> None:
    if images.dtype.kind != "f":
        return
    step = max(1, _CHUNK_VALUES // max(1, images[0].size))
    for start in range(0, len(images), step):
        finite = np.isfinite(images[start : start + step]).all(axis=tuple(range(1, images.ndim)))
        if not finite.all():
            raise ValueError(
                "`images` must be finite. Received NaN or infinity, first in image "
                f"{start + int(np.argmin(finite))}."
            )


def check_labels(
    labels: npt.ArrayLike,
    num_classes: int | None = None,
    *,
    name: str = "labels",
    dtype: type[np.integer] | None = None,
    hint: str = "",
) -> np.ndarray:
    """Check that labels of any shape are whole numbers in range; return them as integers.

    Args:
        labels: integers, or floats that are whole. A memory-mapped array of integers stays on disk.
        num_classes: each label must lie in 0..`num_classes` - 1; where `None`, any that is not negative.
        name: name of the argument, for errors.
        dtype: integer type of the result; `None` keeps integers as they are and converts floats to int32.
        hint: advice at the end of the error about labels out of range.

    Raises:
        ValueError: labels are not whole numbers, NaN, or out of range. The message counts them, and lists
            the values of label maps.

    >>> check_labels([[0.0, 2.0]], num_classes=3).tolist()
    [[0, 2]]
    >>> check_labels([[0, 2]], num_classes=2)
    Traceback (most recent call last):
        ...
    ValueError: `labels` must be whole numbers in 0..1. Received 2 in row 0; all values: 0, 2.
    """
    values = np.asarray(labels)
    if values.dtype.kind not in "buif":
        raise ValueError(f"`{name}` must be whole numbers. Received dtype {values.dtype}.")
    limit = np.iinfo(dtype or np.int32).max
    highest = limit if num_classes is None else min(limit, num_classes - 1)
    rows = np.atleast_1d(values)
    step = max(1, _CHUNK_VALUES // max(1, rows[:1].size))
    chunks = [rows[start : start + step] for start in range(0, len(rows), step)]
    if not all(_in_range(chunk, highest).all() for chunk in chunks):
        allowed = "not negative" if num_classes is None else f"in 0..{highest}"
        raise ValueError(f"`{name}` must be whole numbers {allowed}. {_out_of_range(chunks, highest)}.{hint}")
    if dtype is not None:
        return values.astype(dtype, copy=False)
    return values.astype(np.int32) if values.dtype.kind == "f" else values


def _in_range(labels: np.ndarray, highest: int) -> np.ndarray | np.bool_:
    """Return which labels are whole numbers in 0..`highest`; for integers that all are, a single True."""
    if labels.dtype.kind != "f" and labels.min(initial=0) >= 0 and labels.max(initial=0) <= highest:
        return np.True_
    # NaN compares as false.
    return (labels >= 0) & (labels <= highest) & (labels == np.floor(labels))


def _out_of_range(chunks: list[np.ndarray], highest: int) -> str:
    """Describe the labels out of range: the first, its row, their number, and all values of label maps."""
    first, row, before, count = None, 0, 0, 0
    found: set[float] = set()
    for chunk in chunks:
        bad = ~np.broadcast_to(_in_range(chunk, highest), chunk.shape)
        if first is None and bad.any():
            first, row = chunk[bad][0], before + int(np.argmax(bad.reshape(len(chunk), -1).any(axis=1)))
        before += len(chunk)
        count += int(np.count_nonzero(bad))
        found.update(np.unique(chunk).tolist())
    more = f" and {count - 1} more" if count > 1 else ""
    values = ""
    if chunks[0].ndim > 1:
        values = f"; all values: {', '.join(f'{value:g}' for value in sorted(found)[:20])}"
        values += f" ... ({len(found)})" if len(found) > 20 else ""
    return f"Received {first} in row {row}{more}{values}"


def check_grades(
    grades: npt.ArrayLike,
    num_grades: int | None = None,
    several: bool = True,
    *,
    name: str = "grades",
    rows: int | None = None,
) -> np.ndarray:
    """Check grades or classes of images; return them as a flat array of integers.

    Args:
        grades: one whole number per image, shape `(n,)` or `(n, 1)`; floats that are whole are accepted. With
            `num_grades`, also one-hot rows, shape `(n, num_grades)`.
        num_grades: number of grades: each must lie in 0..`num_grades` - 1; where `None`, any that is not
            negative.
        several: whether there must be more than one grade, as in a training set.
        name: name of the argument, for errors.
        rows: number of grades that is expected; any where `None`.

    Returns:
        int64, shape `(n,)`.

    Raises:
        ValueError: `grades` are of another shape or length, empty, not whole numbers, NaN, out of range, soft
            (rows that are not one-hot), or, with `several`, all the same.

    >>> check_grades([[0.0], [2.0], [4.0]], num_grades=5).tolist()
    [0, 2, 4]
    >>> check_grades([0, 1, 5], num_grades=5)
    Traceback (most recent call last):
        ...
    ValueError: `grades` must be whole numbers in 0..4. Received 5 in row 2.
    """
    values = np.asarray(grades)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.shape[1] > 1 and len(values) and values.dtype.kind in "buif":
        values = _from_one_hot(values, num_grades, name)
    if values.ndim != 1:
        raise ValueError(f"`{name}` must have shape (n,) or (n, 1). Received shape {values.shape}.")
    if not len(values):
        raise ValueError(f"`{name}` must not be empty. Received none.")
    if rows is not None and len(values) != rows:
        raise ValueError(f"`{name}` must be one per image. Received {len(values)} for {rows} images.")
    whole = check_labels(values, num_grades, name=name, dtype=np.int64)
    if several and (whole == whole[0]).all():
        raise ValueError(
            f"`{name}` must hold more than one grade: there is nothing to learn. Received {len(whole)} "
            f"times grade {whole[0]}."
        )
    return whole


def _from_one_hot(rows: np.ndarray, num_grades: int | None, name: str) -> np.ndarray:
    """Return the grades of one-hot rows."""
    if rows.shape[1] != num_grades:
        wanted = "" if num_grades is None else f", or one-hot rows of shape (n, {num_grades})"
        raise ValueError(
            f"`{name}` must have shape (n,) or (n, 1){wanted}. Received shape {rows.shape}. One-hot rows "
            f"become grades by {name}.argmax(axis=1), cumulative ones by {name}.sum(axis=1) or one less."
        )
    one_hot = ((rows == 0) | (rows == 1)).all(axis=1) & (rows.sum(axis=1) == 1)
    if not one_hot.all():
        row = int(np.argmin(one_hot))
        raise ValueError(
            f"`{name}` of several columns must be one-hot, a single 1 among zeros. Received "
            f"{rows[row].tolist()} in row {row}. Soft labels become grades by {name}.argmax(axis=1), rows of "
            f"several ones by {name}.sum(axis=1) - 1."
        )
    return rows.argmax(axis=1)


def check_masks(masks: npt.ArrayLike, num_classes: int, foreground: bool = False) -> np.ndarray:
    """Check a batch of label maps; return them as integers without an axis of channels.

    Args:
        masks: a whole number per pixel or voxel, shape `(n, *spatial)` or `(n, *spatial, 1)` with two or
            three spatial axes; floats that are whole are accepted. A memory-mapped array of integers stays on
            disk.
        num_classes: number of classes: each label must lie in 0..`num_classes` - 1.
        foreground: whether some labels must be more than background, class 0, as in a training set.

    Returns:
        Integers, shape `(n, *spatial)`: those given, or int32 where floats were.

    Raises:
        ValueError: `masks` are of another shape, empty, not whole numbers, NaN, out of range, or, with
            `foreground`, nothing but background.

    >>> check_masks(np.ones((2, 8, 8, 1)), num_classes=2).shape
    (2, 8, 8)
    """
    values = np.asarray(masks)
    if values.ndim in (4, 5) and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim not in (3, 4) or 0 in values.shape:
        raise ValueError(
            "`masks` must have shape (n, *spatial) or (n, *spatial, 1) with 2 or 3 spatial axes, and not be "
            f"empty. Received shape {np.shape(masks)}."
        )
    hint = " Masks that are stored as 0 and 255 become classes by masks == 255."
    values = check_labels(values, num_classes, name="masks", hint=hint)
    if foreground and not any(mask.any() for mask in values):
        raise ValueError(
            f"`masks` must hold more than background: there is nothing to learn. Received {len(values)} that "
            "are 0 everywhere."
        )
    return values


def check_weights(weights: npt.ArrayLike, name: str = "sample_weight") -> np.ndarray:
    """Check weights of images; return them as a flat array.

    Args:
        weights: one number per image, shape `(n,)` or `(n, 1)`.
        name: name of the argument, for errors.

    Raises:
        ValueError: they are of another shape, negative, NaN or infinite.

    >>> check_weights([[1], [0.5]]).tolist()
    [1.0, 0.5]
    """
    values = np.asarray(weights)
    if values.ndim == 0 or values.size != len(values) or values.dtype.kind not in "buif":
        raise ValueError(
            f"`{name}` must be one number per image, of shape (n,) or (n, 1). "
            f"Received shape {values.shape} of {values.dtype}."
        )
    flat = values.reshape(-1).astype("float32")
    bad = np.flatnonzero(~(np.isfinite(flat) & (flat >= 0)))
    if len(bad):
        raise ValueError(
            f"`{name}` must be finite and not negative. Received {flat[bad[0]]} in row {bad[0]}"
            f"{f' and {len(bad) - 1} more' if len(bad) > 1 else ''}."
        )
    return flat


def class_weigher(
    class_weight: Mapping[int, float], num_classes: int, head: str
) -> Callable[[npt.ArrayLike], np.ndarray]:
    """Return the function from labels to the weights of their classes.

    Args:
        class_weight: weight by class; 1 where none is given.
        num_classes: number of classes, 0 where labels are none.
        head: name of what is trained, for the error.

    Raises:
        ValueError: there are no classes, one is unknown, or a weight is negative, NaN or infinite.

    >>> class_weigher({1: 5.0}, 2, "OrdinalHead")([0, 1, 1]).tolist()
    [1.0, 5.0, 5.0]
    """
    if not isinstance(class_weight, Mapping):
        raise ValueError(f"`class_weight` must be a dictionary, weight by class. Received {class_weight!r}.")
    if not num_classes:
        raise ValueError(
            f"`class_weight` must be None for a {head}, whose labels are no classes of images. For masks use "
            "a loss with `class_weights`, such as losses.WeightedCategoricalCrossentropy."
        )
    unknown = [key for key in class_weight if key not in range(num_classes)]
    if unknown:
        raise ValueError(f"`class_weight` must have keys in 0..{num_classes - 1}. Received {unknown}.")
    weights = check_weights([class_weight.get(each, 1.0) for each in range(num_classes)], "class_weight")
    if not weights.any():
        raise ValueError(f"`class_weight` must be above 0 for some class. Received {dict(class_weight)}.")
    return lambda labels: weights[check_grades(labels, num_classes, several=False)]
