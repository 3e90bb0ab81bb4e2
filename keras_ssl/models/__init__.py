"""Models for pretraining, fine-tuning and prediction."""

from keras_ssl.models.fine_tuner import FineTuner
from keras_ssl.models.grader import Grader
from keras_ssl.models.segmenter import Segmenter
from keras_ssl.models.self_supervised import SelfSupervisedModel
from keras_ssl.models.sliding_window import sliding_window_predict

__all__ = [
    "FineTuner",
    "Grader",
    "Segmenter",
    "SelfSupervisedModel",
    "sliding_window_predict",
]
