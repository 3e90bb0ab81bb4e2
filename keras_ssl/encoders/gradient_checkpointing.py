"""Gradient checkpointing (rematerialization) of encoders."""

import itertools
import math
from typing import Any

import keras

from keras_ssl._keras_private import is_functional, nodes_in_order
from keras_ssl._types import Config, Tensor
from keras_ssl.encoders.functional_graph import functional_graph, reshaped


def rematerialize(encoder: keras.Model, segments: int | None = None) -> keras.Model:
    """Apply gradient checkpointing (rematerialization) to an encoder: less memory, more time.

    Training keeps the activations of all layers for the backward pass; they take most of the memory. Here
    the graph is cut into segments. Training keeps the input of each segment only and computes its
    activations again in the backward pass, which takes about a third more time. Losses and gradients are the
    same, dropout and batch statistics included, which `keras.RematScope` does not guarantee. Inference does
    not change.

    Args:
        encoder: functional or built sequential model with one input and one output. Inner models are cut,
            too.
        segments: number of segments, as far as the graph allows: it can be cut where only one tensor
            passes, as between residual blocks. `None` for the square root of the number of layers.

    Returns:
        A functional `keras.Model` that shares its weights with the encoder: training one trains the other.
        Save the original encoder.

    Raises:
        ValueError: the encoder is not functional or has several inputs or outputs, or `segments` is below 1.

    >>> import keras, keras_ssl
    >>> encoder = keras_ssl.encoders.small_encoder((16, 16, 3), filters=(4, 8))
    >>> frugal = keras_ssl.encoders.rematerialize(encoder)
    >>> model = keras_ssl.SelfSupervisedModel(keras_ssl.RotationTask(), frugal, seed=0)
    >>> images = keras.random.uniform((8, 16, 16, 3), seed=0)
    >>> history = model.fit_pretext(images, batch_size=4, epochs=1, verbose=0)
    >>> all(one is other for one, other in zip(frugal.weights, encoder.weights, strict=True))
    True

    References:
        Chen, T. et al. (2016). Training deep nets with sublinear memory cost. arXiv:1604.06174.
    """
    if segments is not None and segments < 1:
        raise ValueError(f"`segments` must be at least 1. Received {segments}.")
    graph = functional_graph("encoder", encoder)
    tensors = [graph.inputs[0], *_ends(graph, segments), graph.outputs[0]]
    features = inputs = keras.Input(tensors[0].shape[1:], dtype=tensors[0].dtype, name="images")
    for number, (start, end) in enumerate(itertools.pairwise(tensors)):
        features = _part(start, end, segments, f"segment{number}")(features)
    return keras.Model(inputs, features, name=f"{encoder.name}_rematerialized")


@keras.saving.register_keras_serializable(package="keras_ssl")
class Rematerialized(keras.Layer):
    """A model whose activations are computed again in the backward pass instead of kept.

    Args:
        model: built Keras model.

    >>> layer = Rematerialized(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    >>> layer(keras.ops.ones((1, 3)), training=True).shape == (1, 2)
    True
    """

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Call the model."""
        if not training:
            return self.model(inputs, training=False)
        trained, others = self.model.trainable_variables, self.model.non_trainable_variables

        # All state is an argument and all changes of state are results, so that the second pass computes with
        # the same state as the first one, such as the seeds of dropout.
        def forward(images: Tensor, *values: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
            mapping = list(zip([*trained, *others], values, strict=True))
            with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
                outputs = self.model(images, training=True)
            return outputs, [scope.get_current_value(variable) for variable in others], list(scope.losses)

        # Copies of the variables that change meanwhile.
        values = [*map(keras.ops.convert_to_tensor, trained), *map(keras.ops.copy, others)]
        outputs, changed, losses = keras.remat(forward)(inputs, *values)
        for variable, value in zip(others, changed, strict=True):
            variable.assign(value)
        for loss in losses:
            self.add_loss(loss)
        return outputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the output shape of the model."""
        return self.model.compute_output_shape(input_shape)

    def reshaped(self, input_shape: tuple[int | None, ...]) -> "Rematerialized":
        """Return this layer for inputs of another shape, with the layers of the same model."""
        return Rematerialized(reshaped(self.model, input_shape), name=self.name)

    def get_config(self) -> Config:
        """Return the configuration, with that of the model."""
        return {**super().get_config(), "model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config: Config) -> "Rematerialized":
        """Create the layer from its configuration."""
        return cls(keras.saving.deserialize_keras_object(config.pop("model")), **config)


def _part(start: keras.KerasTensor, end: keras.KerasTensor, segments: int | None, name: str) -> keras.Layer:
    """Return the layer of one segment; a single layer or inner model is one by itself."""
    model = keras.Model(start, end, name=name)
    # Not `model.layers`, which lacks functions and counts a layer that is called twice only once.
    node, *others = _calls(model)
    if others or not isinstance(node.operation, keras.Layer) or not _plain(node):
        return Rematerialized(model, name=name)
    return rematerialize(node.operation, segments) if is_functional(node.operation) else node.operation


def _calls(graph: keras.Model) -> list[Any]:
    return [node for node in nodes_in_order(graph) if node.arguments.keras_tensors]


def _plain(node: Any) -> bool:
    """Return True for the call of a layer with one tensor and no other argument."""
    arguments = node.arguments
    return len(arguments.args) == len(arguments.keras_tensors) == 1 and not any(
        value is not None for value in arguments.kwargs.values()
    )


def _ends(graph: keras.Model, segments: int | None) -> list[keras.KerasTensor]:
    """Return the tensors between segments: the only ones that pass from the layers before to those after."""
    nodes = _calls(graph)
    made_by = {id(tensor): number for number, node in enumerate(nodes) for tensor in node.output_tensors}
    last_use = [0] * len(nodes)
    for number, node in enumerate(nodes):
        for tensor in node.arguments.keras_tensors:
            if id(tensor) in made_by:
                last_use[made_by[id(tensor)]] = number
    length = len(nodes) / (segments or round(math.sqrt(len(nodes))))
    # Also for the images, which a later layer may use again.
    reach = max(
        number
        for number, node in enumerate(nodes)
        if any(tensor is graph.inputs[0] for tensor in node.arguments.keras_tensors)
    )
    ends: list[keras.KerasTensor] = []
    for number, node in enumerate(nodes[:-1]):
        # Keras takes a product with a number for sparse, and cannot use it as a model's input on PyTorch.
        fit = len(node.output_tensors) == 1 and not getattr(node.output_tensors[0], "sparse", False)
        alone = fit and reach <= number
        inner = is_functional(node.operation) or is_functional(nodes[number + 1].operation)
        if alone and (inner or number + 1 >= (len(ends) + 1) * length):
            ends.append(node.output_tensors[0])
        reach = max(reach, last_use[number])
    return ends
