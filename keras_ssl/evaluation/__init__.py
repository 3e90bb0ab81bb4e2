"""Evaluation: studies that train and compare encoders, records of their runs, statistics, Grad-CAM."""

from keras_ssl.evaluation.comparisons import labels_saved, paired_differences
from keras_ssl.evaluation.grad_cam import grad_cam
from keras_ssl.evaluation.label_efficiency import label_efficiency
from keras_ssl.evaluation.protocol import PretextRecipe, Protocol
from keras_ssl.evaluation.records import read_records
from keras_ssl.evaluation.statistics import kappa_intervals, summarize

__all__ = [
    "PretextRecipe",
    "Protocol",
    "grad_cam",
    "kappa_intervals",
    "label_efficiency",
    "labels_saved",
    "paired_differences",
    "read_records",
    "summarize",
]
