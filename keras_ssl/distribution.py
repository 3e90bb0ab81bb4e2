"""Data-parallel training: rank, world size, sharding of batches across processes and devices."""

import contextlib
import copy
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ssl._types import Dataset, Structure, Tensor

Callbacks = list[keras.callbacks.Callback]


def rank_and_world_size(model: keras.Model | None = None) -> tuple[int, int]:
    """Return the rank of this process and the number of processes; `(0, 1)` for a single process.

    On JAX this works after `keras.distribution.initialize`, on PyTorch after
    `torch.distributed.init_process_group`. On TensorFlow it is taken from the strategy in whose scope `model`
    was created, or from the current strategy without a model.

    >>> rank_and_world_size()
    (0, 1)
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.process_index(), jax.process_count()
    if backend == "torch":
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1
    import tensorflow as tf

    strategy = _strategy(model)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    workers = resolver.cluster_spec().as_dict()
    counts = [len(workers.get(kind, [])) for kind in ("chief", "worker")]
    if not sum(counts):
        return 0, 1
    return resolver.task_id + counts[0] * (resolver.task_type == "worker"), sum(counts)


def num_replicas(model: keras.Model | None = None) -> int:
    """Return the number of devices, over all processes, that each batch is sharded across.

    >>> num_replicas()
    1
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return rank_and_world_size()[1]
    if backend == "tensorflow":
        return _strategy(model).num_replicas_in_sync
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


def _strategy(model: keras.Model | None) -> Any:
    import tensorflow as tf

    return getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()


def check_batch_size(batch_size: int) -> None:
    """Check that a batch of an array can be divided evenly among the devices.

    Raises:
        ValueError: `batch_size` is not a multiple of the number of devices.
    """
    replicas = 1 if keras.backend.backend() == "tensorflow" else num_replicas()
    if batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be a multiple of the {replicas} devices that share each batch. "
            f"Received {batch_size}."
        )


def pad_batch(array: Tensor, multiple: int) -> Tensor:
    """Pad the rows to a multiple of `multiple` by repeating the first rows.

    >>> import numpy as np
    >>> pad_batch(np.arange(3), 2), pad_batch(np.arange(1), 4)
    (array([0, 1, 2, 0]), array([0, 0, 0, 0]))
    """
    missing = -len(array) % multiple
    return array if not missing else np.asarray(array)[np.arange(len(array) + missing) % len(array)]


class ShardedBatches(keras.utils.PyDataset):
    """The shard of each batch of a `PyDataset` that belongs to one process.

    Batches that cannot be divided evenly, such as the last of an epoch, are padded with their first rows.

    Args:
        batches: finite `PyDataset`, the same in every process.
        replicas: number of devices over all processes that each batch is divided among.
        rank: rank of this process.
        world_size: number of processes.

    >>> from keras_ssl.data.batches import ArrayBatches
    >>> batches = ArrayBatches((np.arange(3),), batch_size=3, shuffle=False)
    >>> ShardedBatches(batches, replicas=2, rank=1, world_size=2)[0]
    (array([2, 0]),)
    """

    def __init__(self, batches: keras.utils.PyDataset, replicas: int, rank: int, world_size: int) -> None:
        super().__init__(batches.workers, batches.use_multiprocessing, batches.max_queue_size)
        self.batches = batches
        self.replicas = replicas
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.batches)

    def __getitem__(self, index: int) -> Structure:
        """Return this process' shard of batch `index`."""
        return keras.tree.map_structure(self._shard, self.batches[index])

    def on_epoch_begin(self) -> None:
        """Call the data set's `on_epoch_begin`."""
        self.batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Call the data set's `on_epoch_end`."""
        self.batches.on_epoch_end()

    def _shard(self, array: Tensor) -> Tensor:
        padded = pad_batch(array, self.replicas)
        rows = len(padded) // self.world_size
        return padded[self.rank * rows : (self.rank + 1) * rows]


def shard_batches(batches: Dataset, model: keras.Model, validation: bool = False) -> Dataset:
    """Shard a `PyDataset` across processes and devices; return it unchanged for one device.

    Args:
        batches: input of `fit`. A stream, such as `tf.data`, is returned unchanged: its creator shards it.
        model: the model to train.
        validation: whether the data is for validation, of which each process of PyTorch reads all.
    """
    replicas, backend = num_replicas(model), keras.backend.backend()
    if replicas == 1 or not isinstance(batches, keras.utils.PyDataset) or (backend == "torch" and validation):
        return batches
    # TensorFlow's strategies shard what all processes read, but give some devices no image at all where there
    # are too few.
    return ShardedBatches(batches, replicas, *((0, 1) if backend == "tensorflow" else rank_and_world_size()))


def predict_on_batch(model: keras.Model, batch: Structure) -> Structure:
    """Predict a batch of any size, an array or a structure of arrays, and return one row per input."""
    replicas, rows = num_replicas(model), len(keras.tree.flatten(batch)[0])
    outputs = model.predict_on_batch(keras.tree.map_structure(lambda part: pad_batch(part, replicas), batch))
    # Sliced, since under `tf.distribute` each replica predicts the whole batch, and their rows are joined.
    return keras.tree.map_structure(lambda output: output[:rows], outputs)


def predict(model: keras.Model, batches: Dataset) -> np.ndarray:
    """Predict all batches `(images,)` of a data set."""
    if num_replicas(model) == 1 and isinstance(batches, keras.utils.PyDataset):
        return model.predict(batches, verbose=0)
    return np.concatenate([predict_on_batch(model, batch[0]) for batch in batches])


def check_processes_agree(model: keras.Model, **values: object) -> None:
    """Check that arguments agree across processes; processes that differ would wait for each other forever.

    Raises:
        ValueError: `values` differ in another process.
    """
    world_size = rank_and_world_size(model)[1]
    if world_size == 1:
        return
    own = zlib.crc32(repr(sorted(values.items())).encode())
    if any(other != own for other in _all_gather(own, model, world_size)):
        raise ValueError(
            "All processes that train one model must receive the same data, epochs and `seed`, and a "
            f"`backup_dir` on a shared file system. Received in this process: {values}."
        )


def _all_gather(number: int, model: keras.Model, world_size: int) -> list[float]:
    """Return `number` of every process; on TensorFlow only the mean, which differs where any number does."""
    backend = keras.backend.backend()
    if backend == "jax":
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(np.array([number], "uint32")).ravel().tolist()
    if backend == "torch":
        from torch import distributed

        found: list[Any] = [None] * world_size
        distributed.all_gather_object(found, number)
        return found
    import tensorflow as tf

    return [float(_strategy(model).reduce("MEAN", tf.constant(float(number), tf.float64), axis=None))]


@contextlib.contextmanager
def write_on_rank_0(callbacks: Callbacks, model: keras.Model) -> Iterator[Callbacks]:
    """Yield the callbacks for this process: only those of rank 0 write to the paths that the user gave.

    Those of other ranks write to a temporary folder, since on TensorFlow all processes must read the weights
    together.

    Raises:
        ValueError: there are several processes and a `BackupAndRestore`, which would restore rank 0 only.
    """
    rank, world_size = rank_and_world_size(model)
    if world_size > 1 and any(isinstance(each, keras.callbacks.BackupAndRestore) for each in callbacks):
        raise ValueError(
            "`callbacks` must not contain a BackupAndRestore with several processes. Use `backup_dir`."
        )
    if rank == 0:
        yield callbacks
        return
    with tempfile.TemporaryDirectory() as folder:
        yield [_redirected(each, Path(folder, str(number))) for number, each in enumerate(callbacks)]


def _redirected(callback: keras.callbacks.Callback, folder: Path) -> keras.callbacks.Callback:
    """Return a copy that writes to a new folder, or the callback itself if it writes no files."""
    kinds = keras.callbacks
    paths = {kinds.ModelCheckpoint: "filepath", kinds.CSVLogger: "filename", kinds.TensorBoard: "log_dir"}
    for kind, name in paths.items():
        if isinstance(callback, kind):
            folder.mkdir()
            callback = copy.copy(callback)
            setattr(callback, name, str(folder / Path(getattr(callback, name)).name))
    return callback


@contextlib.contextmanager
def torch_data_parallel() -> Iterator[Callbacks]:
    """Yield the callbacks that `fit` needs, before all others, for data-parallel training on PyTorch."""
    world_size = rank_and_world_size()[1]
    if keras.backend.backend() != "torch" or world_size == 1:
        yield []
        return
    callback = _TorchDataParallel(world_size)
    try:
        yield [callback]
    finally:
        callback.remove_hooks()


class _TorchDataParallel(keras.callbacks.Callback):
    """Data-parallel training on PyTorch: broadcasts the initial weights, averages gradients and logs.

    Moving statistics, such as those of BatchNorm, are those of rank 0.
    """

    def __init__(self, world_size: int) -> None:
        super().__init__()
        self.world_size = world_size
        self.handles: list[Any] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._broadcast(self.model.variables)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Here, `WarmupFreeze` has unfrozen what an interrupted fit left frozen, and has frozen nothing yet.
        for variable in self.model.trainable_variables if not self.handles else ():
            self.handles.append(variable.value.register_post_accumulate_grad_hook(self._average_gradient))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._average_logs(logs)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._broadcast(self.model.non_trainable_variables)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._broadcast(self.model.non_trainable_variables)
        self._average_logs(logs)

    def remove_hooks(self) -> None:
        while self.handles:
            self.handles.pop().remove()

    def _broadcast(self, variables: list[keras.Variable]) -> None:
        from torch import distributed

        for variable in variables:
            distributed.broadcast(variable.value.detach(), 0)

    def _average_gradient(self, parameter: Tensor) -> None:
        from torch import distributed

        distributed.all_reduce(parameter.grad)
        parameter.grad /= self.world_size

    def _average_logs(self, logs: dict[str, Any] | None) -> None:
        import torch

        if logs:
            device = self.model.trainable_variables[0].value.device
            values = torch.tensor([float(value) for value in logs.values()], device=device)
            torch.distributed.all_reduce(values)
            logs.update(zip(logs, (values / self.world_size).tolist(), strict=True))
