"""Mean Dice of all voxels seen, as a Keras metric whose counts stay exact."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ssl.losses._classes import one_hot_targets

# Float32 counts voxels up to 2 ** 24, eight volumes of 128 a side; int32 up to 2 ** 31; and JAX has no int64.
# So a count is written in two int32 digits of this base; a batch of nearly 2 ** 31 voxels may be added.
_BASE = 2**20


@keras.saving.register_keras_serializable(package="keras_ssl")
class MeanDice(keras.metrics.Metric):
    """Dice coefficient of all voxels since the last reset, averaged over the classes that occur.

    A voxel is given to its most probable class, whole. The voxels of all volumes are counted together, so
    that a large volume weighs more than a small one, and a structure missed in one volume little; the mean
    of each volume's own Dice, which studies report, comes from `segmentation_scores` and `DiceCallback`.

    Counts are exact on every backend and under any precision policy, up to 2 ** 51 voxels. A class that
    neither truth nor prediction has held is left out of the mean. Labels that are no class, and predictions
    that are NaN, make the metric NaN until the next reset.

    Args:
        num_classes: how many classes there are, at least 2, the background (0) among them.
        include_background: whether class 0 is part of the mean.
        name: name of the metric.
        dtype: as in every Keras metric; counting is exact all the same.

    Raises:
        ValueError: `num_classes` is below 2; in `update_state`, shapes do not fit, or a `sample_weight` is
            given: voxels are counted whole. Compile with it among `metrics`, not `weighted_metrics`.

    >>> dice = MeanDice(num_classes=3)
    >>> dice.update_state([[0, 1, 1, 2]], keras.ops.one_hot([[0, 0, 1, 2]], 3))
    >>> round(float(dice.result()), 3)  # of 2/3 and 1
    0.833
    """

    def __init__(
        self, num_classes: int, include_background: bool = False, name: str = "dice", dtype: Any = None
    ):
        super().__init__(name=name, dtype=dtype)
        # Where Keras' own metrics say that more is better, so that `mode="auto"` of a callback knows.
        self._direction = "up"
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2. Received {num_classes}.")
        self.num_classes = num_classes
        self.include_background = include_background
        # By digit, high first; by what is counted: in both, in truth, in prediction; by class.
        self.digits = self.add_variable((2, 3, num_classes), "zeros", dtype="int32", name="digits")
        self.unreadable = self.add_variable((), "zeros", dtype="int32", name="unreadable")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch.

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
                "`sample_weight` must be None: MeanDice counts voxels whole. Compile with it among "
                f"`metrics`, not `weighted_metrics`. Received {type(sample_weight).__name__}."
            )
        true, predicted = one_hot_targets(y_true, y_pred)
        if predicted.shape[-1] != self.num_classes:
            raise ValueError(
                f"`y_pred` must be of shape (batch, *spatial, {self.num_classes}). "
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
        """Counts so far, int64 `(3, num_classes)`: what truth and prediction both hold, and each of them."""
        high, low = ops.convert_to_numpy(self.digits).astype(np.int64)
        return high * _BASE + low

    def result(self) -> Any:
        """Mean Dice of all that was counted; NaN while no class has occurred that is part of the mean."""
        digits = ops.cast(self.digits[:, :, 0 if self.include_background else 1 :], "float32")
        both, true, predicted = ops.unstack(digits[0] * _BASE + digits[1], 3)
        total = true + predicted
        present = ops.sum(ops.cast(total > 0, "float32"))
        # An absent class adds 0.
        dice = ops.sum(2 * both / ops.maximum(total, 1.0)) / ops.maximum(present, 1.0)
        return ops.where((present > 0) & (self.unreadable == 0), dice, np.nan)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the same metric again."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "include_background": self.include_background,
        }


def _count(hits: Any) -> Any:
    """Ones of each class, int32 `(classes,)`."""
    # Rows in float32, which no row is too long for: TensorFlow sums int32 on the host, even beside a GPU.
    rows = ops.cast(ops.sum(hits, axis=-2), "int32")
    return ops.cast(ops.sum(rows, axis=tuple(range(len(rows.shape) - 1))), "int32")
