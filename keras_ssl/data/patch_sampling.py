"""Patches of images and volumes of any size: overlapping grids, and batches of random patches."""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_ssl._types import Structure
from keras_ssl.data.batches import ArrayBatches
from keras_ssl.data.files import shorten_list
from keras_ssl.data.lazy_collections import LazyVolume


def grid_positions(shape: Sequence[int], patch_shape: Sequence[int], overlap: float = 0.5) -> np.ndarray:
    """Compute the start positions of patches that cover a whole image or volume.

    Patches are spaced evenly from the first to the last voxel of each axis, so that neighbors overlap by at
    least `overlap`. An axis shorter than the patch has one patch, centered on it, with a negative start.

    Args:
        shape: `(*spatial)` of the image or volume.
        patch_shape: `(*spatial)` of a patch.
        overlap: fraction of a patch, along each axis, that its neighbor also covers, in [0, 1).

    Returns:
        int64, `(patches, rank)`, the last axis fastest.

    Raises:
        ValueError: shapes differ in rank or are not positive, or `overlap` is out of range.

    >>> grid_positions((10, 3), (4, 4), overlap=0.25).tolist()
    [[0, 0], [3, 0], [6, 0]]
    """
    if len(shape) != len(patch_shape) or min(*shape, *patch_shape) < 1:
        raise ValueError(
            "`shape` and `patch_shape` must have equally many sides, each at least 1. Received "
            f"{tuple(shape)} and {tuple(patch_shape)}."
        )
    if not 0 <= overlap < 1:
        raise ValueError(f"`overlap` must be at least 0 and less than 1. Received {overlap!r}.")
    starts = []
    for side, patch in zip(shape, patch_shape, strict=True):
        room = side - patch
        if room <= 0:
            starts.append(np.array([middle_start(side, patch)]))
        else:
            # Rounded first, since 10 * (1 - 0.9) is slightly less than 1.
            step = max(1, int(round(patch * (1 - overlap), 6)))
            starts.append(np.round(np.linspace(0, room, -(-room // step) + 1)).astype(np.int64))
    return np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, len(shape)).astype(np.int64)


def grid_patches(
    image: np.ndarray | LazyVolume, patch_shape: Sequence[int], overlap: float = 0.5, small: str = "refuse"
) -> tuple[np.ndarray, np.ndarray]:
    """Extract the patches of a grid that covers an image or volume, and their positions.

    Args:
        image: `(*spatial, channels)`, an array or a `LazyVolume`.
        patch_shape: `(*spatial)` of a patch.
        overlap: as in `grid_positions`.
        small: what to do if the patch is larger than the image: `"refuse"` to raise an error, or `"pad"` with
            the smallest value of the patch.

    Returns:
        Patches, `(patches, *patch_shape, channels)`, and int64 positions, `(patches, rank)`.

    Raises:
        ValueError: as `grid_positions`, the patch is larger than the image with `"refuse"`, or `small` is
            unknown.

    >>> patches, positions = grid_patches(np.arange(6).reshape(6, 1), (4,), overlap=0.5)
    >>> patches[..., 0].tolist(), positions.tolist()
    ([[0, 1, 2, 3], [2, 3, 4, 5]], [[0], [2]])
    """
    shape = image.shape[:-1]
    positions = grid_positions(shape, patch_shape, overlap)
    check_sizes([shape], patch_shape, small)
    return np.stack([read_patch(image, start, patch_shape) for start in positions]), positions


def read_patch(
    image: np.ndarray | LazyVolume,
    start: Sequence[int] | np.ndarray,
    patch_shape: Sequence[int],
    fill: float | None = None,
) -> np.ndarray:
    """Read one patch, padded where it extends beyond the image or volume.

    Args:
        image: `(*spatial)` or `(*spatial, channels)`, an array or a `LazyVolume`, of which only the patch is
            read.
        start: start index along each spatial axis.
        patch_shape: `(*spatial)` of the patch.
        fill: value of the padding; `None` for the smallest value in the patch, of each channel.

    Returns:
        `(*patch_shape)` or `(*patch_shape, channels)`.

    >>> read_patch(np.array([[1, 2], [3, 4]]), (-1, 0), (3, 2), fill=0).tolist()
    [[0, 0], [1, 2], [3, 4]]
    """
    sides = image.shape[: len(patch_shape)]
    before = [max(0, -at) for at in start]
    ends = [min(side, at + patch) for side, at, patch in zip(sides, start, patch_shape, strict=True)]
    inside = np.asarray(image[tuple(slice(max(0, at), end) for at, end in zip(start, ends, strict=True))])
    rank = len(patch_shape)
    if inside.shape[:rank] == tuple(patch_shape):
        return inside
    padded = np.empty((*patch_shape, *inside.shape[rank:]), inside.dtype)
    padded[...] = inside.min(axis=tuple(range(rank))) if fill is None else fill
    middle = (slice(at, at + side) for at, side in zip(before, inside.shape[:rank], strict=True))
    padded[tuple(middle)] = inside
    return padded


def check_sizes(
    shapes: Sequence[Sequence[int]],
    patch_shape: Sequence[int],
    small: str,
    names: Sequence[str] | None = None,
) -> None:
    """Check that no image is smaller than the patch, unless images are to be padded.

    Raises:
        ValueError: a patch is larger than an image, of which the first twenty are named by `names`, or
            `small` is unknown.
    """
    if small not in ("refuse", "pad"):
        raise ValueError(f'`small` must be "refuse" or "pad". Received {small!r}.')
    names = names or [str(row) for row in range(len(shapes))]
    too_small = [
        f"{name} {tuple(shape)}"
        for name, shape in zip(names, shapes, strict=True)
        if any(side < patch for side, patch in zip(shape, patch_shape, strict=True))
    ]
    if small == "refuse" and too_small:
        raise ValueError(
            f"`patch_shape` must not be larger than an image. Received {tuple(patch_shape)}, larger than "
            f'{len(too_small)} of {len(shapes)}: {shorten_list(too_small)}. Pass small="pad" to pad them.'
        )


def middle_start(side: int, patch: int) -> int:
    """Return the start of a patch that is at least as large as the axis and centered on it."""
    return -((patch - side) // 2)


# Enough for variety, and few enough that ten thousand masks take some megabytes.
_VOXELS_PER_LABEL = 256


class PatchBatches(keras.utils.PyDataset):
    """Random patches of images or volumes of any size, with or without masks.

    Batch `i` of epoch `e` is a pure function of the arguments, of `epoch` and of `i`, so a run that was
    interrupted after any epoch resumes exactly. Every image is sampled equally often. Of a `LazyVolume` or a
    memory-mapped array only the patch is read, so memory use stays constant.

    Args:
        images: list of images `(*spatial, channels)` of any size: arrays, or the result of `open_volumes`.
        patch_shape: `(*spatial)` of a patch, of two or three sides.
        masks: list of label maps `(*spatial)`, each of its image's size; `None` for images alone.
        batch_size: patches in a batch; the last batch of an epoch may be smaller.
        seed: non-negative integer that, with the epoch, determines all random choices.
        patches_per_image: number of patches of each image in an epoch.
        steps_per_epoch: batches in an epoch; `None` for `patches_per_image` of every image. With a number,
            all batches are full.
        foreground: expected fraction of patches that are centered on foreground, as far as the image's edge
            allows: a random label of the mask, then one of up to 256 of its voxels. Masks without foreground
            are sampled everywhere. Requires `masks`, which are read once; labels with gaps, such as 0 and
            255, trigger a warning.
        small: what to do if a patch is larger than an image: `"refuse"` to raise an error, or `"pad"` the
            image with the smallest value in the patch and its mask with 0.
        fixed: whether every epoch repeats the patches of the first, as for validation.
        augment: function `(images, generator) -> images`, or with masks `(images, generator, masks) ->
            (images, masks)`, where `generator` is a `numpy.random.Generator` that depends on seed, epoch and
            batch.
        workers: threads or processes that prefetch batches; 1 reads each batch when it is needed.
        use_multiprocessing: whether `workers` are processes.
        max_queue_size: number of batches to prefetch.

    Raises:
        ValueError: there are no images, ranks, channels or sizes do not match, a patch is larger than an
            image, or a number is out of range.

    >>> images = [np.zeros((20, 16, 12, 1)), np.zeros((14, 18, 12, 1))]
    >>> batches = PatchBatches(images, (8, 8, 8), batch_size=2, patches_per_image=3)
    >>> len(batches), batches[0][0].shape
    (3, (2, 8, 8, 8, 1))
    """

    def __init__(
        self,
        images: Sequence[np.ndarray | LazyVolume],
        patch_shape: Sequence[int],
        masks: Sequence[np.ndarray | LazyVolume] | None = None,
        *,
        batch_size: int = 4,
        seed: int = 0,
        patches_per_image: int = 1,
        steps_per_epoch: int | None = None,
        foreground: float = 0.0,
        small: str = "refuse",
        fixed: bool = False,
        augment: Callable[..., Structure] | None = None,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
    ) -> None:
        super().__init__(workers, use_multiprocessing, max_queue_size)
        self.patch_shape = tuple(map(int, patch_shape))
        if len(self.patch_shape) not in (2, 3) or min(self.patch_shape) < 1:
            raise ValueError(f"`patch_shape` must be two or three sides. Received {tuple(patch_shape)}.")
        if patches_per_image < 1:
            raise ValueError(f"`patches_per_image` must be at least 1. Received {patches_per_image!r}.")
        if not 0 <= foreground <= 1 or (foreground and masks is None):
            raise ValueError(
                f"`foreground` must lie in [0, 1], and be 0 without `masks`. Received {foreground!r}."
            )
        self.images, self.masks = list(images), None if masks is None else list(masks)
        _check_images(self.images, self.masks, len(self.patch_shape))
        names = [f"{row} {getattr(image, 'source', '')}".strip() for row, image in enumerate(self.images)]
        check_sizes([image.shape[:-1] for image in self.images], self.patch_shape, small, names)
        self.seed = seed
        self.foreground = foreground
        self.fixed = fixed
        self.augment = augment
        self.epoch = 0
        """Current epoch: set by `fit_pretext` and `FineTuner.fit`, advanced by plain `fit`."""
        rows = np.repeat(np.arange(len(self.images)), patches_per_image)
        self._order = ArrayBatches((rows,), batch_size, seed, steps_per_epoch=steps_per_epoch)
        self._voxels: list[list[np.ndarray]] = []
        if foreground and self.masks is not None:
            with ThreadPoolExecutor(os.cpu_count()) as executor:
                found = list(executor.map(self._foreground_voxels, range(len(self.masks))))
            self._voxels = [[places for _, places in row] for row in found]
            _warn_of_gaps(sorted({label for row in found for label, _ in row}))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._order)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Sample and read batch `index` of the current epoch: `(images,)` or `(images, masks)`."""
        epoch = 0 if self.fixed else self.epoch
        self._order.epoch = epoch
        (rows,) = self._order[index]
        generator = np.random.default_rng((self.seed, epoch, index))
        starts = [(row, self._random_start(row, generator)) for row in rows]
        patches = np.stack([read_patch(self.images[row], start, self.patch_shape) for row, start in starts])
        if self.masks is None:
            return (patches if self.augment is None else self.augment(patches, generator),)
        masks = np.stack([read_patch(self.masks[row], start, self.patch_shape, 0) for row, start in starts])
        if self.augment is None:
            return patches, masks
        patches, masks = self.augment(patches, generator, masks)
        return patches, masks

    def on_epoch_end(self) -> None:
        """Advance to the next epoch."""
        self.epoch += 1

    def _random_start(self, row: int, generator: np.random.Generator) -> tuple[int, ...]:
        """Return the start of a random patch of an image."""
        sides = self.images[row].shape[:-1]
        places = self._voxels[row] if generator.random() < self.foreground else []
        if places:
            middle = generator.choice(places[generator.integers(len(places))])
            wanted = [int(at) - patch // 2 for at, patch in zip(middle, self.patch_shape, strict=True)]
        else:
            wanted = [
                int(generator.integers(max(1, side - patch + 1)))
                for side, patch in zip(sides, self.patch_shape, strict=True)
            ]
        return tuple(
            min(max(0, at), side - patch) if side > patch else middle_start(side, patch)
            for at, side, patch in zip(wanted, sides, self.patch_shape, strict=True)
        )

    def _foreground_voxels(self, row: int) -> list[tuple[int, np.ndarray]]:
        """Return the labels of a mask, each with the indices of up to 256 of its voxels, `(voxels, rank)`."""
        assert self.masks is not None
        mask = np.asarray(self.masks[row])
        generator = np.random.default_rng((self.seed, row))
        places = []
        for label in np.unique(mask[mask > 0]):
            flat = np.flatnonzero(mask == label)
            if len(flat) > _VOXELS_PER_LABEL:
                flat = generator.choice(flat, _VOXELS_PER_LABEL, replace=False)
            found = np.stack(np.unravel_index(flat, mask.shape), axis=-1).astype(np.int32)
            places.append((int(label), found))
        return places


def _warn_of_gaps(labels: list[int]) -> None:
    if labels and len(labels) != labels[-1]:
        warnings.warn(
            "`masks` hold foreground labels with gaps, although each number is a class: "
            f"{shorten_list([str(label) for label in labels])}. If these are all classes, map them: "
            "open_volumes(..., label_values=(0, 255)).",
            stacklevel=3,
        )


def _check_images(
    images: list[np.ndarray | LazyVolume], masks: list[np.ndarray | LazyVolume] | None, rank: int
) -> None:
    if not images:
        raise ValueError("`images` must hold at least one image. Received none.")
    for row, image in enumerate(images):
        if len(image.shape) != rank + 1 or image.shape[-1] != images[0].shape[-1]:
            raise ValueError(
                f"`images` must have {rank} spatial axes, as `patch_shape` has, and equally many channels. "
                f"Received shape {tuple(image.shape)} of image {row} and {tuple(images[0].shape)} of image 0."
            )
    if masks is None:
        return
    if len(masks) != len(images):
        raise ValueError(f"`masks` must be one per image. Received {len(masks)} for {len(images)}.")
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if tuple(mask.shape) != tuple(image.shape[:-1]):
            raise ValueError(
                f"`masks` must have the sizes of the images. Received shape {tuple(mask.shape)} of mask "
                f"{row} and {tuple(image.shape)} of its image."
            )
