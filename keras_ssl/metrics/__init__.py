"""What is measured: pure functions first, Keras metrics made of them."""

from keras_ssl.metrics.grades import GradeForm, decode_grades, grade_confusion, grade_thresholds
from keras_ssl.metrics.quadratic_weighted_kappa import QuadraticWeightedKappa, quadratic_weighted_kappa

__all__ = [
    "GradeForm",
    "QuadraticWeightedKappa",
    "decode_grades",
    "grade_confusion",
    "grade_thresholds",
    "quadratic_weighted_kappa",
]
