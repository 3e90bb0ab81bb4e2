"""Reading and rebuilding the graphs of functional models."""

from collections.abc import Callable
from typing import Any

import keras

from keras_ssl._keras_private import graph_of, is_functional, layers_of, operation_of


def functional_graph(argument: str, model: keras.Layer, otherwise: str = "") -> keras.Model:
    """Return the functional model that `model` is, or that a built sequential one holds.

    Args:
        argument: name of the argument, for the error.
        model: any Keras model or layer.
        otherwise: what else one could do, for the error.

    Raises:
        ValueError: `model` is no functional model, or has several inputs or outputs.
    """
    if not is_functional(model):
        raise ValueError(
            f"`{argument}` must be a functional model, or a sequential one that is built. Received {model!r}."
            f"{otherwise}"
        )
    graph = graph_of(model)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(
            f"`{argument}` must take one tensor of images and give one of features. Received "
            f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs."
        )
    return graph


def rebuild(
    model: keras.Model,
    input_shape: tuple[int | None, ...],
    replace: Callable[[Any, tuple[Any, ...]], Any],
    carry: Callable[[keras.Layer, keras.Layer], None],
) -> keras.Model:
    """Build a functional model once more for images of another shape, out of new layers.

    Args:
        model: as for `functional_graph`.
        input_shape: the new shape, without the batch axis.
        replace: function from an operation and the tensors that it is called with to a new operation.
        carry: function from an old and a new layer, both built, that gives the new one its weights.

    Returns:
        The new model, with its name and those of its layers as they were, in the same order.
    """
    made: dict[int, Any] = {}

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
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
    # Without the compiled state, which belongs to another model.
    bare = keras.Model(images, graph.outputs[0], name=model.name)
    return keras.models.clone_model(bare, inputs, clone_function=lambda layer: layer, call_function=call)


def copy_weights(old: keras.Layer, new: keras.Layer) -> None:
    """Give a layer the weights and the state of another one of its kind."""
    new.set_weights(old.get_weights())
    for part in layers_of(new):
        if isinstance(part, keras.layers.Normalization):
            # What `adapt` found is only read when told so.
            part.finalize_state()
