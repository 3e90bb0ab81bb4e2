"""BYOLTask: self-distillation, to predict an EMA teacher's projection of the other view."""

import dataclasses
from typing import ClassVar

import keras

from keras_ssl._types import Structure, Tensor
from keras_ssl.layers.ema_teacher import EMATeacher
from keras_ssl.layers.projection_heads import projection_head
from keras_ssl.losses.self_distillation import cosine_regression, directional_spread
from keras_ssl.tasks._two_views import TwoViewTask, projection_network
from keras_ssl.tasks.base import check_momentum


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BYOLTask(TwoViewTask):
    """Predict, from each of two views of an image, the EMA teacher's projection of the other view.

    The student is encoder and projection head, followed by a prediction head; the teacher is the exponential
    moving average of encoder and projection head. There are no negatives, so batches may be small. Projection
    head, prediction head and teacher are discarded after pretraining.

    Constant outputs would minimize the loss, too; the prediction head and the slow teacher prevent this
    collapse. The metric `spread`, of the teacher's projections, detects it: 0 if all point in one direction,
    see `directional_spread`.

    Args:
        views: creates a view, see `random_views`; `None` chooses an augmentation by the shape of the images.
        momentum: EMA momentum of the teacher, in [0, 1], constant. 0.99 averages over about the last 100
            steps, for runs of hundreds to thousands; the paper, in runs of 300 000, raises it from 0.996 to
            1.
        hidden_units: units of the hidden layers of projection and prediction head; 4096 in the paper.
        projection_dim: dimension of the projections that are compared; 256 in the paper.

    Raises:
        ValueError: `momentum` is out of range. `build_network` checks what depends on the encoder.

    >>> import keras, numpy as np
    >>> network = BYOLTask().build_network(keras.layers.Flatten(), (4, 4, 3))
    >>> outputs = network(np.ones((6, 4, 4, 3), "float32"))
    >>> tuple(outputs["predictions"].shape), tuple(outputs["targets"].shape)
    ((6, 128), (6, 128))

    References:
        Grill, J.-B. et al. (2020). Bootstrap your own latent: a new approach to self-supervised learning.
        NeurIPS.
    """

    metric_name: ClassVar[str] = "spread"

    momentum: float = 0.99
    hidden_units: tuple[int, ...] = (512,)
    projection_dim: int = 128

    def __post_init__(self) -> None:
        check_momentum(self)

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build student and teacher: float32 `predictions` and `targets`, both `(views, projection_dim)`.

        Raises:
            ValueError: a number of units is below 1, or the encoder does not return features.
        """
        units = (self.hidden_units, self.projection_dim)
        student = projection_network(encoder, input_shape, *units, "student")
        # As in the paper. Moving statistics lag behind: with them, runs of a few hundred steps collapsed.
        teacher = EMATeacher(student, self.momentum, batch_statistics=True, name="teacher")
        predictions = projection_head(student.output, *units, name="predictor")
        outputs = {"predictions": predictions, "targets": teacher(student.input)}
        return keras.Model(student.input, outputs, name="byol")

    def compute_loss(self, targets: Structure, outputs: dict[str, Tensor]) -> Tensor:
        """Compute the cosine distance of predictions and targets, float32 `(images,)`."""
        return cosine_regression(outputs["predictions"], outputs["targets"])

    def _metric(self, targets: Structure, outputs: dict[str, Tensor]) -> Tensor:
        return directional_spread(outputs["targets"])
