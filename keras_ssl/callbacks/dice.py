"""Mean foreground Dice of the whole validation set after each epoch, as a logged value."""

from typing import Any

import numpy as np

from keras_ssl._checks import check_labels
from keras_ssl.callbacks._base import ValidationScore
from keras_ssl.metrics.segmentation import label_confusion, mean_dice


class DiceCallback(ValidationScore):
    """Log the Dice of a validation set at the end of every epoch, and keep the best weights if asked.

    The value is the mean over volumes of each volume's own Dice, itself the mean over the classes but the
    background (see `mean_dice`): the number that studies report, where the metric `MeanDice` counts the
    voxels of all volumes together. A volume in which neither truth nor prediction holds any foreground has
    no Dice and is left out. Predictions are counted batch by batch and not kept.

    Put it first in `callbacks`: Keras hands the same `logs` to one callback after the other, so those that
    follow see the value, those before do not. `FineTuner.fit` sets `mode="max"` of those that
    monitor it; set it yourself for plain `fit`, since Keras does not know that more is better.

    Training itself is the same, bit for bit, with and without it, and the saved model loads where
    keras-ssl is not installed.

    Args:
        validation_data: `(x, y)` or `(x, y, sample_weight)` in arrays, or batches of these that can be gone
            through again every epoch: a `PyDataset`, a `tf.data.Dataset`, a `DataLoader`, a list. `y` are
            label maps `(n, *spatial)` or `(n, *spatial, 1)`, or one-hot `(n, *spatial, num_classes)`;
            `sample_weight` is one number a volume, for the mean over volumes.
        num_classes: how many classes there are, at least 2, the background (0) among them; the model gives
            `(n, *spatial, num_classes)`, of which the largest is the class.
        name: key in `logs`. A value that is already there, from `fit`'s own validation, is replaced.
        restore_best_weights: whether the model ends the training with the weights of its best epoch, the
            first of equals. Left as it is if no epoch gave a Dice that is a number.
        batch_size: volumes predicted at a time; batched data keeps its own batches.

    Attributes:
        best_value: highest Dice so far, or `None`.
        best_epoch: its epoch, counted from 0, or `None`.

    Raises:
        ValueError: `validation_data` has another form or can be gone through only once, or `num_classes` is
            below 2. At the end of the first epoch: a label is no class, or shapes of labels and predictions
            do not fit. Predictions that are NaN raise nothing, they log NaN.

    >>> import keras, numpy as np
    >>> x, y = np.zeros((4, 8, 8, 8, 1), "float32"), np.zeros((4, 8, 8, 8), "uint8")
    >>> dice = DiceCallback((x, y), num_classes=3, restore_best_weights=True)
    >>> callbacks = [dice, keras.callbacks.EarlyStopping("val_dice", mode="max", patience=5)]
    """

    def __init__(
        self,
        validation_data: Any,
        num_classes: int,
        name: str = "val_dice",
        restore_best_weights: bool = False,
        batch_size: int = 1,
    ):
        super().__init__(validation_data, name, restore_best_weights, batch_size)
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2. Received {num_classes}.")
        self.num_classes = num_classes

    def measure(self) -> dict[str, float]:
        """Weighted mean over volumes of their mean foreground Dice."""
        scores: list[float] = []
        weights: list[float] = []
        diverged = False
        for output, labels, weight in self.predictions():
            true = self._label_maps(labels, output.shape)
            check_labels(true, self.num_classes, name="validation_data")
            diverged = diverged or bool(np.isnan(output).any())
            pairs = zip(true, output.argmax(axis=-1), strict=True)
            scores.extend(mean_dice(label_confusion(*pair, self.num_classes)) for pair in pairs)
            weights.extend(weight)
        # What is left out is not what a diverged network makes NaN of.
        present = np.where(np.isnan(scores), 0, weights)
        undefined = diverged or not present.any()
        return {self.name: np.nan if undefined else float(np.average(np.nan_to_num(scores), weights=present))}

    def _label_maps(self, labels: np.ndarray, output_shape: tuple[int, ...]) -> np.ndarray:
        """Labels `(n, *spatial)`, however they are written."""
        wanted = output_shape[:-1]
        if len(output_shape) < 3 or output_shape[-1] != self.num_classes:
            raise ValueError(
                f"The model must give (n, *spatial, {self.num_classes}), the last number being "
                f"`num_classes`. Received shape {output_shape}."
            )
        if labels.shape == output_shape:
            return labels.argmax(axis=-1)
        if labels.shape not in (wanted, (*wanted, 1)):
            raise ValueError(
                f"Labels in `validation_data` must have shape {wanted}, {(*wanted, 1)} or {output_shape}. "
                f"Received shape {labels.shape}."
            )
        return labels.reshape(wanted)
