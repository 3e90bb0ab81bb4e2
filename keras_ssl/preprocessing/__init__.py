"""Functions on batches of images `(batch, *spatial, channels)` with two or three spatial axes."""

from keras_ssl.preprocessing.augmentation import Augmentation, Color, Cutout, Elastic, Geometry, Intensity
from keras_ssl.preprocessing.resampling import resample
from keras_ssl.preprocessing.rotation import random_rotate, rotate
from keras_ssl.preprocessing.views import (
    color_views,
    ct_views,
    fundus_views,
    histology_views,
    mr_views,
    random_views,
    xray_views,
)

__all__ = [
    "Augmentation",
    "Color",
    "Cutout",
    "Elastic",
    "Geometry",
    "Intensity",
    "color_views",
    "ct_views",
    "fundus_views",
    "histology_views",
    "mr_views",
    "random_rotate",
    "random_views",
    "resample",
    "rotate",
    "xray_views",
]
