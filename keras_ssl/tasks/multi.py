"""MultiTask: multi-task pretraining, several pretext tasks on one encoder."""

import dataclasses
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_ssl._types import Structure, Tensor
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.tasks.base import PretextTask
from keras_ssl.tasks.rotation import RotationTask
from keras_ssl.tasks.simclr import SimCLRTask

# Long enough to average over batches, shorter than an epoch of a thousand images in batches of 8.
_SCALED_STEPS = 100


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTask(PretextTask):
    """Train several pretext tasks on the same images with one encoder.

    The tasks share only the encoder: each has its own preprocessing, in the order of `tasks` and from the
    same seed, its own head, teacher or queue, and metrics. Inputs, targets and outputs are dictionaries by
    the tasks' numbers, "0", "1" and so on. The encoder runs at least once for each task, so a step takes as
    long as one step of each, and batch normalization in the encoder averages over the inputs of all tasks.

    The loss is the weighted sum of the tasks' mean losses, each divided by its own scale: losses differ in
    size, with default settings about 1.4 for rotation, 4 for SimCLR, 40 for VICReg and hundreds for Barlow
    Twins, and the largest would rule. The scale is the root mean square of the task's loss over the first
    100 training steps, a running mean until then; it is then constant, so that a task that is solved loses
    influence. Unlike a scale by the mean, it is not close to 0 for a cosine that starts around 0; unlike
    learned uncertainty weights, it is defined for negative losses and right from the first step. It is a
    non-trainable weight, saved with the model. The logged loss starts near the sum of `weights`.

    Metrics are prefixed by the task's name, such as `rotation_accuracy`, and include each task's loss as it
    is, not divided, as `rotation_loss`; several tasks of one class are numbered, as in `rotation_1_loss`.

    Args:
        tasks: one or more pretext tasks with equal encoder input shapes; may include a `MultiTask`.
        weights: weight of each task's loss relative to its scale, at least 0; `None` for 1 each.

    Raises:
        ValueError: `tasks` is not a tuple of tasks, or `weights` has another length, or a weight is negative
            or not finite. `encoder_input_shape` checks what depends on the images.

    >>> import numpy as np
    >>> from keras_ssl.random import ReplaySeeds
    >>> task = MultiTask(tasks=(RotationTask(), SimCLRTask()), weights=(1.0, 0.5))
    >>> inputs, _ = task.preprocess(np.ones((3, 8, 8, 3), "float32"), ReplaySeeds())
    >>> tuple(inputs["0"].shape), tuple(inputs["1"].shape)
    ((3, 8, 8, 3), (6, 8, 8, 3))

    References:
        Doersch, C., Zisserman, A. (2017). Multi-task self-supervised visual learning. ICCV.
        Kendall, A., Gal, Y., Cipolla, R. (2018). Multi-task learning using uncertainty to weigh losses for
        scene geometry and semantics. CVPR. (The learned weights that are not used here.)
    """

    tasks: tuple[PretextTask, ...] = (RotationTask(), SimCLRTask())
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        tasks, weights = self.tasks, self.weights
        if not (isinstance(tasks, tuple) and tasks and all(isinstance(task, PretextTask) for task in tasks)):
            raise ValueError(f"`tasks` must be a tuple of one or more pretext tasks. Received {tasks!r}.")
        numbers = (1.0,) * len(tasks) if weights is None else weights
        if len(numbers) != len(tasks) or not all(0 <= weight < math.inf for weight in numbers):
            raise ValueError(
                f"`weights` must be {len(tasks)} finite numbers of at least 0. Received {weights!r}."
            )

    def base_learning_rate(self) -> float:
        """Return the smallest of the tasks' rates."""
        return min(task.base_learning_rate() for task in self.tasks)

    def smallest_batch(self) -> int:
        """Return the largest of the tasks' smallest batch sizes."""
        return max(task.smallest_batch() for task in self.tasks)

    def check_images(self, images: np.ndarray) -> None:
        """Validate image values for every task."""
        for task in self.tasks:
            task.check_images(images)

    def notes(self, input_shape: tuple[int, ...]) -> list[str]:
        """Return the notes of all tasks, equal ones once."""
        return list(dict.fromkeys(note for task in self.tasks for note in task.notes(input_shape)))

    def default_augmentation(self, input_shape: tuple[int, ...]) -> Augmentation | None:
        """Return the augmentation with the fewest flips if every task has one, else `None`."""
        augmentations = [task.default_augmentation(input_shape) for task in self.tasks]
        common = [augmentation for augmentation in augmentations if augmentation is not None]
        if len(common) < len(augmentations):
            return None
        return min(common, key=lambda augmentation: len(augmentation.geometry.flip_axes))

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the encoder input shape of all tasks.

        Raises:
            ValueError: the tasks differ in it.
        """
        shapes = {name: tuple(task.encoder_input_shape(input_shape)) for _, name, task in self._parts()}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                "`tasks` must all have the same encoder input shape. Received, for images of shape "
                f"{tuple(input_shape)}, {shapes}."
            )
        return next(iter(shapes.values()))

    def preprocess(
        self, images: Tensor, seed: keras.random.SeedGenerator
    ) -> tuple[dict[str, Structure], dict[str, Structure]]:
        """Return inputs and targets of every task, in dictionaries by the tasks' numbers.

        The inputs also hold the targets, from which the network computes the scale of each loss.
        """
        made = {key: task.preprocess(images, seed) for key, _, task in self._parts()}
        targets = {key: part[1] for key, part in made.items()}
        return {**{key: part[0] for key, part in made.items()}, "targets": targets}, targets

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build the networks of all tasks on one encoder, as one network of dictionaries."""
        self.encoder_input_shape(input_shape)
        return _Networks(self.tasks, [task.build_network(encoder, input_shape) for task in self.tasks])

    def compute_loss(self, targets: dict[str, Structure], outputs: dict[str, Structure]) -> Tensor:
        """Compute the weighted sum of the tasks' mean losses by their scales, a float32 scalar."""
        weights = self.weights or (1.0,) * len(self.tasks)
        scales = ops.cast(outputs["scales"], "float32")
        return sum(
            weight * ops.mean(task.compute_loss(targets[key], outputs[key])) / scales[int(key)]
            for weight, (key, _, task) in zip(weights, self._parts(), strict=True)
        )

    def build_metrics(self) -> list[keras.Metric]:
        """Create the loss and the metrics of every task."""
        return [
            _OfTask(metric, key, f"{name}_{metric.name}")
            for key, name, task in self._parts()
            for metric in [keras.metrics.MeanMetricWrapper(task.compute_loss, "loss"), *task.build_metrics()]
        ]

    def shown(self, inputs: dict[str, Structure]) -> Structure:
        """Return the shown images of every task, by the tasks' names."""
        return {name: task.shown(inputs[key]) for key, name, task in self._parts()}

    def _parts(self) -> list[tuple[str, str, PretextTask]]:
        """Number, name and task of each; names are of classes, numbered where a class occurs repeatedly."""
        kinds = [type(task).__name__.removesuffix("Task").lower() for task in self.tasks]
        return [
            (str(k), kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: k + 1].count(kind)}", task)
            for k, (kind, task) in enumerate(zip(kinds, self.tasks, strict=True))
        ]


class _Networks(keras.Model):
    """The networks of all tasks, and the scale of each task's loss.

    Not a functional model: those compute from inputs of known shapes, which targets do not have.
    """

    def __init__(self, tasks: Sequence[PretextTask], networks: list[keras.Model]) -> None:
        # Targets keep their precision.
        super().__init__(name="multi", autocast=False)
        self.tasks, self.networks = tasks, networks
        options = {"trainable": False, "autocast": False, "dtype": "float32", "initializer": "zeros"}
        # Each replica sees a part of the batch.
        options["aggregation"] = "mean"
        self.squares = self.add_weight(shape=(len(tasks),), name="squared_losses", **options)
        self.steps = self.add_weight(shape=(), name="steps", **options)
        self.built = True

    def call(self, inputs: dict[str, Structure], training: bool = False) -> dict[str, Structure]:
        """Return every task's outputs and, as "scales", by what each loss is to be divided."""
        outputs = {str(k): net(inputs[str(k)], training=training) for k, net in enumerate(self.networks)}
        squares = ops.copy(self.squares)
        if training:
            losses = [
                task.compute_loss(inputs["targets"][key], outputs[key])
                for key, task in zip(outputs, self.tasks, strict=True)
            ]
            found = [ops.mean(ops.square(ops.cast(loss, "float32"))) for loss in losses]
            mean = squares + (ops.stop_gradient(ops.stack(found)) - squares) / (self.steps + 1)
            squares = ops.where(self.steps < _SCALED_STEPS, mean, squares)
            self.squares.assign(squares)
            self.steps.assign(ops.minimum(self.steps + 1, _SCALED_STEPS))
        # 1 before the first step, and for a loss of exactly 0.
        return {**outputs, "scales": ops.sqrt(ops.where(squares > 0, squares, 1.0))}


class _OfTask(keras.metrics.Metric):
    """A metric of one task, updated with that task's targets and outputs."""

    def __init__(self, metric: keras.Metric, key: str, name: str) -> None:
        super().__init__(name=name)
        self.metric, self.key = metric, key

    def update_state(self, targets: dict[str, Structure], outputs: dict[str, Structure]) -> None:
        self.metric.update_state(targets[self.key], outputs[self.key])

    def result(self) -> Tensor:
        return self.metric.result()

    def reset_state(self) -> None:
        self.metric.reset_state()
