"""Pure functions on batches of images `(batch, *spatial, channels)`, two or three spatial axes."""

from keras_ssl.preprocessing.affine import affine_matrices
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.preprocessing.blur import gaussian_blur
from keras_ssl.preprocessing.cropping import center_crop, zoom_crop
from keras_ssl.preprocessing.intensity import add_noise, adjust_gamma, adjust_intensity
from keras_ssl.preprocessing.masking import border_mask, circle_mask, cut_out, hide_outside
from keras_ssl.preprocessing.patches import crop_patches, join_patches, patch_grid, split_patches
from keras_ssl.preprocessing.resampling import resample
from keras_ssl.preprocessing.rotation import quarter_turns, random_rotate, rotate, rotate_all
from keras_ssl.preprocessing.views import (
    ct_views,
    fundus_views,
    mr_views,
    random_views,
    views_for,
    xray_views,
)

__all__ = [
    "Augmentation",
    "add_noise",
    "adjust_gamma",
    "adjust_intensity",
    "affine_matrices",
    "border_mask",
    "center_crop",
    "circle_mask",
    "crop_patches",
    "ct_views",
    "cut_out",
    "fundus_views",
    "gaussian_blur",
    "hide_outside",
    "join_patches",
    "mr_views",
    "patch_grid",
    "quarter_turns",
    "random_rotate",
    "random_views",
    "resample",
    "rotate",
    "rotate_all",
    "split_patches",
    "views_for",
    "xray_views",
    "zoom_crop",
]
