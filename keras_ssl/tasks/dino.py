"""DINOTask: say of a part of an image what a teacher says of the whole."""

import dataclasses
from typing import Any, Literal

import keras
from keras import ops

from keras_ssl.layers.centering import Centering
from keras_ssl.layers.ema_teacher import EMATeacher
from keras_ssl.layers.pooling import pool_features
from keras_ssl.layers.projection_heads import prototype_head
from keras_ssl.losses.self_distillation import assignment_information, dino, sinkhorn
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.preprocessing.views import ViewMaker, random_views, views_for
from keras_ssl.tasks.base import PretextTask

# Sides of the parts that local views show: areas of 5 to 40 % in 2D.
_LOCAL_CROP = (0.22, 0.63)


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DINOTask(PretextTask):
    """Assign views to prototypes as a teacher assigns other views of the same image.

    The student sees two global views of every image and several local ones, of small parts. The teacher, its
    moving average, sees global views only. How it assigns prevents that all images are assigned alike.

    The paper has 65536 prototypes and hidden layers of 2048 units; fewer here, for small batches. Its
    schedules of momentum and teacher's temperature, and a last layer held for an epoch, are left out.

    Args:
        views: what makes a global view, see `random_views`; `None` for a recipe by the shape of the images.
        local_views: what makes a local view; `None` takes the augmentation that makes global ones, but cuts
            out parts of 0.22 to 0.63 of the sides. Needed where `views` is a layer or a function.
        num_local_views: local views of each image, at least 0.
        local_size: spatial shape of local views, for encoders whose sides are open; `None` enlarges them to
            that of the images. Augmentations resize to it, a layer or a function must itself.
        assignment: `"centering"` subtracts what the teacher says of all images on average, see `Centering`;
            `"sinkhorn"` gives all prototypes equal shares of a batch, see `losses.sinkhorn`.
        teacher_temperature: what the teacher's logits are divided by, above 0; below the student's, it
            assigns harder.
        student_temperature: what the student's are divided by, above 0.
        momentum: EMA momentum of the teacher, see `EMATeacher`. 0.99 averages over the last
            100 steps or so, for runs of hundreds to thousands; the paper starts from 0.996.
        hidden_units: units of the hidden layers of the head, with GELU.
        bottleneck_dim: length of the vectors that are compared with prototypes.
        prototypes: how many prototypes there are.

    Raises:
        ValueError: a value is out of range, or `local_views` is needed. What depends on the encoder is
            checked by `build_network`.

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
    teacher_temperature: float = 0.04
    student_temperature: float = 0.1
    momentum: float = 0.99
    hidden_units: tuple[int, ...] = (512, 512)
    bottleneck_dim: int = 256
    prototypes: int = 1024

    def __post_init__(self) -> None:
        if self.assignment not in ("centering", "sinkhorn"):
            raise ValueError(f'`assignment` must be "centering" or "sinkhorn". Received {self.assignment!r}.')
        for name in ("teacher_temperature", "student_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be above 0. Received {getattr(self, name)}.")
        if self.num_local_views < 0:
            raise ValueError(f"`num_local_views` must be at least 0. Received {self.num_local_views}.")
        derived = self.views is None or isinstance(self.views, Augmentation)
        if self.num_local_views and self.local_views is None and not derived:
            raise ValueError(
                "`local_views` must be given where `views` is no Augmentation, which could cut out less. "
                f"Received None, for `views` {self.views!r}."
            )

    def smallest_batch(self) -> int:
        """Return 1, or 2 where images share prototypes out among themselves."""
        return 2 if self.assignment == "sinkhorn" else 1

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Return `{"global": ..., "local": ...}` views, those of an image next to each other; no targets."""
        inputs = {"global": random_views(images, seed, self.views)}
        if self.num_local_views:
            recipe = self.local_views or self.views or views_for(images.shape)
            if isinstance(recipe, Augmentation):
                crop = recipe.crop if self.local_views else _LOCAL_CROP
                recipe = dataclasses.replace(recipe, crop=crop, output_shape=self.local_size)
            inputs["local"] = random_views(images, seed, recipe, self.num_local_views)
        return inputs, {}

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build student and teacher: float32 `logits`, of global views first, and `assignments`; see `dino`.

        Raises:
            ValueError: the encoder does not take views of `local_size`.
        """
        head = prototype_head(self.hidden_units, self.bottleneck_dim, self.prototypes)
        inputs = {"global": keras.Input(input_shape, name="global")}
        student = keras.Model(inputs["global"], head(pool_features(encoder(inputs["global"]))))
        logits = [ops.reshape(student.output, (-1, 2, self.prototypes))]
        if self.num_local_views:
            local_shape = (*(self.local_size or input_shape[:-1]), input_shape[-1])
            inputs["local"] = keras.Input(local_shape, name="local")
            try:
                local = head(pool_features(encoder(inputs["local"])))
            except ValueError as error:
                raise ValueError(
                    "`local_size` must be None, unless the encoder takes other sizes than the images', as "
                    f"one with open sides does. Received {self.local_size} for images of shape {input_shape}."
                ) from error
            logits.append(ops.reshape(local, (-1, self.num_local_views, self.prototypes)))
        # Moving statistics lag behind: with them, runs of a few hundred steps learned nothing.
        teacher = EMATeacher(student, self.momentum, batch_statistics=True, name="teacher")
        assignments = ops.reshape(self._assign(teacher(inputs["global"])), (-1, 2, self.prototypes))
        outputs = {"logits": ops.concatenate(logits, axis=1), "assignments": assignments}
        return keras.Model(inputs, outputs, name="dino")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return the cross-entropy of the student's views and the teacher's, float32 `(images,)`."""
        return dino(outputs["logits"], outputs["assignments"], self.student_temperature)

    def build_metrics(self) -> list[keras.Metric]:
        """Make what the teacher's assignments tell of images; see `losses.assignment_information`."""
        return [keras.metrics.MeanMetricWrapper(_information, name="information")]

    def _assign(self, logits: Any) -> Any:
        if self.assignment == "sinkhorn":
            return sinkhorn(logits, self.teacher_temperature)
        return ops.softmax(Centering(name="centering")(logits) / self.teacher_temperature)


def _information(targets: Any, outputs: Any) -> Any:
    return assignment_information(outputs["assignments"])
