"""From files and arrays to images, grades and splits that can be trained on."""

from keras_ssl.data.augmentation import random_mirror
from keras_ssl.data.batches import ArrayBatches, ShuffledBatches, StreamBatches
from keras_ssl.data.checks import GRADE_NAMES, check_grades, check_images
from keras_ssl.data.decoding import read_image
from keras_ssl.data.duplicates import duplicate_groups, merge_groups
from keras_ssl.data.image_table import ImageTable
from keras_ssl.data.loading import load_images
from keras_ssl.data.medmnist import LabelledImages, load_medmnist
from keras_ssl.data.preparation import Preparation, find_fundus
from keras_ssl.data.splits import labelled_subset, stratified_folds, stratified_split
from keras_ssl.data.synthetic_fundus import synthetic_fundus

__all__ = [
    "GRADE_NAMES",
    "ArrayBatches",
    "ImageTable",
    "LabelledImages",
    "Preparation",
    "ShuffledBatches",
    "StreamBatches",
    "check_grades",
    "check_images",
    "duplicate_groups",
    "find_fundus",
    "labelled_subset",
    "load_images",
    "load_medmnist",
    "merge_groups",
    "random_mirror",
    "read_image",
    "stratified_folds",
    "stratified_split",
    "synthetic_fundus",
]
