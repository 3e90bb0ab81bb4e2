"""A queue of features of earlier batches."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ssl")
class FeatureQueue(keras.Layer):
    """Give the features of the batches before, and put those of this one in.

    The newest come first; as many of the oldest fall out. It starts full of random unit vectors, and is
    a non-trainable weight, saved with the model.

    Args:
        size: features that are kept, at least 1.
        name: name of the layer.

    Raises:
        ValueError: `size` is below one.

    >>> import keras
    >>> queue = FeatureQueue(4)
    >>> before = queue(keras.ops.ones((2, 3)), training=True)
    >>> keras.ops.convert_to_numpy(queue(keras.ops.zeros((2, 3))))[:2].tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]

    References:
        He, K. et al. (2020). Momentum contrast for unsupervised visual representation learning. CVPR.
    """

    def __init__(self, size: int, name: str | None = None) -> None:
        super().__init__(trainable=False, dtype="float32", name=name)
        if size < 1:
            raise ValueError(f"`size` must be at least 1. Received {size}.")
        self.size = size

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the queue for features `(batch, dim)`."""
        self.features = self.add_weight(
            shape=(self.size, input_shape[-1]),
            initializer=_random_directions,
            trainable=False,
            autocast=False,
            name="features",
        )

    def call(self, features: Any, training: bool = False) -> Any:
        """Return `(size, dim)` of earlier batches; in training, put `features` `(batch, dim)` in."""
        # A copy: PyTorch assigns in place, which would slip the batch's own features into what is returned.
        earlier = ops.copy(self.features)
        if training:
            newest = ops.cast(ops.stop_gradient(features), "float32")
            self.features.assign(ops.concatenate([newest, earlier])[: self.size])
        return earlier

    def compute_output_spec(self, features: Any, training: bool = False) -> keras.KerasTensor:
        """Say what comes out: `(size, dim)`, float32."""
        return keras.KerasTensor((self.size, features.shape[-1]), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Return the size and the name."""
        return {"size": self.size, "name": self.name}


def _random_directions(shape: tuple[int, ...], dtype: Any = None) -> Any:
    # An initializer, whose seed follows from that of the model, as `keras.random` without one does not.
    return ops.normalize(keras.initializers.RandomNormal()(shape, dtype), axis=-1)
