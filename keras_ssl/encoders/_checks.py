"""Checks of a user's encoder: input shape, and warnings about likely mistakes."""

import re
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
from keras_ssl._types import Tensor
from keras_ssl.encoders.functional_graph import reshaped

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
    own = None if encoder is None else _own_input_shape(encoder)
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
    if own is not None and (len(own) != len(shape) or own[-1] not in (None, shape[-1])):
        raise ValueError(f"`input_shape` must suit the encoder, which takes {own}. Received {shape}.")
    return shape


def is_fixed_shape(shape: tuple[int | None, ...] | None) -> bool:
    """Return True for `(*spatial, channels)` with two or three spatial axes and no `None`."""
    return shape is not None and None not in shape and len(shape) in (3, 4)


def _own_input_shape(encoder: keras.Layer) -> tuple[int | None, ...] | None:
    """Return the input shape of functional and built sequential models, `None` for others."""
    if not is_functional(encoder):
        return None
    # A model of one image in a dictionary or list, as backbones of Keras Hub have it, takes that image.
    shapes = [tensor.shape for tensor in graph_of(encoder).inputs]
    if len(shapes) != 1:
        raise ValueError(
            f"`encoder` must take one tensor of images. Received {encoder.name!r}, which takes {len(shapes)} "
            f"of shapes {shapes}. Pass the part that sees images, such as `backbone.vision_encoder` of a "
            "Keras Hub model of images and text, or `keras.Model(images, features)`."
        )
    return tuple(shapes[0][1:])


def encoder_for(encoder: keras.Model | keras.Layer, input_shape: tuple[int, ...]) -> keras.Layer:
    """Return an encoder as a layer from one tensor of images of `input_shape`.

    Args:
        encoder: Keras model or layer.
        input_shape: `(*spatial, channels)`, see `resolve_input_shape`.

    Returns:
        The encoder itself, if it takes such images, or is not functional; else a functional model of its very
        layers: to train one is to train the other.

    Raises:
        ValueError: a layer of the encoder takes no images of other sides than those it was built for.

    >>> import keras_ssl
    >>> encoder = keras_ssl.encoders.small_encoder((32, 32, 3), filters=(4, 8))
    >>> encoder_for(encoder, (32, 32, 3)) is encoder
    True
    >>> encoder_for(encoder, (16, 24, 3)).output_shape
    (None, 4, 6, 8)
    """
    own = _own_input_shape(encoder)
    if own is None:
        return encoder
    graph = graph_of(encoder)
    if all(mine in (None, given) for mine, given in zip(own, input_shape, strict=True)):
        plain = all(isinstance(end, keras.KerasTensor) for end in (graph.input, graph.output))
        if plain or len(graph.outputs) > 1:
            return encoder
        # Called on a tensor, a model of a dictionary would warn. Not of its layers, which may not be loaded.
        images = keras.Input(own, dtype=graph.inputs[0].dtype, name="images")
        (features,) = keras.tree.flatten(encoder(keras.tree.pack_sequence_as(graph.input, [images])))
        return keras.Model(images, features, name=f"{encoder.name}_on_images")
    try:
        view = reshaped(encoder, input_shape)
        # Traced, since some layers state the output shape that they were built for, whatever they are given.
        _Called(view).compute_output_spec(keras.KerasTensor((1, *input_shape), dtype=view.inputs[0].dtype))
    except Exception as error:
        raise ValueError(
            f"`encoder` must take images of shape {input_shape}. Received {encoder.name!r}, built for {own}, "
            f"whose layers take no others: {_cause(error)} Images may be too small for it. Position "
            "embeddings of a fixed grid, and dense layers on flattened features, fit one size only: use an "
            "encoder without them, which gives a feature map."
        ) from error
    return view


def check_takes_images(encoder: keras.Layer, input_shape: tuple[int, ...]) -> None:
    """Raise ValueError if an encoder that has been called on patches takes no whole images.

    Args:
        encoder: Keras model or layer.
        input_shape: `(*spatial, channels)` of whole images.
    """
    try:
        if not is_functional(encoder_for(encoder, input_shape)):
            encoder(keras.Input(input_shape))
    except Exception as error:
        raise ValueError(
            f"`encoder` must take whole images of shape {input_shape} as well as the task's patches, or else "
            f"it cannot be fine-tuned. Received {encoder.name!r}: {error}"
        ) from error


def _cause(error: Exception) -> str:
    """Return the line of an error of Keras that says what was wrong."""
    lines = re.sub(r"\x1b\[\d+m", "", str(error)).split("Error encountered:")[-1].splitlines()
    said = [line for line in lines if line.strip() and not line.startswith("Exception encountered")]
    return said[0] if said else repr(error)


class _Called(keras.Layer):
    """A layer that calls a model in inference mode, so that Keras can trace it."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.model = model

    def call(self, images: Tensor) -> Tensor:
        """Call the model."""
        return self.model(images, training=False)


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
