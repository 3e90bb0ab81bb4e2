"""Losses of dense prediction: functions first, Keras losses made of them."""

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
    "jaccard_distance",
    "soft_dice_loss",
    "weighted_categorical_crossentropy",
    "weighted_sum",
]
