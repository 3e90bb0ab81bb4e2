"""Self-supervised pretext tasks for Keras 3, made for medical imaging."""

from keras_ssl import callbacks, data, encoders, evaluation, layers, metrics, preprocessing, reports, tasks
from keras_ssl._version import __version__
from keras_ssl.callbacks import (
    QuadraticWeightedKappaCallback,
    RepresentationCheck,
    ShortcutCheck,
    WarmupFreeze,
)
from keras_ssl.fine_tuner import FineTuner
from keras_ssl.grader import GradedImage, Grader
from keras_ssl.layers import ClassificationHead, Head, MultiHotHead, OrdinalHead, RegressionHead
from keras_ssl.metrics import QuadraticWeightedKappa, quadratic_weighted_kappa
from keras_ssl.model import SelfSupervisedModel
from keras_ssl.random import ReplaySeeds
from keras_ssl.task import PretextTask
from keras_ssl.tasks import RotationGuards, RotationTask
from keras_ssl.training import default_jit_compile

__all__ = [
    "ClassificationHead",
    "FineTuner",
    "GradedImage",
    "Grader",
    "Head",
    "MultiHotHead",
    "OrdinalHead",
    "PretextTask",
    "QuadraticWeightedKappa",
    "QuadraticWeightedKappaCallback",
    "RegressionHead",
    "ReplaySeeds",
    "RepresentationCheck",
    "RotationGuards",
    "RotationTask",
    "SelfSupervisedModel",
    "ShortcutCheck",
    "WarmupFreeze",
    "__version__",
    "callbacks",
    "data",
    "default_jit_compile",
    "encoders",
    "evaluation",
    "layers",
    "metrics",
    "preprocessing",
    "quadratic_weighted_kappa",
    "reports",
    "tasks",
]
