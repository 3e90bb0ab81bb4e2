"""Batches of random patches that follow from seed, epoch and index alone, read as they are needed."""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from keras_ssl.data.batches import ArrayBatches
from keras_ssl.data.listing import listed
from keras_ssl.data.patches import check_sizes, middle_start, read_patch

# Enough to choose from, and little enough that ten thousand masks take some megabytes.
_PLACES_PER_LABEL = 256


class PatchBatches(keras.utils.PyDataset):
    """Random patches of images or volumes of any size, with or without masks.

    Batch `i` of epoch `e` is a pure function of the arguments, of `epoch` and of `i`, hence a run that was
    stopped after any epoch goes on as if it had not been. Every image is drawn equally often. Of a
    `StoredVolume` or a memory-mapped array the patch alone is read, so memory stays flat.

    Args:
        images: list of `(*spatial, channels)` each, of any sizes: arrays, or what `open_volumes` returns.
        patch_shape: `(*spatial)` of a patch, of two or three sides.
        masks: list of label maps, `(*spatial)` each, of the images' sizes; `None` for images alone.
        batch_size: patches in a batch; the last one of an epoch may be smaller.
        seed: whole number, not negative, that with the epoch sets all draws.
        patches_per_image: how many patches of each image an epoch has.
        steps_per_epoch: batches in an epoch; `None` for `patches_per_image` of every image. With a
            number, all batches are full.
        foreground: the share of patches, on average, whose middle lies on foreground, as far as the
            image's edge lets it: a label of the mask at random, then one of up to 256 places of it. A
            mask without foreground gives patches from anywhere. Needs `masks`, which are read once; labels
            with gaps, such as 0 and 255, are warned of.
        small: what is done where a patch is larger than an image: `"refuse"`, or `"pad"` around the
            image, with the smallest value in the patch, and with 0 around its mask.
        fixed: whether every epoch has the patches of the first, as is right for validation.
        augment: function `(images, generator) -> images`, or with masks `(images, generator, masks) ->
            (images, masks)`, in which `generator` is a `numpy.random.Generator` that follows from seed,
            epoch and batch.
        workers: threads, or processes, that read ahead; 1 reads in turn with the training.
        use_multiprocessing: whether they are processes.
        max_queue_size: how many batches they read ahead.

    Raises:
        ValueError: there are no images, ranks, channels or sizes do not fit, a patch is larger than an
            image, or a number is out of range.

    >>> images = [np.zeros((20, 16, 12, 1)), np.zeros((14, 18, 12, 1))]
    >>> batches = PatchBatches(images, (8, 8, 8), batch_size=2, patches_per_image=3)
    >>> len(batches), batches[0][0].shape
    (3, (2, 8, 8, 8, 1))
    """

    def __init__(
        self,
        images: Sequence[Any],
        patch_shape: Sequence[int],
        masks: Sequence[Any] | None = None,
        *,
        batch_size: int = 4,
        seed: int = 0,
        patches_per_image: int = 1,
        steps_per_epoch: int | None = None,
        foreground: float = 0.0,
        small: str = "refuse",
        fixed: bool = False,
        augment: Callable[..., Any] | None = None,
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
                f"`foreground` must lie in 0..1, and be 0 without `masks`. Received {foreground!r}."
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
        """The epoch; `fit_pretext` and `FineTuner.fit` set it, plain `fit` advances it."""
        rows = np.repeat(np.arange(len(self.images)), patches_per_image)
        self._order = ArrayBatches((rows,), batch_size, seed, steps_per_epoch=steps_per_epoch)
        self._places: list[list[np.ndarray]] = []
        if foreground and self.masks is not None:
            with ThreadPoolExecutor(os.cpu_count()) as executor:
                found = list(executor.map(self._find_places, range(len(self.masks))))
            self._places = [[places for _, places in row] for row in found]
            _warn_of_gaps(sorted({label for row in found for label, _ in row}))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._order)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Draw and read batch `index` of the current epoch: `(images,)` or `(images, masks)`."""
        epoch = 0 if self.fixed else self.epoch
        self._order.epoch = epoch
        (rows,) = self._order[index]
        generator = np.random.default_rng((self.seed, epoch, index))
        drawn = [(row, self._draw_start(row, generator)) for row in rows]
        patches = np.stack([read_patch(self.images[row], start, self.patch_shape) for row, start in drawn])
        if self.masks is None:
            return (patches if self.augment is None else self.augment(patches, generator),)
        masks = np.stack([read_patch(self.masks[row], start, self.patch_shape, 0) for row, start in drawn])
        if self.augment is None:
            return patches, masks
        patches, masks = self.augment(patches, generator, masks)
        return patches, masks

    def on_epoch_end(self) -> None:
        """Advance to the next epoch."""
        self.epoch += 1

    def _draw_start(self, row: int, generator: np.random.Generator) -> tuple[int, ...]:
        """Where a patch of an image begins."""
        sides = self.images[row].shape[:-1]
        places = self._places[row] if generator.random() < self.foreground else []
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

    def _find_places(self, row: int) -> list[tuple[int, np.ndarray]]:
        """The labels of a mask, each with up to 256 of its places, `(places, rank)`."""
        assert self.masks is not None
        mask = np.asarray(self.masks[row])
        generator = np.random.default_rng((self.seed, row))
        places = []
        for label in np.unique(mask[mask > 0]):
            flat = np.flatnonzero(mask == label)
            if len(flat) > _PLACES_PER_LABEL:
                flat = generator.choice(flat, _PLACES_PER_LABEL, replace=False)
            found = np.stack(np.unravel_index(flat, mask.shape), axis=-1).astype(np.int32)
            places.append((int(label), found))
        return places


def _warn_of_gaps(labels: list[int]) -> None:
    if labels and len(labels) != labels[-1]:
        warnings.warn(
            "`masks` hold foreground labels with gaps, as each number is a class: "
            f"{listed([str(label) for label in labels])}. If no class is absent on purpose, map them: "
            "open_volumes(..., label_values=(0, 255)).",
            stacklevel=3,
        )


def _check_images(images: list[Any], masks: list[Any] | None, rank: int) -> None:
    if not images:
        raise ValueError("`images` must hold at least one image. Received none.")
    for row, image in enumerate(images):
        if len(image.shape) != rank + 1 or image.shape[-1] != images[0].shape[-1]:
            raise ValueError(
                f"`images` must have {rank} spatial axes, as `patch_shape` has, and one number of channels. "
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
