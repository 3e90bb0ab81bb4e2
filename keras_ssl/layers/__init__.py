"""What networks are built of: heads, and the dense layers under them."""

from keras_ssl.layers.heads import (
    ClassificationHead,
    Head,
    MultiHotHead,
    OrdinalHead,
    PooledHead,
    RegressionHead,
)
from keras_ssl.layers.mlp import mlp, pool_features
from keras_ssl.layers.segmentation_head import SegmentationHead

__all__ = [
    "ClassificationHead",
    "Head",
    "MultiHotHead",
    "OrdinalHead",
    "PooledHead",
    "RegressionHead",
    "SegmentationHead",
    "mlp",
    "pool_features",
]
