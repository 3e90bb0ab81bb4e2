"""EMA teacher: the exponential moving average of a student network."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_ssl._types import Config, Structure, Tensor
from keras_ssl.encoders.functional_graph import copy_weights
from keras_ssl.layers.run_clock import FollowsClock, cosine_rise


@keras.saving.register_keras_serializable(package="keras_ssl")
class EMATeacher(FollowsClock, keras.Layer):
    """Exponential moving average (EMA) of a student, called like the student: a momentum encoder.

    Before each call in training, every trainable weight is updated to
    `momentum * teacher + (1 - momentum) * student`. Other weights, such as the moving statistics of batch
    normalization, are copied from the student. The averages are non-trainable weights, in float32 under
    mixed precision. No gradient passes through the layer.

    The student is not saved with the teacher: before a loaded teacher is trained further, call `follow` with
    the student. `SelfSupervisedModel` does so itself.

    Args:
        student: built Keras model whose layers can be cloned from their config. It is not a part of this
            layer, and is trained elsewhere.
        momentum: EMA momentum, in [0, 1]. 0.99 averages over about the last 100 steps. Under a `RunClock`, as
            in `SelfSupervisedModel`, it is the momentum at the start, which rises to 1 along a cosine.
        batch_statistics: whether the teacher, in training, runs in training mode, with dropout and with batch
            statistics in batch normalization. If false it always runs in inference mode (Cai et al. 2021):
            batch statistics then reveal nothing about which images share a batch, so that batches need not be
            shuffled between devices, and an output does not depend on the rest of the batch. But until the
            student's moving statistics have converged, a few hundred steps with Keras' default momentum,
            outputs differ little between images.
        name: name of the layer.

    Raises:
        ValueError: `momentum` is out of range; or, when called in training, the teacher was loaded or cloned
            and `follow` has not been called.

    >>> import keras
    >>> student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> teacher = EMATeacher(student, momentum=0.5)
    >>> images = keras.ops.ones((1, 2))
    >>> float(keras.ops.max(keras.ops.abs(teacher(images) - student(images))))
    0.0

    References:
        Tarvainen, A., Valpola, H. (2017). Mean teachers are better role models. NeurIPS.
        Grill, J. et al. (2020). Bootstrap your own latent. NeurIPS.
        Cai, Z. et al. (2021). Exponential moving average normalization for self-supervised and
        semi-supervised learning. CVPR.
    """

    def __init__(
        self,
        student: keras.Model,
        momentum: float,
        *,
        batch_statistics: bool = False,
        name: str | None = None,
    ) -> None:
        # Without autocast: small updates are lost in float16.
        super().__init__(trainable=False, autocast=False, name=name)
        if not 0 <= momentum <= 1:
            raise ValueError(f"`momentum` must be within 0 and 1. Received {momentum}.")
        self.momentum = momentum
        self.batch_statistics = batch_statistics
        self.average = _clone(student)
        copy_weights(student, self.average)
        # Not the layers: batch normalization that is not trainable uses no batch statistics.
        for weight in self.average.weights:
            weight.trainable = False
        self.built = True
        self.follow(student)

    def follow(self, student: keras.Model) -> None:
        """Average the weights of `student` from now on; its architecture must be that of the first student.

        Raises:
            ValueError: the weights of `student` have different shapes.
        """
        mine, others = ([tuple(w.shape) for w in model.weights] for model in (self.average, student))
        if mine != others:
            raise ValueError(
                f"`student` must have weights of the shapes {mine}, as the teacher has. Received {others}."
            )
        # In a closure, so that Keras does not track the student and save it as a part of this layer.
        self._student_weights: Callable[[], list[keras.Variable]] | None = lambda: student.weights

    def call(self, images: Tensor, training: bool = False) -> Structure:
        """Update the average, in training; return its outputs for `images`."""
        if training:
            if self._student_weights is None:
                raise ValueError(
                    f"The teacher {self.name!r} was loaded or cloned without its student. Call "
                    f"`model.get_layer({self.name!r}).follow(student)` before it is trained further."
                )
            rest = 1 - cosine_rise(self.momentum, 1.0, self.progress())
            for mine, other in zip(self.average.weights, self._student_weights(), strict=True):
                now = ops.stop_gradient(other.value)
                mine.assign(mine + ops.cast(rest, mine.dtype) * (now - mine) if other.trainable else now)
        return ops.stop_gradient(self.average(images, training=training and self.batch_statistics))

    def compute_output_spec(self, images: Tensor, training: bool = False) -> Structure:
        """Return the symbolic output of the student."""
        return self.average.compute_output_spec(images)

    def get_config(self) -> Config:
        """Return the arguments, with the architecture of the student."""
        return {
            "student": keras.saving.serialize_keras_object(self.average),
            "momentum": self.momentum,
            "batch_statistics": self.batch_statistics,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: dict[str, Any] | None = None) -> "EMATeacher":
        """Create the layer without a student; see `follow`."""
        student = keras.saving.deserialize_keras_object(config["student"], custom_objects=custom_objects)
        teacher = cls(**{**config, "student": student})
        teacher._student_weights = None
        return teacher


def _clone(student: keras.Model) -> keras.Model:
    try:
        return keras.models.clone_model(student, recursive=True)
    except TypeError:
        # Not layer by layer: some models, such as Keras Hub's ViT, can be made from their configuration, but
        # their layers cannot.
        return keras.models.clone_model(student)
