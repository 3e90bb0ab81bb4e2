"""Metrics and scores: pure functions, and Keras metrics that use them."""

from keras_ssl.metrics.grading_scores import grading_scores
from keras_ssl.metrics.probes import effective_rank, knn_predict, linear_probe_predict
from keras_ssl.metrics.quadratic_weighted_kappa import (
    QuadraticWeightedKappa,
    fit_thresholds,
    quadratic_weighted_kappa,
)
from keras_ssl.metrics.segmentation import MeanDice, brats_regions
from keras_ssl.metrics.segmentation_scores import segmentation_scores

__all__ = [
    "MeanDice",
    "QuadraticWeightedKappa",
    "brats_regions",
    "effective_rank",
    "fit_thresholds",
    "grading_scores",
    "knn_predict",
    "linear_probe_predict",
    "quadratic_weighted_kappa",
    "segmentation_scores",
]
