"""Validation of what `fit` accepts, and its conversion to batches."""

import math
from collections.abc import Callable, Mapping
from pathlib import PurePath

import keras
import numpy as np

from keras_ssl._checks import as_numpy, check_images, check_weights, is_array, rank_of
from keras_ssl._types import Dataset, Images, Labels, Structure, Tensor
from keras_ssl.data.batches import ArrayBatches, BatchParts, ShuffledBatches, StreamBatches, length_of
from keras_ssl.data.lazy_collections import LazyImages
from keras_ssl.data.patch_sampling import PatchBatches

# Batches that are prefetched during a step: the next, and one more in case reading is slower than the step.
_AHEAD = 2


def image_batches(
    images: Images | Dataset,
    input_shape: tuple[int, ...],
    *,
    batch_size: int = 32,
    seed: int | None = None,
    steps_per_epoch: int | None = None,
    smallest_batch: int = 1,
    check: Callable[[np.ndarray], None] | None = None,
    image_key: str | None = None,
    data_format: str = "channels_last",
) -> Dataset:
    """Validate unlabeled images and convert them to batches `(images,)`.

    Args:
        images: array, list of equal arrays, `LazyImages`, `PyDataset`, or stream of batches (`tf.data`,
            PyTorch, Grain, generator).
        input_shape: `(*spatial, channels)` that each image must have.
        batch_size: images in a batch, for arrays.
        seed: integer that determines the order; `None` keeps the order.
        steps_per_epoch: batches in an epoch; `None` for all.
        smallest_batch: images that a batch must have, see `ArrayBatches`; of a data set the first batch is
            checked.
        check: function that raises `ValueError` on images with unsuitable values.
        image_key: key of the images where batches are dictionaries, see `BatchParts`.
        data_format: position of the channels of `images`, see `BatchParts`.

    Returns:
        `ArrayBatches`, `ShuffledBatches` or `StreamBatches`; on TensorFlow a `tf.data.Dataset` of known
        length stays one, so that `tf.distribute` can shard it.

    Raises:
        ValueError: images are empty, not finite, of another shape or too few for a batch; of a data set and
            of `LazyImages`, the shape of every batch is checked and the values of the first.
    """
    parts = BatchParts(len(input_shape) - 1, image_key, None, data_format)
    images = whole_array(images, parts)
    if is_array(images):
        looked_at = images[:batch_size] if isinstance(images, LazyImages) else images
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

    def transform(batch: Structure) -> tuple[Tensor]:
        return (_of_shape(parts.images(batch), input_shape),)

    data, (given,) = _read(images, transform, seed, steps_per_epoch)
    first = as_numpy(given)
    _check(first, input_shape)
    if check is not None:
        check(first)
    if len(first) < smallest_batch:
        raise ValueError(
            f"Batches must have at least {smallest_batch} images, since they are compared. Received "
            f"{len(first)}."
        )
    of_tensorflow = keras.backend.backend() == "tensorflow" and hasattr(images, "cardinality")
    if of_tensorflow and data_format == "channels_last" and length_of(images) is not None:
        return images.map(lambda *batch: _images_of(batch, image_key))
    return data


def labeled_batches(
    images: Images | Dataset,
    labels: Labels | None,
    input_shape: tuple[int, ...],
    encode: Callable[[Labels], np.ndarray],
    *,
    batch_size: int = 32,
    seed: int | None = None,
    steps_per_epoch: int | None = None,
    sample_weight: Labels | None = None,
    weigh: Callable[[Labels], np.ndarray] | None = None,
    augment: Callable[..., Structure] | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    data_format: str = "channels_last",
) -> Dataset:
    """Validate images with labels and convert them to batches with encoded labels.

    Args:
        images: array or list of equal arrays, or with `labels=None` a data set of batches `(images, labels[,
            sample_weight])` or of dictionaries.
        labels: one per image, for arrays.
        input_shape: `(*spatial, channels)` that each image must have.
        encode: function from labels to targets that raises `ValueError` on invalid labels.
        batch_size: images in a batch, for arrays.
        seed: integer that determines the order; `None` keeps the order.
        steps_per_epoch: batches in an epoch; `None` for all.
        sample_weight: weight of each image, for arrays.
        weigh: function from labels to weights that multiply `sample_weight`.
        augment: function `(images, generator) -> images`, or where targets are masks `(images, generator,
            masks) -> (images, masks)`, for arrays; see `ArrayBatches`.
        image_key: key of the images where batches are dictionaries, see `BatchParts`.
        label_key: key of the labels where batches are dictionaries.
        data_format: position of the channels of `images`, and of masks that have channels.

    Raises:
        ValueError: as `image_batches` or `encode`, or labels do not match the images.
    """
    parts = BatchParts(len(input_shape) - 1, image_key, label_key, data_format)

    def with_targets(images: Images, labels: Labels, *sample_weight: Labels) -> tuple[Tensor, ...]:
        targets = encode(labels)
        weights = tuple(check_weights(each) for each in sample_weight)
        if any(len(part) != len(images) for part in (targets, *weights)):
            raise ValueError(
                "Images, labels and `sample_weight` must be of one length. Received "
                f"{[len(part) for part in (images, targets, *weights)]}."
            )
        if weigh is not None:
            weights = (weigh(labels) * (weights[0] if weights else 1),)
        return (images, targets, *weights)

    if labels is not None and hasattr(images, "__getitem__") and not is_array(images):
        # For instance a column of a Hugging Face data set.
        images = images if isinstance(images, (list, tuple, keras.utils.PyDataset)) else list(images)
    images = whole_array(images, parts)
    if is_array(images):
        if labels is None:
            raise ValueError("`labels` must be given with an array of images. Received None.")
        _check(images[:batch_size] if isinstance(images, LazyImages) else images, input_shape)
        labels = parts.channels_last(as_numpy(labels, "labels"))
        given = () if sample_weight is None else (as_numpy(sample_weight, "sample_weight"),)
        arrays = with_targets(images, labels, *given)
        return ArrayBatches(
            arrays,
            batch_size,
            seed or 0,
            seed is not None,
            steps_per_epoch,
            augment,
            _are_masks(*arrays[:2]),
            read_ahead=_read_ahead(images),
        )
    for name, value in (("labels", labels), ("sample_weight", sample_weight), ("augment", augment)):
        if value is not None:
            raise ValueError(f"`{name}` must be None where images are a data set. Put it into the data set.")

    def transform(batch: Structure) -> tuple[Tensor, ...]:
        found = parts.labeled(batch)
        return with_targets(_of_shape(found[0], input_shape), *found[1:])

    data, first = _read(images, transform, seed, steps_per_epoch)
    _check(as_numpy(first[0]), input_shape)
    _are_masks(*first[:2])
    return data


def labeled_parts(labeled: Structure, rank: int, name: str) -> tuple[Structure, ...]:
    """Split labeled data into images, labels and weights; a data set is returned with `None` for the others.

    A list may hold images, labels and weights, or batches.

    Args:
        labeled: `(images, labels)`, `(images, labels, sample_weight)` or a data set.
        rank: number of spatial axes.
        name: name of the argument, for errors.

    Raises:
        ValueError: a tuple is of another length.
    """
    of_arrays = isinstance(labeled, tuple)
    if isinstance(labeled, list) and len(labeled) in (2, 3) and isinstance(labeled[0], list):
        of_arrays = bool(labeled[0]) and rank_of(labeled[0][0]) in (rank, rank + 1)
    elif isinstance(labeled, list) and len(labeled) in (2, 3):
        of_arrays = rank_of(labeled[0]) == rank + 2
    if not of_arrays:
        return labeled, None, None
    if len(labeled) not in (2, 3):
        raise ValueError(
            f"`{name}` must be (images, labels), (images, labels, sample_weight) or a data set. Received a "
            f"tuple of {len(labeled)}."
        )
    return (*labeled, None)[:3]


def split_arrays(
    validation_split: float, rank: int, validation_data: Dataset, images: Images, *others: Labels | None
) -> tuple[list[Structure], list[Structure]]:
    """Split the last rows of arrays off for validation, as `fit` of Keras does.

    Args:
        validation_split: fraction of the rows, above 0 and below 1.
        rank: number of spatial axes.
        validation_data: must be `None`, since the two exclude each other.
        images: array or list of equal arrays.
        others: labels and weights; `None` stays `None`.

    Returns:
        The first parts of the arrays, and the last parts.

    Raises:
        ValueError: `validation_split` is out of range or leaves one side empty, `validation_data` is given
            too, or images are a data set.
    """
    if not 0 < validation_split < 1:
        raise ValueError(f"`validation_split` must lie in [0, 1). Received {validation_split!r}.")
    if validation_data is not None:
        raise ValueError("`validation_split` must be 0 where `validation_data` is given. Received both.")
    images = whole_array(images, BatchParts(rank))
    if not is_array(images):
        raise ValueError(
            "`validation_split` must be 0 where `images` is a data set: it splits arrays. Received a "
            f"{type(images).__name__}. Split the data set, and give `validation_data`."
        )
    count = len(images)
    cut = math.floor(count * (1 - validation_split))
    if cut in (0, count):
        raise ValueError(
            f"`validation_split` must leave images on both sides. Received {validation_split!r} for {count}."
        )
    arrays = [images, *(None if each is None else as_numpy(each, "labels") for each in others)]
    sides = ((0, cut), (cut, count))
    first, last = ([None if each is None else _rows(each, *side) for each in arrays] for side in sides)
    return first, last


def _rows(array: Images, start: int, stop: int) -> Images:
    """Return some rows of an array or of `LazyImages`."""
    return array.select(np.arange(start, stop)) if isinstance(array, LazyImages) else array[start:stop]


def refuse_read_once(dataset: Dataset, name: str) -> None:
    """Raise `ValueError` for a generator or iterator, since data must be read again every epoch."""
    if hasattr(dataset, "__next__"):
        raise ValueError(
            f"`{name}` must be a data set that can be read again every epoch. Received a "
            f"{type(dataset).__name__}, which can be read only once. If its batches fit into memory, give "
            f"list({name})."
        )


def whole_array(images: Images | Dataset, parts: BatchParts) -> Images | Dataset:
    """Convert arrays, tensors and lists of equal images to a channels-last array; data sets are returned.

    Raises:
        ValueError: a list is empty or of unequal images, or `images` is not a data set either.
    """
    if is_array(images):
        images = as_numpy(images)
        if not isinstance(images, LazyImages):
            return parts.channels_last(images)
        if parts.data_format == "channels_first":
            raise ValueError("`data_format` must be 'channels_last' for LazyImages: move channels in `read`.")
        return images
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError(f"`images` must not be empty. Received an empty {type(images).__name__}.")
        if all(rank_of(image) in (parts.rank, parts.rank + 1) for image in images):
            return parts.channels_last(as_numpy(images))
    if isinstance(images, Mapping):
        keys = ", ".join(map(repr, images))
        raise ValueError(
            f"`images` must be an array or a data set. Received a dictionary with {keys}: give its arrays."
        )
    of_files = isinstance(images[0] if isinstance(images, list) else images, (str, bytes, PurePath))
    can_be_read = hasattr(images, "__iter__") or hasattr(images, "__getitem__")
    if of_files or not can_be_read or isinstance(images, tuple):
        raise ValueError(
            "`images` must be an array, a list of equal arrays, or a data set of batches, without labels. "
            f"Received a {type(images).__name__}"
            f"{', of files: read them with data.load_images or data.open_images' if of_files else ''}."
        )
    return images


def _read(
    dataset: Dataset,
    transform: Callable[[Structure], tuple[Tensor, ...]],
    seed: int | None,
    steps_per_epoch: int | None,
) -> tuple[Dataset, tuple[Tensor, ...]]:
    """Return the batches of a data set, and the first of them."""
    if isinstance(dataset, PatchBatches) and steps_per_epoch not in (None, len(dataset)):
        # Otherwise the patches of one epoch would be repeated, although new ones could be sampled.
        raise ValueError(
            f"`steps_per_epoch` must be None or that of the PatchBatches, {len(dataset)}: set it there. "
            f"Received {steps_per_epoch}."
        )
    if isinstance(dataset, keras.utils.PyDataset) and length_of(dataset) is not None:
        shuffled = ShuffledBatches(dataset, seed or 0, seed is not None, transform, steps_per_epoch)
        return shuffled, transform(dataset[0])
    stream = StreamBatches(dataset, transform, steps_per_epoch)
    return stream, stream.first()


def _images_of(batch: tuple[Structure, ...], image_key: str | None) -> tuple[Tensor]:
    """Return the images of a batch of `tf.data`, which passes the parts of a tuple one by one."""
    images = batch[0]
    return (images[image_key] if isinstance(images, Mapping) else images,)


def _are_masks(images: np.ndarray, targets: np.ndarray) -> bool:
    """Return True if targets are masks.

    Raises:
        ValueError: masks differ from the images in spatial shape.
    """
    if targets.ndim <= 2:
        return False
    if targets.shape[1:] != images.shape[1:-1]:
        raise ValueError(
            f"`labels` must be masks of the images' size, (n, {', '.join(map(str, images.shape[1:-1]))}). "
            f"Received shape {targets.shape}.{_mask_hint(targets.shape, images.shape)}"
        )
    return True


def _mask_hint(masks: tuple[int, ...], images: tuple[int, ...]) -> str:
    if masks[:-1] == images[:-1]:
        return " One-hot masks become class numbers by labels.argmax(axis=-1)."
    if masks[2:] == images[1:-1]:
        return " Their channels come first: pass `data_format='channels_first'`, or labels[:, 0]."
    return ""


def _read_ahead(images: Images) -> int:
    """Return the number of batches to prefetch: none of what is in memory."""
    return _AHEAD if isinstance(images, (np.memmap, LazyImages)) else 0


def _of_shape(images: Images, input_shape: tuple[int, ...]) -> Images:
    """Check the shape of images, not their values, and return them."""
    if tuple(images.shape[1:]) != input_shape:
        _check(as_numpy(images), input_shape)
    return images


def _check(images: np.ndarray, input_shape: tuple[int, ...]) -> None:
    if images.shape in (input_shape, (input_shape[-1], *input_shape[:-1])):
        raise ValueError(
            f"`images` must have shape (n, {', '.join(map(str, input_shape))}). Received shape "
            f"{images.shape}, as of a single image. Batch a data set: DataLoader(dataset, batch_size=32), "
            "dataset.batch(32) or dataset.iter(batch_size=32). Add the batch axis to an array: images[None]."
        )
    check_images(images, channels=input_shape[-1], rank=len(input_shape) - 1)
    if images.shape[1:] != input_shape:
        raise ValueError(
            f"`images` must have shape (n, {', '.join(map(str, input_shape))}), as the encoder was built "
            f"for. Received shape {images.shape}."
        )
