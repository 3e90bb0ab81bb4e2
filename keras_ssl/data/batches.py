"""Batches in an order that depends on the seed and the epoch alone, so that a stopped run can go on."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import keras
import numpy as np


class ArrayBatches(keras.utils.PyDataset):
    """Batches of arrays, shuffled anew every epoch by `(seed, epoch)` and by nothing else.

    Keras shuffles arrays by a global generator that no checkpoint holds. Here batch `i` of epoch `e`
    is a pure function of the arguments, of `epoch` and of `i`, hence a run that was stopped
    after any epoch goes on as if it had not been. Memory-mapped arrays and `StoredImages` are read batch by
    batch.

    Args:
        arrays: one or more arrays of equal length, such as `(images,)` or `(images, targets)`.
        batch_size: samples in a batch; the last one of an epoch may be smaller.
        seed: integer that, with the epoch, sets the order and the augmentation.
        shuffle: whether to shuffle; validation data is not.
        steps_per_epoch: batches in an epoch. `None` for one pass over the arrays. With a number, epochs
            draw full batches from an endless sequence of shuffled passes: an "epoch" then means
            the same number of optimizer steps for ten labels as for ten thousand.
        augment: function `(images, generator) -> images` on the first array of a batch, in which
            `generator` is a `numpy.random.Generator` seeded by `(seed, epoch, batch)`.
        augment_masks: whether the second array holds masks that follow the images: `augment` is then called
            as `(images, generator, masks)` and returns `(images, masks)`.
        smallest_batch: samples that a batch must have: what is left over at the end of an epoch is passed
            over where it is less.
        read_ahead: batches that are read in threads before they are asked for, those of the next epoch
            included; 0 reads in turn with the training. Batches are the same; `augment` is not run ahead.

    Raises:
        ValueError: the arrays are empty or of unequal length, a number is below one, or there are fewer
            samples, or `batch_size` is smaller, than `smallest_batch`.

    >>> import numpy as np
    >>> from keras_ssl.data import ArrayBatches
    >>> batches = ArrayBatches((np.arange(5),), batch_size=2, seed=0)
    >>> len(batches), sorted(int(i) for b in range(3) for i in batches[b][0])
    (3, [0, 1, 2, 3, 4])
    """

    def __init__(
        self,
        arrays: tuple[Any, ...],
        batch_size: int = 32,
        seed: int = 0,
        shuffle: bool = True,
        steps_per_epoch: int | None = None,
        augment: Callable[..., Any] | None = None,
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
        """The epoch; `fit_pretext` and `FineTuner.fit` set it, plain `fit` advances it."""
        self._permuted: tuple[int, np.ndarray] | None = None
        self._ahead = ReadAhead(self._read, read_ahead, read_ahead) if read_ahead else None

    @property
    def num_samples(self) -> int:
        """Samples in the arrays."""
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
        """Read a batch, counted from the first epoch's first."""
        # In increasing order, since a memory-mapped file is read fastest so; a batch has no order.
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
        """Order of the samples in pass `number`; the latest one is kept, since each batch asks for it."""
        if not self.shuffle:
            return np.arange(self.num_samples)
        latest = self._permuted
        if latest is None or latest[0] != number:
            latest = (number, np.random.default_rng((self.seed, number)).permutation(self.num_samples))
            self._permuted = latest
        return latest[1]


class ReadAhead:
    """Read numbered batches in threads, and the next ones while one is trained on.

    Keras' own workers, unlike these, go on with batches of another epoch where `fit` looked at the data to
    build a metric, stand still between epochs, and are not there for a single one.
    """

    def __init__(self, read: Callable[[int], Any], ahead: int, workers: int) -> None:
        self.read = read
        self.ahead = ahead
        self.executor = ThreadPoolExecutor(workers)
        self.reading: dict[int, Future[Any]] = {}
        # TensorFlow asks from a thread of its own, Keras from several where a user set `workers`.
        self.lock = threading.Lock()

    def __call__(self, number: int, end: int | None = None) -> Any:
        """Read batch `number`, and ahead of it those before `end`."""
        last = number + self.ahead
        with self.lock:
            wanted = range(number, 1 + (last if end is None else min(last, end - 1)))
            self.reading = {
                each: self.reading.get(each) or self.executor.submit(self.read, each) for each in wanted
            }
            batch = self.reading.pop(number)
        return batch.result()

    def forget(self) -> None:
        """Drop what was read ahead, and wait until nothing is read any more."""
        with self.lock:
            begun = [batch for batch in self.reading.values() if not batch.cancel()]
            self.reading = {}
        wait(begun)


class ShuffledBatches(keras.utils.PyDataset):
    """The batches of another `PyDataset`, in an order that `(seed, epoch)` alone sets.

    Args:
        dataset: finite `keras.utils.PyDataset`; where it has workers, as many threads or processes read up
            to `max_queue_size` batches ahead. `dataset[i]` should be a pure function of `i` and of the
            number of `on_epoch_end` calls: a run that goes on at epoch `e` calls it `e` times first.
        seed: integer that, with the epoch, sets the order of the batches.
        shuffle: whether to change the order at all.
        transform: function on each batch, such as one that encodes its labels.
        steps_per_epoch: batches in an epoch, of an endless sequence of shuffled passes; `None` for one
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
        transform: Callable[[Any], Any] | None = None,
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
        """The epoch, on which the order depends; one that the data set has itself is set with it."""
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

    def __getitem__(self, index: int) -> Any:
        """Read the batch that stands at `index` in this epoch."""
        number = self.epoch * len(self) + index
        if self._ahead is None:
            return self._read(number)
        # What the next epoch has may depend on this one's end.
        return self._ahead(number, end=(self.epoch + 1) * len(self))

    def _read(self, number: int) -> Any:
        """Read a batch, counted from the first epoch's first."""
        run, position = divmod(number, self.dataset.num_batches)
        if self.shuffle:
            order = np.random.default_rng((self.seed, run)).permutation(self.dataset.num_batches)
            position = int(order[position])
        batch = self.dataset[position]
        return batch if self.transform is None else self.transform(batch)

    def on_epoch_begin(self) -> None:
        """Tell the data set that an epoch begins."""
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tell the data set that an epoch ended."""
        self._forget()
        self.dataset.on_epoch_end()

    def _forget(self) -> None:
        if self._ahead is not None:
            self._ahead.forget()
