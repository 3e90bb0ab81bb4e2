"""Feature pyramid of an encoder: its last feature map at each resolution."""

import math

import keras

from keras_ssl._keras_private import is_functional, layers_of, nodes_in_order
from keras_ssl.encoders.functional_graph import functional_graph
from keras_ssl.encoders.tokens import arrange_tokens

_CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)


_PADDINGS = (
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
    keras.layers.Cropping2D,
    keras.layers.Cropping3D,
)


def pyramid_outputs(
    encoder: keras.Model, input_shape: tuple[int, ...] | None = None
) -> dict[str, keras.KerasTensor]:
    """Find the feature map of an encoder at each resolution.

    Level `"Pk"` is the last feature map whose sides are those of the images divided by `2 ** k`, rounded up
    or down, along all axes; if valid convolutions have cut off more, up to a third, it is the smallest such
    map. The coarsest level is the output of the encoder, if that is a feature map.

    Candidates are the tensors of an attribute `pyramid_outputs`, which backbones of Keras Hub and `medicai`
    have, or else all tensors of the encoder's graph, in its order, from the first convolution on. So a model
    loaded from a file has the same pyramid as the saved one. Tensors before that convolution, as after
    `Rescaling`, are no candidates, nor are padded or cropped maps and maps coarser than the last one. If one
    inner model has all convolutions, after preprocessing layers, its feature maps are used. An encoder of
    tokens has the level of their map, see `tokens_to_map`.

    Args:
        encoder: functional or built sequential model with one input `(batch, *spatial, channels)`, or any
            model with an attribute `pyramid_outputs`, a dictionary of symbolic tensors.
        input_shape: `(*spatial, channels)`, required if the encoder has no fixed input shape.

    Returns:
        Dictionary from `"P0"` (full resolution), `"P1"` (half) and so on to symbolic tensors of the encoder's
        graph, from fine to coarse, without the levels that the encoder does not have.

    Raises:
        ValueError: the encoder is not functional and has no such attribute; has several inputs, no
            convolution or no feature map; or scales axes differently. Or `input_shape` is required and
            missing, or does not match the encoder.

    >>> from keras_ssl.encoders import small_encoder
    >>> pyramid = pyramid_outputs(small_encoder((28, 28, 3), filters=(16, 32, 64)))
    >>> {level: features.shape for level, features in pyramid.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'P0': (None, 28, 28, 16), 'P1': (None, 14, 14, 16), 'P2': (None, 7, 7, 32), 'P3': (None, 4, 4, 64)}

    References:
        Lin, T.-Y. et al. (2017). Feature pyramid networks for object detection. CVPR.
    """
    graph = _graph(encoder)
    shape = _fixed(graph, input_shape)
    tensors = _feature_maps(encoder, graph, shape)
    tensors = [tensor for tensor in tensors if len(tensor.shape) == len(shape) + 1]
    if not tensors:
        raise ValueError(
            f"`encoder` must hold feature maps (batch, *spatial, channels). Received {encoder.name!r} "
            "without any."
        )
    return _levels(tensors, _shapes(graph, tensors, shape), shape[:-1])


def pyramid_model(encoder: keras.Model, input_shape: tuple[int, ...] | None = None) -> keras.Model:
    """Build a model from images to the feature pyramid of an encoder.

    Args:
        encoder: as in `pyramid_outputs`.
        input_shape: `(*spatial, channels)`, required if the encoder has no fixed input shape.

    Returns:
        A functional `keras.Model` from `(batch, *input_shape)` to the dictionary of `pyramid_outputs`. It
        shares layers and weights with the encoder: training one trains the other.

    Raises:
        ValueError: as in `pyramid_outputs`.

    >>> from keras_ssl.encoders import small_encoder
    >>> encoder = small_encoder((None, None, 3), filters=(16, 32))
    >>> pyramid = pyramid_model(encoder, (28, 28, 3))(keras.ops.zeros((1, 28, 28, 3)))
    >>> {level: tuple(features.shape) for level, features in pyramid.items()}
    {'P0': (1, 28, 28, 16), 'P1': (1, 14, 14, 16), 'P2': (1, 7, 7, 32)}
    """
    pyramid = pyramid_outputs(encoder, input_shape)
    graph = _graph(encoder)
    shape = _fixed(graph, input_shape)
    model = keras.Model(graph.inputs[0], pyramid, name=f"{encoder.name}_pyramid")
    if model.input_shape[1:] == shape:
        return model
    inputs = keras.Input(shape, name="images")
    return keras.Model(inputs, model(inputs), name=model.name)


def with_pyramid(encoder: keras.Model) -> keras.Model:
    """Set the attribute `pyramid_outputs` of an encoder with a fixed input shape; return the encoder."""
    if None not in encoder.input_shape[1:]:
        encoder.pyramid_outputs = pyramid_outputs(encoder)
    return encoder


def _graph(encoder: keras.Model) -> keras.Model:
    """Return the functional model that has the encoder's levels."""
    own = _own_pyramid(encoder)
    if own is not None and not is_functional(encoder):
        coarsest = list(own.values())[-1]
        return keras.Model(keras.utils.get_source_inputs(coarsest), coarsest)
    otherwise = (
        " Build it with the functional API, or give it an attribute `pyramid_outputs`, a dictionary from "
        '"P1", "P2", ... to symbolic tensors of one graph.'
    )
    graph = functional_graph("encoder", encoder, otherwise)
    images, tokens = graph.inputs[0], graph.outputs[0]
    if len(tokens.shape) != 3:
        return graph
    return keras.Model(images, arrange_tokens(tokens, images.shape[1:-1]), name=graph.name)


def _own_pyramid(encoder: keras.Model) -> dict[str, keras.KerasTensor] | None:
    """Return an encoder's attribute `pyramid_outputs`, unless it holds tokens, as in Keras Hub's DINOv2."""
    own = getattr(encoder, "pyramid_outputs", None)
    return None if own is None or all(len(tensor.shape) == 3 for tensor in own.values()) else own


def _fixed(graph: keras.Model, input_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    own = tuple(graph.inputs[0].shape[1:])
    shape = own if input_shape is None else tuple(input_shape)
    fits = len(own) == len(shape) and all(
        mine in (None, given) for mine, given in zip(own, shape, strict=True)
    )
    if not fits or None in shape:
        raise ValueError(
            "`input_shape` must be (*spatial, channels), all fixed, and match the encoder, which takes "
            f"{own}. Received {input_shape}."
        )
    return shape


def _feature_maps(
    encoder: keras.Model, graph: keras.Model, shape: tuple[int, ...]
) -> list[keras.KerasTensor]:
    """List the tensors that may be levels, in the order of the graph."""
    own = _own_pyramid(encoder)
    if own is not None:
        # Some omit a last normalization, which is trained with the rest.
        return [*own.values(), graph.outputs[0]]
    nodes = nodes_in_order(graph)
    convolving = [index for index, node in enumerate(nodes) if _convolves(node.operation)]
    if not convolving:
        raise ValueError(f"`encoder` must hold a convolution. Received {graph.layers} without one.")
    first = nodes[convolving[0]]
    if len(convolving) == 1 and isinstance(first.operation, keras.Model):
        images = first.input_tensors[0]
        pyramid = pyramid_outputs(first.operation, _shapes(graph, [images], shape)[0])
        return list(keras.Model(_graph(first.operation).inputs[0], pyramid)(images).values())
    return [
        tensor
        for node in nodes[convolving[0] :]
        if not isinstance(node.operation, _PADDINGS)
        for tensor in node.outputs
    ]


def _convolves(operation: keras.Operation) -> bool:
    return isinstance(operation, keras.Layer) and any(
        isinstance(layer, _CONVOLUTIONS) for layer in layers_of(operation)
    )


def _shapes(
    graph: keras.Model, tensors: list[keras.KerasTensor], shape: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """Return the shapes of tensors, without the batch axis, for images of `shape`."""
    if all(None not in tensor.shape[1:] for tensor in tensors):
        return [tuple(tensor.shape[1:]) for tensor in tensors]
    shapes = keras.Model(graph.inputs[0], tensors).compute_output_shape((None, *shape))
    return [tuple(each[1:]) for each in shapes]


def _levels(
    tensors: list[keras.KerasTensor], shapes: list[tuple[int, ...]], sides: tuple[int, ...]
) -> dict[str, keras.KerasTensor]:
    last = {shape[:-1]: tensor for shape, tensor in zip(shapes, tensors, strict=True)}
    end = shapes[-1][:-1]
    found: dict[int, tuple[int, ...]] = {}
    free = 0
    for shape in sorted(last, key=math.prod, reverse=True):
        # Sides of 1 or 2 may fit several levels: 5 is halved to 3, 2, 1 or to 2, 1. Take the first free one.
        exact = next((k for k in range(free, max(sides).bit_length() + 1) if _fits(shape, sides, k)), None)
        level = _trimmed(shape, sides) if exact is None else exact
        # Maps coarser than the output are side branches, such as squeeze and excitation.
        if level is not None and level >= free and math.prod(shape) >= math.prod(end):
            found[level] = shape
            free = level + (exact is not None)
    if end not in found.values():
        raise ValueError(
            "`encoder` must scale all sides of the images alike, by a power of two. Received one from "
            f"{sides} to {end}."
        )
    return {f"P{level}": last[found[level]] for level in sorted(found)}


def _fits(shape: tuple[int, ...], sides: tuple[int, ...], level: int) -> bool:
    scale = 2**level
    return all(side // scale <= size <= -(-side // scale) for size, side in zip(shape, sides, strict=True))


def _trimmed(shape: tuple[int, ...], sides: tuple[int, ...]) -> int | None:
    """Return the level of a map that lacks less than a third along all axes, as after valid convolutions."""
    pairs = list(zip(shape, sides, strict=True))
    levels = range(max(sides).bit_length() + 1)
    return next(
        (k for k in levels if all(2 * side < 3 * size * 2**k <= 3 * side for size, side in pairs)), None
    )
