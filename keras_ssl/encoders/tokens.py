"""Tokens of vision transformers: how they lie on the image, and encoders of tokens as encoders of maps."""

import math

import keras

from keras_ssl.encoders.functional_graph import functional_graph

# A class token and four registers, as in DINOv2 and DINOv3.
_MOST_PREFIX_TOKENS = 5


def tokens_to_map(
    encoder: keras.Model, grid: tuple[int, ...] | None = None, prefix_tokens: int | None = None
) -> keras.Model:
    """Convert an encoder of tokens, such as a vision transformer of Keras Hub, to one of feature maps.

    Class token and registers, which come before the patches, are dropped; the others are arranged on the grid
    of patches. Tasks and heads that need a map do this themselves with the default arguments.

    Args:
        encoder: functional or built sequential model from images to tokens `(batch, tokens, channels)`, those
            of patches in the order of the image's axes.
        grid: number of patches along each spatial axis. `None` derives it from the number of tokens and the
            sides of the images, for patches of equal sides.
        prefix_tokens: number of tokens before those of patches. `None` takes those that `grid` leaves; where
            that is to be derived too, the finest grid that leaves at most 5, a class token and four
            registers.

    Returns:
        A functional `keras.Model` from images to feature maps `(batch, *grid, channels)`, named after the
        encoder with the suffix `_map`. It shares layers and weights with the encoder, and adds core layers
        only.

    Raises:
        ValueError: `encoder` is not functional or does not give tokens of a fixed number; or `grid` and
            `prefix_tokens` do not fit that number, or cannot be derived from it.

    >>> images = keras.Input((32, 48, 3))
    >>> patches = keras.layers.Conv2D(24, 8, strides=8)(images)
    >>> encoder = keras.Model(images, keras.layers.Reshape((-1, 24))(patches))
    >>> encoder.output_shape, tokens_to_map(encoder).output_shape
    ((None, 24, 24), (None, 4, 6, 24))

    References:
        Darcet, T. et al. (2024). Vision transformers need registers. ICLR.
    """
    graph = functional_graph("encoder", encoder)
    tokens = graph.outputs[0]
    if len(tokens.shape) != 3 or None in tokens.shape[1:]:
        raise ValueError(
            "`encoder` must give tokens (batch, tokens, channels) of a fixed number. Received "
            f"{encoder.name!r}, which gives {tokens.shape}."
        )
    # Not of its layers: some models of Keras Hub are loaded from their configuration, but not their layers.
    images = keras.Input(graph.inputs[0].shape[1:], dtype=graph.inputs[0].dtype, name="images")
    (tokens,) = keras.tree.flatten(encoder(keras.tree.pack_sequence_as(graph.input, [images])))
    features = arrange_tokens(tokens, images.shape[1:-1], grid, prefix_tokens)
    return keras.Model(images, features, name=f"{encoder.name}_map")


def arrange_tokens(
    tokens: keras.KerasTensor,
    sides: tuple[int | None, ...],
    grid: tuple[int, ...] | None = None,
    prefix_tokens: int | None = None,
) -> keras.KerasTensor:
    """Arrange symbolic tokens `(batch, tokens, channels)` as a map; arguments as in `token_layout`.

    Raises:
        ValueError: the layout does not fit or cannot be derived.

    >>> arrange_tokens(keras.Input((21, 8)), (32, 32)).shape
    (None, 4, 4, 8)
    """
    count, channels = tokens.shape[1:]
    layout = token_layout(count, sides, grid, prefix_tokens)
    if layout is None:
        raise ValueError(
            "`grid` and `prefix_tokens` must fit the number of tokens. Received "
            f"{grid} and {prefix_tokens} for {count} tokens of images of sides {sides}. Pass "
            "`encoders.tokens_to_map(encoder, grid=..., prefix_tokens=...)`, or an encoder that gives a "
            "feature map."
        )
    found, prefix = layout
    if prefix:
        tokens = keras.layers.Cropping1D((prefix, 0), name="patch_tokens")(tokens)
    return keras.layers.Reshape((*found, channels), name="token_map")(tokens)


def token_layout(
    count: int | None,
    sides: tuple[int | None, ...],
    grid: tuple[int, ...] | None = None,
    prefix_tokens: int | None = None,
) -> tuple[tuple[int, ...], int] | None:
    """Return the grid of patches and the number of tokens before them; `None` where none fits.

    Args:
        count: number of tokens.
        sides: spatial shape of the images.
        grid: number of patches along each axis; `None` derives it, see `tokens_to_map`.
        prefix_tokens: number of tokens before those of patches; `None` derives it.

    >>> token_layout(261, (224, 224)), token_layout(197, (224, 224)), token_layout(100, (224, 224))
    (((16, 16), 5), ((14, 14), 1), None)
    """
    if count is None:
        return None
    grids = [grid]
    if grid is None:
        if None in sides:
            return None
        whole = [size for size in sides if size is not None]
        sizes = (size for size in range(1, min(whole) + 1) if all(side % size == 0 for side in whole))
        grids = [tuple(side // size for side in whole) for size in sizes]
    for each in grids:
        assert each is not None
        prefix = count - math.prod(each)
        most = _MOST_PREFIX_TOKENS if grid is None else count - 1
        if prefix == prefix_tokens or (prefix_tokens is None and 0 <= prefix <= most):
            return (tuple(each), prefix) if len(each) == len(sides) else None
    return None
