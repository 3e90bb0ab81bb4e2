"""Losses of pretext tasks, as functions, and of segmentation, as functions and Keras losses."""

from keras_ssl.losses.contrastive import info_nce, nt_xent
from keras_ssl.losses.redundancy_reduction import barlow_twins, vicreg
from keras_ssl.losses.segmentation import DiceCrossentropy, SoftDice, WeightedCategoricalCrossentropy
from keras_ssl.losses.self_distillation import dino
from keras_ssl.losses.weighted_sum import WeightedSum

__all__ = [
    "DiceCrossentropy",
    "SoftDice",
    "WeightedCategoricalCrossentropy",
    "WeightedSum",
    "barlow_twins",
    "dino",
    "info_nce",
    "nt_xent",
    "vicreg",
]
