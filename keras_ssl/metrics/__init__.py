"""Metrics and scores: pure functions, and Keras metrics that use them."""

from keras_ssl.metrics.grades import GradeForm, decode_grades, grade_confusion, grade_thresholds
from keras_ssl.metrics.grading_scores import ScoreName, grading_scores
from keras_ssl.metrics.probes import (
    effective_rank,
    embedding_spread,
    is_collapsed,
    knn_predict,
    linear_probe_predict,
    nearest_is_own,
    relative_error,
)
from keras_ssl.metrics.quadratic_weighted_kappa import (
    QuadraticWeightedKappa,
    fit_thresholds,
    quadratic_weighted_kappa,
)
from keras_ssl.metrics.segmentation import (
    BratsRegion,
    MeanDice,
    brats_dice,
    brats_regions,
    dice_scores,
    jaccard_scores,
    label_confusion,
    mean_dice,
)
from keras_ssl.metrics.segmentation_scores import segmentation_scores
from keras_ssl.metrics.surface_distances import average_surface_distance, hausdorff_95, surface_distances

__all__ = [
    "BratsRegion",
    "GradeForm",
    "MeanDice",
    "QuadraticWeightedKappa",
    "ScoreName",
    "average_surface_distance",
    "brats_dice",
    "brats_regions",
    "decode_grades",
    "dice_scores",
    "effective_rank",
    "embedding_spread",
    "fit_thresholds",
    "grade_confusion",
    "grade_thresholds",
    "grading_scores",
    "hausdorff_95",
    "is_collapsed",
    "jaccard_scores",
    "knn_predict",
    "label_confusion",
    "linear_probe_predict",
    "mean_dice",
    "nearest_is_own",
    "quadratic_weighted_kappa",
    "relative_error",
    "segmentation_scores",
    "surface_distances",
]
