"""What networks are built of: heads, and the dense layers under them."""

from keras_ssl.layers.causal import causal_convolution
from keras_ssl.layers.centering import Centering
from keras_ssl.layers.decoder import upsampling_decoder
from keras_ssl.layers.feature_queue import FeatureQueue
from keras_ssl.layers.heads import (
    ClassificationHead,
    Head,
    MultiHotHead,
    OrdinalHead,
    PooledHead,
    RegressionHead,
)
from keras_ssl.layers.masked_parts import AppendMaskTokens, FillMasked
from keras_ssl.layers.mlp import mlp, pool_features
from keras_ssl.layers.pixel_head import pixel_head
from keras_ssl.layers.projector import projector
from keras_ssl.layers.prototypes import Prototypes, prototype_head
from keras_ssl.layers.segmentation_head import SegmentationHead
from keras_ssl.layers.teacher import Teacher
from keras_ssl.layers.token_decoder import token_decoder

__all__ = [
    "AppendMaskTokens",
    "Centering",
    "ClassificationHead",
    "FeatureQueue",
    "FillMasked",
    "Head",
    "MultiHotHead",
    "OrdinalHead",
    "PooledHead",
    "Prototypes",
    "RegressionHead",
    "SegmentationHead",
    "Teacher",
    "causal_convolution",
    "mlp",
    "pixel_head",
    "pool_features",
    "projector",
    "prototype_head",
    "token_decoder",
    "upsampling_decoder",
]
