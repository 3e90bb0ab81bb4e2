"""Base class of pretext tasks: preprocessing, network, loss."""

import abc
import dataclasses
from collections.abc import Iterator

import keras
import numpy as np

from keras_ssl._serialization import Configurable
from keras_ssl._types import Structure, Tensor
from keras_ssl.preprocessing.augmentation import Augmentation


@dataclasses.dataclass(frozen=True)
class PretextTask(Configurable, abc.ABC):
    """Base class of pretext tasks: preprocessing, network, loss.

    A task is a frozen dataclass of plain values (numbers, strings, tuples, other serializable dataclasses)
    without state: weights, EMA teachers, queues and seeds live in the Keras network that it builds and in
    the model that trains it. A subclass is final, is decorated with
    `@keras.saving.register_keras_serializable` and `@dataclasses.dataclass(frozen=True)`, and implements
    `preprocess`, `build_network` and `compute_loss`. The other methods are optional hooks with a default.
    Saving and loading follow from the fields.

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
    def preprocess(self, images: Tensor, seed: keras.random.SeedGenerator) -> tuple[Structure, Structure]:
        """Transform unlabeled images into inputs of the network and targets of the loss.

        Args:
            images: tensor `(batch, *spatial, channels)`.
            seed: the only source of randomness; the same seed state gives the same result.

        Returns:
            `(inputs, targets)`, each a tensor or a nested structure of tensors. Where an image yields several
            inputs, all those of the first image come first, then those of the second.
        """

    @abc.abstractmethod
    def build_network(self, encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Model:
        """Build the network from the inputs of `preprocess` to outputs; `encoder` is a part of it.

        Args:
            encoder: Keras model or layer, which may be subclassed and unbuilt: use it only by calling it.
            input_shape: `(*spatial, channels)` of the images, without the batch axis.

        Returns:
            A built `keras.Model`.
        """

    @abc.abstractmethod
    def compute_loss(self, targets: Structure, outputs: Structure) -> Tensor:
        """Compute the loss, float32: one value per sample or a scalar.

        Args:
            targets: targets of `preprocess`.
            outputs: outputs of the network.
        """

    def encoder_input_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the input shape of the encoder for images of `input_shape`: the same, unless a task crops.

        Args:
            input_shape: `(*spatial, channels)` of the images.
        """
        return input_shape

    def smallest_batch(self) -> int:
        """Return the smallest batch size: 1, unless images of a batch are compared."""
        return 1

    def base_learning_rate(self) -> float:
        """Return the peak learning rate of `fit_pretext`'s default optimizer, for batches of 256 images.

        For other batch sizes it is multiplied by `sqrt(batch_size / 256)`.
        """
        return 2.5e-3

    def chance_loss(self, input_shape: tuple[int, ...]) -> float | None:
        """Return the approximate loss of guessing; `None`, the default, where it is not known.

        `fit_pretext` warns if the first loss is far above it.

        Args:
            input_shape: `(*spatial, channels)` of the images.
        """
        return None

    def check_images(self, images: np.ndarray) -> None:
        """Validate image values before training; by default any finite values are valid.

        Args:
            images: `(n, *spatial, channels)`: a whole array, or the first batch of a data set.

        Raises:
            ValueError: the task cannot use such values.
        """
        return

    def notes(self, input_shape: tuple[int, ...]) -> list[str]:
        """Return what the task chose by the shape of the images, such as views; none by default.

        `fit_pretext` prints these sentences before training.

        Args:
            input_shape: `(*spatial, channels)` of the images.
        """
        return []

    def default_augmentation(self, input_shape: tuple[int, ...]) -> Augmentation | None:
        """Return the augmentation of images before `preprocess` in training; `None`, the default, for none.

        `fit_pretext` uses it unless its argument `augment` is given.

        Args:
            input_shape: `(*spatial, channels)` of the images.
        """
        return None

    def shown(self, inputs: Structure) -> Structure:
        """Return the images that `show_pretext` draws: the inputs, unless a task masks within the network.

        Args:
            inputs: inputs of `preprocess`.

        Returns:
            Tensor or nested structure of tensors, in the order of `inputs`. Tensors with fewer axes than the
            images are not drawn.
        """
        return inputs

    def build_metrics(self) -> list[keras.Metric]:
        """Create the metrics, each updated with `(targets, outputs)` of every batch; none by default."""
        return []


def layers_of(task: PretextTask) -> Iterator[keras.Layer]:
    """Iterate over the Keras layers in a task's fields, such as random layers, nested tasks included.

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


def check_above(task: PretextTask, limit: float, *names: str) -> None:
    """Raise ValueError for a field of `task` that is not above `limit`."""
    for name in names:
        if not getattr(task, name) > limit:
            raise ValueError(f"`{name}` must be above {limit}. Received {getattr(task, name)}.")


def check_at_least(task: PretextTask, limit: float, *names: str) -> None:
    """Raise ValueError for a field of `task` that is below `limit`."""
    for name in names:
        if not getattr(task, name) >= limit:
            raise ValueError(f"`{name}` must be at least {limit}. Received {getattr(task, name)}.")


def check_momentum(task: PretextTask) -> None:
    """Raise ValueError if the field `momentum` of `task` is not within 0 and 1."""
    momentum = vars(task)["momentum"]
    if not 0 <= momentum <= 1:
        raise ValueError(f"`momentum` must be within 0 and 1. Received {momentum}.")
