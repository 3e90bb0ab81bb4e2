"""Data: tables of files, reading and preparation of images and volumes, splits, batches, synthetic data."""

from keras_ssl._checks import GRADE_NAMES, check_images
from keras_ssl.data.datasets import load_medmnist, synthetic_fundus, synthetic_volumes
from keras_ssl.data.image_preparation import Preparation
from keras_ssl.data.image_reading import read_image
from keras_ssl.data.image_table import ImageTable
from keras_ssl.data.lazy_collections import LazyImages
from keras_ssl.data.loading import load_images, load_volumes, open_images, open_volumes
from keras_ssl.data.patch_sampling import PatchBatches, grid_patches
from keras_ssl.data.patients import duplicate_groups
from keras_ssl.data.splits import labeled_subset, stratified_split
from keras_ssl.data.volume import Volume
from keras_ssl.data.volume_io import read_volume, write_volume
from keras_ssl.data.volume_preparation import PercentileScale, VolumePreparation, Window, ZScore
from keras_ssl.data.volume_table import VolumeTable

__all__ = [
    "GRADE_NAMES",
    "ImageTable",
    "LazyImages",
    "PatchBatches",
    "PercentileScale",
    "Preparation",
    "Volume",
    "VolumePreparation",
    "VolumeTable",
    "Window",
    "ZScore",
    "check_images",
    "duplicate_groups",
    "grid_patches",
    "labeled_subset",
    "load_images",
    "load_medmnist",
    "load_volumes",
    "open_images",
    "open_volumes",
    "read_image",
    "read_volume",
    "stratified_split",
    "synthetic_fundus",
    "synthetic_volumes",
    "write_volume",
]
