"""Losses of pretext tasks, as functions, and of segmentation, as functions and Keras losses."""

from keras_ssl.losses.contrastive import (
    info_nce,
    nt_xent,
    predicted_pairs,
    predictive_coding,
    triplet_margin,
    unit_vectors,
    view_similarities,
)
from keras_ssl.losses.reconstruction import (
    masked_absolute_error,
    rebalanced_crossentropy,
    rebalancing_weights,
    weighted_squared_error,
)
from keras_ssl.losses.redundancy_reduction import barlow_twins, cross_correlation, standard_deviations, vicreg
from keras_ssl.losses.segmentation import (
    DiceCrossentropy,
    JaccardDistance,
    SoftDice,
    WeightedCategoricalCrossentropy,
    dice_crossentropy,
    jaccard_distance,
    soft_dice_loss,
    weighted_categorical_crossentropy,
)
from keras_ssl.losses.self_distillation import (
    assignment_information,
    cosine_regression,
    dino,
    directional_spread,
    sinkhorn,
)
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
