"""Task heads for fine-tuning an encoder: grades, classes, regression, segmentation."""

from keras_ssl.heads.base import Head
from keras_ssl.heads.grading import ClassificationHead, MultiHotHead, OrdinalHead, RegressionHead
from keras_ssl.heads.segmentation import SegmentationHead

__all__ = [
    "ClassificationHead",
    "Head",
    "MultiHotHead",
    "OrdinalHead",
    "RegressionHead",
    "SegmentationHead",
]
