"""Functions on batches of images `(batch, *spatial, channels)` with two or three spatial axes."""

from keras_ssl.preprocessing.augmentation import Augmentation, Cutout, Elastic, Geometry, Intensity
from keras_ssl.preprocessing.resampling import resample
from keras_ssl.preprocessing.rotation import random_rotate, rotate
from keras_ssl.preprocessing.views import ct_views, fundus_views, mr_views, random_views, xray_views

__all__ = [
    "Augmentation",
    "Cutout",
    "Elastic",
    "Geometry",
    "Intensity",
    "ct_views",
    "fundus_views",
    "mr_views",
    "random_rotate",
    "random_views",
    "resample",
    "rotate",
    "xray_views",
]
