"""Losses of dense prediction, and those that pretext tasks are made of: functions first."""

from keras_ssl.losses.contrastive import info_nce, nt_xent, triplet_margin, unit_vectors, view_similarities
from keras_ssl.losses.crossentropy import (
    DiceCrossentropy,
    WeightedCategoricalCrossentropy,
    dice_crossentropy,
    weighted_categorical_crossentropy,
)
from keras_ssl.losses.overlap import JaccardDistance, SoftDice, jaccard_distance, soft_dice_loss
from keras_ssl.losses.weighted_sum import WeightedSum, weighted_sum

__all__ = [
    "DiceCrossentropy",
    "JaccardDistance",
    "SoftDice",
    "WeightedCategoricalCrossentropy",
    "WeightedSum",
    "dice_crossentropy",
    "info_nce",
    "jaccard_distance",
    "nt_xent",
    "soft_dice_loss",
    "triplet_margin",
    "unit_vectors",
    "view_similarities",
    "weighted_categorical_crossentropy",
    "weighted_sum",
]
