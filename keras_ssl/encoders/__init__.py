"""Builders of encoders: Keras models from images to feature maps; the spatial rank follows the input."""

from keras_ssl.encoders.densenet import densenet121, densenet169, densenet201
from keras_ssl.encoders.inflate import inflate
from keras_ssl.encoders.pyramid import pyramid_model, pyramid_outputs
from keras_ssl.encoders.rematerialize import rematerialize
from keras_ssl.encoders.rescaling import with_rescaling
from keras_ssl.encoders.resnet import resnet18, resnet34, resnet50
from keras_ssl.encoders.small import small_encoder
from keras_ssl.encoders.stem import adapt_stem
from keras_ssl.encoders.tokens import token_parts
from keras_ssl.encoders.unet import unet_encoder
from keras_ssl.encoders.vit import vit_encoder

__all__ = [
    "adapt_stem",
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
    "token_parts",
    "unet_encoder",
    "vit_encoder",
    "with_rescaling",
]
