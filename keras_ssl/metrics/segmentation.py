"""Segmentation metrics: confusion matrix, Dice, Jaccard, mean Dice, BraTS regions."""

from typing import Literal

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_ssl._checks import check_labels
from keras_ssl._keras_private import set_direction
from keras_ssl._types import Config, Tensor
from keras_ssl.losses.segmentation import one_hot_targets

# Voxels counted at a time, so that temporary arrays take a few megabytes for volumes of any size.
_CHUNK = 2**20


def label_confusion(true: npt.ArrayLike, predicted: npt.ArrayLike, num_classes: int) -> np.ndarray:
    """Compute the confusion matrix of two label maps.

    The maps are read in chunks, so that memory-mapped volumes are never loaded whole. Matrices of several
    volumes can be added.

    Args:
        true: label map of any shape, whole numbers in 0..`num_classes` - 1, of any dtype.
        predicted: label map of the same shape.
        num_classes: number of classes including the background (0), at least 2.

    Returns:
        Voxel counts, int64 `(num_classes, num_classes)`, rows true, columns predicted; exact for any volume.

    Raises:
        ValueError: shapes differ, `num_classes` is below 2, or a label is out of range.

    >>> label_confusion([[0, 1], [2, 2]], [[0, 1], [1, 2]], num_classes=3).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2. Received {num_classes}.")
    maps = [np.asarray(true), np.asarray(predicted)]
    check_same_shape(*maps)
    for name, labels in zip(("true", "predicted"), maps, strict=True):
        check_labels(labels, num_classes, name=name)
    counts = np.zeros(num_classes**2, np.int64)
    for chunks in np.nditer(maps, ["external_loop", "buffered", "zerosize_ok"], buffersize=_CHUNK):
        rows, columns = (labels.astype(np.intp) for labels in chunks)
        counts += np.bincount(rows * num_classes + columns, minlength=len(counts))
    return counts.reshape(num_classes, num_classes)


def dice_scores(confusion: npt.ArrayLike) -> np.ndarray:
    """Compute the Dice coefficient of each class: twice the intersection over the sum of both sizes.

    Args:
        confusion: confusion matrix of `label_confusion`, shape `(..., classes, classes)`, rows true, columns
            predicted. Leading axes are batch axes, for example of volumes.

    Returns:
        float64 `(..., classes)`, in [0, 1]. A class that is absent from both maps is nan, one that is absent
        from only one of them 0.

    Raises:
        ValueError: `confusion` is not a square matrix of at least 2 classes.

    >>> confusion = label_confusion([0, 1, 1, 1], [0, 0, 1, 1], num_classes=4)
    >>> dice_scores(confusion).round(3).tolist()
    [0.667, 0.8, nan, nan]

    References:
        Dice, L. R. (1945). Measures of the amount of ecologic association between species. Ecology 26(3).
    """
    both, true, predicted = _voxels(confusion)
    return _ratio(2 * both, true + predicted)


def jaccard_scores(confusion: npt.ArrayLike) -> np.ndarray:
    """Compute the Jaccard index (IoU) of each class: intersection over union.

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


def mean_dice(confusion: npt.ArrayLike, include_background: bool = False) -> Tensor:
    """Compute the Dice coefficient averaged over the classes that occur.

    Args:
        confusion: as in `dice_scores`.
        include_background: whether class 0 is part of the mean. In most volumes it is by far the largest
            class, with a Dice close to 1 for any prediction.

    Returns:
        float64 of shape `(...)`, a scalar for one matrix, in [0, 1]. Classes absent from both maps are left
        out; nan if there are no others.

    Raises:
        ValueError: as `dice_scores`.

    >>> confusion = label_confusion([0, 0, 1, 1, 1], [0, 2, 0, 1, 1], num_classes=4)
    >>> round(float(mean_dice(confusion)), 3)  # of 0.8, 0 and nan
    0.4
    """
    return mean_of_present(dice_scores(confusion)[..., 0 if include_background else 1 :])


def mean_of_present(scores: npt.ArrayLike) -> Tensor:
    """Compute the mean over the last axis, ignoring nan; nan if all are nan."""
    scores = np.asarray(scores, "float64")
    present = ~np.isnan(scores)
    return _ratio(np.sum(scores, axis=-1, where=present), present.sum(axis=-1))


def check_same_shape(true: np.ndarray, predicted: np.ndarray) -> None:
    """Raise ValueError if the shapes of two label maps differ."""
    if true.shape != predicted.shape:
        raise ValueError(
            "`true` and `predicted` must be label maps of the same shape. "
            f"Received shapes {true.shape} and {predicted.shape}."
        )


def _voxels(confusion: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, per class, the voxel counts of the intersection, the true map and the predicted map."""
    counts = np.asarray(confusion)
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2] or counts.shape[-1] < 2:
        raise ValueError(
            "`confusion` must be square, with a row and a column for each of at least 2 classes. "
            f"Received shape {counts.shape}."
        )
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1), counts.sum(axis=-2)


def _ratio(above: np.ndarray, below: np.ndarray) -> Tensor:
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) != 0)[()]


# Float32 counts voxels up to 2 ** 24, eight volumes of 128^3; int32 up to 2 ** 31; JAX has no int64 by
# default. So a count is stored in two int32 digits of this base, and a batch may have nearly 2 ** 31 voxels.
_BASE = 2**20


@keras.saving.register_keras_serializable(package="keras_ssl")
class MeanDice(keras.metrics.Metric):
    """Dice coefficient of all voxels since the last reset, averaged over the classes that occur.

    Each voxel is assigned to its most probable class. The voxels of all volumes are counted together (micro
    average), so that large volumes weigh more than small ones. For the mean of the Dice of each volume, which
    studies report, use `segmentation_scores` or `DiceCallback`.

    Counts are exact on every backend and under any precision policy, up to 2 ** 51 voxels. Classes that occur
    neither in truth nor in prediction are left out of the mean. Labels out of range, and predictions that are
    NaN, make the metric NaN until the next reset.

    Args:
        num_classes: number of classes including the background (0), at least 2.
        include_background: whether class 0 is part of the mean.
        name: name of the metric.
        dtype: as in every Keras metric; counts are exact in any case.

    Raises:
        ValueError: `num_classes` is below 2; in `update_state`, shapes do not match, or a `sample_weight` is
            given: voxels cannot be weighted. Compile it in `metrics`, not `weighted_metrics`.

    >>> dice = MeanDice(num_classes=3)
    >>> dice.update_state([[0, 1, 1, 2]], keras.ops.one_hot([[0, 0, 1, 2]], 3))
    >>> round(float(dice.result()), 3)  # of 2/3 and 1
    0.833
    """

    def __init__(
        self,
        num_classes: int,
        include_background: bool = False,
        name: str = "dice",
        dtype: str | keras.DTypePolicy | None = None,
    ):
        super().__init__(name=name, dtype=dtype)
        # For `mode="auto"` of callbacks.
        set_direction(self, "up")
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2. Received {num_classes}.")
        self.num_classes = num_classes
        self.include_background = include_background
        # Axes: digit (high first); intersection, truth, prediction; class.
        self.digits = self.add_variable((2, 3, num_classes), "zeros", dtype="int32", name="digits")
        self.unreadable = self.add_variable((), "zeros", dtype="int32", name="unreadable")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: None = None) -> None:
        """Add a batch to the counts.

        Args:
            y_true: label maps `(batch, *spatial)` or `(batch, *spatial, 1)`, or one-hot or soft targets of
                the shape of `y_pred`.
            y_pred: probabilities or logits `(batch, *spatial, num_classes)`.
            sample_weight: must be `None`.

        Raises:
            ValueError: see the class.
        """
        if sample_weight is not None:
            raise ValueError(
                "`sample_weight` must be None: MeanDice does not weight voxels. Compile it in `metrics`, "
                f"not `weighted_metrics`. Received {type(sample_weight).__name__}."
            )
        true, predicted = one_hot_targets(y_true, y_pred)
        if predicted.shape[-1] != self.num_classes:
            raise ValueError(
                f"`y_pred` must have shape (batch, *spatial, {self.num_classes}). "
                f"Received shape {tuple(predicted.shape)}."
            )
        is_true, is_predicted = (
            ops.one_hot(ops.argmax(values, axis=-1), self.num_classes, dtype="float32")
            for values in (true, predicted)
        )
        counts = [_count(hits) for hits in (is_true * is_predicted, is_true, is_predicted)]
        high, low = self.digits[0], self.digits[1] + ops.stack(counts)
        self.digits.assign(ops.stack([high + low // _BASE, low % _BASE]))
        lost = ops.any(ops.isnan(true)) | ops.any(ops.isnan(predicted))
        self.unreadable.assign(ops.maximum(self.unreadable, ops.cast(lost, "int32")))

    def voxels(self) -> np.ndarray:
        """Return counts, int64 `(3, num_classes)`: intersection, truth, prediction."""
        high, low = ops.convert_to_numpy(self.digits).astype(np.int64)
        return high * _BASE + low

    def result(self) -> Tensor:
        """Return the mean Dice since the last reset; NaN if no class of the mean has occurred."""
        digits = ops.cast(self.digits[:, :, 0 if self.include_background else 1 :], "float32")
        both, true, predicted = ops.unstack(digits[0] * _BASE + digits[1], 3)
        total = true + predicted
        present = ops.sum(ops.cast(total > 0, "float32"))
        # Absent classes add 0.
        dice = ops.sum(2 * both / ops.maximum(total, 1.0)) / ops.maximum(present, 1.0)
        return ops.where((present > 0) & (self.unreadable == 0), dice, np.nan)

    def get_config(self) -> Config:
        """Return the arguments of the metric."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "include_background": self.include_background,
        }


def _count(hits: Tensor) -> Tensor:
    """Count the ones of each class, int32 `(classes,)`."""
    # Rows are summed in float32, exactly: TensorFlow sums int32 on the CPU, even with a GPU.
    rows = ops.cast(ops.sum(hits, axis=-2), "int32")
    return ops.cast(ops.sum(rows, axis=tuple(range(len(rows.shape) - 1))), "int32")


BratsRegion = Literal["whole_tumor", "tumor_core", "enhancing_tumor"]


_NECROTIC, _EDEMA = 1, 2


def brats_regions(
    label_map: npt.ArrayLike, enhancing_label: Literal[3, 4] = 3
) -> dict[BratsRegion, np.ndarray]:
    """Convert tissue labels to the three regions of the BraTS challenge.

    | region | labels |
    | --- | --- |
    | `whole_tumor` | 1 necrotic core, 2 edema, 3 enhancing |
    | `tumor_core` | 1 necrotic core, 3 enhancing |
    | `enhancing_tumor` | 3 enhancing |

    Args:
        label_map: label map of any shape, 0 outside the tumor.
        enhancing_label: label of enhancing tumor: 3, as in BraTS since 2023, or 4, as in BraTS up to 2022,
            which does not use 3. Other data sets differ: in the Medical Segmentation Decathlon 1 is edema and
            2 the core.

    Returns:
        Boolean masks of the shape of `label_map`, by region.

    Raises:
        ValueError: `enhancing_label` is neither 3 nor 4, or a label is not in the table.

    >>> {name: mask.tolist() for name, mask in brats_regions([0, 1, 2, 3]).items()}["tumor_core"]
    [False, True, False, True]

    References:
        Menze, B. H. et al. (2015). The multimodal brain tumor image segmentation benchmark (BRATS). IEEE
        Transactions on Medical Imaging 34(10).
    """
    return _regions("label_map", label_map, enhancing_label)


def brats_dice(
    true: npt.ArrayLike, predicted: npt.ArrayLike, enhancing_label: Literal[3, 4] = 3
) -> dict[BratsRegion, float]:
    """Compute the Dice coefficient of each region of `brats_regions`.

    Args:
        true: label map, see `brats_regions`.
        predicted: label map of the same shape.
        enhancing_label: label of enhancing tumor in both maps.

    Returns:
        Dice by region, in [0, 1]. A region that is absent from both maps is nan, as in `dice_scores` (BraTS
        uses 1, which rewards predicting nothing); one that is absent from only one map 0.

    Raises:
        ValueError: shapes differ, or see `brats_regions`.

    >>> brats_dice([0, 1, 2, 2, 2], [0, 1, 1, 1, 2])
    {'whole_tumor': 1.0, 'tumor_core': 0.5, 'enhancing_tumor': nan}
    """
    check_same_shape(np.asarray(true), np.asarray(predicted))
    found = _regions("predicted", predicted, enhancing_label)
    return {name: _dice(mask, found[name]) for name, mask in _regions("true", true, enhancing_label).items()}


def _regions(name: str, label_map: npt.ArrayLike, enhancing_label: int) -> dict[BratsRegion, np.ndarray]:
    if enhancing_label not in (3, 4):
        raise ValueError(f"`enhancing_label` must be 3 or 4. Received {enhancing_label!r}.")
    labels = np.asarray(label_map)
    enhancing = labels == enhancing_label
    core = (labels == _NECROTIC) | enhancing
    whole = (labels == _EDEMA) | core
    unknown = ~whole & (labels != 0)
    if unknown.any():
        raise ValueError(
            f"`{name}` must hold labels 0, 1, 2 and {enhancing_label} (see `enhancing_label`). "
            f"Received {labels[unknown][0]}."
        )
    return {"whole_tumor": whole, "tumor_core": core, "enhancing_tumor": enhancing}


def _dice(true: np.ndarray, predicted: np.ndarray) -> float:
    total = np.count_nonzero(true) + np.count_nonzero(predicted)
    return float(2 * np.count_nonzero(true & predicted) / total) if total else float("nan")
