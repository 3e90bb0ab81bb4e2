"""Layers and blocks that pretext networks and heads are built of."""

from keras_ssl.layers.centering import Centering
from keras_ssl.layers.decoders import upsampling_decoder
from keras_ssl.layers.ema_teacher import EMATeacher
from keras_ssl.layers.feature_queue import FeatureQueue
from keras_ssl.layers.pooling import pool_features
from keras_ssl.layers.projection_heads import projection_head
from keras_ssl.layers.run_clock import FollowsClock, RunClock

__all__ = [
    "Centering",
    "EMATeacher",
    "FeatureQueue",
    "FollowsClock",
    "RunClock",
    "pool_features",
    "projection_head",
    "upsampling_decoder",
]
