"""Pure functions on batches of images `(batch, *spatial, channels)`, two or three spatial axes."""

from keras_ssl.preprocessing.affine import affine_matrices
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.preprocessing.blur import gaussian_blur
from keras_ssl.preprocessing.cropping import center_crop, zoom_crop
from keras_ssl.preprocessing.intensity import add_noise, adjust_gamma, adjust_intensity
from keras_ssl.preprocessing.masking import border_mask, circle_mask, cut_out, hide_outside
from keras_ssl.preprocessing.resampling import resample
from keras_ssl.preprocessing.rotation import quarter_turns, random_rotate, rotate, rotate_all

__all__ = [
    "Augmentation",
    "add_noise",
    "adjust_gamma",
    "adjust_intensity",
    "affine_matrices",
    "border_mask",
    "center_crop",
    "circle_mask",
    "cut_out",
    "gaussian_blur",
    "hide_outside",
    "quarter_turns",
    "random_rotate",
    "resample",
    "rotate",
    "rotate_all",
    "zoom_crop",
]
