"""Running-mean centering and sharpening of teacher outputs, for self-distillation."""

import keras
from keras import ops

from keras_ssl._types import Config, Tensor
from keras_ssl.layers.run_clock import FollowsClock

# Fraction of a run in which the temperature rises, as in the paper's long runs.
_RISE = 0.3


@keras.saving.register_keras_serializable(package="keras_ssl")
class Centering(keras.Layer):
    """Subtract the running mean of earlier batches, then update it with the current batch.

    Keeps a teacher from assigning all images to one prototype. The running mean,
    `momentum * mean + (1 - momentum) * batch mean`, starts at 0 and is a non-trainable weight, saved with
    the model.

    Args:
        momentum: momentum of the running mean, in [0, 1].
        name: name of the layer.

    Raises:
        ValueError: `momentum` is out of range.

    >>> import keras
    >>> center = Centering(momentum=0.5)
    >>> before = center(keras.ops.ones((2, 3)), training=True)
    >>> keras.ops.convert_to_numpy(center(keras.ops.ones((1, 3)))).tolist()
    [[0.5, 0.5, 0.5]]

    References:
        Caron, M. et al. (2021). Emerging properties in self-supervised vision transformers. ICCV.
    """

    def __init__(self, momentum: float = 0.9, name: str | None = None) -> None:
        super().__init__(trainable=False, dtype="float32", name=name)
        if not 0 <= momentum <= 1:
            raise ValueError(f"`momentum` must be within 0 and 1. Received {momentum}.")
        self.momentum = momentum

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the running mean for vectors `(batch, dim)`."""
        self.center = self.add_weight(
            shape=(input_shape[-1],),
            initializer="zeros",
            trainable=False,
            autocast=False,
            # Each replica sees a part of the batch.
            aggregation="mean",
            name="center",
        )

    def call(self, vectors: Tensor, training: bool = False) -> Tensor:
        """Return `vectors`, `(batch, dim)`, minus the running mean; in training, update it afterwards."""
        # Before the update, which happens in place on PyTorch.
        centered = vectors - self.center
        if training:
            mean = ops.mean(ops.stop_gradient(vectors), axis=0)
            self.center.assign(self.momentum * self.center + (1 - self.momentum) * mean)
        return centered

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> Config:
        """Return the arguments."""
        return {"momentum": self.momentum, "name": self.name}


@keras.saving.register_keras_serializable(package="keras_ssl")
class Sharpening(FollowsClock, keras.Layer):
    """Divide logits by a temperature, which may rise linearly in the first 30 % of a run.

    Args:
        temperatures: temperature, above 0, or those at the start and after the rise.
        name: name of the layer.

    >>> import keras
    >>> float(Sharpening((0.5, 1.0))(keras.ops.ones((1, 1)))[0, 0])
    2.0

    References:
        Caron, M. et al. (2021). Emerging properties in self-supervised vision transformers. ICCV.
    """

    def __init__(self, temperatures: tuple[float, ...], name: str | None = None) -> None:
        super().__init__(trainable=False, dtype="float32", name=name)
        self.temperatures = tuple(temperatures)

    def call(self, logits: Tensor) -> Tensor:
        """Return `logits` divided by the temperature."""
        start, end = self.temperatures[0], self.temperatures[-1]
        return logits / (start + (end - start) * ops.minimum(self.progress() / _RISE, 1.0))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> Config:
        """Return the arguments."""
        return {"temperatures": self.temperatures, "name": self.name}
