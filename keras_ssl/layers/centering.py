"""Running-mean centering of teacher outputs."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ssl")
class Centering(keras.Layer):
    """Subtract the mean that vectors had in the batches before, and take this batch into that mean.

    A prototype that a teacher favors for all images is favored less and less. The mean is a moving one,
    `momentum * mean + (1 - momentum) * mean of the batch`, starts at 0, and is a non-trainable weight, saved
    with the model.

    Args:
        momentum: share of the mean that is kept in each step, in [0, 1].
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
        """Make the center for vectors `(batch, dim)`."""
        self.center = self.add_weight(
            shape=(input_shape[-1],),
            initializer="zeros",
            trainable=False,
            autocast=False,
            # Of the parts of a batch that replicas see.
            aggregation="mean",
            name="center",
        )

    def call(self, vectors: Any, training: bool = False) -> Any:
        """Return `vectors`, `(batch, dim)`, less the center; in training, move the center afterwards."""
        # Before the center is moved, which on PyTorch happens in place.
        centered = vectors - self.center
        if training:
            mean = ops.mean(ops.stop_gradient(vectors), axis=0)
            self.center.assign(self.momentum * self.center + (1 - self.momentum) * mean)
        return centered

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Say what shape comes out: that of what comes in."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the momentum and the name."""
        return {"momentum": self.momentum, "name": self.name}
