"""The dense layers behind an encoder in which views are compared, and which are thrown away afterwards."""

import keras

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
    """Add dense layers with batch normalisation and ReLU, and a last one without; float32 comes out.

    Args:
        x: symbolic tensor `(batch, channels)`.
        hidden_units: units of each layer but the last, at least 1.
        output_units: units of the last layer, at least 1.
        normalize_output: whether the last layer, too, is followed by batch normalisation, without scale and
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
        # No bias: the normalisation that follows would take it away again.
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
