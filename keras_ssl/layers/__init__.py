"""What networks are built of: heads, and the dense layers under them."""

from keras_ssl.layers.feature_queue import FeatureQueue
from keras_ssl.layers.heads import (
    ClassificationHead,
    Head,
    MultiHotHead,
    OrdinalHead,
    PooledHead,
    RegressionHead,
)
from keras_ssl.layers.mlp import mlp, pool_features
from keras_ssl.layers.projector import projector
from keras_ssl.layers.segmentation_head import SegmentationHead
from keras_ssl.layers.teacher import Teacher

__all__ = [
    "ClassificationHead",
    "FeatureQueue",
    "Head",
    "MultiHotHead",
    "OrdinalHead",
    "PooledHead",
    "RegressionHead",
    "SegmentationHead",
    "Teacher",
    "mlp",
    "pool_features",
    "projector",
]
