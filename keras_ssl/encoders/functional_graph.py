"""Read and rebuild the graph of a functional model."""

from collections.abc import Callable
from typing import Any

import keras

from keras_ssl._keras_private import graph_of, is_functional, layers_of, operation_of
from keras_ssl._types import Tensor


def functional_graph(argument: str, model: keras.Layer, otherwise: str = "") -> keras.Model:
    """Return `model` if it is functional, or the functional model inside a built sequential one.

    Args:
        argument: name of the argument, for the error message.
        model: any Keras model or layer.
        otherwise: advice to append to the error message.

    Raises:
        ValueError: `model` is not functional, or has several inputs or outputs.
    """
    if not is_functional(model):
        raise ValueError(
            f"`{argument}` must be a functional model or a built sequential one. Received {model!r}."
            f"{otherwise}"
        )
    graph = graph_of(model)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(
            f"`{argument}` must have one input, images, and one output, features. Received "
            f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs."
        )
    return graph


def rebuild(
    model: keras.Model,
    input_shape: tuple[int | None, ...],
    replace: Callable[[keras.Operation, tuple[Tensor, ...]], keras.Operation],
    carry: Callable[[keras.Layer, keras.Layer], None],
) -> keras.Model:
    """Rebuild a functional model from new layers, for images of another shape.

    Args:
        model: as for `functional_graph`.
        input_shape: new shape of the images, without the batch axis.
        replace: function that returns the new operation, given the old one and the tensors it is called with.
        carry: function that sets the weights of a new layer, given the old and the new one, both built.

    Returns:
        The new model. Its name, the names of its layers and their order are those of `model`.
    """
    made: dict[int, keras.Operation] = {}

    def call(operation: keras.Operation, *args: Tensor, **kwargs: Any) -> Tensor:
        if id(operation) in made:
            return made[id(operation)](*args, **kwargs)
        new = made[id(operation)] = replace(operation, args)
        outputs = new(*args, **kwargs)
        if isinstance(new, keras.Layer) and new.weights:
            carry(operation, new)
        return outputs

    graph = functional_graph("model", model)
    images = graph.inputs[0]
    inputs = keras.Input(input_shape, dtype=images.dtype, name=operation_of(images).name)
    # Without the state of `compile`, which belongs to the old model.
    bare = keras.Model(images, graph.outputs[0], name=model.name)
    return keras.models.clone_model(bare, inputs, clone_function=lambda layer: layer, call_function=call)


def reshaped(model: keras.Model, input_shape: tuple[int | None, ...]) -> keras.Model:
    """Return a functional model for images of another shape that has the very layers of `model`.

    Layers that hold a model, such as those of `rematerialize`, have a method `reshaped` of their own.

    Args:
        model: as for `functional_graph`. Inner models are reshaped likewise.
        input_shape: new shape of the images, without the batch axis.

    Raises:
        ValueError: a layer, such as a dense layer on flattened features, takes no other shape.

    >>> images = keras.Input((8, 8, 3))
    >>> model = keras.Model(images, keras.layers.Conv2D(4, 3, strides=2)(images))
    >>> larger = reshaped(model, (16, 16, 3))
    >>> larger.output_shape, larger.layers[-1] is model.layers[-1]
    ((None, 7, 7, 4), True)
    """

    def replace(operation: keras.Operation, args: tuple[Tensor, ...]) -> keras.Operation:
        if hasattr(operation, "reshaped"):
            return operation.reshaped(args[0].shape[1:])
        if isinstance(operation, keras.Model) and is_functional(operation):
            return reshaped(operation, args[0].shape[1:])
        return operation

    return rebuild(model, input_shape, replace, lambda old, new: None)


def copy_weights(old: keras.Layer, new: keras.Layer) -> None:
    """Copy weights and state to a layer from another of the same class."""
    new.set_weights(old.get_weights())
    for part in layers_of(new):
        if isinstance(part, keras.layers.Normalization):
            # `set_weights` alone does not update the mean and variance that the layer computes with.
            part.finalize_state()
