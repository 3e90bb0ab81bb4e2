"""Pretext tasks, one method a file."""

from keras_ssl.tasks.rotation import RotationGuards, RotationTask
from keras_ssl.tasks.rotation_shortcuts import rotation_shortcuts

__all__ = ["RotationGuards", "RotationTask", "rotation_shortcuts"]
