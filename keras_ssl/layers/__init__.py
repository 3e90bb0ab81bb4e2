"""Layers and blocks that pretext networks and heads are built of."""

from keras_ssl.layers.centering import Centering
from keras_ssl.layers.decoders import pixel_head, token_decoder, upsampling_decoder
from keras_ssl.layers.ema_teacher import EMATeacher
from keras_ssl.layers.feature_queue import FeatureQueue
from keras_ssl.layers.mask_tokens import AppendMaskTokens, FillMasked
from keras_ssl.layers.pooling import dense_layers, pool_features
from keras_ssl.layers.projection_heads import Prototypes, projection_head, prototype_head

__all__ = [
    "AppendMaskTokens",
    "Centering",
    "EMATeacher",
    "FeatureQueue",
    "FillMasked",
    "Prototypes",
    "dense_layers",
    "pixel_head",
    "pool_features",
    "projection_head",
    "prototype_head",
    "token_decoder",
    "upsampling_decoder",
]
