"""Figures and tables made from records alone: nothing here imports Keras."""

from keras_ssl.reports.figures import plot_confusion, plot_convergence, plot_label_efficiency, plot_pretext
from keras_ssl.reports.tables import format_table, summarize

__all__ = [
    "format_table",
    "plot_confusion",
    "plot_convergence",
    "plot_label_efficiency",
    "plot_pretext",
    "summarize",
]
