"""Metrics of the runs of a study: kappa and others for graders, Dice for segmenters."""

import abc
import dataclasses
import math
from typing import Any, ClassVar, get_args

import numpy as np
import numpy.typing as npt

from keras_ssl._checks import as_numpy, check_grades, check_masks
from keras_ssl.data.inputs import image_batches
from keras_ssl.distribution import predict, predict_on_batch
from keras_ssl.evaluation.statistics import bootstrap_kappa, lower_is_better
from keras_ssl.heads.base import Head, PooledHead
from keras_ssl.heads.grading import RegressionHead
from keras_ssl.heads.segmentation import SegmentationHead
from keras_ssl.metrics import fit_thresholds, grading_scores, segmentation_scores
from keras_ssl.metrics.grading_scores import ScoreName
from keras_ssl.models.fine_tuner import FineTuner


class Judge(abc.ABC):
    """Labels and metrics of one kind of head; holds no Keras model, as a study does not."""

    curves: ClassVar[dict[str, str]]
    """Curves of a record, and by what name `FineTuner.fit` logs them."""

    @abc.abstractmethod
    def checked(self, labels: npt.ArrayLike) -> np.ndarray:
        """Return labels that can be trained on, one a row, or raise ValueError."""

    @abc.abstractmethod
    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return a whole number per image, each of which every part of a split gets its share of."""

    @abc.abstractmethod
    def described(self, labels: np.ndarray) -> dict[str, Any]:
        """Say what labels there are."""

    @property
    @abc.abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of what a record holds of the test images."""

    @property
    @abc.abstractmethod
    def choices(self) -> tuple[str, ...]:
        """Names of validation metrics to choose learning rates and weights by, the default first."""

    @property
    def settles(self) -> bool:
        """Return True if `settle` uses the validation labels."""
        return False

    @abc.abstractmethod
    def outputs(self, tuner: FineTuner, images: np.ndarray) -> np.ndarray:
        """Return what the other methods are to read, one a row."""

    @abc.abstractmethod
    def settle(self, true: np.ndarray, outputs: np.ndarray) -> Head:
        """Return the head with what is fitted to validation images, such as cut points."""

    @abc.abstractmethod
    def measure(self, metric: str, head: Head, true: np.ndarray, outputs: np.ndarray) -> float:
        """Return one of `choices`, but the loss; nan where it is not defined for these images."""

    def score(self, metric: str, tuner: FineTuner, images: np.ndarray, true: np.ndarray) -> float:
        """Return one of `choices` on validation images, with the sign of errors reversed: more is better."""
        if metric == "loss":
            value = tuner.evaluate(images, true)["loss"]
        else:
            outputs = self.outputs(tuner, images)
            value = self.measure(metric, self.settle(true, outputs), true, outputs)
        return -value if lower_is_better(metric) else value

    @abc.abstractmethod
    def judge(
        self, head: Head, true: np.ndarray, outputs: np.ndarray, groups: np.ndarray, seed: int
    ) -> dict[str, Any]:
        """Return what a record says of the test images."""


def judge_for(head: Head) -> Judge:
    """Choose the judge of a head.

    Raises:
        TypeError: `head` is no `Head`.
        ValueError: its labels are neither grades nor classes.
    """
    if isinstance(head, SegmentationHead):
        return _MaskJudge(head)
    if not isinstance(head, PooledHead):
        raise TypeError(
            f"`head` must be a Head of grades, classes or masks, such as OrdinalHead(5). Received {head!r}."
        )
    if head.form is None:
        raise ValueError(f"`head` must be one for grades or classes. Received {head!r}.")
    return _GradeJudge(head)


@dataclasses.dataclass(frozen=True)
class _GradeJudge(Judge):
    head: PooledHead

    curves: ClassVar[dict[str, str]] = {
        "curve_qw_kappa": "val_qw_kappa",
        "curve_accuracy": "val_grade_accuracy",
        "curve_loss": "val_loss",
    }

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("qw_kappa", "qw_kappa_low", "qw_kappa_high", *get_args(ScoreName)[1:])

    def checked(self, labels: npt.ArrayLike) -> np.ndarray:
        return check_grades(labels, self.head.grade_count)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def described(self, labels: np.ndarray) -> dict[str, Any]:
        return {"grades": np.bincount(labels, minlength=self.head.grade_count).tolist()}

    def outputs(self, tuner: FineTuner, images: np.ndarray) -> np.ndarray:
        return predict(tuner.model, image_batches(images, tuner.input_shape, batch_size=64))

    @property
    def choices(self) -> tuple[str, ...]:
        of_probabilities = ("macro_auc", "calibration_error") if self.settles else ()
        return (*(name for name in get_args(ScoreName) if name not in of_probabilities), "loss")

    @property
    def settles(self) -> bool:
        return self.head.form == "score"

    def settle(self, true: np.ndarray, outputs: np.ndarray) -> Head:
        if not self.settles:
            return self.head
        # Cut points belong to what is learned, so they come from validation images and not from test ones.
        cuts = fit_thresholds(true, outputs[:, 0], self.head.grade_count)
        return dataclasses.replace(self.head, thresholds=cuts)  # type: ignore[call-arg]

    def measure(self, metric: str, head: Head, true: np.ndarray, outputs: np.ndarray) -> float:
        return self._scores(head, true, outputs, [metric])[metric]

    def judge(
        self, head: Head, true: np.ndarray, outputs: np.ndarray, groups: np.ndarray, seed: int
    ) -> dict[str, Any]:
        predicted = head.decode(outputs)
        scores = self._scores(head, true, outputs)
        interval = bootstrap_kappa(true, predicted, self.head.grade_count, groups, seed=seed)
        found = {**scores, "qw_kappa_low": interval.low, "qw_kappa_high": interval.high}
        return {
            **{name: _plain(found.get(name)) for name in self.metrics},
            **({"thresholds": list(head.thresholds or ())} if isinstance(head, RegressionHead) else {}),
            "test_grades": true.tolist(),
            "test_predictions": predicted.tolist(),
        }

    def _scores(
        self, head: Head, true: np.ndarray, outputs: np.ndarray, names: Any = None
    ) -> dict[str, float]:
        assert isinstance(head, PooledHead)
        return grading_scores(
            true,
            head.decode(outputs),
            None if self.settles else head.probabilities(outputs),
            num_grades=head.grade_count,
            multi_hot=outputs if head.form == "multi_hot" else None,
            # Of two classes the second is the disease; of grades, all from moderate on.
            referable_from=min(2, head.grade_count - 1),
            names=names,
        )


@dataclasses.dataclass(frozen=True)
class _MaskJudge(Judge):
    head: SegmentationHead

    curves: ClassVar[dict[str, str]] = {"curve_dice": "val_dice", "curve_loss": "val_loss"}

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("dice", "jaccard", *(f"dice_{number}" for number in range(1, self.head.num_classes)))

    def checked(self, labels: npt.ArrayLike) -> np.ndarray:
        return check_masks(as_numpy(labels), self.head.num_classes, foreground=True)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Two halves, of little and of much foreground, so that no part has only one kind."""
        sizes = [np.count_nonzero(mask) for mask in labels]
        return (np.argsort(np.argsort(sizes, kind="stable")) >= len(sizes) // 2).astype(np.int64)

    def described(self, labels: np.ndarray) -> dict[str, Any]:
        counts = sum(np.bincount(mask.reshape(-1), minlength=self.head.num_classes) for mask in labels)
        return {"pixels by class": np.asarray(counts).tolist()}

    def outputs(self, tuner: FineTuner, images: np.ndarray) -> np.ndarray:
        # Classes, batch by batch: the probabilities of many volumes need not fit into memory.
        batches = image_batches(images, tuner.input_shape, batch_size=8)
        return np.concatenate(
            [
                self.head.decode(predict_on_batch(tuner.model, batches[index][0]))
                for index in range(len(batches))
            ]
        )

    @property
    def choices(self) -> tuple[str, ...]:
        return (*self.metrics, "loss")

    def settle(self, true: np.ndarray, outputs: np.ndarray) -> Head:
        return self.head

    def measure(self, metric: str, head: Head, true: np.ndarray, outputs: np.ndarray) -> float:
        return self._scores(list(true), list(outputs))[metric]

    def judge(
        self, head: Head, true: np.ndarray, outputs: np.ndarray, groups: np.ndarray, seed: int
    ) -> dict[str, Any]:
        dice = [self._scores(mask, predicted)["dice"] for mask, predicted in zip(true, outputs, strict=True)]
        scores = self._scores(list(true), list(outputs))
        found = {name: _plain(value) for name, value in scores.items()}
        return {**found, "test_dice": [_plain(value) for value in dice]}

    def _scores(self, true: Any, predicted: Any) -> dict[str, float]:
        return segmentation_scores(true, predicted, num_classes=self.head.num_classes, names=self.metrics)


def _plain(value: float | None) -> float | None:
    """What JSON knows: not NaN, of a metric that is not defined for these images."""
    return None if value is None or math.isnan(value) else float(value)
