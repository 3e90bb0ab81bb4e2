"""Augmentation of training batches on the host, for `FineTuner.fit(augment=...)`."""

import numpy as np


def random_mirror(
    images: np.ndarray, generator: np.random.Generator, masks: np.ndarray | None = None
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Mirror each image of a batch, along its last spatial axis, with a probability of one half.

    For photographs of eyes that is left and right: one eye mirrors the other.

    Args:
        images: `(batch, *spatial, channels)`.
        generator: what is drawn from.
        masks: `(batch, *spatial)`, mirrored with the images.

    Returns:
        Array of the same shape and dtype; with `masks`, both.

    >>> import numpy as np
    >>> images = np.arange(4).reshape(2, 1, 2, 1)
    >>> random_mirror(images, np.random.default_rng(0))[..., 0].tolist()
    [[[0, 1]], [[3, 2]]]
    """
    mirrored = generator.random(len(images)) < 0.5

    def follow(arrays: np.ndarray, axis: int) -> np.ndarray:
        return np.where(mirrored.reshape(-1, *[1] * (arrays.ndim - 1)), np.flip(arrays, axis), arrays)

    return follow(images, -2) if masks is None else (follow(images, -2), follow(masks, -1))
