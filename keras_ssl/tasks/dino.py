"""DINOTask: self-distillation with no labels, local-to-global consistency of prototype assignments."""

import dataclasses
from typing import Literal

import keras
from keras import ops

from keras_ssl._types import Structure, Tensor
from keras_ssl.layers.centering import Centering, Sharpening
from keras_ssl.layers.ema_teacher import EMATeacher
from keras_ssl.layers.pooling import pool_features
from keras_ssl.layers.projection_heads import prototype_head
from keras_ssl.losses.self_distillation import assignment_information, dino, sinkhorn
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.preprocessing.views import ViewMaker, describe_default_views, random_views, views_for
from keras_ssl.tasks.base import PretextTask, check_above, check_at_least

# Crop range of local views, as fractions of the sides: areas of 5 to 40 % in 2D.
_LOCAL_CROP = (0.22, 0.63)


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DINOTask(PretextTask):
    """Self-distillation: predict the EMA teacher's prototype assignments from other views of the image.

    The student sees two global views of every image and several local views, of small crops. The teacher, an
    exponential moving average of the student, sees the global views only. Centering or Sinkhorn assignment
    prevents a collapse; the metric `information` detects it, see `assignment_information`.

    The paper has 65536 prototypes and hidden layers of 2048 units; fewer here, for small batches. As in the
    paper, in `fit_pretext` the EMA momentum rises to 1, the teacher temperature rises at first, and the
    prototypes are frozen at the start.

    Args:
        views: creates a global view, see `random_views`; `None` chooses an augmentation by the shape of the
            images.
        local_views: creates a local view; `None` takes the augmentation of the global views with crops of
            0.22 to 0.63 of the sides. Required if `views` is a layer or a function.
        num_local_views: number of local views of each image, at least 0.
        local_size: spatial shape of local views, for encoders with open sides; `None` resizes them to the
            shape of the images. Augmentations resize to it; a layer or a function must do so itself.
        assignment: `"centering"` subtracts the running mean of the teacher's outputs, see `Centering`;
            `"sinkhorn"` distributes a batch evenly over the prototypes, see `sinkhorn`.
        teacher_temperature: temperature of the teacher's softmax, above 0; lower than the student's, it
            sharpens assignments. A pair rises linearly from the first to the second in the first 30 % of a
            run.
        student_temperature: temperature of the student's softmax, above 0.
        momentum: EMA momentum of the teacher at the start, see `EMATeacher`. 0.99 averages over about the
            last 100 steps, for runs of hundreds to thousands; the paper starts from 0.996.
        hidden_units: units of the hidden layers of the head, with GELU.
        bottleneck_dim: dimension of the vectors that are compared with prototypes.
        num_prototypes: number of prototypes.
        frozen_fraction: fraction of a run, in [0, 1), at whose start the prototypes are not trained; one
            epoch in the paper.

    Raises:
        ValueError: an argument is out of range, or `local_views` is missing. `build_network` checks what
            depends on the encoder.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> inputs, _ = DINOTask().preprocess(np.ones((3, 8, 8, 3), "float32"), ReplaySeeds())
    >>> tuple(inputs["global"].shape), tuple(inputs["local"].shape)
    ((6, 8, 8, 3), (12, 8, 8, 3))

    References:
        Caron, M. et al. (2021). Emerging properties in self-supervised vision transformers. ICCV.
        Oquab, M. et al. (2024). DINOv2: learning robust visual features without supervision. TMLR.
    """

    views: ViewMaker | None = None
    local_views: ViewMaker | None = None
    num_local_views: int = 4
    local_size: tuple[int, ...] | None = None
    assignment: Literal["centering", "sinkhorn"] = "centering"
    teacher_temperature: float | tuple[float, float] = (0.04, 0.07)
    student_temperature: float = 0.1
    momentum: float = 0.99
    hidden_units: tuple[int, ...] = (512, 512)
    bottleneck_dim: int = 256
    num_prototypes: int = 1024
    frozen_fraction: float = 0.02

    def __post_init__(self) -> None:
        if self.assignment not in ("centering", "sinkhorn"):
            raise ValueError(f'`assignment` must be "centering" or "sinkhorn". Received {self.assignment!r}.')
        check_above(self, 0, "student_temperature")
        if not (1 <= len(self._temperatures) <= 2 and min(self._temperatures) > 0):
            raise ValueError(
                "`teacher_temperature` must be one number above 0, or a tuple of two. "
                f"Received {self.teacher_temperature!r}."
            )
        check_at_least(self, 0, "num_local_views")
        derived = self.views is None or isinstance(self.views, Augmentation)
        if self.num_local_views and self.local_views is None and not derived:
            raise ValueError(
                "`local_views` must be given unless `views` is an Augmentation, which can crop smaller. "
                f"Received None, with `views` {self.views!r}."
            )

    def smallest_batch(self) -> int:
        """Return 2 if Sinkhorn assignment compares the images of a batch, else 1."""
        return 2 if self.assignment == "sinkhorn" else 1

    def base_learning_rate(self) -> float:
        """Return the rate of the paper, for batches of 256 by the square root."""
        return 1e-3

    def preprocess(self, images: Tensor, seed: keras.random.SeedGenerator) -> tuple[Structure, Structure]:
        """Return `{"global": ..., "local": ...}` views, those of an image next to each other, no targets."""
        inputs = {"global": random_views(images, seed, self.views)}
        if self.num_local_views:
            maker = self.local_views or self.views or views_for(images.shape)
            if isinstance(maker, Augmentation):
                geometry = maker.geometry
                if not self.local_views:
                    geometry = dataclasses.replace(geometry, crop=_LOCAL_CROP)
                maker = dataclasses.replace(maker, geometry=geometry, output_shape=self.local_size)
            inputs["local"] = random_views(images, seed, maker, self.num_local_views)
        return inputs, {}

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build student and teacher: float32 `logits`, global views first, and `assignments`; see `dino`.

        Raises:
            ValueError: the encoder does not accept views of `local_size`.
        """
        head = prototype_head(
            self.hidden_units, self.bottleneck_dim, self.num_prototypes, self.frozen_fraction
        )
        inputs = {"global": keras.Input(input_shape, name="global")}
        student = keras.Model(inputs["global"], head(pool_features(encoder(inputs["global"]))))
        logits = [ops.reshape(student.output, (-1, 2, self.num_prototypes))]
        if self.num_local_views:
            local_shape = (*(self.local_size or input_shape[:-1]), input_shape[-1])
            inputs["local"] = keras.Input(local_shape, name="local")
            try:
                local = head(pool_features(encoder(inputs["local"])))
            except ValueError as error:
                raise ValueError(
                    "`local_size` must be None, unless the encoder accepts other sizes than the images', as "
                    f"one with open sides does. Received {self.local_size} for images of shape {input_shape}."
                ) from error
            logits.append(ops.reshape(local, (-1, self.num_local_views, self.num_prototypes)))
        # Moving statistics lag behind: with them, runs of a few hundred steps learned nothing.
        teacher = EMATeacher(student, self.momentum, batch_statistics=True, name="teacher")
        assignments = ops.reshape(self._assign(teacher(inputs["global"])), (-1, 2, self.num_prototypes))
        outputs = {"logits": ops.concatenate(logits, axis=1), "assignments": assignments}
        return keras.Model(inputs, outputs, name="dino")

    def compute_loss(self, targets: Structure, outputs: dict[str, Tensor]) -> Tensor:
        """Compute the cross-entropy of teacher assignments and student views, float32 `(images,)`."""
        return dino(outputs["logits"], outputs["assignments"], self.student_temperature)

    def notes(self, input_shape: tuple[int, ...]) -> list[str]:
        """Describe the views if they are chosen by the shape of the images."""
        return [describe_default_views((None, *input_shape))] if self.views is None else []

    def build_metrics(self) -> list[keras.Metric]:
        """Create the information of the teacher's assignments; see `assignment_information`."""
        return [keras.metrics.MeanMetricWrapper(_information, name="information")]

    @property
    def _temperatures(self) -> tuple[float, ...]:
        temperature = self.teacher_temperature
        return temperature if isinstance(temperature, tuple) else (temperature,)

    def _assign(self, logits: Tensor) -> Tensor:
        centered = logits if self.assignment == "sinkhorn" else Centering(name="centering")(logits)
        scaled = Sharpening(self._temperatures, name="sharpening")(centered)
        return sinkhorn(scaled, 1.0) if self.assignment == "sinkhorn" else ops.softmax(scaled)


def _information(targets: Structure, outputs: dict[str, Tensor]) -> Tensor:
    return assignment_information(outputs["assignments"])
