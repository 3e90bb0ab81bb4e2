"""Search for the position at which a normalized patch was cut from an image, in NumPy."""

import numpy as np


def corner_of(image, patch):
    """Compare a patch with every cut of its size; return the first voxel of the one that it is."""
    rank = patch.ndim - 1
    # Tasks give patches the mean and the deviation of their image.
    patch = (patch - image.mean()) / image.std()
    windows = np.lib.stride_tricks.sliding_window_view(image, patch.shape[:-1], axis=tuple(range(rank)))
    windows = np.moveaxis(windows, rank, -1).astype("float64")
    within = tuple(range(rank, 2 * rank))
    mean, deviation = (f(windows, axis=within, keepdims=True) for f in (np.mean, np.std))
    same = np.isclose((windows - mean) / deviation, patch, atol=1e-3).all(axis=(*within, -1))
    (corner,) = np.argwhere(same)
    return corner
