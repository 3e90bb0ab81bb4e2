"""Validation callbacks, metrics and scores for each kind of head."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ssl._keras_private import direction_of, set_direction
from keras_ssl.callbacks import DiceCallback, QuadraticWeightedKappaCallback
from keras_ssl.heads.base import Head, PooledHead
from keras_ssl.heads.segmentation import SegmentationHead
from keras_ssl.metrics import decode_grades, grade_confusion, quadratic_weighted_kappa, segmentation_scores

_OF_TWO = (
    *(keras.metrics.AUC, keras.metrics.Precision, keras.metrics.Recall),
    *(keras.metrics.TruePositives, keras.metrics.TrueNegatives),
    *(keras.metrics.FalsePositives, keras.metrics.FalseNegatives),
    *(keras.metrics.SensitivityAtSpecificity, keras.metrics.SpecificityAtSensitivity),
    *(keras.metrics.PrecisionAtRecall, keras.metrics.RecallAtPrecision),
    *(keras.metrics.BinaryAccuracy, keras.metrics.BinaryCrossentropy),
)


_OF_ONE_HOT = (
    *(keras.metrics.CategoricalAccuracy, keras.metrics.CategoricalCrossentropy),
    *(keras.metrics.TopKCategoricalAccuracy, keras.metrics.FBetaScore, keras.metrics.F1Score),
    *(keras.metrics.OneHotIoU, keras.metrics.OneHotMeanIoU),
)


_OF_GRADES = (
    *(keras.metrics.Accuracy, keras.metrics.MeanAbsoluteError),
    *(keras.metrics.MeanSquaredError, keras.metrics.RootMeanSquaredError),
)


class OnLabels(keras.metrics.Metric):
    """Updates a Keras metric with labels and probabilities, whatever a head's targets and outputs are.

    The metric gets what it takes of a classifier: labels `(...)` and probabilities `(..., K)`; those of
    two classes (`AUC`, `Precision`, `BinaryAccuracy` ...) the probability of class 1 where there are two, and
    else, like those of one-hot labels (`CategoricalAccuracy`, `F1Score` ...), one-hot labels.

    Args:
        metric: a Keras metric, its name in lower case, or a function of labels and probabilities.
        convert: function from targets and outputs to labels and probabilities; see `Head.for_metrics`.
        classes: number of classes; 0 for a regression, whose metrics get targets and outputs.
        decode: function from outputs to grades, which `"accuracy"`, `Accuracy`, `MeanAbsoluteError` and other
            errors compare with labels: of ordinal heads the grade is not always the most probable one. `None`
            takes the most probable class.

    Raises:
        TypeError: `metric` is no metric.
    """

    def __init__(
        self,
        metric: Any,
        convert: Callable[[Any, Any], tuple[Any, Any]],
        classes: int,
        decode: Callable[[Any], Any] | None = None,
    ) -> None:
        if metric in ("accuracy", "acc") and classes:
            metric = keras.metrics.Accuracy(name=metric)
        metric = _made(metric)
        super().__init__(name=metric.name)
        self.metric = metric
        self.convert = convert
        self.classes = classes
        self.decode = decode
        # By which `mode="auto"` of a callback knows.
        set_direction(self, direction_of(metric))

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Update the metric with a batch of targets and outputs."""
        labels, scores = self.convert(ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred))
        if self.classes and isinstance(self.metric, _OF_GRADES):
            scores = self.decode(y_pred) if self.decode else ops.argmax(scores, axis=-1)
        elif self.classes and isinstance(self.metric, (*_OF_TWO, *_OF_ONE_HOT)):
            if self.classes == 2 and isinstance(self.metric, _OF_TWO):
                scores = scores[..., 1]
            else:
                labels = ops.one_hot(ops.cast(labels, "int32"), self.classes)
        self.metric.update_state(labels, scores, sample_weight=sample_weight)

    def result(self) -> Any:
        """Return the metric's result."""
        return self.metric.result()

    def reset_state(self) -> None:
        """Reset the metric."""
        self.metric.reset_state()


def _made(metric: Any) -> keras.metrics.Metric:
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", None)
    made = metric if isinstance(metric, keras.metrics.Metric) else keras.metrics.get(metric)
    if isinstance(made, keras.metrics.Metric):
        made.name = name if isinstance(metric, str) else made.name
        return made
    if not callable(made):
        raise TypeError(f"`metrics` must be Keras metrics, names or functions. Received {metric!r}.")
    return keras.metrics.MeanMetricWrapper(made, name=name)


# Logged on validation data by callbacks; Keras knows the direction of compiled metrics only.
_MORE_IS_BETTER = ("val_qw_kappa", "val_grade_accuracy", "val_dice")


def set_directions(callbacks: list[keras.callbacks.Callback]) -> None:
    """Let callbacks that monitor a score with `mode="auto"` take more for better."""
    for callback in callbacks:
        if getattr(callback, "monitor", None) in _MORE_IS_BETTER and callback.mode == "auto":
            callback.mode = "max"


def grade_decoder(head: Head) -> Callable[[Any], Any] | None:
    """Return the function from outputs, tensors, to grades; `None` of heads that grade nothing."""
    if not isinstance(head, PooledHead) or head.form is None:
        return None
    thresholds = getattr(head, "thresholds", None)
    return functools.partial(
        decode_grades, form=head.form, num_grades=head.grade_count, thresholds=thresholds
    )


def validation_callbacks(head: Head, data: Any) -> list[keras.callbacks.Callback]:
    """Return the callbacks that log kappa or Dice of the whole of a validation set."""
    if isinstance(head, SegmentationHead):
        return [DiceCallback(data, head.num_classes)]
    if not isinstance(head, PooledHead) or head.form is None:
        return []
    kappa = QuadraticWeightedKappaCallback(
        data,
        num_grades=head.grade_count,
        prediction=head.form,
        truth=head.target_form,
        thresholds=getattr(head, "thresholds", None),
        accuracy_name="val_grade_accuracy",
    )
    return [kappa]


def head_scores(
    head: Head, targets: np.ndarray, outputs: np.ndarray, weights: np.ndarray
) -> dict[str, float]:
    """Return Dice of masks, kappa and accuracy of grades.

    Args:
        head: the head.
        targets: encoded targets of all images.
        outputs: outputs of the head; of masks the decoded ones.
        weights: one per image.
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
