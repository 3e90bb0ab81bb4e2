"""Callbacks for `fit`, of any Keras model."""

from keras_ssl.callbacks.quadratic_weighted_kappa import QuadraticWeightedKappaCallback
from keras_ssl.callbacks.warmup_freeze import WarmupFreeze

__all__ = ["QuadraticWeightedKappaCallback", "WarmupFreeze"]
