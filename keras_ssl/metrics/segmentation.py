"""How far label maps agree, class by class: voxels counted whole, then Dice and Jaccard from the counts."""

from typing import Any

import numpy as np
import numpy.typing as npt

# Voxels counted at a time: what is made on the way takes some megabytes, whatever the volume's size.
_CHUNK = 2**20


def label_confusion(true: npt.ArrayLike, predicted: npt.ArrayLike, num_classes: int) -> np.ndarray:
    """Count how often each class met each.

    The maps are gone through in pieces, so memory-mapped volumes are never held whole. Counts of several
    volumes may be added up.

    Args:
        true: label map of any shape, whole numbers in 0..`num_classes` - 1, of any dtype.
        predicted: label map of the same shape.
        num_classes: how many classes there are, at least 2, the background (0) among them.

    Returns:
        Voxels, int64 `(num_classes, num_classes)`, rows true, columns predicted; exact for any volume.

    Raises:
        ValueError: shapes differ, `num_classes` is below 2, or a label is no class.

    >>> label_confusion([[0, 1], [2, 2]], [[0, 1], [1, 2]], num_classes=3).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2. Received {num_classes}.")
    maps = [np.asarray(true), np.asarray(predicted)]
    check_same_shape(*maps)
    counts = np.zeros(num_classes**2, np.int64)
    for chunks in np.nditer(maps, ["external_loop", "buffered", "zerosize_ok"], buffersize=_CHUNK):
        for name, labels in zip(("true", "predicted"), chunks, strict=True):
            check_labels(name, labels, num_classes)
        rows, columns = (labels.astype(np.intp) for labels in chunks)
        counts += np.bincount(rows * num_classes + columns, minlength=len(counts))
    return counts.reshape(num_classes, num_classes)


def dice_scores(confusion: npt.ArrayLike) -> np.ndarray:
    """Dice coefficient of each class: twice what both hold, over what they hold in sum.

    Args:
        confusion: counts, shape `(..., classes, classes)`, rows true, columns predicted, as
            `label_confusion` gives. Leading axes hold further matrices, one a volume say.

    Returns:
        float64 `(..., classes)`, in [0, 1]. A class that is absent from both maps is nan, since there was
        nothing to find and nothing was found; absent from one of them, 0.

    Raises:
        ValueError: `confusion` is not square, of two or more classes.

    >>> confusion = label_confusion([0, 1, 1, 1], [0, 0, 1, 1], num_classes=4)
    >>> dice_scores(confusion).round(3).tolist()
    [0.667, 0.8, nan, nan]

    References:
        Dice, L. R. (1945). Measures of the amount of ecologic association between species. Ecology 26(3).
    """
    both, true, predicted = _voxels(confusion)
    return _ratio(2 * both, true + predicted)


def jaccard_scores(confusion: npt.ArrayLike) -> np.ndarray:
    """Jaccard index of each class: what both hold, over what either holds.

    Args:
        confusion: as in `dice_scores`.

    Returns:
        float64 `(..., classes)`, in [0, 1]; absent classes as in `dice_scores`.

    Raises:
        ValueError: as `dice_scores`.

    >>> confusion = label_confusion([0, 1, 1, 1], [0, 0, 1, 1], num_classes=3)
    >>> jaccard_scores(confusion).round(3).tolist()
    [0.5, 0.667, nan]
    """
    both, true, predicted = _voxels(confusion)
    return _ratio(both, true + predicted - both)


def mean_dice(confusion: npt.ArrayLike, include_background: bool = False) -> Any:
    """Dice averaged over the classes that occur.

    Args:
        confusion: as in `dice_scores`.
        include_background: whether class 0 is part of the mean. It is by far the largest in most volumes,
            and its Dice close to 1 whatever a network finds.

    Returns:
        float64 of shape `(...)`, a scalar for one matrix, in [0, 1]. Classes absent from both maps are left
        out; nan where there are no others.

    Raises:
        ValueError: as `dice_scores`.

    >>> confusion = label_confusion([0, 0, 1, 1, 1], [0, 2, 0, 1, 1], num_classes=4)
    >>> round(float(mean_dice(confusion)), 3)  # of 0.8, 0 and nan
    0.4
    """
    return mean_of_present(dice_scores(confusion)[..., 0 if include_background else 1 :])


def mean_of_present(scores: npt.ArrayLike) -> Any:
    """Mean over the last axis without nan, which marks what is absent; nan where nothing is present."""
    scores = np.asarray(scores, "float64")
    present = ~np.isnan(scores)
    return _ratio(np.sum(scores, axis=-1, where=present), present.sum(axis=-1))


def check_same_shape(true: np.ndarray, predicted: np.ndarray) -> None:
    """Raise ValueError where one label map has another shape than the other."""
    if true.shape != predicted.shape:
        raise ValueError(
            "`true` and `predicted` must be label maps of one shape. "
            f"Received shapes {true.shape} and {predicted.shape}."
        )


def check_labels(name: str, labels: np.ndarray, num_classes: int) -> None:
    """Raise ValueError, calling them `name`, where labels are no whole numbers in 0..`num_classes` - 1."""
    if labels.dtype.kind not in "buif":
        raise ValueError(f"`{name}` must hold whole numbers. Received dtype {labels.dtype}.")
    if not labels.size:
        return
    # NaN is not equal to itself, and so no whole number here.
    broken = labels.dtype.kind == "f" and (labels != np.floor(labels)).any()
    if broken or labels.min() < 0 or labels.max() >= num_classes:
        good = (labels >= 0) & (labels < num_classes) & (labels == np.floor(labels))
        raise ValueError(
            f"`{name}` must hold whole numbers in 0..{num_classes - 1}. Received {labels[~good][0]}."
        )


def _voxels(confusion: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class, the voxels that both maps give it, the true one, the predicted one."""
    counts = np.asarray(confusion)
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2] or counts.shape[-1] < 2:
        raise ValueError(
            "`confusion` must be square, one row and column for each of 2 or more classes. "
            f"Received shape {counts.shape}."
        )
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1), counts.sum(axis=-2)


def _ratio(above: np.ndarray, below: np.ndarray) -> Any:
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) != 0)[()]
