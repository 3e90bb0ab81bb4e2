"""FIFO queue of features of earlier batches (MoCo)."""

import keras
from keras import ops

from keras_ssl._types import Config, Tensor


@keras.saving.register_keras_serializable(package="keras_ssl")
class FeatureQueue(keras.Layer):
    """Return the features of earlier batches, then enqueue those of the current batch.

    The newest come first; the oldest are discarded. The queue starts full of random unit vectors and is a
    non-trainable weight, saved with the model.

    Args:
        size: number of features in the queue, at least 1.
        name: name of the layer.

    Raises:
        ValueError: `size` is below 1.

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
        """Create the queue for features `(batch, dim)`."""
        self.features = self.add_weight(
            shape=(self.size, input_shape[-1]),
            initializer=_random_directions,
            trainable=False,
            autocast=False,
            name="features",
        )

    def call(self, features: Tensor, training: bool = False) -> Tensor:
        """Return `(size, dim)` of earlier batches; in training, enqueue `features` `(batch, dim)`."""
        # A copy: PyTorch assigns in place, which would put the current features into the returned ones.
        earlier = ops.copy(self.features)
        if training:
            newest = ops.cast(ops.stop_gradient(features), "float32")
            self.features.assign(ops.concatenate([newest, earlier])[: self.size])
        return earlier

    def compute_output_spec(self, features: Tensor, training: bool = False) -> keras.KerasTensor:
        """Return the symbolic output, float32 `(size, dim)`."""
        return keras.KerasTensor((self.size, features.shape[-1]), dtype="float32")

    def get_config(self) -> Config:
        """Return the arguments."""
        return {"size": self.size, "name": self.name}


def _random_directions(shape: tuple[int, ...], dtype: str | None = None) -> Tensor:
    # An initializer's seed follows from the global one; `keras.random` without a seed does not.
    return ops.normalize(keras.initializers.RandomNormal()(shape, dtype), axis=-1)
