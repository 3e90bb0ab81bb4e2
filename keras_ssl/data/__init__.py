"""Data: tables of files, reading and preparation of images and volumes, splits, batches, synthetic data."""

from keras_ssl._checks import GRADE_NAMES, check_grades, check_images, check_masks
from keras_ssl.data.batches import ArrayBatches, ShuffledBatches, StreamBatches
from keras_ssl.data.datasets import LabeledImages, load_medmnist, synthetic_fundus, synthetic_volumes
from keras_ssl.data.dicom import read_dicom_series
from keras_ssl.data.groups import duplicate_groups, merge_groups
from keras_ssl.data.image_preparation import Preparation, find_fundus
from keras_ssl.data.image_reading import read_image
from keras_ssl.data.image_table import ImageTable
from keras_ssl.data.lazy import LazyImages, LazyVolume
from keras_ssl.data.loading import load_images, load_volumes, open_images, open_volumes
from keras_ssl.data.patch_sampling import PatchBatches, grid_patches, grid_positions, read_patch
from keras_ssl.data.splits import labeled_subset, stratified_folds, stratified_split
from keras_ssl.data.volume import Volume, VolumeGrid
from keras_ssl.data.volume_io import read_grid, read_volume, write_volume
from keras_ssl.data.volume_preparation import PercentileScale, VolumePreparation, Window, ZScore
from keras_ssl.data.volume_table import VolumeTable

__all__ = [
    "GRADE_NAMES",
    "ArrayBatches",
    "ImageTable",
    "LabeledImages",
    "LazyImages",
    "LazyVolume",
    "PatchBatches",
    "PercentileScale",
    "Preparation",
    "ShuffledBatches",
    "StreamBatches",
    "Volume",
    "VolumeGrid",
    "VolumePreparation",
    "VolumeTable",
    "Window",
    "ZScore",
    "check_grades",
    "check_images",
    "check_masks",
    "duplicate_groups",
    "find_fundus",
    "grid_patches",
    "grid_positions",
    "labeled_subset",
    "load_images",
    "load_medmnist",
    "load_volumes",
    "merge_groups",
    "open_images",
    "open_volumes",
    "read_dicom_series",
    "read_grid",
    "read_image",
    "read_patch",
    "read_volume",
    "stratified_folds",
    "stratified_split",
    "synthetic_fundus",
    "synthetic_volumes",
    "write_volume",
]
