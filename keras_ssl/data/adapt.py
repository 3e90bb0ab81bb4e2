"""Whatever `fit` takes, checked before any time is spent on it, as batches that are trained on."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_ssl.data.batches import ArrayBatches, ShuffledBatches, StreamBatches
from keras_ssl.data.checks import check_images
from keras_ssl.data.patch_batches import PatchBatches
from keras_ssl.data.stored_images import StoredImages

# Batches read while one is trained on: the next, and one more for when that takes longer than the step.
_AHEAD = 2


def image_batches(
    images: Any,
    input_shape: tuple[int, ...],
    *,
    batch_size: int = 32,
    seed: int | None = None,
    steps_per_epoch: int | None = None,
    smallest_batch: int = 1,
    check: Callable[[np.ndarray], None] | None = None,
) -> Any:
    """Check unlabelled images and make of them what `fit` reads.

    Args:
        images: array, `StoredImages`, `PyDataset`, or stream of batches (`tf.data`, PyTorch, Grain,
            generator).
        input_shape: `(*spatial, channels)` that each image must have.
        batch_size: images in a batch, for arrays.
        seed: integer that sets the order; `None` keeps it.
        steps_per_epoch: batches in an epoch, for arrays and a `PyDataset`; `None` for all.
        smallest_batch: images that a batch must have, see `ArrayBatches`; of a data set the first is looked
            at.
        check: function that raises `ValueError` on images whose values will not do.

    Returns:
        `ArrayBatches`, `ShuffledBatches`, or the stream itself.

    Raises:
        ValueError: images are empty, not finite, of another shape or too few for a batch; of a data set and
            of `StoredImages` the first batch is looked at, of a generator none, since it could not be read
            again.
    """
    if is_array(images):
        images = as_numpy(images)
        looked_at = images[:batch_size] if isinstance(images, StoredImages) else images
        _check(looked_at, input_shape)
        if check is not None:
            check(looked_at)
        return ArrayBatches(
            (images,),
            batch_size,
            seed or 0,
            seed is not None,
            steps_per_epoch,
            smallest_batch=smallest_batch,
            read_ahead=_read_ahead(images),
        )
    if not hasattr(images, "__next__"):
        first = as_numpy(_first_part(first_batch(images)))
        _check(first, input_shape)
        if check is not None:
            check(first)
        if len(first) < smallest_batch:
            raise ValueError(
                f"Batches must have at least {smallest_batch} images, since they are compared. Received "
                f"{len(first)}."
            )
    _check_steps(images, steps_per_epoch)
    if isinstance(images, keras.utils.PyDataset) and images.num_batches is not None:
        return ShuffledBatches(images, seed or 0, seed is not None, steps_per_epoch=steps_per_epoch)
    return images


def labelled_batches(
    images: Any,
    labels: Any,
    input_shape: tuple[int, ...],
    encode: Callable[[Any], np.ndarray],
    *,
    batch_size: int = 32,
    seed: int | None = None,
    steps_per_epoch: int | None = None,
    sample_weight: Any = None,
    augment: Callable[..., Any] | None = None,
) -> Any:
    """Check images with labels and make of them batches whose labels are encoded.

    Args:
        images: array, or with `labels=None` a data set of batches `(images, labels[, sample_weight])`.
        labels: one per image, for arrays.
        input_shape: `(*spatial, channels)` that each image must have.
        encode: function from labels to targets, which raises `ValueError` on wrong labels.
        batch_size: images in a batch, for arrays.
        seed: integer that sets the order; `None` keeps it.
        steps_per_epoch: batches in an epoch; `None` for all.
        sample_weight: weight of each image, for arrays.
        augment: function `(images, generator) -> images`, or where targets are masks `(images, generator,
            masks) -> (images, masks)`, for arrays; see `ArrayBatches`.

    Raises:
        ValueError: as `image_batches`, or as `encode`, or labels do not go with the images.
    """

    def transform(batch: Any) -> tuple[Any, ...]:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise ValueError(
                "A labelled data set must yield (images, labels) or (images, labels, sample_weight). "
                f"Received {type(batch).__name__}."
            )
        return (as_numpy(batch[0]), encode(as_numpy(batch[1])), *map(as_numpy, batch[2:]))

    if is_array(images):
        if labels is None:
            raise ValueError("`labels` must be given with an array of images. Received None.")
        images, targets = as_numpy(images), encode(as_numpy(labels))
        _check(images[:batch_size] if isinstance(images, StoredImages) else images, input_shape)
        weights = () if sample_weight is None else (as_numpy(sample_weight),)
        if any(len(part) != len(images) for part in (targets, *weights)):
            raise ValueError(
                "Images, labels and `sample_weight` must be of one length. Received "
                f"{[len(part) for part in (images, targets, *weights)]}."
            )
        are_masks = _are_masks(images, targets)
        return ArrayBatches(
            (images, targets, *weights),
            batch_size,
            seed or 0,
            seed is not None,
            steps_per_epoch,
            augment,
            are_masks,
            read_ahead=_read_ahead(images),
        )
    for name, value in (("labels", labels), ("sample_weight", sample_weight), ("augment", augment)):
        if value is not None:
            raise ValueError(f"`{name}` must be None where images are a data set. Put it into the data set.")
    first = transform(first_batch(images))
    _check(first[0], input_shape)
    _are_masks(*first[:2])
    _check_steps(images, steps_per_epoch)
    if isinstance(images, keras.utils.PyDataset) and images.num_batches is not None:
        return ShuffledBatches(images, seed or 0, seed is not None, transform, steps_per_epoch)
    return StreamBatches(images, transform, steps_per_epoch)


def _check_steps(images: Any, steps_per_epoch: int | None) -> None:
    """Refuse to go through the patches of one epoch again and again, where new ones could be drawn."""
    if isinstance(images, PatchBatches) and steps_per_epoch not in (None, len(images)):
        raise ValueError(
            f"`steps_per_epoch` must be that of the PatchBatches, {len(images)}, or None: give it to them. "
            f"Received {steps_per_epoch}."
        )


def _are_masks(images: np.ndarray, targets: np.ndarray) -> bool:
    """Whether there is a target for every pixel; refuses masks that lie on another grid than the images."""
    if targets.ndim <= 2:
        return False
    if targets.shape[1:] != images.shape[1:-1]:
        raise ValueError(
            f"`labels` must be masks of the images' size, (n, {', '.join(map(str, images.shape[1:-1]))}). "
            f"Received shape {targets.shape}."
        )
    return True


def _read_ahead(images: Any) -> int:
    """Batches to read ahead: none of what is in memory."""
    return _AHEAD if isinstance(images, (np.memmap, StoredImages)) else 0


def is_array(images: Any) -> bool:
    """Whether `images` is an array, `StoredImages` or a tensor, and not a data set."""
    return hasattr(images, "shape") and hasattr(images, "dtype")


def as_numpy(tensor: Any) -> Any:
    """Return any backend's tensor as an array; an array, memory-mapped or stored or not, as it is."""
    if isinstance(tensor, (np.ndarray, StoredImages)):
        return tensor
    # Tensors of other backends than Keras' own come from data sets, on the host.
    return np.asarray(tensor) if not keras.ops.is_tensor(tensor) else keras.ops.convert_to_numpy(tensor)


def first_batch(dataset: Any) -> Any:
    """Read the first batch of a data set that can be read again."""
    if isinstance(dataset, keras.utils.PyDataset):
        return dataset[0]
    for batch in dataset:
        return batch
    raise ValueError(f"`images` must not be empty. Received a {type(dataset).__name__} without batches.")


def _first_part(batch: Any) -> Any:
    if isinstance(batch, dict):
        raise ValueError(
            "A data set must yield images, alone or first in a tuple. Received a dictionary with the keys "
            f"{sorted(batch)}."
        )
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def _check(images: np.ndarray, input_shape: tuple[int, ...]) -> None:
    check_images(images, channels=input_shape[-1], rank=len(input_shape) - 1)
    if images.shape[1:] != input_shape:
        raise ValueError(
            f"`images` must have shape (n, {', '.join(map(str, input_shape))}), as the encoder was built "
            f"for. Received shape {images.shape}."
        )
