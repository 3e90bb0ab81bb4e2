"""Projection heads and prototypes, discarded after pretraining."""

from typing import Any

import keras
from keras import ops

from keras_ssl.losses.contrastive import unit_vectors

# Keras' 0.99 needs about 500 steps to forget where it started; a teacher reads these statistics at once.
_MOMENTUM = 0.9


def projector(
    x: keras.KerasTensor,
    hidden_units: tuple[int, ...],
    output_units: int,
    *,
    normalize_output: bool = False,
    name: str,
) -> keras.KerasTensor:
    """Add dense layers with batch normalization and ReLU, and a last one without; float32 comes out.

    Args:
        x: symbolic tensor `(batch, channels)`.
        hidden_units: units of each layer but the last, at least 1.
        output_units: units of the last layer, at least 1.
        normalize_output: whether the last layer, too, is followed by batch normalization, without scale and
            offset.
        name: beginning of the layers' names.

    Returns:
        Symbolic tensor `(batch, output_units)`.

    Raises:
        ValueError: a number of units is below one.

    >>> import keras
    >>> projector(keras.Input((8,)), (16,), 4, name="projector").shape
    (None, 4)

    References:
        Chen, T. et al. (2020). A simple framework for contrastive learning of visual representations. ICML.
    """
    if min((*hidden_units, output_units)) < 1:
        raise ValueError(
            "`hidden_units` and `output_units` must be at least 1. "
            f"Received {hidden_units} and {output_units}."
        )
    for number, units in enumerate(hidden_units, start=1):
        # No bias: the normalization that follows would take it away again.
        x = keras.layers.Dense(units, use_bias=False, name=f"{name}_dense_{number}")(x)
        x = keras.layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_bn_{number}")(x)
        x = keras.layers.ReLU(name=f"{name}_relu_{number}")(x)
    x = keras.layers.Dense(
        output_units, use_bias=not normalize_output, dtype="float32", name=f"{name}_output"
    )(x)
    if normalize_output:
        x = keras.layers.BatchNormalization(
            momentum=_MOMENTUM, center=False, scale=False, dtype="float32", name=f"{name}_output_bn"
        )(x)
    return x


@keras.saving.register_keras_serializable(package="keras_ssl")
class Prototypes(keras.Layer):
    """Give the cosines of vectors and prototypes, in float32.

    It is a dense layer without bias whose inputs and whose columns of weights have length 1.

    Args:
        count: number of prototypes, at least 1.
        name: name of the layer.

    Raises:
        ValueError: `count` is below one.

    >>> import keras
    >>> tuple(Prototypes(4)(keras.ops.ones((2, 3))).shape)
    (2, 4)

    References:
        Salimans, T., Kingma, D. (2016). Weight normalization: a simple reparameterization to accelerate
        training of deep neural networks. NeurIPS.
    """

    def __init__(self, count: int, name: str | None = None) -> None:
        super().__init__(dtype="float32", name=name)
        if count < 1:
            raise ValueError(f"`count` must be at least 1. Received {count}.")
        self.count = count

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the prototypes for vectors `(batch, dim)`."""
        self.prototypes = self.add_weight(
            shape=(self.count, input_shape[-1]), initializer="random_normal", name="prototypes"
        )

    def call(self, vectors: Any) -> Any:
        """Compare `vectors`, `(batch, dim)`; return cosines `(batch, count)`."""
        return ops.matmul(unit_vectors(vectors), ops.transpose(unit_vectors(self.prototypes)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Say what shape comes out: `(batch, count)`."""
        return (input_shape[0], self.count)

    def get_config(self) -> dict[str, Any]:
        """Return the number and the name."""
        return {"count": self.count, "name": self.name}


def prototype_head(hidden_units: tuple[int, ...], bottleneck_dim: int, prototypes: int) -> keras.Sequential:
    """Make dense layers with GELU, one without, and prototypes; it takes features of any length.

    Args:
        hidden_units: units of each layer with GELU, at least 1.
        bottleneck_dim: units of the layer whose vectors are compared with prototypes, at least 1.
        prototypes: number of prototypes, at least 1.

    Returns:
        Model from `(batch, channels)` to cosines `(batch, prototypes)`, built when it is first called.

    Raises:
        ValueError: a number is below one.

    >>> import keras
    >>> prototype_head((16,), 4, 32)(keras.Input((8,))).shape
    (None, 32)

    References:
        Caron, M. et al. (2021). Emerging properties in self-supervised vision transformers. ICCV.
    """
    if min((*hidden_units, bottleneck_dim, prototypes)) < 1:
        raise ValueError(
            "`hidden_units`, `bottleneck_dim` and `prototypes` must be at least 1. "
            f"Received {hidden_units}, {bottleneck_dim} and {prototypes}."
        )
    hidden = [keras.layers.Dense(units, activation="gelu") for units in hidden_units]
    return keras.Sequential([*hidden, keras.layers.Dense(bottleneck_dim), Prototypes(prototypes)])
