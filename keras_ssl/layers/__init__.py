"""What networks are built of: heads, and the dense layers under them."""

from keras_ssl.layers.heads import ClassificationHead, Head, MultiHotHead, OrdinalHead, RegressionHead
from keras_ssl.layers.mlp import mlp, pool_features

__all__ = [
    "ClassificationHead",
    "Head",
    "MultiHotHead",
    "OrdinalHead",
    "RegressionHead",
    "mlp",
    "pool_features",
]
