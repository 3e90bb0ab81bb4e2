"""Keras callbacks: warm-up freeze, validation scores, checks of pretraining."""

from keras_ssl.callbacks.dice import DiceCallback
from keras_ssl.callbacks.quadratic_weighted_kappa import QuadraticWeightedKappaCallback
from keras_ssl.callbacks.representation_check import RepresentationCheck, check_representation
from keras_ssl.callbacks.shortcut_check import ShortcutCheck, rotation_shortcuts
from keras_ssl.callbacks.warmup_freeze import WarmupFreeze

__all__ = [
    "DiceCallback",
    "QuadraticWeightedKappaCallback",
    "RepresentationCheck",
    "ShortcutCheck",
    "WarmupFreeze",
    "check_representation",
    "rotation_shortcuts",
]
