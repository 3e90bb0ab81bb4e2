"""Callback that logs the mean Dice of the whole validation set after each epoch."""

import numpy as np

from keras_ssl._checks import check_labels
from keras_ssl._types import Dataset
from keras_ssl.callbacks._base import ValidationScore
from keras_ssl.metrics.segmentation import label_confusion, mean_dice


class DiceCallback(ValidationScore):
    """Logs the Dice of a validation set at the end of every epoch, and can restore the best weights.

    The value is the mean over volumes of each volume's Dice, which is the mean over the foreground classes
    (see `mean_dice`): the number that studies report. (The metric `MeanDice` counts the voxels of all volumes
    together.) Volumes with no foreground in truth and prediction have no Dice and are left out. Predictions
    are evaluated batch by batch and not kept in memory.

    Put it first in `callbacks`: Keras passes the same `logs` to one callback after another, so those that
    follow see the value, those before do not. `FineTuner.fit` sets `mode="max"` of those that
    monitor it; set it yourself for plain `fit`, since Keras does not know that higher is better.

    Training is bitwise the same with and without it, and the saved model loads without keras-ssl.

    Args:
        validation_data: arrays `(x, y)` or `(x, y, sample_weight)`, or a data set of such batches that can be
            iterated every epoch: a `PyDataset`, a `tf.data.Dataset`, a `DataLoader`, a list. `y` are label
            maps `(n, *spatial)` or `(n, *spatial, 1)`, or one-hot `(n, *spatial, num_classes)`;
            `sample_weight` is one number per volume, for the mean over volumes.
        num_classes: number of classes including the background (0), at least 2; the model's output is
            `(n, *spatial, num_classes)`, and its argmax the class.
        name: key in `logs`. Replaces a value of the same name from `fit`'s own validation.
        restore_best_weights: whether to restore the weights of the best epoch (of ties, the first) when
            training ends. Weights are unchanged if all scores are NaN.
        batch_size: batch size for arrays.

    Attributes:
        best_value: highest Dice so far, or `None`.
        best_epoch: its epoch, counted from 0, or `None`.

    Raises:
        ValueError: `validation_data` has another form or can be iterated only once, or `num_classes` is
            below 2. At the end of the first epoch: a label is out of range, or shapes of labels and
            predictions do not match. Predictions that are NaN do not raise, the value is NaN.

    >>> import keras, numpy as np
    >>> x, y = np.zeros((4, 8, 8, 8, 1), "float32"), np.zeros((4, 8, 8, 8), "uint8")
    >>> dice = DiceCallback((x, y), num_classes=3, restore_best_weights=True)
    >>> callbacks = [dice, keras.callbacks.EarlyStopping("val_dice", mode="max", patience=5)]
    """

    def __init__(
        self,
        validation_data: Dataset,
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
        """Return the weighted mean over volumes of their mean foreground Dice."""
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
        # NaN scores are volumes without foreground, except if the network has diverged.
        present = np.where(np.isnan(scores), 0, weights)
        undefined = diverged or not present.any()
        return {self.name: np.nan if undefined else float(np.average(np.nan_to_num(scores), weights=present))}

    def _label_maps(self, labels: np.ndarray, output_shape: tuple[int, ...]) -> np.ndarray:
        """Return labels as `(n, *spatial)`, from any accepted shape."""
        wanted = output_shape[:-1]
        if len(output_shape) < 3 or output_shape[-1] != self.num_classes:
            raise ValueError(
                f"The model's output must have shape (n, *spatial, {self.num_classes}), ending in "
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
