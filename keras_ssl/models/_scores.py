"""Metrics, validation callbacks and scores of each kind of head."""

import functools
import sys
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_ssl._keras_private import direction_of, set_direction
from keras_ssl._types import Dataset, Tensor
from keras_ssl.callbacks import DiceCallback, QuadraticWeightedKappaCallback
from keras_ssl.heads.base import Head, PooledHead
from keras_ssl.heads.segmentation import SegmentationHead
from keras_ssl.metrics import quadratic_weighted_kappa, segmentation_scores
from keras_ssl.metrics.grades import decode_grades, grade_confusion

_BINARY_METRICS = (
    *(keras.metrics.AUC, keras.metrics.Precision, keras.metrics.Recall),
    *(keras.metrics.TruePositives, keras.metrics.TrueNegatives),
    *(keras.metrics.FalsePositives, keras.metrics.FalseNegatives),
    *(keras.metrics.SensitivityAtSpecificity, keras.metrics.SpecificityAtSensitivity),
    *(keras.metrics.PrecisionAtRecall, keras.metrics.RecallAtPrecision),
    *(keras.metrics.BinaryAccuracy, keras.metrics.BinaryCrossentropy),
)
_ONE_HOT_METRICS = (
    *(keras.metrics.CategoricalAccuracy, keras.metrics.CategoricalCrossentropy),
    *(keras.metrics.TopKCategoricalAccuracy, keras.metrics.FBetaScore, keras.metrics.F1Score),
    *(keras.metrics.OneHotIoU, keras.metrics.OneHotMeanIoU),
)
_LABEL_METRICS = (
    *(keras.metrics.Accuracy, keras.metrics.MeanAbsoluteError),
    *(keras.metrics.MeanSquaredError, keras.metrics.RootMeanSquaredError),
)


class OnLabels(keras.metrics.Metric):
    """Wraps a Keras metric, which receives labels and probabilities for any targets and outputs of a head.

    The metric receives labels `(...)` and probabilities `(..., K)`. Binary metrics (`AUC`, `Precision`,
    `BinaryAccuracy` ...) receive the probability of class 1 if there are two classes; otherwise they, and
    metrics of one-hot labels (`CategoricalAccuracy`, `F1Score` ...), receive one-hot labels.

    Args:
        metric: a Keras metric, its name in lower case, or a function of labels and probabilities.
        convert: function from targets and outputs to labels and probabilities; see `Head.for_metrics`.
        classes: number of classes; 0 for regression, whose metrics receive targets and outputs.
        decode: function from outputs to grades, which `"accuracy"`, `Accuracy`, `MeanAbsoluteError` and other
            errors compare with labels: the grade of ordinal heads is not always the argmax of the
            probabilities. `None` takes the argmax.

    Raises:
        TypeError: `metric` is not a metric.
    """

    def __init__(
        self,
        metric: keras.metrics.Metric | str | Callable[[Tensor, Tensor], Tensor],
        convert: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        classes: int,
        decode: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if metric in ("accuracy", "acc") and classes:
            metric = keras.metrics.Accuracy(name=metric)
        metric = _resolve_metric(metric)
        super().__init__(name=metric.name)
        self.metric = metric
        self.convert = convert
        self.classes = classes
        self.decode = decode
        # For `mode="auto"` of callbacks.
        set_direction(self, direction_of(metric))

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        """Update the metric with a batch of targets and outputs."""
        labels, scores = self.convert(ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred))
        if self.classes and isinstance(self.metric, _LABEL_METRICS):
            scores = self.decode(y_pred) if self.decode else ops.argmax(scores, axis=-1)
        elif self.classes and isinstance(self.metric, (*_BINARY_METRICS, *_ONE_HOT_METRICS)):
            if self.classes == 2 and isinstance(self.metric, _BINARY_METRICS):
                scores = scores[..., 1]
            else:
                labels = ops.one_hot(ops.cast(labels, "int32"), self.classes)
        self.metric.update_state(labels, scores, sample_weight=sample_weight)

    def result(self) -> Tensor:
        """Return the metric's result."""
        return self.metric.result()

    def reset_state(self) -> None:
        """Reset the metric."""
        self.metric.reset_state()


def _resolve_metric(
    metric: keras.metrics.Metric | str | Callable[[Tensor, Tensor], Tensor],
) -> keras.metrics.Metric:
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", None)
    made = metric if isinstance(metric, keras.metrics.Metric) else keras.metrics.get(metric)
    if isinstance(made, keras.metrics.Metric):
        made.name = name if isinstance(metric, str) else made.name
        return made
    if not callable(made):
        raise TypeError(f"`metrics` must be Keras metrics, names or functions. Received {metric!r}.")
    return keras.metrics.MeanMetricWrapper(made, name=name)


# Logged by validation callbacks; Keras knows the direction of compiled metrics only.
_HIGHER_IS_BETTER = ("val_qw_kappa", "val_grade_accuracy", "val_dice")


def set_directions(callbacks: list[keras.callbacks.Callback]) -> None:
    """Set `mode="max"` of callbacks that monitor a validation score with `mode="auto"`."""
    for callback in callbacks:
        if getattr(callback, "monitor", None) in _HIGHER_IS_BETTER and callback.mode == "auto":
            callback.mode = "max"


def grade_decoder(head: Head) -> Callable[[Tensor], Tensor] | None:
    """Return the function from output tensors to grades; `None` for heads without grades."""
    if not isinstance(head, PooledHead) or head.form is None:
        return None
    thresholds = getattr(head, "thresholds", None)
    return functools.partial(
        decode_grades, form=head.form, num_grades=head.grade_count, thresholds=thresholds
    )


def validation_callbacks(
    head: Head, data: Dataset, restore_best: bool = False
) -> list[keras.callbacks.Callback]:
    """Return the callbacks that log kappa or Dice of the whole validation set.

    Args:
        head: the head.
        data: batches of the validation set.
        restore_best: whether to restore the weights of the best epoch; by the loss for heads without a score.
    """
    if isinstance(head, SegmentationHead):
        return [DiceCallback(data, head.num_classes, restore_best_weights=restore_best)]
    if not isinstance(head, PooledHead) or head.form is None:
        best = keras.callbacks.EarlyStopping("val_loss", patience=sys.maxsize, restore_best_weights=True)
        return [best] if restore_best else []
    kappa = QuadraticWeightedKappaCallback(
        data,
        num_grades=head.grade_count,
        prediction=head.form,
        truth=head.target_form,
        thresholds=getattr(head, "thresholds", None),
        accuracy_name="val_grade_accuracy",
        restore_best_weights=restore_best,
    )
    return [kappa]


def head_scores(
    head: Head, targets: np.ndarray, outputs: np.ndarray, weights: np.ndarray
) -> dict[str, float]:
    """Compute the Dice of masks, or kappa and accuracy of grades.

    Args:
        head: the head.
        targets: encoded targets of all images.
        outputs: outputs of the head; for masks, decoded.
        weights: sample weights, one per image.
    """
    if isinstance(head, SegmentationHead):
        names = ["dice", *(f"dice_{number}" for number in range(1, head.num_classes))]
        return segmentation_scores(list(targets), list(outputs), num_classes=head.num_classes, names=names)
    if not isinstance(head, PooledHead) or head.form is None:
        return {}
    true = decode_grades(targets, head.target_form, head.grade_count)
    confusion = grade_confusion(true, head.decode(outputs), head.grade_count, weights)
    return {
        "qw_kappa": float(quadratic_weighted_kappa(confusion)),
        "accuracy": float(np.trace(confusion) / confusion.sum()),
    }
