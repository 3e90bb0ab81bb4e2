"""Pretext tasks, one method a file."""

from keras_ssl.tasks.rotation import RotationGuards, RotationTask

__all__ = ["RotationGuards", "RotationTask"]
