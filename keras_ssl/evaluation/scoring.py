"""Scores of the runs of a study: kappa and other metrics of graders, Dice of segmenters."""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast, get_args

import numpy as np

from keras_ssl._checks import as_numpy, check_grades, check_masks
from keras_ssl._types import Labels, Record
from keras_ssl.data.fit_inputs import image_batches
from keras_ssl.distribution import predict, predict_on_batch
from keras_ssl.evaluation.statistics import bootstrap_kappa, lower_is_better
from keras_ssl.heads.base import Head, PooledHead
from keras_ssl.heads.grading import RegressionHead
from keras_ssl.heads.segmentation import SegmentationHead
from keras_ssl.metrics import fit_thresholds, grading_scores, segmentation_scores
from keras_ssl.metrics.grading_scores import ScoreName
from keras_ssl.models.fine_tuner import FineTuner


class Scorer(abc.ABC):
    """Labels and metrics of one kind of head; holds no Keras model, so that a study can be pickled."""

    head: Head

    curves: ClassVar[dict[str, str]]
    """Names of validation curves in a record, each with the name that `FineTuner.fit` logs it under."""

    @abc.abstractmethod
    def check_labels(self, labels: Labels) -> np.ndarray:
        """Validate labels and return them as an array, one row per image."""

    @abc.abstractmethod
    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return the class of each image by which splits are stratified."""

    @abc.abstractmethod
    def describe_labels(self, labels: np.ndarray) -> dict[str, Any]:
        """Count the labels, for `study.json` and the report."""

    @property
    @abc.abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of the test metrics in a record."""

    @property
    @abc.abstractmethod
    def validation_metrics(self) -> tuple[str, ...]:
        """Names that `tune_by` and `select_by` accept, the default first."""

    @property
    def fits_thresholds(self) -> bool:
        """Return True if `fit_head` uses the validation labels."""
        return False

    @abc.abstractmethod
    def predict(self, tuner: FineTuner, images: np.ndarray) -> np.ndarray:
        """Return the outputs that the other methods read, one row per image."""

    def fit_head(self, true: np.ndarray, outputs: np.ndarray) -> Head:
        """Return the head, with thresholds fitted to validation images if it has any."""
        return self.head

    @abc.abstractmethod
    def measure(self, metric: str, head: Head, true: np.ndarray, outputs: np.ndarray) -> float:
        """Return one of `validation_metrics` except the loss; NaN where it is undefined for these images."""

    def score(self, metric: str, tuner: FineTuner, images: np.ndarray, true: np.ndarray) -> float:
        """Return one of `validation_metrics`, negated for errors, so that higher is better."""
        if metric == "loss":
            value = tuner.evaluate(images, true)["loss"]
        else:
            outputs = self.predict(tuner, images)
            value = self.measure(metric, self.fit_head(true, outputs), true, outputs)
        return -value if lower_is_better(metric) else value

    @abc.abstractmethod
    def test_scores(
        self, head: Head, true: np.ndarray, outputs: np.ndarray, groups: np.ndarray, seed: int
    ) -> Record:
        """Return the test metrics and the predictions that a record holds."""


def scorer_for(head: Head) -> Scorer:
    """Return the scorer of a head.

    Raises:
        TypeError: `head` is not a `Head`.
        ValueError: its labels are neither grades nor classes.
    """
    if isinstance(head, SegmentationHead):
        return _SegmentationScorer(head)
    if not isinstance(head, PooledHead):
        raise TypeError(
            f"`head` must be a Head for grades, classes or masks, such as OrdinalHead(5). Received {head!r}."
        )
    if head.form is None:
        raise ValueError(f"`head` must predict grades or classes. Received {head!r}.")
    return _GradingScorer(head)


@dataclasses.dataclass(frozen=True)
class _GradingScorer(Scorer):
    head: PooledHead

    curves: ClassVar[dict[str, str]] = {
        "curve_qw_kappa": "val_qw_kappa",
        "curve_accuracy": "val_grade_accuracy",
        "curve_loss": "val_loss",
    }

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("qw_kappa", "qw_kappa_low", "qw_kappa_high", *get_args(ScoreName)[1:])

    def check_labels(self, labels: Labels) -> np.ndarray:
        return check_grades(labels, self.head.grade_count)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def describe_labels(self, labels: np.ndarray) -> dict[str, Any]:
        return {"grades": np.bincount(labels, minlength=self.head.grade_count).tolist()}

    def predict(self, tuner: FineTuner, images: np.ndarray) -> np.ndarray:
        return predict(tuner.model, image_batches(images, tuner.input_shape, batch_size=64))

    @property
    def validation_metrics(self) -> tuple[str, ...]:
        of_probabilities = ("macro_auc", "calibration_error") if self.fits_thresholds else ()
        return (*(name for name in get_args(ScoreName) if name not in of_probabilities), "loss")

    @property
    def fits_thresholds(self) -> bool:
        return self.head.form == "score"

    def fit_head(self, true: np.ndarray, outputs: np.ndarray) -> Head:
        if not self.fits_thresholds:
            return self.head
        # Thresholds are learned, so they are fitted to validation images and not to test images.
        thresholds = fit_thresholds(true, outputs[:, 0], self.head.grade_count)
        return dataclasses.replace(self.head, thresholds=thresholds)  # type: ignore[call-arg]

    def measure(self, metric: str, head: Head, true: np.ndarray, outputs: np.ndarray) -> float:
        return self._scores(head, true, outputs, [cast(ScoreName, metric)])[metric]

    def test_scores(
        self, head: Head, true: np.ndarray, outputs: np.ndarray, groups: np.ndarray, seed: int
    ) -> Record:
        predicted = head.decode(outputs)
        scores = self._scores(head, true, outputs)
        interval = bootstrap_kappa(true, predicted, self.head.grade_count, groups, seed=seed)
        found = {**scores, "qw_kappa_low": interval.low, "qw_kappa_high": interval.high}
        return {
            **{name: _none_for_nan(found.get(name)) for name in self.metrics},
            **({"thresholds": list(head.thresholds or ())} if isinstance(head, RegressionHead) else {}),
            "test_grades": true.tolist(),
            "test_predictions": predicted.tolist(),
        }

    def _scores(
        self, head: Head, true: np.ndarray, outputs: np.ndarray, names: Sequence[ScoreName] | None = None
    ) -> dict[str, float]:
        assert isinstance(head, PooledHead)
        return grading_scores(
            true,
            head.decode(outputs),
            None if self.fits_thresholds else head.probabilities(outputs),
            num_grades=head.grade_count,
            multi_hot=outputs if head.form == "multi_hot" else None,
            # The second of two classes is the disease; of more grades, moderate and above are referable.
            referable_from=min(2, head.grade_count - 1),
            names=names,
        )


@dataclasses.dataclass(frozen=True)
class _SegmentationScorer(Scorer):
    head: SegmentationHead

    curves: ClassVar[dict[str, str]] = {"curve_dice": "val_dice", "curve_loss": "val_loss"}

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("dice", "jaccard", *(f"dice_{number}" for number in range(1, self.head.num_classes)))

    def check_labels(self, labels: Labels) -> np.ndarray:
        return check_masks(as_numpy(labels), self.head.num_classes, foreground=True)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Two halves, with little and with much foreground, so that every part of a split has both."""
        sizes = [np.count_nonzero(mask) for mask in labels]
        return (np.argsort(np.argsort(sizes, kind="stable")) >= len(sizes) // 2).astype(np.int64)

    def describe_labels(self, labels: np.ndarray) -> dict[str, Any]:
        counts = sum(np.bincount(mask.reshape(-1), minlength=self.head.num_classes) for mask in labels)
        return {"pixels by class": np.asarray(counts).tolist()}

    def predict(self, tuner: FineTuner, images: np.ndarray) -> np.ndarray:
        # Decode batch by batch: the probabilities of many volumes may not fit into memory.
        batches = image_batches(images, tuner.input_shape, batch_size=8)
        return np.concatenate(
            [
                self.head.decode(predict_on_batch(tuner.model, batches[index][0]))
                for index in range(len(batches))
            ]
        )

    @property
    def validation_metrics(self) -> tuple[str, ...]:
        return (*self.metrics, "loss")

    def measure(self, metric: str, head: Head, true: np.ndarray, outputs: np.ndarray) -> float:
        return self._scores(list(true), list(outputs))[metric]

    def test_scores(
        self, head: Head, true: np.ndarray, outputs: np.ndarray, groups: np.ndarray, seed: int
    ) -> Record:
        dice = [self._scores(mask, predicted)["dice"] for mask, predicted in zip(true, outputs, strict=True)]
        scores = self._scores(list(true), list(outputs))
        found = {name: _none_for_nan(value) for name, value in scores.items()}
        return {**found, "test_dice": [_none_for_nan(value) for value in dice]}

    def _scores(
        self, true: np.ndarray | list[np.ndarray], predicted: np.ndarray | list[np.ndarray]
    ) -> dict[str, float]:
        return segmentation_scores(true, predicted, num_classes=self.head.num_classes, names=self.metrics)


def _none_for_nan(value: float | None) -> float | None:
    """Return None for NaN, an undefined metric, since JSON has no NaN."""
    return None if value is None or math.isnan(value) else float(value)
