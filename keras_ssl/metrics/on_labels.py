"""Keras metrics on the labels and probabilities of any head."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

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
        if hasattr(metric, "_direction"):
            # By which `mode="auto"` of a callback knows.
            self._direction = metric._direction

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
