"""Pure functions on batches of images `(batch, *spatial, channels)`, two or three spatial axes."""

from keras_ssl.preprocessing.affine import affine_matrices
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.preprocessing.blocks import block_mask, block_rim, hide_where, standardize
from keras_ssl.preprocessing.blur import gaussian_blur
from keras_ssl.preprocessing.cells import (
    cell_patch_shape,
    crop_normalized,
    random_cell_corners,
    rescale_like,
)
from keras_ssl.preprocessing.colour import drop_colours, project_colours
from keras_ssl.preprocessing.cropping import center_crop, zoom_crop
from keras_ssl.preprocessing.intensity import add_noise, adjust_gamma, adjust_intensity
from keras_ssl.preprocessing.lab import ab_bins, count_ab_bins, rgb_to_lab
from keras_ssl.preprocessing.masking import border_mask, circle_mask, cut_out, hide_outside
from keras_ssl.preprocessing.overlapping import overlapping_corners, overlapping_grid, overlapping_patch_shape
from keras_ssl.preprocessing.patch_masks import (
    count_masked,
    default_patch_shape,
    mask_lowest,
    patch_mask_to_pixels,
)
from keras_ssl.preprocessing.patches import (
    crop_patches,
    join_patches,
    patch_grid,
    split_patches,
    standardize_patches,
)
from keras_ssl.preprocessing.permutations import hamming_permutations
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
    "ab_bins",
    "add_noise",
    "adjust_gamma",
    "adjust_intensity",
    "affine_matrices",
    "block_mask",
    "block_rim",
    "border_mask",
    "cell_patch_shape",
    "center_crop",
    "circle_mask",
    "count_ab_bins",
    "count_masked",
    "crop_normalized",
    "crop_patches",
    "ct_views",
    "cut_out",
    "default_patch_shape",
    "drop_colours",
    "fundus_views",
    "gaussian_blur",
    "hamming_permutations",
    "hide_outside",
    "hide_where",
    "join_patches",
    "mask_lowest",
    "mr_views",
    "overlapping_corners",
    "overlapping_grid",
    "overlapping_patch_shape",
    "patch_grid",
    "patch_mask_to_pixels",
    "project_colours",
    "quarter_turns",
    "random_cell_corners",
    "random_rotate",
    "random_views",
    "resample",
    "rescale_like",
    "rgb_to_lab",
    "rotate",
    "rotate_all",
    "split_patches",
    "standardize",
    "standardize_patches",
    "views_for",
    "xray_views",
    "zoom_crop",
]
