"""Layers of an encoder, grouped by depth."""

import keras

from keras_ssl._keras_private import graph_of, is_functional, nodes_in_order


def layer_groups(encoder: keras.Layer) -> list[list[keras.Layer]]:
    """Divide the layers of an encoder into groups by depth, from its input to its output.

    A group ends at a tensor that every path through the graph passes. In a plain chain each convolution or
    dense layer is a group, with the normalization and activation after it; in other networks a residual
    block or a layer of a dense block is one. Parallel paths have no order of depth and share a group. Layers
    without a kernel belong to the group before them. Nested models are divided in the same way; a layer or
    model without a graph is one group.

    Args:
        encoder: any built layer or model.

    >>> from keras_ssl.encoders import small_encoder
    >>> [len(group) for group in layer_groups(small_encoder((8, 8, 3), filters=(4, 8)))]
    [3, 10, 10]
    """
    groups: list[list[keras.Layer]] = []
    seen: set[int] = set()
    for segment in _segments(encoder):
        # A layer that is called again belongs to the group of its first call.
        new = [layer for layer in segment if id(layer) not in seen]
        seen.update(map(id, new))
        if groups and not (_has_kernel(new) and _has_kernel(groups[-1])):
            groups[-1].extend(new)
        elif new:
            groups.append(new)
    return groups


def _segments(model: keras.Layer) -> list[list[keras.Layer]]:
    """Divide the layers of a model at the tensors that every path passes."""
    graph = graph_of(model)
    if not is_functional(graph):
        return [[model]]
    nodes = [node for node in nodes_in_order(graph) if node.arguments.keras_tensors]
    number = {id(tensor): index for index, node in enumerate(nodes) for tensor in node.output_tensors}
    # Inputs are used from before the first node.
    last_use = {-1: -1}
    for index, node in enumerate(nodes):
        for tensor in node.arguments.keras_tensors:
            last_use[number.get(id(tensor), -1)] = index
    segments: list[list[keras.Layer]] = []
    first, reach = 0, last_use[-1]
    for index in range(len(nodes)):
        if reach <= index or index == len(nodes) - 1:
            operations = [node.operation for node in nodes[first : index + 1]]
            if len(operations) == 1 and isinstance(operations[0], keras.Layer):
                segments += _segments(operations[0])
            else:
                segments.append([one for one in operations if isinstance(one, keras.Layer)])
            first = index + 1
        reach = max(reach, last_use.get(index, index))
    return segments


def _has_kernel(layers: list[keras.Layer]) -> bool:
    return any(len(weight.shape) > 1 for layer in layers for weight in layer.weights)
