"""Base class of pretext tasks: preprocessing, network, loss."""

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_ssl._serialization import Configurable


@dataclasses.dataclass(frozen=True)
class PretextTask(Configurable, abc.ABC):
    """A self-supervised task as three answers: what is seen, what is computed, what is wrong.

    A task is a frozen dataclass of plain values (numbers, strings, tuples, other serializable
    dataclasses) and holds no state: weights, teachers, queues and seeds live in the Keras network that it
    builds and in the model that trains it. A subclass is final, is decorated with
    `@keras.saving.register_keras_serializable` and `@dataclasses.dataclass(frozen=True)`, and fills the
    three abstract methods; saving and loading follow from its fields.

    >>> import dataclasses
    >>> import keras
    >>> import keras_ssl
    >>> @keras.saving.register_keras_serializable(package="docs")
    ... @dataclasses.dataclass(frozen=True)
    ... class Denoising(keras_ssl.PretextTask):
    ...     noise: float = 0.1
    ...
    ...     def preprocess(self, images, seed):
    ...         shape = keras.ops.shape(images)
    ...         return images + self.noise * keras.random.normal(shape, seed=seed), images
    ...
    ...     def build_network(self, encoder, input_shape):
    ...         inputs = keras.Input(input_shape)
    ...         outputs = keras.layers.Conv2D(input_shape[-1], 1, dtype="float32")(encoder(inputs))
    ...         return keras.Model(inputs, outputs)
    ...
    ...     def compute_loss(self, targets, outputs):
    ...         return keras.losses.mean_squared_error(targets, outputs)
    >>> Denoising.from_config(Denoising(noise=0.2).get_config())
    Denoising(noise=0.2)
    """

    @abc.abstractmethod
    def preprocess(self, images: Any, seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Turn unlabeled images into what the network sees and what it has to find out.

        Args:
            images: tensor `(batch, *spatial, channels)`.
            seed: the only source of randomness; the same seed state gives the same result.

        Returns:
            `(inputs, targets)`: what the network of `build_network` takes, and what `compute_loss`
            compares its outputs with. Each is a tensor or a nested structure of tensors. Where several
            inputs are made of an image, those of the first come first, then those of the second.
        """

    @abc.abstractmethod
    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build the network that maps the inputs of `preprocess` to outputs; `encoder` is a part of it.

        Args:
            encoder: Keras model or layer, called on tensors only: it may be subclassed and unbuilt.
            input_shape: `(*spatial, channels)` of the images, without the batch.

        Returns:
            A built `keras.Model`.
        """

    @abc.abstractmethod
    def compute_loss(self, targets: Any, outputs: Any) -> Any:
        """Say how wrong the outputs are: a float32 tensor, one value per sample or a scalar.

        Args:
            targets: what `preprocess` returned second.
            outputs: what the network returned.
        """

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Say what shape the encoder sees of images of `input_shape`: the same, unless a task crops.

        Args:
            input_shape: `(*spatial, channels)` of the images.
        """
        return input_shape

    def smallest_batch(self) -> int:
        """Say how many images a batch must have: 1, unless images of a batch are compared."""
        return 1

    def chance_loss(self, input_shape: tuple[int, ...]) -> float | None:
        """Return about what the loss is for guessing; `None`, the default, where it is not known.

        `fit_pretext` warns of a first loss far above it.

        Args:
            input_shape: `(*spatial, channels)` of the images.
        """
        return None

    def check_images(self, images: np.ndarray) -> None:
        """Refuse images by their values, before anything is trained; any finite ones will do by default.

        Args:
            images: `(n, *spatial, channels)`: all of an array, of a data set the first batch.

        Raises:
            ValueError: the task has no use for such values.
        """
        return

    def shown(self, inputs: Any) -> Any:
        """Say which images `show_pretext` draws: the inputs, unless a task hides parts within the network.

        Args:
            inputs: what `preprocess` returned first.

        Returns:
            Tensor or nested structure of tensors, those made of the first image first, as in `inputs`. What
            has fewer axes than the images is not drawn.
        """
        return inputs

    def build_metrics(self) -> list[keras.Metric]:
        """Make new metrics, each updated with `(targets, outputs)` of every batch; none by default."""
        return []


def layers_of(task: PretextTask) -> Iterator[keras.Layer]:
    """Find layers among a task's settings, such as random layers of Keras, and those of tasks among them.

    >>> import keras_ssl
    >>> task = keras_ssl.SimCLRTask(views=keras.layers.RandomFlip(name="flip"))
    >>> [layer.name for layer in layers_of(keras_ssl.MultiTask(tasks=(keras_ssl.RotationTask(), task)))]
    ['flip']
    """
    for value in keras.tree.flatten(list(vars(task).values())):
        if isinstance(value, PretextTask):
            yield from layers_of(value)
        elif isinstance(value, keras.Layer):
            yield value
