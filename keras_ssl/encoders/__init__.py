"""Builders of encoders: Keras models from images to feature maps; the spatial rank follows the input."""

from keras_ssl.encoders.densenet import densenet121
from keras_ssl.encoders.small import small_encoder

__all__ = ["densenet121", "small_encoder"]
