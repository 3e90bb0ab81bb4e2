"""What is measured: pure functions first, Keras metrics made of them."""

from keras_ssl.metrics.grades import GradeForm, decode_grades, grade_confusion, grade_thresholds
from keras_ssl.metrics.quadratic_weighted_kappa import QuadraticWeightedKappa, quadratic_weighted_kappa
from keras_ssl.metrics.representation import (
    effective_rank,
    embedding_spread,
    is_collapsed,
    knn_predict,
    linear_probe_predict,
)
from keras_ssl.metrics.scores import ScoreName, grading_scores
from keras_ssl.metrics.thresholds import fit_thresholds

__all__ = [
    "GradeForm",
    "QuadraticWeightedKappa",
    "ScoreName",
    "decode_grades",
    "effective_rank",
    "embedding_spread",
    "fit_thresholds",
    "grade_confusion",
    "grade_thresholds",
    "grading_scores",
    "is_collapsed",
    "knn_predict",
    "linear_probe_predict",
    "quadratic_weighted_kappa",
]
