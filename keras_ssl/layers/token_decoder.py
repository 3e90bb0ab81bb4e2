"""A small transformer behind the tokens of an encoder."""

import keras

from keras_ssl.encoders.vit import add_sines, transformer_block


def token_decoder(
    tokens: keras.KerasTensor,
    grid: tuple[int, ...],
    *,
    depth: int,
    num_heads: int,
    mlp_ratio: int = 4,
    name: str = "decoder",
) -> keras.KerasTensor:
    """Tell tokens their places by sines and pass them through transformer blocks and a normalisation.

    Args:
        tokens: symbolic tensor `(batch, tokens, dim)`.
        grid: number of tokens along each spatial axis.
        depth: number of blocks.
        num_heads: heads of the self-attention.
        mlp_ratio: units of a block's hidden dense layer, in multiples of `dim`.
        name: beginning of the layers' names.

    Returns:
        Symbolic tensor of the shape of `tokens`.

    Raises:
        ValueError: `dim` is no multiple of `num_heads` and of twice the spatial axes.

    >>> token_decoder(keras.Input((6, 24)), (2, 3), depth=1, num_heads=3).shape
    (None, 6, 24)

    References:
        He, K. et al. (2022). Masked autoencoders are scalable vision learners. CVPR.
    """
    dim = tokens.shape[-1]
    if dim % num_heads or dim % (2 * len(grid)):
        raise ValueError(
            f"`{name}_dim` must be a multiple of the heads and of twice the spatial axes. "
            f"Received {dim}, {num_heads} heads and {len(grid)} spatial axes."
        )
    x = keras.layers.Reshape((*grid, dim), name=f"{name}_map")(tokens)
    x = keras.layers.Reshape((-1, dim), name=f"{name}_sequence")(add_sines(x, grid))
    for number in range(1, depth + 1):
        x = transformer_block(x, num_heads, mlp_ratio * dim, name=f"{name}_block{number}")
    return keras.layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm")(x)
