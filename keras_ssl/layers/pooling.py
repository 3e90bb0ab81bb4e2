"""Global pooling of feature maps, and dense layers on the pooled features."""

import keras

from keras_ssl._types import Structure

_POOLING = {
    ("average", 3): keras.layers.GlobalAveragePooling1D,
    ("max", 3): keras.layers.GlobalMaxPooling1D,
    ("average", 4): keras.layers.GlobalAveragePooling2D,
    ("average", 5): keras.layers.GlobalAveragePooling3D,
    ("max", 4): keras.layers.GlobalMaxPooling2D,
    ("max", 5): keras.layers.GlobalMaxPooling3D,
}


def pool_features(features: keras.KerasTensor, pooling: str = "average") -> keras.KerasTensor:
    """Pool an encoder's feature map over all spatial axes, or its tokens; return a feature vector unchanged.

    All tokens count alike, a class token and registers included. For the class token alone, pass the encoder
    `keras.Model(images, encoder(images)[:, 0])`, where `images` is a `keras.Input`; for patches alone
    `tokens_to_map(encoder)`.

    Args:
        features: symbolic tensor `(batch, channels)`, `(batch, tokens, channels)` or
            `(batch, *spatial, channels)` with two or three spatial axes.
        pooling: `"average"` or `"max"`.

    Raises:
        ValueError: `features` has another rank or is not one tensor, or `pooling` is unknown.

    >>> import keras
    >>> pool_features(keras.Input((4, 4, 8))).shape, pool_features(keras.Input((17, 8))).shape
    ((None, 8), (None, 8))
    """
    if pooling not in ("average", "max"):
        raise ValueError(f"`pooling` must be 'average' or 'max'. Received {pooling!r}.")
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) not in (2, 3, 4, 5):
        raise ValueError(
            "The encoder must give one feature vector (batch, channels), tokens (batch, tokens, channels) or "
            "feature map (batch, *spatial, channels) with two or three spatial axes. Received "
            f"{describe_output(features)}"
        )
    if len(shape) == 2:
        return features
    return _POOLING[pooling, len(shape)](data_format="channels_last")(features)


def describe_output(features: Structure) -> str:
    """Describe the output of an encoder that is none of features, and how to choose a part of it.

    >>> describe_output({"tokens": keras.Input((16, 8)), "pooled": keras.Input((8,))})[:41]
    "a dictionary of ['tokens', 'pooled']. Pas"
    """
    if isinstance(features, dict):
        found, key = f"a dictionary of {list(features)}", repr(next(iter(features), "features"))
    elif isinstance(features, (list, tuple)):
        found, key = f"a {type(features).__name__} of {len(features)} outputs", "-1"
    else:
        return f"{type(features).__name__} of shape {getattr(features, 'shape', None)}."
    return (
        f"{found}. Pass the part that has the features, such as `keras.Model(encoder.inputs[0], "
        f"encoder.output[{key}])`."
    )


def dense_layers(
    x: keras.KerasTensor,
    hidden_units: tuple[int, ...],
    *,
    batch_norm: bool = False,
    dropout: float = 0.0,
    name: str,
) -> keras.KerasTensor:
    """Add dense ReLU layers, each optionally followed by batch normalization and dropout.

    Without hidden units, dropout is applied to `x`.

    Args:
        x: symbolic tensor `(batch, channels)`.
        hidden_units: units of each layer, each at least 1.
        batch_norm: whether batch normalization follows each layer.
        dropout: dropout rate after each layer, in [0, 1).
        name: prefix of the layers' names.

    Raises:
        ValueError: `hidden_units` or `dropout` are out of range.

    >>> import keras
    >>> dense_layers(keras.Input((8,)), (4, 2), dropout=0.5, name="head").shape
    (None, 2)
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must lie in [0, 1). Received {dropout}.")
    if any(units < 1 for units in hidden_units):
        raise ValueError(f"`hidden_units` must all be at least 1. Received {hidden_units}.")
    if dropout and not hidden_units:
        return keras.layers.Dropout(dropout, name=f"{name}_dropout")(x)
    for number, units in enumerate(hidden_units, start=1):
        x = keras.layers.Dense(units, activation="relu", name=f"{name}_dense_{number}")(x)
        if batch_norm:
            x = keras.layers.BatchNormalization(name=f"{name}_bn_{number}")(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"{name}_dropout_{number}")(x)
    return x
