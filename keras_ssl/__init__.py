"""Self-supervised pretext tasks for Keras 3, made for medical imaging."""

from keras_ssl import (
    callbacks,
    data,
    distribution,
    encoders,
    evaluation,
    heads,
    layers,
    losses,
    metrics,
    models,
    preprocessing,
    random,
    reports,
    tasks,
)
from keras_ssl._show_pretext import show_pretext
from keras_ssl.callbacks import (
    DiceCallback,
    QuadraticWeightedKappaCallback,
    RepresentationCheck,
    ShortcutCheck,
    WarmupFreeze,
)
from keras_ssl.heads import (
    ClassificationHead,
    Head,
    MultiHotHead,
    OrdinalHead,
    RegressionHead,
    SegmentationHead,
)
from keras_ssl.metrics import MeanDice, QuadraticWeightedKappa, quadratic_weighted_kappa
from keras_ssl.models.fine_tuner import FineTuner
from keras_ssl.models.grader import GradedImage, Grader
from keras_ssl.models.segmenter import Segmenter
from keras_ssl.models.self_supervised import SelfSupervisedModel
from keras_ssl.models.sliding_window import sliding_window_predict
from keras_ssl.random import ReplaySeeds
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
from keras_ssl.tasks.base import PretextTask

__version__ = "0.1.0"

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
    "distribution",
    "encoders",
    "evaluation",
    "heads",
    "layers",
    "losses",
    "metrics",
    "models",
    "preprocessing",
    "quadratic_weighted_kappa",
    "random",
    "reports",
    "show_pretext",
    "sliding_window_predict",
    "tasks",
]
