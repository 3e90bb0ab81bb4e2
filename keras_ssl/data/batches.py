"""Batches of arrays and data sets, in an order that depends only on seed and epoch."""

import dataclasses
import itertools
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import keras
import numpy as np

from keras_ssl._checks import as_numpy

# Keras reads any adapter; its public data sets must know how many batches they have.
from keras_ssl._keras_private import DataAdapter
from keras_ssl._types import Dataset, Images, Structure, Tensor


@dataclasses.dataclass(frozen=True)
class BatchParts:
    """Finds images, labels and weights in a batch: an array, a tuple or list, or a dictionary.

    Keys are ignored where batches are not dictionaries.

    Args:
        rank: number of spatial axes of the images.
        image_key: key of the images where batches are dictionaries, as those of Hugging Face and MONAI. A
            value that is itself a dictionary, as TorchIO's, holds them under `"data"`.
        label_key: key of the labels.
        data_format: `"channels_last"`, or `"channels_first"` where batches are `(n, channels, *spatial)`, as
            in PyTorch and MONAI: channels are then moved to the end.

    Raises:
        ValueError: `data_format` is neither.

    >>> parts = BatchParts(2, image_key="image", data_format="channels_first")
    >>> parts.images({"image": np.zeros((4, 3, 8, 8)), "label": np.zeros(4)}).shape
    (4, 8, 8, 3)
    """

    rank: int
    image_key: str | None = None
    label_key: str | None = None
    data_format: str = "channels_last"

    def __post_init__(self) -> None:
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                f"`data_format` must be 'channels_last' or 'channels_first'. Received {self.data_format!r}."
            )

    def images(self, batch: Structure) -> Tensor:
        """Return the images of a batch, channels last.

        Raises:
            ValueError: there are none under `image_key`.
        """
        if isinstance(batch, (tuple, list)):
            batch = batch[0] if len(batch) else ()
        part = self._look_up(batch, "image_key")
        # PyTorch's own tensors stay as they are, in pinned memory for instance.
        own = keras.backend.backend() == "torch" and keras.ops.is_tensor(part)
        return self.channels_last(part if own else as_numpy(part))

    def labeled(self, batch: Structure) -> tuple[Tensor, ...]:
        """Return images, labels and, if there are any, weights.

        Raises:
            ValueError: as `images`, or there are no labels.
        """
        if isinstance(batch, Mapping):
            return self.images(batch), self._labels(batch)
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            length = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            raise ValueError(
                "A labeled data set must yield (images, labels), (images, labels, sample_weight), or "
                f"dictionaries with `image_key` and `label_key`. Received {type(batch).__name__}{length}."
            )
        return (
            self.images(batch[:1]),
            self._labels(batch[1]),
            *(as_numpy(weights, "sample_weight") for weights in batch[2:] if weights is not None),
        )

    def channels_last(self, images: Tensor) -> Tensor:
        """Move the channels of images, or of masks with an axis of channels, to the end."""
        if self.data_format == "channels_last" or len(images.shape) != self.rank + 2:
            return images
        if isinstance(images, np.ndarray):
            # A view, so that a memory-mapped array stays on disk.
            return np.moveaxis(images, 1, -1)
        return keras.ops.moveaxis(images, 1, -1)

    def _labels(self, labels: Structure) -> Tensor:
        return self.channels_last(as_numpy(self._look_up(labels, "label_key"), "labels"))

    def _look_up(self, part: Structure, name: str) -> Tensor:
        """Return the value under the key `name` of a dictionary; anything else is returned as it is."""
        if not isinstance(part, Mapping):
            return part
        key = getattr(self, name)
        if key not in part:
            keys = ", ".join(map(repr, part))
            raise ValueError(
                f"`{name}` must be one of the keys of the batches, which are dictionaries with {keys}. "
                f"Received {key!r}."
            )
        value = part[key]
        return value["data"] if isinstance(value, Mapping) and "data" in value else value


class ArrayBatches(keras.utils.PyDataset):
    """Batches of arrays, reshuffled every epoch by `(seed, epoch)` alone.

    Keras shuffles arrays with a global generator that no checkpoint stores. Here batch `i` of epoch `e` is a
    pure function of the arguments, of `epoch` and of `i`, so a run that was interrupted after any epoch
    resumes exactly. Memory-mapped arrays and `LazyImages` are read batch by batch.

    Args:
        arrays: one or more arrays of equal length, such as `(images,)` or `(images, targets)`.
        batch_size: samples in a batch; the last batch of an epoch may be smaller.
        seed: integer that, with the epoch, determines the order and the augmentation.
        shuffle: whether to shuffle; `False` for validation data.
        steps_per_epoch: batches in an epoch; `None` for one pass over the arrays. With a number, epochs take
            full batches from an endless sequence of shuffled passes: an epoch is then the same number of
            optimizer steps for ten labels as for ten thousand.
        augment: function `(images, generator) -> images` on the first array of a batch, where `generator` is
            a `numpy.random.Generator` seeded with `(seed, epoch, batch)`.
        augment_masks: whether the second array holds masks that are transformed with the images: `augment` is
            then called as `(images, generator, masks)` and returns `(images, masks)`.
        smallest_batch: samples that a batch must have; a smaller rest at the end of an epoch is skipped.
        read_ahead: batches that threads prefetch, those of the next epoch included; 0 reads each batch when
            it is needed. Batches are the same; `augment` is not prefetched.

    Raises:
        ValueError: the arrays are empty or of unequal length, a number is below one, or `batch_size` or the
            number of samples is below `smallest_batch`.

    >>> import numpy as np
    >>> from keras_ssl.data.batches import ArrayBatches
    >>> batches = ArrayBatches((np.arange(5),), batch_size=2, seed=0)
    >>> len(batches), sorted(int(i) for b in range(3) for i in batches[b][0])
    (3, [0, 1, 2, 3, 4])
    """

    def __init__(
        self,
        arrays: tuple[Images, ...],
        batch_size: int = 32,
        seed: int = 0,
        shuffle: bool = True,
        steps_per_epoch: int | None = None,
        augment: Callable[..., Structure] | None = None,
        augment_masks: bool = False,
        smallest_batch: int = 1,
        read_ahead: int = 0,
    ) -> None:
        super().__init__()
        lengths = [len(array) for array in arrays]
        if min(lengths) < 1 or len(set(lengths)) > 1:
            raise ValueError(f"`arrays` must be of one length, at least 1. Received lengths {lengths}.")
        for name, number in (("batch_size", batch_size), ("steps_per_epoch", steps_per_epoch)):
            if number is not None and (not isinstance(number, (int, np.integer)) or number < 1):
                raise ValueError(f"`{name}` must be an integer of at least 1. Received {number!r}.")
        for name, number in (("batch_size", batch_size), ("the number of images", lengths[0])):
            if number < smallest_batch:
                raise ValueError(
                    f"`batch_size` and the number of images must be at least {smallest_batch}, since the "
                    f"images of a batch are compared. Received {name} {number}."
                )
        self.arrays = arrays
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.steps_per_epoch = steps_per_epoch
        self.augment = augment
        self.augment_masks = augment_masks
        self.smallest_batch = smallest_batch
        self.epoch = 0
        """Current epoch: set by `fit_pretext` and `FineTuner.fit`, advanced by plain `fit`."""
        self._permuted: tuple[int, np.ndarray] | None = None
        self._ahead = ReadAhead(self._read, read_ahead, read_ahead) if read_ahead else None

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.arrays[0])

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.num_samples, self.batch_size)
        return self.steps_per_epoch or whole + (rest >= self.smallest_batch)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Read batch `index` of the current epoch."""
        if index >= len(self):
            raise IndexError(f"Batches must lie in 0..{len(self) - 1}. Received {index}.")
        number = self.epoch * len(self) + index
        batch: tuple[np.ndarray, ...] = self._read(number) if self._ahead is None else self._ahead(number)
        if self.augment is not None:
            generator = np.random.default_rng((self.seed, self.epoch, index))
            if self.augment_masks:
                return (*self.augment(batch[0], generator, batch[1]), *batch[2:])
            batch = (self.augment(batch[0], generator), *batch[1:])
        return batch

    def on_epoch_end(self) -> None:
        """Advance to the next epoch."""
        self.epoch += 1

    def _read(self, number: int) -> tuple[np.ndarray, ...]:
        """Read batch `number`, counted from the start of the first epoch."""
        # Sorted, since a memory-mapped file is read fastest in order; the order within a batch is irrelevant.
        rows = np.sort(self._rows(number))
        return tuple(np.asarray(array[rows]) for array in self.arrays)

    def _rows(self, number: int) -> np.ndarray:
        if self.steps_per_epoch is None:
            epoch, index = divmod(number, len(self))
            return self._pass(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        start = number * self.batch_size
        positions = np.arange(start, start + self.batch_size)
        passes, within = positions // self.num_samples, positions % self.num_samples
        return np.concatenate([self._pass(number)[within[passes == number]] for number in np.unique(passes)])

    def _pass(self, number: int) -> np.ndarray:
        """Return the order of samples in pass `number`; the latest is kept, since every batch needs it."""
        if not self.shuffle:
            return np.arange(self.num_samples)
        latest = self._permuted
        if latest is None or latest[0] != number:
            latest = (number, np.random.default_rng((self.seed, number)).permutation(self.num_samples))
            self._permuted = latest
        return latest[1]


class ReadAhead:
    """Prefetch numbered batches in threads.

    Unlike Keras' own workers, these never continue with the batches of another epoch after `fit` has looked
    at the data to build a metric, do not pause between epochs, and also serve a single epoch.
    """

    def __init__(self, read: Callable[[int], Structure], ahead: int, workers: int) -> None:
        self.read = read
        self.ahead = ahead
        self.executor = ThreadPoolExecutor(workers)
        self.reading: dict[int, Future[Structure]] = {}
        # TensorFlow reads from a thread of its own, Keras from several where `workers` is set.
        self.lock = threading.Lock()

    def __call__(self, number: int, end: int | None = None) -> Structure:
        """Return batch `number` and prefetch the next ones, up to `end`."""
        last = number + self.ahead
        with self.lock:
            wanted = range(number, 1 + (last if end is None else min(last, end - 1)))
            self.reading = {
                each: self.reading.get(each) or self.executor.submit(self.read, each) for each in wanted
            }
            batch = self.reading.pop(number)
        return batch.result()

    def forget(self) -> None:
        """Discard prefetched batches and wait for reads in progress."""
        with self.lock:
            begun = [batch for batch in self.reading.values() if not batch.cancel()]
            self.reading = {}
        wait(begun)


class ShuffledBatches(keras.utils.PyDataset):
    """The batches of another `PyDataset`, in an order that depends only on `(seed, epoch)`.

    Args:
        dataset: finite `keras.utils.PyDataset`; if it has workers, as many threads or processes prefetch up
            to `max_queue_size` batches. `dataset[i]` should be a pure function of `i` and of the number of
            `on_epoch_end` calls: a run that resumes at epoch `e` calls it `e` times first.
        seed: integer that, with the epoch, determines the order of the batches.
        shuffle: whether to change the order.
        transform: function on each batch, such as one that encodes its labels.
        steps_per_epoch: batches in an epoch, from an endless sequence of shuffled passes; `None` for one
            pass.

    >>> import numpy as np
    >>> ordered = ArrayBatches((np.arange(6),), batch_size=2, shuffle=False)
    >>> sorted(int(batch[0][0]) for batch in ShuffledBatches(ordered, seed=1))
    [0, 2, 4]
    """

    def __init__(
        self,
        dataset: keras.utils.PyDataset,
        seed: int = 0,
        shuffle: bool = True,
        transform: Callable[[Structure], Structure] | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        in_processes = dataset.use_multiprocessing
        super().__init__(dataset.workers if in_processes else 1, in_processes, dataset.max_queue_size)
        self._ahead = None
        if dataset.workers > 1 and not in_processes:
            self._ahead = ReadAhead(self._read, dataset.max_queue_size, dataset.workers)
        self.dataset = dataset
        self.seed = seed
        self.shuffle = shuffle
        self.transform = transform
        self.steps_per_epoch = steps_per_epoch
        self.epoch = 0

    @property
    def epoch(self) -> int:
        """Current epoch; an `epoch` attribute of the data set is set with it."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._forget()
        self._epoch = epoch
        if hasattr(self.dataset, "epoch"):
            self.dataset.epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.steps_per_epoch or self.dataset.num_batches

    def __getitem__(self, index: int) -> Structure:
        """Read batch `index` of the current epoch."""
        number = self.epoch * len(self) + index
        if self._ahead is None:
            return self._read(number)
        # Batches of the next epoch may depend on `on_epoch_end`.
        return self._ahead(number, end=(self.epoch + 1) * len(self))

    def _read(self, number: int) -> Structure:
        """Read batch `number`, counted from the start of the first epoch."""
        run, position = divmod(number, self.dataset.num_batches)
        if self.shuffle:
            order = np.random.default_rng((self.seed, run)).permutation(self.dataset.num_batches)
            position = int(order[position])
        batch = self.dataset[position]
        return batch if self.transform is None else self.transform(batch)

    def on_epoch_begin(self) -> None:
        """Forward to the data set."""
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Discard prefetched batches; forward to the data set."""
        self._forget()
        self.dataset.on_epoch_end()

    def _forget(self) -> None:
        if self._ahead is not None:
            self._ahead.forget()


# Marks the end of a stream.
_END = object()
# Batches that a stream keeps, and of which batch statistics are estimated.
LATEST = 16


class StreamBatches(DataAdapter):
    """The batches of an iterable, each transformed by a function, epoch by epoch.

    Iterating reads one epoch. Without `steps_per_epoch`, an epoch is one pass to the end of the stream, and
    passes may differ in length. With it, an epoch has that many batches and the next one continues where it
    ended; a stream that ends starts again, except a generator, which can be read only once.

    Args:
        stream: `tf.data.Dataset`, PyTorch `DataLoader`, Grain data set, `PyDataset`, list or generator of
            batches.
        transform: function on each batch.
        steps_per_epoch: batches in an epoch; `None` for one pass.

    Raises:
        ValueError: `steps_per_epoch` is below one, or is missing where the stream is known to be endless.

    >>> doubled = StreamBatches([1, 2, 3], transform=lambda batch: 2 * batch)
    >>> list(doubled), list(doubled)
    ([2, 4, 6], [2, 4, 6])
    >>> parts = StreamBatches(iter([1, 2, 3]), transform=lambda batch: 2 * batch, steps_per_epoch=2)
    >>> list(parts), list(parts), parts.has_ended()
    ([2, 4], [6], True)
    """

    def __init__(
        self, stream: Dataset, transform: Callable[[Structure], Structure], steps_per_epoch: int | None = None
    ) -> None:
        if steps_per_epoch is not None and (
            not isinstance(steps_per_epoch, (int, np.integer)) or steps_per_epoch < 1
        ):
            raise ValueError(
                f"`steps_per_epoch` must be an integer of at least 1. Received {steps_per_epoch!r}."
            )
        self.stream = stream
        self.transform = transform
        self.is_read_once = hasattr(stream, "__next__")
        length = None if self.is_read_once else length_of(stream)
        if length == sys.maxsize and steps_per_epoch is None:
            raise ValueError(
                "`steps_per_epoch` must be given to train on an infinite data set; other data sets must be "
                f"finite. Received an infinite {type(stream).__name__}."
            )
        self.steps = length if steps_per_epoch is None else steps_per_epoch
        self.latest: deque[Structure] = deque(maxlen=LATEST)
        """The latest batches, transformed."""
        self.if_unknown: int | None = 0
        """Value of `num_batches` if unknown; with `None`, Keras uses that of the first epoch for all."""
        self._is_whole = not self.is_read_once and steps_per_epoch in (None, length)
        self._iterator: Iterator[Structure] | None = None
        self._waiting: deque[Structure] = deque()
        self._ended = False
        # Keras may read batches before training, to build the model; TensorFlow in a thread of its own.
        self._lock = threading.Lock()
        self._reader = 0
        self._short_at: int | None = None
        self._looked_at: list[Structure] | None = None
        self._began = False

    def __iter__(self) -> Iterator[Structure]:
        """Yield the batches of an epoch."""
        with self._lock:
            self._reader += 1
            reader, self._short_at = self._reader, None
        passing = self._open() if self._is_whole else None
        batch = self._read(reader, passing)
        for count in itertools.count(1):
            if batch is _END:
                return
            following = _END if count == self.steps else self._read(reader, passing)
            if following is _END and count != self.steps and reader == self._reader:
                self._short_at = count
            transformed = self.transform(batch)
            self.latest.append(transformed)
            yield transformed
            batch = following

    def ends_with(self, index: int) -> bool:
        """Return True if batch `index` is the last of an epoch of unknown length."""
        return self._short_at is not None and index + 1 >= self._short_at

    def first(self) -> Structure:
        """Return the first batch, which is read again in training.

        Raises:
            ValueError: the stream is empty.
        """
        if self.is_read_once:
            batch = _END if self.has_ended(look=True) else self._waiting[0]
        else:
            batch = next(self._open(), _END)
        if batch is _END:
            kind = type(self.stream).__name__
            raise ValueError(f"A data set must not be empty. Received a {kind} without batches.")
        return self.transform(batch)

    def has_ended(self, look: bool = False) -> bool:
        """Return True if a generator was exhausted by a request for another batch.

        Args:
            look: whether to read one more batch, which is kept, to find out whether any is left.
        """
        with self._lock:
            if look and not self._waiting:
                batch = self._next()
                if batch is not _END:
                    self._waiting.append(batch)
            return self._ended

    @property
    def num_batches(self) -> int | None:
        """Batches in an epoch, or `if_unknown`."""
        return self.steps or self.if_unknown

    def on_epoch_begin(self) -> None:
        """Keep the batches that are read before training."""
        if not self._began:
            self._looked_at = []
        if isinstance(self.stream, keras.utils.PyDataset):
            self.stream.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Replay the batches that Keras read to build the model."""
        if isinstance(self.stream, keras.utils.PyDataset):
            self.stream.on_epoch_end()
        if self._began:
            return
        with self._lock:
            self._began = True
            self._reader += 1
            if self.is_read_once:
                self._waiting.extendleft(reversed(self._looked_at or []))
            else:
                # Restart: the seed of its shuffling is set when the first epoch begins.
                self._iterator = None
                self._waiting.clear()
            self._looked_at = None

    def get_numpy_iterator(self) -> Iterator[Structure]:
        """Return the batches of an epoch, for JAX."""
        return iter(self)

    def get_jax_iterator(self) -> Iterator[Structure]:
        """Return the batches of an epoch, for JAX."""
        return iter(self)

    def get_torch_dataloader(self) -> Iterator[Structure]:
        """Return the batches of an epoch, for PyTorch."""
        return (keras.tree.map_structure(keras.ops.convert_to_tensor, batch) for batch in self)

    def get_tf_dataset(self) -> Dataset:
        """Return a `tf.data.Dataset` of an epoch, for TensorFlow."""
        import tensorflow as tf

        signature = keras.tree.map_structure(
            lambda part: tf.TensorSpec((None, *part.shape[1:]), part.dtype), self.first()
        )
        data = tf.data.Dataset.from_generator(lambda: iter(self), output_signature=signature)
        return data.prefetch(tf.data.AUTOTUNE)

    def _read(self, reader: int, passing: Iterator[Structure] | None) -> Structure:
        """Read the next batch of this pass, or of the continuing stream unless another reader has started."""
        if passing is not None:
            return next(passing, _END)
        with self._lock:
            batch = self._next() if reader == self._reader else _END
            if self._looked_at is not None and batch is not _END:
                self._looked_at.append(batch)
            return batch

    def _open(self) -> Iterator[Structure]:
        if isinstance(self.stream, keras.utils.PyDataset):
            return _by_index(self.stream)
        return iter(self.stream)

    def _next(self) -> Structure:
        """Read the next batch; a stream that ended and can be read again restarts."""
        if self._waiting:
            return self._waiting.popleft()
        if self._iterator is None:
            self._iterator = self._open()
        batch = next(self._iterator, _END)
        if batch is _END and not self.is_read_once:
            self._iterator = self._open()
            batch = next(self._iterator, _END)
        self._ended = batch is _END
        return batch


# Grain computes the length of an infinite data set by dividing the largest integer, or fails to.
_INFINITE = 1 << 40


def length_of(stream: Dataset) -> int | None:
    """Return the number of batches of a stream: `None` if unknown, `sys.maxsize` if infinite."""
    if hasattr(stream, "cardinality"):
        # In `tf.data`, -1 is infinite and -2 unknown, for instance after a filter.
        number = int(stream.cardinality())
        return {-1: sys.maxsize, -2: None}.get(number, number)
    try:
        length = stream.num_batches if isinstance(stream, keras.utils.PyDataset) else len(stream)
    except (TypeError, NotImplementedError):
        return None
    except OverflowError:
        return sys.maxsize
    return sys.maxsize if length is not None and length > _INFINITE else length


def _by_index(dataset: keras.utils.PyDataset) -> Iterator[Structure]:
    """Yield the batches of a `PyDataset` whose `num_batches` is `None` until it raises an `IndexError`."""
    read: Callable[[int], Structure] = dataset.__getitem__
    if dataset.workers > 1:
        read = ReadAhead(read, dataset.max_queue_size, dataset.workers)
    for index in itertools.count():
        try:
            batch = read(index)
        except IndexError as error:
            if index:
                warnings.warn(
                    f"The {type(dataset).__name__}, whose `num_batches` is None, was taken to end after "
                    f"{index} batches, since it raised an IndexError for the next one: {error}",
                    stacklevel=2,
                )
            return
        yield batch
