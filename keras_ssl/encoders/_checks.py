"""Checks of a user's encoder: input shape, and warnings about likely mistakes."""

import warnings

import keras
import numpy as np

from keras_ssl._keras_private import (
    graph_of,
    is_functional,
    layers_of,
    nodes_in_order,
    operation_of,
    parents_of,
)

_CLASSIFIERS = ("softmax", "sigmoid")

# Names of the linear layers in which classifiers of Keras Applications and of this library end.
_LOGITS = ("predictions", "logits", "conv_preds", "classifier", "head_outputs", "head_logits")

# A final dense layer of up to this many units is taken for logits, not features.
_FEW = 10

# Layers that pass scores on unchanged.
_PASSED = (
    *(keras.layers.Dropout, keras.layers.Flatten, keras.layers.Reshape, keras.layers.Identity),
    *(keras.layers.GlobalAveragePooling2D, keras.layers.GlobalAveragePooling3D),
)

# With a smaller range of scaled values, all images look the same to an encoder.
_NARROW = 0.05
# A larger range is wrong as well, as of 16-bit images: values of 0 to 255 scaled to [-1, 1] span 2.
_WIDE = 8.0


def resolve_input_shape(
    encoder: keras.Model | keras.Layer | None, input_shape: tuple[int | None, ...] | None
) -> tuple[int, ...]:
    """Return the shape of an encoder's images: the given one, checked, or else the encoder's own.

    Args:
        encoder: Keras model or layer; `None` for the default encoder.
        input_shape: `(*spatial, channels)`; `None` for the encoder's own, if that is fixed.

    Returns:
        `(*spatial, channels)`, all of them integers.

    Raises:
        TypeError: `encoder` is not a Keras model or layer.
        ValueError: the shape is unknown or not fixed, does not have two or three spatial axes, or does not
            match the encoder.

    >>> import keras
    >>> resolve_input_shape(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)]), None)
    (8, 8, 3)
    """
    if encoder is not None and not isinstance(encoder, keras.Layer):
        raise TypeError(f"`encoder` must be a Keras model or layer. Received {encoder!r}.")
    own = _own_input_shape(encoder)
    if input_shape is None:
        input_shape = own if encoder is not None else (224, 224, 3)
    if not is_fixed_shape(input_shape):
        raise ValueError(
            "`input_shape` must be (*spatial, channels) with two or three spatial axes, all of them fixed; "
            "it is required if the encoder has no fixed input shape of its own. Received "
            f"{input_shape} for an encoder with input shape {own}."
        )
    assert input_shape is not None
    shape = tuple(int(size) for size in input_shape if size is not None)
    if own is not None and (
        len(own) != len(shape)
        or any(mine is not None and mine != given for mine, given in zip(own, shape, strict=True))
    ):
        raise ValueError(f"`input_shape` must suit the encoder, which takes {own}. Received {shape}.")
    return shape


def is_fixed_shape(shape: tuple[int | None, ...] | None) -> bool:
    """Return True for `(*spatial, channels)` with two or three spatial axes and no `None`."""
    return shape is not None and None not in shape and len(shape) in (3, 4)


def _own_input_shape(encoder: keras.Layer | None) -> tuple[int | None, ...] | None:
    """Return the input shape of functional and built sequential models, `None` for others."""
    try:
        shape = encoder.input_shape  # type: ignore[union-attr]
    except AttributeError:
        return None
    if not isinstance(shape, tuple) or not all(size is None or isinstance(size, int) for size in shape):
        raise ValueError(f"`encoder` must take one tensor of images. Received one that takes {shape}.")
    return shape[1:]


def warn_of_frozen(encoder: keras.Layer) -> None:
    """Warn about an encoder without trainable weights because its `trainable` is False."""
    frozen = [layer for layer in layers_of(encoder) if not layer.trainable]
    if encoder.weights and frozen and not encoder.trainable_weights:
        warnings.warn(
            f"The encoder {encoder.name!r} is never trained in this fit, because its `trainable` is False. "
            "Set `encoder.trainable = True` before `fit`, or, for fine-tuning, pass "
            "`encoder_trainable=False` if this is intended.",
            stacklevel=4,
        )


def warn_of_classifier(encoder: keras.Layer, classes: int = 0) -> None:
    """Warn about an encoder that ends in the softmax, sigmoid or logits of a classifier.

    Args:
        encoder: the encoder.
        classes: number of classes of the head: a final dense layer of as many units, or of up to 10, is taken
            for logits.
    """
    end = _end(encoder, max(classes, _FEW))
    if end is not None:
        warnings.warn(
            f"The encoder {encoder.name!r} ends in {end}: scores of a classifier, which are not features. "
            "Use the model without its top, as with `include_top=False` or `keras.Model(model.inputs, "
            "model.layers[-2].output)`.",
            stacklevel=3,
        )


def _end(model: keras.Operation, classes: int) -> str | None:
    """Describe the last operation of a model if it is a classifier's."""
    graph = graph_of(model)
    if not is_functional(graph):
        # A subclassed model lists its layers in the order of their creation.
        inner = getattr(model, "layers", None)
        return _end(inner[-1], classes) if inner else _classifies(model, classes)
    tensor = graph.outputs[0]
    operation = operation_of(tensor)
    while type(operation) in _PASSED or getattr(operation, "activation", None) is keras.activations.linear:
        found = _classifies(operation, classes)
        parents = parents_of(tensor)
        if found or not parents:
            return found
        if type(operation) not in (*_PASSED, keras.layers.Activation):
            return None
        tensor = parents[0]
        operation = operation_of(tensor)
    is_model = isinstance(operation, keras.Model)
    return _end(operation, classes) if is_model else _classifies(operation, classes)


def _classifies(operation: keras.Operation, classes: int) -> str | None:
    activation = getattr(operation, "activation", None)
    kind = getattr(activation, "__name__", None) or type(operation).__name__.lower()
    if kind in _CLASSIFIERS:
        return f"a {kind} ({operation.name!r})"
    dense = isinstance(operation, (keras.layers.Dense, keras.layers.Conv2D, keras.layers.Conv3D))
    few = isinstance(operation, keras.layers.Dense) and kind == "linear" and operation.units <= classes
    if few or (dense and operation.name.lower() in _LOGITS):
        return f"logits ({operation.name!r})"
    return None


def input_scale(model: keras.Layer) -> float | None:
    """Return the factor by which a model scales pixels before its first weights, `None` if it does not.

    >>> import keras_ssl
    >>> encoder = keras_ssl.encoders.small_encoder((8, 8, 3), filters=(4,), value_range=(0, 255))
    >>> round(1 / input_scale(encoder), 1)
    127.5
    """
    graph = graph_of(model)
    if not is_functional(graph):
        return None
    scale = None
    for node in nodes_in_order(graph):
        operation = node.operation
        if isinstance(operation, keras.layers.Rescaling):
            scale = (scale or 1.0) * float(np.max(np.abs(operation.scale)))
        elif isinstance(operation, keras.layers.Normalization):
            deviation = np.sqrt(keras.ops.convert_to_numpy(operation.variance))
            scale = (scale or 1.0) / max(float(np.mean(deviation)), 1e-7)
        elif is_functional(operation):
            inner = input_scale(operation)
            return scale if inner is None else (scale or 1.0) * inner
        elif getattr(operation, "weights", None):
            break
    return scale


def warn_of_scaling(encoder: keras.Layer, low: float, high: float) -> None:
    """Warn if values from `low` to `high` are not what an encoder that scales pixels itself expects."""
    scale = input_scale(encoder)
    if scale is not None and not _NARROW <= scale * (high - low) <= _WIDE:
        warnings.warn(
            f"The encoder {encoder.name!r} scales pixels itself, by {scale:.4g}, as for values of 0 to 255. "
            f"Received images with values from {low:.4g} to {high:.4g}. Pass pixels as they are stored, "
            "or build the encoder without scaling.",
            stacklevel=4,
        )
