"""Projection and prediction heads, prototypes; all are discarded after pretraining."""

import keras
from keras import ops

from keras_ssl._types import Config, Tensor
from keras_ssl.encoders.spatial_layers import BATCH_NORM_MOMENTUM
from keras_ssl.layers.run_clock import FollowsClock
from keras_ssl.losses.contrastive import unit_vectors


def projection_head(
    x: keras.KerasTensor,
    hidden_units: tuple[int, ...],
    projection_dim: int,
    *,
    normalize_output: bool = False,
    name: str,
) -> keras.KerasTensor:
    """Add dense layers with batch normalization and ReLU, then a linear float32 layer.

    Args:
        x: symbolic tensor `(batch, channels)`.
        hidden_units: units of each hidden layer, each at least 1.
        projection_dim: units of the last layer, at least 1.
        normalize_output: whether batch normalization without scale and offset follows the last layer
            too.
        name: prefix of the layers' names.

    Returns:
        Symbolic tensor `(batch, projection_dim)`.

    Raises:
        ValueError: a number of units is below 1.

    >>> import keras
    >>> projection_head(keras.Input((8,)), (16,), 4, name="projector").shape
    (None, 4)

    References:
        Chen, T. et al. (2020). A simple framework for contrastive learning of visual representations. ICML.
    """
    if min((*hidden_units, projection_dim)) < 1:
        raise ValueError(
            "`hidden_units` and `projection_dim` must be at least 1. "
            f"Received {hidden_units} and {projection_dim}."
        )
    for number, units in enumerate(hidden_units, start=1):
        # No bias: the normalization would cancel it.
        x = keras.layers.Dense(units, use_bias=False, name=f"{name}_dense_{number}")(x)
        x = keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=f"{name}_bn_{number}")(x)
        x = keras.layers.ReLU(name=f"{name}_relu_{number}")(x)
    x = keras.layers.Dense(
        projection_dim, use_bias=not normalize_output, dtype="float32", name=f"{name}_output"
    )(x)
    if normalize_output:
        x = keras.layers.BatchNormalization(
            momentum=BATCH_NORM_MOMENTUM, center=False, scale=False, dtype="float32", name=f"{name}_output_bn"
        )(x)
    return x


@keras.saving.register_keras_serializable(package="keras_ssl")
class Prototypes(FollowsClock, keras.Layer):
    """Cosine similarities of vectors and learned prototypes, in float32.

    A dense layer without bias, with inputs and weight vectors normalized to length 1.

    Args:
        count: number of prototypes, at least 1.
        frozen_fraction: fraction of a run, in [0, 1), at whose start they are not trained; see `RunClock`.
        name: name of the layer.

    Raises:
        ValueError: `count` is below 1, or `frozen_fraction` out of range.

    >>> import keras
    >>> tuple(Prototypes(4)(keras.ops.ones((2, 3))).shape)
    (2, 4)

    References:
        Salimans, T., Kingma, D. (2016). Weight normalization: a simple reparameterization to accelerate
        training of deep neural networks. NeurIPS.
    """

    def __init__(self, count: int, frozen_fraction: float = 0.0, name: str | None = None) -> None:
        super().__init__(dtype="float32", name=name)
        if count < 1:
            raise ValueError(f"`count` must be at least 1. Received {count}.")
        if not 0 <= frozen_fraction < 1:
            raise ValueError(f"`frozen_fraction` must be at least 0 and below 1. Received {frozen_fraction}.")
        self.count = count
        self.frozen_fraction = frozen_fraction

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the prototypes for vectors `(batch, dim)`."""
        self.prototypes = self.add_weight(
            shape=(self.count, input_shape[-1]), initializer="random_normal", name="prototypes"
        )

    def call(self, vectors: Tensor) -> Tensor:
        """Return the cosines of `vectors` `(batch, dim)` and prototypes, `(batch, count)`."""
        prototypes = ops.convert_to_tensor(self.prototypes)
        if self.frozen_fraction and self.follows_clock:
            trained = ops.cast(self.progress() >= self.frozen_fraction, "float32")
            prototypes = trained * prototypes + (1 - trained) * ops.stop_gradient(prototypes)
        return ops.matmul(unit_vectors(vectors), ops.transpose(unit_vectors(prototypes)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return `(batch, count)`."""
        return (input_shape[0], self.count)

    def get_config(self) -> Config:
        """Return the arguments."""
        return {"count": self.count, "frozen_fraction": self.frozen_fraction, "name": self.name}


def prototype_head(
    hidden_units: tuple[int, ...], bottleneck_dim: int, num_prototypes: int, frozen_fraction: float = 0.0
) -> keras.Sequential:
    """Build the head of DINO: dense layers with GELU, a linear bottleneck, prototypes.

    Args:
        hidden_units: units of each layer with GELU, each at least 1.
        bottleneck_dim: dimension of the vectors that are compared with prototypes, at least 1.
        num_prototypes: number of prototypes, at least 1.
        frozen_fraction: see `Prototypes`.

    Returns:
        Model from features `(batch, channels)` of any length to cosines `(batch, num_prototypes)`, built when
        it is first called.

    Raises:
        ValueError: a number is below 1.

    >>> import keras
    >>> prototype_head((16,), 4, 32)(keras.Input((8,))).shape
    (None, 32)

    References:
        Caron, M. et al. (2021). Emerging properties in self-supervised vision transformers. ICCV.
    """
    if min((*hidden_units, bottleneck_dim, num_prototypes)) < 1:
        raise ValueError(
            "`hidden_units`, `bottleneck_dim` and `num_prototypes` must be at least 1. "
            f"Received {hidden_units}, {bottleneck_dim} and {num_prototypes}."
        )
    hidden = [keras.layers.Dense(units, activation="gelu") for units in hidden_units]
    prototypes = Prototypes(num_prototypes, frozen_fraction)
    return keras.Sequential([*hidden, keras.layers.Dense(bottleneck_dim), prototypes])
