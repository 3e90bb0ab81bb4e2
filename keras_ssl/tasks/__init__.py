"""Pretext tasks, one method a file; they are imported from `keras_ssl` itself."""

from keras_ssl.tasks.rotation_shortcuts import rotation_shortcuts

__all__ = ["rotation_shortcuts"]
