"""Vision transformer (ViT) for images and volumes, and its parts: patch embedding and blocks."""

import math
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_ssl._keras_private import graph_of, is_functional, layers_of, nodes_in_order
from keras_ssl.encoders.feature_pyramid import with_pyramid
from keras_ssl.encoders.spatial_layers import layers_for, positive_integers, rescale
from keras_ssl.encoders.tokens import token_layout


def vit_encoder(
    input_shape: tuple[int, ...],
    patch_size: int | tuple[int, ...] = 16,
    embedding_dim: int = 192,
    depth: int = 12,
    num_heads: int = 3,
    mlp_ratio: int = 4,
    position: Literal["sine", "learned"] = "sine",
    name: str = "vit_encoder",
    value_range: tuple[float, float] | None = None,
    standardize: bool = True,
) -> keras.Model:
    """Build a vision transformer (ViT) without class token, for images or volumes.

    Non-overlapping patches are embedded, get a position embedding, and pass through pre-norm transformer
    blocks and a final layer normalization. The output is a feature map, to be pooled. Only core layers are
    used: the saved `.keras` file loads without keras-ssl. The defaults are those of ViT-Tiny. The kernel that
    embeds patches is initialized as that of a dense layer, as in masked autoencoders.

    Args:
        input_shape: `(*spatial, channels)` with two or three spatial axes, each a multiple of the patch.
        patch_size: side of a patch, one number or one per spatial axis.
        embedding_dim: embedding dimension; a multiple of `num_heads`, and with `"sine"` of twice the number
            of spatial axes.
        depth: number of transformer blocks.
        num_heads: number of attention heads.
        mlp_ratio: units of the hidden dense layer of a block, in multiples of `embedding_dim`.
        position: position embedding; `"sine"` for fixed sines and cosines along each axis, as in masked
            autoencoders, `"learned"` for one learned vector per patch.
        name: name of the model.
        value_range: lowest and highest value of the images as stored, such as `(0, 255)`; a `Rescaling`
            layer after the input maps them to [-1, 1]. `None` does not rescale.
        standardize: whether each image is standardized inside the encoder, to mean 0 and variance 1 over all
            its pixels and channels; a constant image becomes 0. Position embeddings have an amplitude of 1,
            beside which pixels of a narrow range hardly count. The absolute values of an image are lost: pass
            `False` and a `value_range` where they carry meaning, as Hounsfield units of CT do.

    Returns:
        A functional `keras.Model` from `(batch, *input_shape)` to `(batch, *grid, embedding_dim)`, where
        `grid` is the number of patches along each axis. Its pyramid has this level only.

    Raises:
        ValueError: `input_shape` does not have two or three spatial axes, fixed multiples of `patch_size`,
            and a number of channels; `embedding_dim` is not a multiple of what it must be; or a number is
            below 1.

    >>> encoder = vit_encoder((32, 32, 32, 1), patch_size=8, embedding_dim=24, depth=2)
    >>> encoder.output_shape, list(encoder.pyramid_outputs)
    ((None, 4, 4, 4, 24), ['P3'])

    References:
        Dosovitskiy, A. et al. (2021). An image is worth 16x16 words: transformers for image recognition at
        scale. ICLR.
        He, K. et al. (2022). Masked autoencoders are scalable vision learners. CVPR.
    """
    make = layers_for(input_shape)
    rank = len(input_shape) - 1
    patch = positive_integers(
        "patch_size", (patch_size,) * rank if isinstance(patch_size, int) else patch_size
    )
    dim, depth, num_heads, mlp_ratio = positive_integers(
        "embedding_dim`, `depth`, `num_heads` and `mlp_ratio", (embedding_dim, depth, num_heads, mlp_ratio)
    )
    grid = _patch_grid(input_shape[:-1], patch)
    _check_embedding_dim(dim, num_heads, position, rank)
    inputs = keras.Input(input_shape, name="images")
    x = rescale(inputs, value_range)
    if standardize:
        # In float32: squares of pixels overflow float16.
        x = layers.LayerNormalization(
            axis=tuple(range(1, rank + 2)),
            epsilon=1e-6,
            center=False,
            scale=False,
            dtype="float32",
            name="standardize",
        )(x)
    # Glorot's limit of a dense layer; that of a convolution counts the output once per pixel.
    limit = math.sqrt(6 / (math.prod(patch) * input_shape[-1] + dim))
    initializer = keras.initializers.RandomUniform(-limit, limit)
    x = make.conv(dim, patch, strides=patch, kernel_initializer=initializer, name="patches")(x)
    x = add_sine_positions(x, grid) if position == "sine" else _add_learned_positions(x, grid)
    x = layers.Reshape((-1, dim), name="sequence")(x)
    for number in range(1, depth + 1):
        x = transformer_block(x, num_heads, mlp_ratio * dim, name=f"block{number}")
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    encoder = keras.Model(inputs, layers.Reshape((*grid, dim), name="feature_map")(x), name=name)
    # A pyramid needs sides scaled alike along all axes, by a power of two.
    return with_pyramid(encoder) if len(set(patch)) == 1 and patch[0].bit_count() == 1 else encoder


def sine_positions(count: int, dim: int) -> np.ndarray:
    """Return sine-cosine position embeddings of the numbers from 0 to `count - 1`.

    Args:
        count: number of positions.
        dim: embedding dimension, even: sines, then cosines, of the number times `10000 ** (-2i / dim)`.

    Returns:
        float32 array `(count, dim)`, in [-1, 1].

    >>> sine_positions(2, 4).round(2).tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.8399999737739563, 0.009999999776482582, 0.5400000214576721, 1.0]]

    References:
        Vaswani, A. et al. (2017). Attention is all you need. NeurIPS.
    """
    angles = np.arange(count)[:, None] * 10000.0 ** (-2 * np.arange(dim // 2) / dim)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype("float32")


def add_sine_positions(x: keras.KerasTensor, grid: tuple[int, ...]) -> keras.KerasTensor:
    """Add sine-cosine position embeddings to a feature map, those of each axis to channels of their own.

    Args:
        x: symbolic tensor `(batch, *grid, dim)`, `dim` a multiple of twice the number of axes.
        grid: size of each spatial axis.

    >>> add_sine_positions(keras.Input((4, 4, 8)), (4, 4)).shape
    (None, 4, 4, 8)
    """
    channels = x.shape[-1] // len(grid)
    for axis, count in enumerate(grid):
        offset = np.zeros(
            (*(count if other == axis else 1 for other in range(len(grid))), x.shape[-1]), "float32"
        )
        own = offset[..., axis * channels : (axis + 1) * channels]
        own[...] = sine_positions(count, channels).reshape(own.shape)
        # A core layer that adds a constant stored in its configuration, not a weight that could be trained.
        x = layers.Rescaling(1.0, offset=offset, name=f"position{axis + 1}")(x)
    return x


def transformer_block(x: keras.KerasTensor, num_heads: int, units: int, name: str) -> keras.KerasTensor:
    """Apply a pre-norm transformer block: self-attention and an MLP, each with a residual connection.

    Args:
        x: symbolic tensor `(batch, tokens, dim)`.
        num_heads: number of attention heads, a divisor of `dim`.
        units: units of the hidden dense layer.
        name: prefix of the layer names.

    >>> transformer_block(keras.Input((None, 8)), num_heads=2, units=32, name="block").shape
    (None, None, 8)
    """
    dim = x.shape[-1]
    new = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_1_norm")(x)
    new = layers.MultiHeadAttention(num_heads, dim // num_heads, name=f"{name}_attention")(new, new)
    x = layers.Add(name=f"{name}_1_add")([x, new])
    new = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_2_norm")(x)
    new = layers.Dense(units, activation="gelu", name=f"{name}_mlp1")(new)
    new = layers.Dense(dim, name=f"{name}_mlp2")(new)
    return layers.Add(name=f"{name}_2_add")([x, new])


def _patch_grid(sides: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    fits = len(patch) == len(sides) and all(
        side is not None and side % size == 0 for side, size in zip(sides, patch, strict=True)
    )
    if not fits:
        raise ValueError(
            f"Each side in `input_shape` must be a fixed multiple of `patch_size`. Received sides {sides} "
            f"and patches {patch}. Crop or pad the images, or choose another patch."
        )
    return tuple(side // size for side, size in zip(sides, patch, strict=True))


def _check_embedding_dim(dim: int, num_heads: int, position: str, rank: int) -> None:
    if position not in ("sine", "learned"):
        raise ValueError(f'`position` must be "sine" or "learned". Received {position!r}.')
    if dim % num_heads or (position == "sine" and dim % (2 * rank)):
        raise ValueError(
            f"`embedding_dim` must be a multiple of `num_heads`, and for sine positions of {2 * rank}. "
            f"Received {dim} with {num_heads} heads and {position} positions."
        )


def _add_learned_positions(x: keras.KerasTensor, grid: tuple[int, ...]) -> keras.KerasTensor:
    count = int(np.prod(grid))
    numbers = np.arange(count, dtype="int32").reshape(grid)
    # Layers take no constants: derive the patch numbers from the first image of the batch.
    numbers = ops.zeros_like(x[:1, ..., 0], dtype="int32") + numbers
    vectors = layers.Embedding(
        count,
        x.shape[-1],
        embeddings_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        name="position",
    )
    return layers.Add(name="add_position")([x, vectors(numbers)])


class TokenParts(NamedTuple):
    """The parts of an encoder with tokens, which share its layers and weights.

    Attributes:
        embed: model from `(batch, *input_shape)` to tokens with position embedding, `(batch, tokens, dim)`.
        blocks: model from any number of such tokens to as many features, in the same order.
        grid: number of tokens along each spatial axis.
        patch_shape: sides, in pixels, of the patch of a token.
        prefix_tokens: number of tokens before those of patches: class token and registers.
    """

    embed: keras.Model
    blocks: keras.Model
    grid: tuple[int, ...]
    patch_shape: tuple[int, ...]
    prefix_tokens: int = 0


def token_parts(encoder: keras.Layer) -> TokenParts:
    """Split a vision transformer into patch embedding and blocks, which can then run on a subset of tokens.

    Works for `vit_encoder`, also loaded from a file or inside another model, and for any functional model
    with two layers of these names: `"sequence"`, a `Reshape` of tokens with position embedding from
    `(batch, *grid, dim)` to `(batch, tokens, dim)`, and `"feature_map"`, the `Reshape` back. The layers
    between them must accept any number of tokens.

    A functional model without these names works if it gives tokens `(batch, tokens, dim)`, as ViT and DINOv2
    of Keras Hub do: it is split at the first tensor of as many tokens of which each is one patch, and behind
    which layers treat all tokens alike, wherever they stand; both are tried on random values. Rotary position
    embeddings, as in DINOv3, depend on the place in every block, and cannot be split.

    Args:
        encoder: functional or built sequential model with a fixed input shape.

    Raises:
        ValueError: the encoder has no tokens, they do not tile the image, or it has weights that are not
            between image and feature map.

    >>> from keras_ssl.encoders import vit_encoder
    >>> parts = token_parts(vit_encoder((32, 48, 1), patch_size=16, embedding_dim=24, depth=1))
    >>> parts.grid, parts.patch_shape, parts.embed.output_shape, parts.blocks.output_shape
    ((2, 3), (16, 16), (None, 6, 24), (None, None, 24))

    References:
        He, K. et al. (2022). Masked autoencoders are scalable vision learners. CVPR.
    """
    parts = _find_parts(encoder)
    if parts is None:
        raise ValueError(
            "`encoder` must have tokens: a functional model with layers named 'sequence' and 'feature_map', "
            "such as encoders.vit_encoder, or one that gives tokens (batch, tokens, dim), each a patch of "
            "the image, and adds positions before its blocks, such as Keras Hub's ViT and DINOv2 (not "
            f"DINOv3, whose blocks rotate by position). Received {encoder!r} without them."
        )
    used = {id(weight) for part in parts[:2] for weight in part.trainable_weights}
    unused = [weight.path for weight in encoder.trainable_weights if id(weight) not in used]
    if unused:
        raise ValueError(
            "`encoder` must have all its weights between image and feature map, or else they would not be "
            f"trained. Received {encoder.name!r} with further ones: {', '.join(unused)}."
        )
    return parts


def _find_parts(encoder: keras.Operation) -> TokenParts | None:
    """Return the parts of a model or of the first inner model that has them."""
    if not (isinstance(encoder, keras.Model) and is_functional(encoder)):
        return None
    graph = graph_of(encoder)
    if len(graph.inputs) != 1:
        return None
    nodes = nodes_in_order(graph)
    named = {node.operation.name: node for node in nodes}
    if "sequence" in named and "feature_map" in named:
        return _split(graph, named["sequence"], named["feature_map"])
    for node in nodes:
        if (inner := _find_parts(node.operation)) is not None:
            embed = keras.Model(graph.inputs[0], inner.embed(node.input_tensors[0]), name="embed")
            return _checked(embed, inner.blocks, inner.grid, inner.prefix_tokens)
    return _split_tokens(graph, nodes)


def _split(graph: keras.Model, sequence: Any, feature_map: Any) -> TokenParts:
    tokens, features = sequence.outputs[0], feature_map.input_tensors[0]
    embed = keras.Model(graph.inputs[0], tokens, name="embed")
    return _checked(embed, _blocks(tokens, features), tuple(sequence.input_tensors[0].shape[1:-1]))


def _split_tokens(graph: keras.Model, nodes: list[Any]) -> TokenParts | None:
    """Split a model that gives tokens where positions are in them and blocks are still to come."""
    features = graph.outputs[0]
    layout = (
        token_layout(features.shape[1], graph.inputs[0].shape[1:-1]) if len(features.shape) == 3 else None
    )
    if layout is None:
        return None
    for node in nodes:
        tokens = node.outputs[0]
        if len(tokens.shape) != 3 or tokens.shape[1] != features.shape[1] or tokens is features:
            continue
        try:
            embed = keras.Model(graph.inputs[0], tokens, name="embed")
            parts = _checked(embed, _blocks(tokens, features), *layout)
            if _one_token_per_patch(parts) and _treats_alike(parts.blocks):
                return parts
        except Exception:  # Layers raise anything on a number of tokens that they do not expect.
            continue
    return None


def _blocks(tokens: keras.KerasTensor, features: keras.KerasTensor) -> keras.Model:
    # A functional model has a fixed number of tokens: call its layers again on any number of them.
    return keras.models.clone_model(
        keras.Model(tokens, features, name="blocks"),
        keras.Input((None, tokens.shape[-1]), dtype=tokens.dtype, name="tokens"),
        clone_function=lambda layer: layer,
    )


def _one_token_per_patch(parts: TokenParts) -> bool:
    """Return True if pixels exchanged within a patch change the token of this patch alone."""
    image = np.random.default_rng(0).normal(size=(1, *parts.embed.input_shape[1:])).astype("float32")
    other = image.copy()
    patch: tuple[Any, ...] = (0, *(slice(side) for side in parts.patch_shape))
    # Not other values: a standardization of the whole image would change all tokens.
    other[patch] = image[patch][tuple(slice(None, None, -1) for _ in parts.patch_shape)]
    changed = ~_close(_run(parts.embed, image), _run(parts.embed, other), parts.embed).all(axis=(0, 2))
    return np.flatnonzero(changed).tolist() == [parts.prefix_tokens]


def _treats_alike(blocks: keras.Model) -> bool:
    """Return True if tokens in another order give the same features in that order."""
    tokens = np.random.default_rng(0).normal(size=(1, 3, blocks.input_shape[-1])).astype("float32")
    one, other = _run(blocks, tokens), _run(blocks, tokens[:, ::-1].copy())
    return one.shape[:2] == (1, 3) and bool(_close(one, other[:, ::-1], blocks).all())


def _run(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    outputs = model(ops.convert_to_tensor(inputs), training=False)
    return ops.convert_to_numpy(ops.cast(outputs, "float32"))


def _close(one: np.ndarray, other: np.ndarray, model: keras.Model) -> np.ndarray:
    half = any(layer.compute_dtype in ("float16", "bfloat16") for layer in layers_of(model))
    return np.isclose(one, other, rtol=0, atol=3e-2 if half else 1e-4)


def _checked(
    embed: keras.Model, blocks: keras.Model, grid: tuple[int, ...], prefix_tokens: int = 0
) -> TokenParts:
    sides = tuple(embed.input_shape[1:-1])
    tiles = len(grid) == len(sides) and all(
        side is not None and side % count == 0 for side, count in zip(sides, grid, strict=True)
    )
    if not tiles or embed.output_shape[1] != math.prod(grid) + prefix_tokens:
        raise ValueError(
            "`encoder` must have tokens that tile the image, each of them a patch of whole pixels. Received "
            f"images of sides {sides} and {embed.output_shape[1]} tokens on a grid of {grid}."
        )
    patch_shape = tuple(side // count for side, count in zip(sides, grid, strict=True))
    return TokenParts(embed, blocks, grid, patch_shape, prefix_tokens)
