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
from keras_ssl.callbacks import QuadraticWeightedKappaCallback, WarmupFreeze
from keras_ssl.heads import ClassificationHead, MultiHotHead, OrdinalHead, RegressionHead, SegmentationHead
from keras_ssl.metrics import QuadraticWeightedKappa
from keras_ssl.models.fine_tuner import FineTuner
from keras_ssl.models.grader import Grader
from keras_ssl.models.segmenter import Segmenter
from keras_ssl.models.self_supervised import SelfSupervisedModel
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
    "ExemplarTask",
    "FineTuner",
    "Grader",
    "InpaintingTask",
    "JigsawTask",
    "MAETask",
    "MoCoTask",
    "MultiHotHead",
    "MultiTask",
    "OrdinalHead",
    "PretextTask",
    "QuadraticWeightedKappa",
    "QuadraticWeightedKappaCallback",
    "RegressionHead",
    "RelativePatchTask",
    "RotationTask",
    "SegmentationHead",
    "Segmenter",
    "SelfSupervisedModel",
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
    "random",
    "reports",
    "show_pretext",
    "tasks",
]
