"""Reports from records: figures, tables, summary and HTML page; nothing here imports Keras."""

from keras_ssl.reports.confusion_matrices import plot_confusion, plot_recall
from keras_ssl.reports.figures import plot_convergence, plot_label_efficiency
from keras_ssl.reports.html_page import report_study
from keras_ssl.reports.image_figures import plot_embedding, plot_graded, plot_masks
from keras_ssl.reports.summary import summary_text
from keras_ssl.reports.tables import (
    format_differences,
    format_labels_saved,
    format_table,
    format_thesis_table,
)

__all__ = [
    "format_differences",
    "format_labels_saved",
    "format_table",
    "format_thesis_table",
    "plot_confusion",
    "plot_convergence",
    "plot_embedding",
    "plot_graded",
    "plot_label_efficiency",
    "plot_masks",
    "plot_recall",
    "report_study",
    "summary_text",
]
