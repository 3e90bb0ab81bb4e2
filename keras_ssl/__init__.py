"""Self-supervised pretext tasks for Keras 3, made for medical imaging."""

from keras_ssl import (
    callbacks,
    data,
    encoders,
    evaluation,
    layers,
    losses,
    metrics,
    preprocessing,
    reports,
    tasks,
)
from keras_ssl._version import __version__
from keras_ssl.callbacks import (
    DiceCallback,
    QuadraticWeightedKappaCallback,
    RepresentationCheck,
    ShortcutCheck,
    WarmupFreeze,
)
from keras_ssl.fine_tuner import FineTuner
from keras_ssl.grader import GradedImage, Grader
from keras_ssl.layers import (
    ClassificationHead,
    Head,
    MultiHotHead,
    OrdinalHead,
    RegressionHead,
    SegmentationHead,
)
from keras_ssl.metrics import MeanDice, QuadraticWeightedKappa, quadratic_weighted_kappa
from keras_ssl.model import SelfSupervisedModel
from keras_ssl.random import ReplaySeeds
from keras_ssl.segmenter import Segmenter
from keras_ssl.sliding_window import sliding_window_predict
from keras_ssl.task import PretextTask
from keras_ssl.tasks.rotation import RotationTask
from keras_ssl.tasks.rotation_guards import RotationGuards
from keras_ssl.tasks.simclr import SimCLRTask
from keras_ssl.training import default_jit_compile

__all__ = [
    "ClassificationHead",
    "DiceCallback",
    "FineTuner",
    "GradedImage",
    "Grader",
    "Head",
    "MeanDice",
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
    "SegmentationHead",
    "Segmenter",
    "SelfSupervisedModel",
    "ShortcutCheck",
    "SimCLRTask",
    "WarmupFreeze",
    "__version__",
    "callbacks",
    "data",
    "default_jit_compile",
    "encoders",
    "evaluation",
    "layers",
    "losses",
    "metrics",
    "preprocessing",
    "quadratic_weighted_kappa",
    "reports",
    "sliding_window_predict",
    "tasks",
]
