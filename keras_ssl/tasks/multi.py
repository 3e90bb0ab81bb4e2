"""MultiTask: multi-task pretraining, several pretext tasks on one encoder."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from keras_ssl._types import Structure, Tensor
from keras_ssl.preprocessing.augmentation import Augmentation
from keras_ssl.tasks.base import PretextTask
from keras_ssl.tasks.rotation import RotationTask
from keras_ssl.tasks.simclr import SimCLRTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTask(PretextTask):
    """Train several pretext tasks on the same images with one encoder.

    The tasks share only the encoder: each has its own preprocessing, in the order of `tasks` and from the
    same seed, its own head, teacher or queue, and metrics. The loss is the weighted sum of the tasks' mean
    losses. Inputs, targets and outputs are dictionaries by the tasks' numbers, "0", "1" and so on. The
    encoder runs at least once for each task, so a step takes as long as one step of each, and batch
    normalization in the encoder averages over the inputs of all tasks.

    Metrics are prefixed by the task's name, such as `rotation_accuracy`, and include each task's loss, as
    `rotation_loss`; several tasks of one class are numbered, as in `rotation_1_loss`.

    Args:
        tasks: one or more pretext tasks with equal encoder input shapes; may include a `MultiTask`.
        weights: weight of each task's loss, at least 0; `None` for 1 each. Losses differ in size: guessing
            among four rotations costs log 4, finding the other view among 63 views log 63.

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
        """Return inputs and targets of every task, in dictionaries by the tasks' numbers."""
        made = {key: task.preprocess(images, seed) for key, _, task in self._parts()}
        return {key: part[0] for key, part in made.items()}, {key: part[1] for key, part in made.items()}

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build the networks of all tasks on one encoder, as one network of dictionaries."""
        self.encoder_input_shape(input_shape)
        inputs, outputs = {}, {}
        for key, _, task in self._parts():
            network = task.build_network(encoder, input_shape)
            # Keras requires unique names within a model; tasks of one class name their networks alike.
            network.name = f"{network.name}_{key}"
            inputs[key] = _fresh_inputs(network.input, key)
            outputs[key] = network(inputs[key])
        return keras.Model(inputs, outputs, name="multi")

    def compute_loss(self, targets: dict[str, Structure], outputs: dict[str, Structure]) -> Tensor:
        """Compute the weighted sum of the tasks' mean losses, a float32 scalar."""
        losses = [ops.mean(task.compute_loss(targets[key], outputs[key])) for key, _, task in self._parts()]
        return self._weighted_sum(losses)

    def chance_loss(self, input_shape: tuple[int, ...]) -> float:
        """Return the weighted sum of the tasks' chance losses, NaN if one is not known."""
        return self._weighted_sum([task.chance_loss(input_shape) or math.nan for task in self.tasks])

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

    def _weighted_sum(self, losses: list[Tensor]) -> Tensor:
        weights = self.weights or (1.0,) * len(losses)
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))

    def _parts(self) -> list[tuple[str, str, PretextTask]]:
        """Number, name and task of each; names are of classes, numbered where a class occurs repeatedly."""
        kinds = [type(task).__name__.removesuffix("Task").lower() for task in self.tasks]
        return [
            (str(k), kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: k + 1].count(kind)}", task)
            for k, (kind, task) in enumerate(zip(kinds, self.tasks, strict=True))
        ]


def _fresh_inputs(old: Structure, key: str) -> Structure:
    # Keras requires that a tensor in a dictionary of inputs is named like its key.
    name = None if keras.tree.is_nested(old) else key
    return keras.tree.map_structure(lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=name), old)


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
