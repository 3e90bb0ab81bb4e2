"""Self-supervised pretext tasks for Keras 3, made for medical imaging."""

from keras_ssl._version import __version__

__all__ = ["__version__"]
