"""Validation callbacks and scores for each kind of head."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_ssl.callbacks import DiceCallback, QuadraticWeightedKappaCallback
from keras_ssl.layers.heads import Head, PooledHead
from keras_ssl.layers.segmentation_head import SegmentationHead
from keras_ssl.metrics import (
    decode_grades,
    grade_confusion,
    quadratic_weighted_kappa,
    segmentation_scores,
)

# Logged on validation data by callbacks; Keras knows the direction of compiled metrics only.
_MORE_IS_BETTER = ("val_qwk", "val_grade_accuracy", "val_dice")


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
        "qwk": float(quadratic_weighted_kappa(confusion)),
        "accuracy": float(np.trace(confusion) / confusion.sum()),
    }
