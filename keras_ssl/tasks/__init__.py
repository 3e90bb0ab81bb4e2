"""Pretext tasks, one method per file."""

from keras_ssl.tasks.barlow_twins import BarlowTwinsTask
from keras_ssl.tasks.base import PretextTask
from keras_ssl.tasks.byol import BYOLTask
from keras_ssl.tasks.colorization import ColorizationTask
from keras_ssl.tasks.cpc import CPCTask
from keras_ssl.tasks.dino import DINOTask
from keras_ssl.tasks.exemplar import ExemplarTask
from keras_ssl.tasks.inpainting import InpaintingTask
from keras_ssl.tasks.jigsaw import JigsawTask
from keras_ssl.tasks.mae import MAETask
from keras_ssl.tasks.moco import MoCoTask
from keras_ssl.tasks.multi import MultiTask
from keras_ssl.tasks.relative_patch import RelativePatchTask
from keras_ssl.tasks.rotation import RotationGuards, RotationTask
from keras_ssl.tasks.simclr import SimCLRTask
from keras_ssl.tasks.simmim import SimMIMTask
from keras_ssl.tasks.simsiam import SimSiamTask
from keras_ssl.tasks.vicreg import VICRegTask

__all__ = [
    "BYOLTask",
    "BarlowTwinsTask",
    "CPCTask",
    "ColorizationTask",
    "DINOTask",
    "ExemplarTask",
    "InpaintingTask",
    "JigsawTask",
    "MAETask",
    "MoCoTask",
    "MultiTask",
    "PretextTask",
    "RelativePatchTask",
    "RotationGuards",
    "RotationTask",
    "SimCLRTask",
    "SimMIMTask",
    "SimSiamTask",
    "VICRegTask",
]
