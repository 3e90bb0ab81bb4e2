"""Builders of encoders: Keras models from images to feature maps; the spatial rank follows the input."""

from keras_ssl.encoders.conversion import adapt_channels, inflate, with_rescaling
from keras_ssl.encoders.densenet import densenet121, densenet169, densenet201
from keras_ssl.encoders.feature_pyramid import pyramid_model, pyramid_outputs
from keras_ssl.encoders.gradient_checkpointing import rematerialize
from keras_ssl.encoders.resnet import resnet18, resnet34, resnet50, small_encoder
from keras_ssl.encoders.tokens import tokens_to_map
from keras_ssl.encoders.unet import unet_encoder
from keras_ssl.encoders.vit import vit_encoder

__all__ = [
    "adapt_channels",
    "densenet121",
    "densenet169",
    "densenet201",
    "inflate",
    "pyramid_model",
    "pyramid_outputs",
    "rematerialize",
    "resnet18",
    "resnet34",
    "resnet50",
    "small_encoder",
    "tokens_to_map",
    "unet_encoder",
    "vit_encoder",
    "with_rescaling",
]
