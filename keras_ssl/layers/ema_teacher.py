"""EMA teacher: the exponential moving average of a student network."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_ssl.encoders.functional_graph import copy_weights


@keras.saving.register_keras_serializable(package="keras_ssl")
class EMATeacher(keras.Layer):
    """Answer as a student would whose weights are averaged over the steps of training.

    Before each answer in training, every trainable weight moves towards the student's:
    `momentum * teacher + (1 - momentum) * student`. The others, such as the moving statistics of batch
    normalization, which are averages already, are taken over as they are.

    The averages are non-trainable weights, in float32 under mixed precision. No gradient passes.

    A model with a teacher can be saved and loaded. The student is not saved with the teacher: before a loaded
    teacher is trained further, `follow` names the student again. `SelfSupervisedModel` does it by itself.

    Args:
        student: built Keras model, of layers that can be made again from their config; it is not a part of
            this layer, and is trained elsewhere.
        momentum: share of the average that is kept in each step, in [0, 1]. 0.99 averages over the last 100
            steps or so.
        batch_statistics: whether the teacher runs, in training, in training mode: batch normalization by the
            statistics of the batch, and dropout. Otherwise it always runs in inference mode (Cai et al.
            2021): no image can be told by the statistics of the batch it came in, so nothing has to be
            shuffled between devices, and the answer for an image is the same in any batch. But until the
            student's moving statistics are those of its features, which takes Keras' default some hundred
            steps, its answers differ little between images.
        name: name of the layer.

    Raises:
        ValueError: `momentum` is out of range; or, when called in training, it was loaded or cloned and
            `follow` has not been called.

    >>> import keras
    >>> student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> teacher = EMATeacher(student, momentum=0.5)
    >>> images = keras.ops.ones((1, 2))
    >>> float(keras.ops.max(keras.ops.abs(teacher(images) - student(images))))
    0.0

    References:
        Tarvainen, A., Valpola, H. (2017). Mean teachers are better role models. NeurIPS.
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
        # Or else mixed precision would read weights as float16, in which small moves are lost.
        super().__init__(trainable=False, autocast=False, name=name)
        if not 0 <= momentum <= 1:
            raise ValueError(f"`momentum` must be within 0 and 1. Received {momentum}.")
        self.momentum = momentum
        self.batch_statistics = batch_statistics
        self.average = keras.models.clone_model(student, recursive=True)
        copy_weights(student, self.average)
        # Not the layers: batch normalization that is not trainable uses no statistics of a batch.
        for weight in self.average.weights:
            weight.trainable = False
        self.built = True
        self.follow(student)

    def follow(self, student: keras.Model) -> None:
        """Average the weights of `student` from now on; its layers must be those of the former student.

        Raises:
            ValueError: the weights of `student` have other shapes.
        """
        mine, others = ([tuple(w.shape) for w in model.weights] for model in (self.average, student))
        if mine != others:
            raise ValueError(
                f"`student` must have weights of the shapes {mine}, as the teacher has. Received {others}."
            )
        # Behind a function, where Keras does not find it: as a part of this layer it would be saved with it.
        self._student_weights: Callable[[], list[keras.Variable]] | None = lambda: student.weights

    def call(self, images: Any, training: bool = False) -> Any:
        """Move towards the student, in training; return what the average makes of `images`."""
        if training:
            if self._student_weights is None:
                raise ValueError(
                    f"The teacher {self.name!r} was loaded or cloned without its student. Call "
                    f"`model.get_layer({self.name!r}).follow(student)` before it is trained further."
                )
            for mine, other in zip(self.average.weights, self._student_weights(), strict=True):
                now = ops.stop_gradient(other.value)
                mine.assign(mine + (1 - self.momentum) * (now - mine) if other.trainable else now)
        return ops.stop_gradient(self.average(images, training=training and self.batch_statistics))

    def compute_output_spec(self, images: Any, training: bool = False) -> Any:
        """Say what shape comes out: that of the student."""
        return self.average.compute_output_spec(images)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, with the architecture of the student."""
        return {
            "student": keras.saving.serialize_keras_object(self.average),
            "momentum": self.momentum,
            "batch_statistics": self.batch_statistics,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "EMATeacher":
        """Make the layer again, without a student; see `follow`."""
        student = keras.saving.deserialize_keras_object(config["student"], custom_objects=custom_objects)
        teacher = cls(**{**config, "student": student})
        teacher._student_weights = None
        return teacher
