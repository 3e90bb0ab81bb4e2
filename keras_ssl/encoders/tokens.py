"""The parts of a vision transformer: images to tokens, and blocks for any number of them."""

import math
from typing import Any, NamedTuple

import keras

from keras_ssl.encoders.graph import is_functional, nodes_in_order


class TokenParts(NamedTuple):
    """What an encoder with tokens is made of; layers and weights are the encoder's own.

    Attributes:
        embed: model from `(batch, *input_shape)` to tokens that know their places, `(batch, tokens, dim)`.
        blocks: model from any number of such tokens to as many of the encoder's features, in their order.
        grid: number of tokens along each spatial axis.
        patch_shape: sides of the patch that a token stands for, in pixels.
    """

    embed: keras.Model
    blocks: keras.Model
    grid: tuple[int, ...]
    patch_shape: tuple[int, ...]


def token_parts(encoder: keras.Layer) -> TokenParts:
    """Take a vision transformer apart, so that its blocks can be given some of the tokens only.

    Works for `vit_encoder`, saved and loaded too, as an inner model of others, and for any functional model
    with two layers of these names: `"sequence"`, a `Reshape` from a map of tokens `(batch, *grid, dim)` to
    `(batch, tokens, dim)` that already know their places; and `"feature_map"`, the `Reshape` back. What lies
    between them must take any number of tokens.

    Args:
        encoder: functional or built sequential model of images of one fixed size.

    Raises:
        ValueError: the encoder has no tokens, they do not tile the image, or weights lie where tokens do not
            pass on their way from image to feature map.

    >>> from keras_ssl.encoders import vit_encoder
    >>> parts = token_parts(vit_encoder((32, 48, 1), patch_size=16, dim=24, depth=1))
    >>> parts.grid, parts.patch_shape, parts.embed.output_shape, parts.blocks.output_shape
    ((2, 3), (16, 16), (None, 6, 24), (None, None, 24))

    References:
        He, K. et al. (2022). Masked autoencoders are scalable vision learners. CVPR.
    """
    parts = _find(encoder)
    if parts is None:
        raise ValueError(
            "`encoder` must have tokens: a functional model with layers named 'sequence' and 'feature_map', "
            f"such as encoders.vit_encoder. Received {encoder!r} without them."
        )
    used = {id(weight) for part in parts[:2] for weight in part.trainable_weights}
    unused = [weight.path for weight in encoder.trainable_weights if id(weight) not in used]
    if unused:
        raise ValueError(
            "`encoder` must have all its weights on the way of the tokens to its feature map, or else they "
            f"would not be trained. Received {encoder.name!r} with further ones: {', '.join(unused)}."
        )
    return parts


def _find(encoder: Any) -> TokenParts | None:
    """Find the parts in a model's graph, or in that of the first model in it that has them."""
    if not (isinstance(encoder, keras.Model) and is_functional(encoder)):
        return None
    graph = getattr(encoder, "_functional", None) or encoder
    if len(graph.inputs) != 1:
        return None
    nodes = nodes_in_order(graph)
    named = {node.operation.name: node for node in nodes}
    if "sequence" in named and "feature_map" in named:
        return _take_apart(graph, named["sequence"], named["feature_map"])
    for node in nodes:
        if (inner := _find(node.operation)) is not None:
            embed = keras.Model(graph.inputs[0], inner.embed(node.input_tensors[0]), name="embed")
            return _checked(embed, inner.blocks, inner.grid)
    return None


def _take_apart(graph: keras.Model, sequence: Any, feature_map: Any) -> TokenParts:
    tokens, features = sequence.outputs[0], feature_map.input_tensors[0]
    embed = keras.Model(graph.inputs[0], tokens, name="embed")
    # A functional model takes one number of tokens only: its layers are called once more, on any number.
    blocks = keras.models.clone_model(
        keras.Model(tokens, features, name="blocks"),
        keras.Input((None, tokens.shape[-1]), dtype=tokens.dtype, name="tokens"),
        clone_function=lambda layer: layer,
    )
    return _checked(embed, blocks, tuple(sequence.input_tensors[0].shape[1:-1]))


def _checked(embed: keras.Model, blocks: keras.Model, grid: tuple[int, ...]) -> TokenParts:
    sides = tuple(embed.input_shape[1:-1])
    tiles = len(grid) == len(sides) and all(
        side is not None and side % count == 0 for side, count in zip(sides, grid, strict=True)
    )
    if not tiles or embed.output_shape[1] != math.prod(grid):
        raise ValueError(
            "`encoder` must have tokens that tile the image, each of them a patch of whole pixels. Received "
            f"images of sides {sides} and {embed.output_shape[1]} tokens on a grid of {grid}."
        )
    return TokenParts(embed, blocks, grid, tuple(s // count for s, count in zip(sides, grid, strict=True)))
