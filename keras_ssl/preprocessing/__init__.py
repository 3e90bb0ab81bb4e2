"""Pure functions on batches of images `(batch, *spatial, channels)`, two or three spatial axes."""

from keras_ssl.preprocessing.cropping import center_crop, zoom_crop
from keras_ssl.preprocessing.intensity import adjust_intensity
from keras_ssl.preprocessing.masking import border_mask, circle_mask, hide_outside
from keras_ssl.preprocessing.rotation import quarter_turns, random_rotate, rotate, rotate_all

__all__ = [
    "adjust_intensity",
    "border_mask",
    "center_crop",
    "circle_mask",
    "hide_outside",
    "quarter_turns",
    "random_rotate",
    "rotate",
    "rotate_all",
    "zoom_crop",
]
