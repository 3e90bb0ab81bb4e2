"""Losses of dense prediction, and those that pretext tasks are made of: functions first."""

from keras_ssl.losses.contrastive import info_nce, nt_xent, triplet_margin, unit_vectors, view_similarities
from keras_ssl.losses.crossentropy import (
    DiceCrossentropy,
    WeightedCategoricalCrossentropy,
    dice_crossentropy,
    weighted_categorical_crossentropy,
)
from keras_ssl.losses.distillation import assignment_information, dino, sinkhorn
from keras_ssl.losses.masked import masked_absolute_error
from keras_ssl.losses.overlap import JaccardDistance, SoftDice, jaccard_distance, soft_dice_loss
from keras_ssl.losses.predictive import predicted_pairs, predictive_coding
from keras_ssl.losses.rebalancing import rebalanced_crossentropy, rebalancing_weights
from keras_ssl.losses.reconstruction import weighted_squared_error
from keras_ssl.losses.redundancy import barlow_twins, cross_correlation, standard_deviations, vicreg
from keras_ssl.losses.similarity import cosine_regression, directional_spread
from keras_ssl.losses.weighted_sum import WeightedSum, weighted_sum

__all__ = [
    "DiceCrossentropy",
    "JaccardDistance",
    "SoftDice",
    "WeightedCategoricalCrossentropy",
    "WeightedSum",
    "assignment_information",
    "barlow_twins",
    "cosine_regression",
    "cross_correlation",
    "dice_crossentropy",
    "dino",
    "directional_spread",
    "info_nce",
    "jaccard_distance",
    "masked_absolute_error",
    "nt_xent",
    "predicted_pairs",
    "predictive_coding",
    "rebalanced_crossentropy",
    "rebalancing_weights",
    "sinkhorn",
    "soft_dice_loss",
    "standard_deviations",
    "triplet_margin",
    "unit_vectors",
    "vicreg",
    "view_similarities",
    "weighted_categorical_crossentropy",
    "weighted_squared_error",
    "weighted_sum",
]
