"""MultiTask: several pretext tasks at once, each with a head of its own on one encoder."""

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from keras_ssl.tasks.base import PretextTask
from keras_ssl.tasks.rotation import RotationTask
from keras_ssl.tasks.simclr import SimCLRTask


@keras.saving.register_keras_serializable(package="keras_ssl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTask(PretextTask):
    """Learn several pretext tasks of the same images with one encoder.

    The tasks share nothing but the encoder: each makes its inputs of the images, in the order of `tasks` and
    from the same seed, and has its head, its teacher or queue, and its metrics. The loss is the weighted sum
    of the tasks' mean losses. Inputs, targets and outputs are dictionaries by the tasks' numbers, "0", "1"
    and so on. The encoder runs once or more for each task, so a step takes as long as one of each, and batch
    normalization in the encoder averages over what all tasks show it.

    Metrics have the task's name in front, such as `rotation_accuracy`, and there is each task's loss, as
    `rotation_loss`; tasks of one kind are numbered, as in `rotation_1_loss`.

    Args:
        tasks: one or more pretext tasks that show the encoder images of one shape; a `MultiTask`, too.
        weights: what each task's loss is multiplied by, at least 0; `None` for 1 each. Losses differ in size:
            guessing among four rotations costs log 4, finding a partner among 62 other views log 63.

    Raises:
        ValueError: `tasks` are no tuple of tasks, or `weights` are not as many, negative or not finite. What
            depends on the images is checked by `encoder_input_shape`.

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
        """Return what the most demanding of the tasks needs."""
        return max(task.smallest_batch() for task in self.tasks)

    def check_images(self, images: Any) -> None:
        """Refuse images whose values one of the tasks has no use for."""
        for task in self.tasks:
            task.check_images(images)

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that all tasks show the encoder; refuse tasks that differ in it."""
        shapes = {name: tuple(task.encoder_input_shape(input_shape)) for _, name, task in self._parts()}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                "`tasks` must all show the encoder images of one shape. Of images of shape "
                f"{tuple(input_shape)} they show it {shapes}."
            )
        return next(iter(shapes.values()))

    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Return the inputs and the targets of every task, in dictionaries by the tasks' numbers."""
        made = {key: task.preprocess(images, seed) for key, _, task in self._parts()}
        return {key: part[0] for key, part in made.items()}, {key: part[1] for key, part in made.items()}

    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build the tasks' networks on one encoder, as one network from and to dictionaries."""
        self.encoder_input_shape(input_shape)
        inputs, outputs = {}, {}
        for key, _, task in self._parts():
            network = task.build_network(encoder, input_shape)
            # Tasks of one kind name their networks alike, which Keras refuses within one model.
            network.name = f"{network.name}_{key}"
            inputs[key] = _fresh_inputs(network.input, key)
            outputs[key] = network(inputs[key])
        return keras.Model(inputs, outputs, name="multi")

    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Return the weighted sum of the tasks' mean losses, a float32 scalar."""
        losses = [ops.mean(task.compute_loss(targets[key], outputs[key])) for key, _, task in self._parts()]
        weights = self.weights or (1.0,) * len(losses)
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))

    def chance_loss(self, input_shape: tuple[int, ...]) -> float:
        """Return the weighted sum of the tasks' own, NaN where one is not known."""
        losses = [task.chance_loss(input_shape) or math.nan for task in self.tasks]
        return sum(w * loss for w, loss in zip(self.weights or (1.0,) * len(losses), losses, strict=True))

    def build_metrics(self) -> list[keras.Metric]:
        """Make the loss and the metrics of every task."""
        return [
            _OfTask(metric, key, f"{name}_{metric.name}")
            for key, name, task in self._parts()
            for metric in [keras.metrics.MeanMetricWrapper(task.compute_loss, "loss"), *task.build_metrics()]
        ]

    def shown(self, inputs: Any) -> Any:
        """Return what each task shows the encoder, by the tasks' names."""
        return {name: task.shown(inputs[key]) for key, name, task in self._parts()}

    def _parts(self) -> list[tuple[str, str, PretextTask]]:
        """Number, name and task of each; the name is its class's, numbered where there are several of it."""
        kinds = [type(task).__name__.removesuffix("Task").lower() for task in self.tasks]
        return [
            (str(k), kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: k + 1].count(kind)}", task)
            for k, (kind, task) in enumerate(zip(kinds, self.tasks, strict=True))
        ]


def _fresh_inputs(old: Any, key: str) -> Any:
    # Keras wants a tensor among inputs in a dictionary to be named as its key.
    name = None if keras.tree.is_nested(old) else key
    return keras.tree.map_structure(lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=name), old)


class _OfTask(keras.metrics.Metric):
    """A metric of one of the tasks, which gets that task's part of targets and outputs."""

    def __init__(self, metric: keras.Metric, key: str, name: str) -> None:
        super().__init__(name=name)
        self.metric, self.key = metric, key

    def update_state(self, targets: Any, outputs: Any) -> None:
        self.metric.update_state(targets[self.key], outputs[self.key])

    def result(self) -> Any:
        return self.metric.result()

    def reset_state(self) -> None:
        self.metric.reset_state()
