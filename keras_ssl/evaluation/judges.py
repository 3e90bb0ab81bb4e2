"""How the runs of a study are judged: graders by kappa, segmenters by Dice."""

import abc
import dataclasses
import math
from typing import Any, ClassVar, get_args

import numpy as np
import numpy.typing as npt

from keras_ssl.data.adapt import image_batches
from keras_ssl.data.arrays import as_numpy
from keras_ssl.data.checks import check_grades, check_masks
from keras_ssl.devices import predict, predict_on_batch
from keras_ssl.evaluation.intervals import bootstrap_kappa
from keras_ssl.fine_tuner import FineTuner
from keras_ssl.layers.heads import Head, PooledHead, RegressionHead
from keras_ssl.layers.segmentation_head import SegmentationHead
from keras_ssl.metrics import fit_thresholds, grading_scores, quadratic_weighted_kappa, segmentation_scores
from keras_ssl.metrics.grades import grade_confusion
from keras_ssl.metrics.scores import ScoreName


class Judge(abc.ABC):
    """What a study must know of one kind of label; holds no Keras model, as a study does not."""

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

    @abc.abstractmethod
    def outputs(self, tuner: FineTuner, images: np.ndarray) -> np.ndarray:
        """Return what the other methods are to read, one a row."""

    @abc.abstractmethod
    def settle(self, true: np.ndarray, outputs: np.ndarray) -> tuple[Head, float]:
        """Return the head as validation images settle it, and how good it is on them; more is better."""

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
        "curve_qw_kappa": "val_qwk",
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

    def settle(self, true: np.ndarray, outputs: np.ndarray) -> tuple[Head, float]:
        head = self.head
        if head.form == "score":
            # Cut points belong to what is learnt, so they come from validation images and not from test ones.
            cuts = fit_thresholds(true, outputs[:, 0], head.grade_count)
            head = dataclasses.replace(head, thresholds=cuts)  # type: ignore[call-arg]
        confusion = grade_confusion(true, head.decode(outputs), head.grade_count)
        return head, float(quadratic_weighted_kappa(confusion))

    def judge(
        self, head: Head, true: np.ndarray, outputs: np.ndarray, groups: np.ndarray, seed: int
    ) -> dict[str, Any]:
        assert isinstance(head, PooledHead)
        predicted, count = head.decode(outputs), head.grade_count
        scores = grading_scores(
            true,
            predicted,
            None if head.form == "score" else head.probabilities(outputs),
            num_grades=count,
            multi_hot=outputs if head.form == "multi_hot" else None,
            # Of two classes the second is the disease; of grades, all from moderate on.
            referable_from=min(2, count - 1),
        )
        interval = bootstrap_kappa(true, predicted, count, groups, seed=seed)
        found = {**scores, "qw_kappa_low": interval.low, "qw_kappa_high": interval.high}
        return {
            **{name: _plain(found.get(name)) for name in self.metrics},
            **({"thresholds": list(head.thresholds or ())} if isinstance(head, RegressionHead) else {}),
            "test_grades": true.tolist(),
            "test_predictions": predicted.tolist(),
        }


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

    def settle(self, true: np.ndarray, outputs: np.ndarray) -> tuple[Head, float]:
        return self.head, self._scores(list(true), list(outputs))["dice"]

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
