"""MedMNIST `.npz` files, two- and three-dimensional."""

import contextlib
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_ssl.data.claims import refuse_claim


class LabelledImages(NamedTuple):
    """Images, shape `(n, *spatial, channels)`, and their grades or other classes."""

    images: np.ndarray
    grades: np.ndarray


def load_medmnist(path: str | Path, splits: Sequence[str] = ("train",)) -> LabelledImages:
    """Read images and labels of one or more of a MedMNIST file's splits, one after the other.

    The files do not name patients, although in some sets several images are of one, as in RetinaMNIST: splits
    of them cannot keep patients together.

    Args:
        path: the `.npz` file.
        splits: any of `"train"`, `"val"` and `"test"` that the file holds.

    Returns:
        `images`, uint8, `(n, *spatial, channels)`, with an axis of one channel added to grey ones, and
        `grades`, the labels, int64, `(n,)`, or `(n, tasks)` where an image has several.

    Raises:
        FileNotFoundError: there is no such file.
        MemoryError: the arrays do not fit into memory. The message names the file.
        ValueError: the file is damaged, claims more than its bytes can hold, or more than
            `keras_ssl.data.claims.LARGEST` (2 GiB) in less than a fiftieth of them, lacks a split, or its
            images and labels do not match.

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
    if not path.is_file():
        raise FileNotFoundError(f"`path` must name a file that exists. Received {path}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"`path` must be a whole .npz file; {path} is truncated or something else.")
    with _damage_named(path):
        file = zipfile.ZipFile(path)
    with file:
        parts = [_read_split(file, name, path) for name in splits]
    with _damage_named(path):
        images, labels = zip(*parts, strict=True)
        return LabelledImages(np.concatenate(images), np.concatenate(labels))


def _read_split(file: zipfile.ZipFile, name: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    keys = [f"{name}_images", f"{name}_labels"]
    held = [member.removesuffix(".npy") for member in sorted(file.namelist())]
    missing = [key for key in keys if key not in held]
    if missing:
        raise ValueError(f"`splits` must be in {path}, which holds {held[:20]}. Lacking: {missing}.")
    images, labels = (_read_array(file, key, path) for key in keys)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"{keys[0]} must be uint8 of 3 or 4 axes. Received {images.dtype}, shape {images.shape}."
        )
    if labels.dtype.kind not in "buif":
        raise ValueError(f"{keys[1]} of {path} must be numbers. Received dtype {labels.dtype}.")
    count = len(labels) if labels.size and labels.ndim else 0
    if count != len(images) or not count:
        raise ValueError(f"{path} must have a label per image. Received {len(images)} and {count}.")
    # Four axes are a volume's, unless the last is that of the three colours.
    if images.shape[-1] != 3 or images.ndim == 3:
        images = images[..., None]
    labels = labels.astype(np.int64).reshape(len(images), -1)
    return images, labels[:, 0] if labels.shape[1] == 1 else labels


def _read_array(file: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    """An array of the archive, of which neither its header nor the archive's may claim more than there is."""
    with _damage_named(path):
        entry = file.getinfo(f"{name}.npy")
        # By the file, which cannot lie about its size, and by the member, of which it may hold many.
        refuse_claim(entry.file_size, path.stat().st_size, packed=True)
        refuse_claim(entry.file_size, entry.compress_size, packed=entry.compress_type != zipfile.ZIP_STORED)
        with file.open(entry) as member:
            first = np.lib.format.read_magic(member) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(member)
        refuse_claim(math.prod(shape) * dtype.itemsize, entry.file_size, packed=False)
        with file.open(entry) as member:
            return np.lib.format.read_array(member, allow_pickle=False)


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong in reading an archive into a `ValueError` that names it."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{path} does not fit into memory.") from error
    # zipfile and NumPy raise whatever the damaged bytes led to: BadZipFile, zlib.error, RuntimeError ...
    except Exception as error:
        raise ValueError(f"`path` must be a whole .npz file; {path} is damaged: {error}") from error
