"""Epochs of data sets that are read from the front: streams, generators and lists of batches."""

import itertools
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

# Keras reads any adapter; its public data sets must know how many batches they have.
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from keras_ssl.data.batches import ReadAhead

_END = object()
# Grain counts the batches of what repeats for ever by dividing the largest integer, or fails to.
_ENDLESS = 1 << 40


class StreamBatches(DataAdapter):
    """The batches of anything that can be iterated, each passed through a function, epoch by epoch.

    To iterate it is to read one epoch. Without `steps_per_epoch`, an epoch is one pass to the end of the
    stream, however long each pass is. With it, an epoch has so many batches, and the next one continues where
    it ended; a stream that ends starts again, but for a generator, which can be read only once.

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
        self, stream: Any, transform: Callable[[Any], Any], steps_per_epoch: int | None = None
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
                "`steps_per_epoch` must be given to train on a data set without end; all others must end. "
                f"Received an endless {type(stream).__name__}."
            )
        self.steps = length if steps_per_epoch is None else steps_per_epoch
        self.if_unknown: int | None = 0
        """Value of `num_batches` if unknown: after `None`, Keras uses that of the first epoch for all."""
        self._is_whole = not self.is_read_once and steps_per_epoch in (None, length)
        self._iterator: Iterator[Any] | None = None
        self._waiting: deque[Any] = deque()
        self._ended = False
        # Keras may read batches before training begins, to build by; TensorFlow in a thread of its own.
        self._lock = threading.Lock()
        self._reader = 0
        self._short_at: int | None = None
        self._looked_at: list[Any] | None = None
        self._began = False

    def __iter__(self) -> Iterator[Any]:
        """Read an epoch."""
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
            yield self.transform(batch)
            batch = following

    def ends_with(self, index: int) -> bool:
        """Return True if batch `index` is the last of an epoch of unknown length."""
        return self._short_at is not None and index + 1 >= self._short_at

    def first(self) -> Any:
        """Return the first batch, which is read again in training.

        Raises:
            ValueError: there is none.
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
            look: whether to read one batch more, which is kept, to find out that none is left.
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
        """Keep what is read before training begins."""
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
                # From the start: what shuffles it is seeded when the first epoch begins.
                self._iterator = None
                self._waiting.clear()
            self._looked_at = None

    def get_numpy_iterator(self) -> Iterator[Any]:
        """Read an epoch, for JAX."""
        return iter(self)

    def get_jax_iterator(self) -> Iterator[Any]:
        """Read an epoch, for JAX."""
        return iter(self)

    def get_torch_dataloader(self) -> Iterator[Any]:
        """Read an epoch, for PyTorch."""
        return (keras.tree.map_structure(keras.ops.convert_to_tensor, batch) for batch in self)

    def get_tf_dataset(self) -> Any:
        """Read epochs, for TensorFlow."""
        import tensorflow as tf

        signature = keras.tree.map_structure(
            lambda part: tf.TensorSpec((None, *part.shape[1:]), part.dtype), self.first()
        )
        data = tf.data.Dataset.from_generator(lambda: iter(self), output_signature=signature)
        return data.prefetch(tf.data.AUTOTUNE)

    def _read(self, reader: int, passing: Iterator[Any] | None) -> Any:
        """Read a batch of a pass, or else of what goes on, unless another reader has begun."""
        if passing is not None:
            return next(passing, _END)
        with self._lock:
            batch = self._next() if reader == self._reader else _END
            if self._looked_at is not None and batch is not _END:
                self._looked_at.append(batch)
            return batch

    def _open(self) -> Iterator[Any]:
        if isinstance(self.stream, keras.utils.PyDataset):
            return _by_index(self.stream)
        return iter(self.stream)

    def _next(self) -> Any:
        """Read a batch, from the start of the stream where it ended and can be read again."""
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


def length_of(stream: Any) -> int | None:
    """Return the number of batches of a stream: `None` if unknown, `sys.maxsize` if it has no end."""
    if hasattr(stream, "cardinality"):
        # `tf.data` calls what is infinite -1, and what is unknown, after a filter say, -2.
        number = int(stream.cardinality())
        return {-1: sys.maxsize, -2: None}.get(number, number)
    try:
        length = stream.num_batches if isinstance(stream, keras.utils.PyDataset) else len(stream)
    except (TypeError, NotImplementedError):
        return None
    except OverflowError:
        return sys.maxsize
    return sys.maxsize if length is not None and length > _ENDLESS else length


def _by_index(dataset: keras.utils.PyDataset) -> Iterator[Any]:
    """Read a `PyDataset` whose `num_batches` is `None` until it raises an `IndexError`."""
    read: Callable[[int], Any] = dataset.__getitem__
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
