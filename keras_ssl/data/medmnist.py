"""MedMNIST's `.npz` files, two- and three-dimensional."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class LabelledImages(NamedTuple):
    """Images `(n, *spatial, channels)` and the grade, or other class, of each."""

    images: np.ndarray
    grades: np.ndarray


def load_medmnist(path: str | Path, splits: Sequence[str] = ("train",)) -> LabelledImages:
    """Images and labels of one or more of a MedMNIST file's splits, one after the other.

    Args:
        path: the `.npz` file.
        splits: any of `"train"`, `"val"` and `"test"` that the file holds.

    Returns:
        `images`, uint8, `(n, *spatial, channels)`, with an axis of one channel added to grey ones, and
        `grades`, the labels, int64, `(n,)`, or `(n, tasks)` where an image has several.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, lacks a split, or its images and labels do not match.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(folder + "/a.npz", val_images=np.zeros((4, 28, 28), "uint8"), val_labels=np.ones((4, 1)))
    ...     images, labels = load_medmnist(folder + "/a.npz", ["val"])
    >>> images.shape, labels.shape
    ((4, 28, 28, 1), (4,))

    References:
        Yang, J. et al. (2023). MedMNIST v2. Scientific Data 10:41.
    """
    if isinstance(splits, str) or not splits:
        raise ValueError(f"`splits` must be a list of one or more names. Received {splits!r}.")
    path = Path(path)
    if path.is_file() and not zipfile.is_zipfile(path):
        raise ValueError(f"`path` must be a whole .npz file; {path} is truncated or something else.")
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = [_read_split(file, name, path) for name in splits]
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"`path` must be a whole .npz file; {path} is damaged: {error}") from error
    images, labels = zip(*parts, strict=True)
    return LabelledImages(np.concatenate(images), np.concatenate(labels))


def _read_split(file: "np.lib.npyio.NpzFile", name: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    keys = [f"{name}_images", f"{name}_labels"]
    missing = [key for key in keys if key not in file.files]
    if missing:
        raise ValueError(f"`splits` must be in {path}, which holds {sorted(file.files)}. Lacking: {missing}.")
    images, labels = (file[key] for key in keys)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"{keys[0]} must be uint8 of 3 or 4 axes. Received {images.dtype}, shape {images.shape}."
        )
    if len(labels) != len(images):
        raise ValueError(f"{path} must have a label per image. Received {len(images)} and {len(labels)}.")
    # Four axes are a volume's, unless the last is that of the three colours.
    if images.shape[-1] != 3 or images.ndim == 3:
        images = images[..., None]
    labels = labels.astype(np.int64).reshape(len(images), -1)
    return images, labels[:, 0] if labels.shape[1] == 1 else labels
