"""Evaluation: studies that train and compare encoders, records of their runs, statistics, Grad-CAM."""

from keras_ssl.evaluation.command_line import add_protocol_arguments, chosen_protocol, error_message
from keras_ssl.evaluation.comparisons import labels_saved, paired_differences
from keras_ssl.evaluation.grad_cam import grad_cam
from keras_ssl.evaluation.label_efficiency import label_efficiency
from keras_ssl.evaluation.protocol import PretextRecipe, Protocol, Recipe
from keras_ssl.evaluation.records import RecordFile, arm_label, arm_names, read_records, sort_records
from keras_ssl.evaluation.statistics import (
    Interval,
    bootstrap_kappa,
    kappa_intervals,
    still_rising,
    summarize,
)

__all__ = [
    "Interval",
    "PretextRecipe",
    "Protocol",
    "Recipe",
    "RecordFile",
    "add_protocol_arguments",
    "arm_label",
    "arm_names",
    "bootstrap_kappa",
    "chosen_protocol",
    "error_message",
    "grad_cam",
    "kappa_intervals",
    "label_efficiency",
    "labels_saved",
    "paired_differences",
    "read_records",
    "sort_records",
    "still_rising",
    "summarize",
]
