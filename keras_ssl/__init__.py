"""Self-supervised pretext tasks for Keras 3, made for medical imaging."""

from keras_ssl import (
    callbacks,
    data,
    devices,
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
from keras_ssl.show import show_pretext
from keras_ssl.sliding_window import sliding_window_predict
from keras_ssl.task import PretextTask
from keras_ssl.tasks import (
    BarlowTwinsTask,
    BYOLTask,
    ColorizationTask,
    CPCTask,
    DINOTask,
    ExemplarTask,
    InpaintingTask,
    JigsawTask,
    MAETask,
    MoCoTask,
    MultiTask,
    RelativePatchTask,
    RotationGuards,
    RotationTask,
    SimCLRTask,
    SimMIMTask,
    SimSiamTask,
    VICRegTask,
)

__all__ = [
    "BYOLTask",
    "BarlowTwinsTask",
    "CPCTask",
    "ClassificationHead",
    "ColorizationTask",
    "DINOTask",
    "DiceCallback",
    "ExemplarTask",
    "FineTuner",
    "GradedImage",
    "Grader",
    "Head",
    "InpaintingTask",
    "JigsawTask",
    "MAETask",
    "MeanDice",
    "MoCoTask",
    "MultiHotHead",
    "MultiTask",
    "OrdinalHead",
    "PretextTask",
    "QuadraticWeightedKappa",
    "QuadraticWeightedKappaCallback",
    "RegressionHead",
    "RelativePatchTask",
    "ReplaySeeds",
    "RepresentationCheck",
    "RotationGuards",
    "RotationTask",
    "SegmentationHead",
    "Segmenter",
    "SelfSupervisedModel",
    "ShortcutCheck",
    "SimCLRTask",
    "SimMIMTask",
    "SimSiamTask",
    "VICRegTask",
    "WarmupFreeze",
    "__version__",
    "callbacks",
    "data",
    "devices",
    "encoders",
    "evaluation",
    "layers",
    "losses",
    "metrics",
    "preprocessing",
    "quadratic_weighted_kappa",
    "reports",
    "show_pretext",
    "sliding_window_predict",
    "tasks",
]
