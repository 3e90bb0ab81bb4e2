"""Data-parallel training: ranks, world size, sharding of batches."""

import contextlib
import copy
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np


def process(model: keras.Model | None = None) -> tuple[int, int]:
    """Return the index of this process and how many train the same model; `(0, 1)` where it is alone.

    JAX is asked after `keras.distribution.initialize`, PyTorch after `torch.distributed.init_process_group`.
    On TensorFlow the strategy counts in whose scope `model` was made, without one that of this moment.

    >>> process()
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


def _strategy(model: keras.Model | None) -> Any:
    import tensorflow as tf

    return getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()


def sharing_devices(model: keras.Model | None = None) -> int:
    """Return among how many devices, of all processes, each batch is divided.

    >>> sharing_devices()
    1
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return process()[1]
    if backend == "tensorflow":
        return _strategy(model).num_replicas_in_sync
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


def filled_up(array: Any, devices: int) -> Any:
    """Fill rows up to a multiple of `devices` by repeating the first ones.

    >>> import numpy as np
    >>> filled_up(np.arange(3), 2), filled_up(np.arange(1), 4)
    (array([0, 1, 2, 0]), array([0, 0, 0, 0]))
    """
    missing = -len(array) % devices
    return array if not missing else np.asarray(array)[np.arange(len(array) + missing) % len(array)]


def predict_on_batch(model: keras.Model, batch: Any) -> Any:
    """Predict a batch of any size, an array or several, as arrays with a row for each of its rows."""
    devices, rows = sharing_devices(model), len(keras.tree.flatten(batch)[0])
    outputs = model.predict_on_batch(keras.tree.map_structure(lambda part: filled_up(part, devices), batch))
    # Cut, since under `tf.distribute` each replica predicts the whole batch, and their rows are joined.
    return keras.tree.map_structure(lambda output: output[:rows], outputs)


def predict(model: keras.Model, batches: Any) -> np.ndarray:
    """Predict batches `(images,)`, to their end."""
    if sharing_devices(model) == 1 and isinstance(batches, keras.utils.PyDataset):
        return model.predict(batches, verbose=0)
    return np.concatenate([predict_on_batch(model, batch[0]) for batch in batches])


class SharedBatches(keras.utils.PyDataset):
    """The rows of each batch of a `PyDataset` that are this process', an even share of them for each device.

    Batches that cannot be divided evenly, such as the last of an epoch, are filled up with their first rows.

    Args:
        batches: finite `PyDataset`, the same in every process.
        devices: devices that share each batch, of all processes.
        part: index of this process, and how many there are.

    >>> from keras_ssl.data import ArrayBatches
    >>> batches = ArrayBatches((np.arange(3),), batch_size=3, shuffle=False)
    >>> SharedBatches(batches, devices=2, part=(1, 2))[0]
    (array([2, 0]),)
    """

    def __init__(self, batches: keras.utils.PyDataset, devices: int, part: tuple[int, int]) -> None:
        super().__init__(batches.workers, batches.use_multiprocessing, batches.max_queue_size)
        self.batches = batches
        self.devices = devices
        self.part = part

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        """Read this process' part of batch `index`."""
        return keras.tree.map_structure(self._own, self.batches[index])

    def on_epoch_begin(self) -> None:
        """Tell the data set that an epoch begins."""
        self.batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tell the data set that an epoch ended."""
        self.batches.on_epoch_end()

    def _own(self, array: Any) -> Any:
        filled = filled_up(array, self.devices)
        index, count = self.part
        rows = len(filled) // count
        return filled[index * rows : (index + 1) * rows]


def shared(batches: Any, model: keras.Model, whole: bool = False) -> Any:
    """Divide batches among devices and processes; as they are where there is one device, or for a stream.

    Args:
        batches: what `fit` reads. A stream, `tf.data` say, is divided by whoever made it.
        model: what is trained on them.
        whole: whether each process of PyTorch reads all of each batch, as for validation.
    """
    devices, backend = sharing_devices(model), keras.backend.backend()
    if devices == 1 or not isinstance(batches, keras.utils.PyDataset) or (backend == "torch" and whole):
        return batches
    # TensorFlow's strategies divide what all processes read, but give no image at all to some devices where
    # there are too few.
    return SharedBatches(batches, devices, (0, 1) if backend == "tensorflow" else process())


def check_shared(batch_size: int) -> None:
    """Refuse a size of batches of an array that devices can share only with images twice in each.

    Raises:
        ValueError: `batch_size` is not a multiple of the devices.
    """
    devices = 1 if keras.backend.backend() == "tensorflow" else sharing_devices()
    if batch_size % devices:
        raise ValueError(
            f"`batch_size` must be a multiple of the {devices} devices that share each batch. "
            f"Received {batch_size}."
        )


def agree(model: keras.Model, **values: Any) -> None:
    """See that all processes are about to do the same, without which each would wait for the others.

    Raises:
        ValueError: `values` are other ones in another process.
    """
    count = process(model)[1]
    if count == 1:
        return
    own = zlib.crc32(repr(sorted(values.items())).encode())
    if any(other != own for other in _gathered(own, model, count)):
        raise ValueError(
            "Processes that train one model must be given the same data, epochs and `seed`, and a "
            f"`backup_dir` that all of them see. Received in this one: {values}."
        )


def _gathered(number: int, model: keras.Model, count: int) -> list[Any]:
    """What each process has for `number`; of TensorFlow the mean alone, which differs where one does."""
    backend = keras.backend.backend()
    if backend == "jax":
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(np.array([number], "uint32")).ravel().tolist()
    if backend == "torch":
        from torch import distributed

        found: list[Any] = [None] * count
        distributed.all_gather_object(found, number)
        return found
    import tensorflow as tf

    return [float(_strategy(model).reduce("MEAN", tf.constant(float(number), tf.float64), axis=None))]


@contextlib.contextmanager
def own_files(
    callbacks: list[keras.callbacks.Callback], model: keras.Model
) -> Iterator[list[keras.callbacks.Callback]]:
    """Give callbacks of which the first of several processes alone writes files that stay.

    The others write to a folder that goes: on TensorFlow all must read the weights together.

    Raises:
        ValueError: there are several processes and a `BackupAndRestore`, which would bring back the first.
    """
    index, count = process(model)
    if count > 1 and any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in callbacks):
        raise ValueError(
            "`callbacks` must not hold a BackupAndRestore where several processes train. Use `backup_dir`."
        )
    if index == 0:
        yield callbacks
        return
    with tempfile.TemporaryDirectory() as folder:
        yield [_elsewhere(each, Path(folder, str(number))) for number, each in enumerate(callbacks)]


def _elsewhere(callback: keras.callbacks.Callback, folder: Path) -> keras.callbacks.Callback:
    """A copy of a callback that writes files, to write into a new folder; any other as it is."""
    kinds = keras.callbacks
    paths = {kinds.ModelCheckpoint: "filepath", kinds.CSVLogger: "filename", kinds.TensorBoard: "log_dir"}
    for kind, name in paths.items():
        if isinstance(callback, kind):
            folder.mkdir()
            callback = copy.copy(callback)
            setattr(callback, name, str(folder / Path(getattr(callback, name)).name))
    return callback


class _TorchProcesses(keras.callbacks.Callback):
    """Makes processes of PyTorch train one model: equal weights at the start, the mean of their gradients.

    Moving statistics are those of the first process; what is logged is the mean.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.handles: list[Any] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._send(self.model.variables)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # By now a warm-up has unfrozen what an interrupted one left frozen, and none is frozen yet.
        for variable in self.model.trainable_variables if not self.handles else ():
            self.handles.append(variable.value.register_post_accumulate_grad_hook(self._average_gradient))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._average(logs)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._send(self.model.non_trainable_variables)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._send(self.model.non_trainable_variables)
        self._average(logs)

    def release(self) -> None:
        """Leave the model as it was."""
        while self.handles:
            self.handles.pop().remove()

    def _send(self, variables: list[keras.Variable]) -> None:
        from torch import distributed

        for variable in variables:
            distributed.broadcast(variable.value.detach(), 0)

    def _average_gradient(self, parameter: Any) -> None:
        from torch import distributed

        distributed.all_reduce(parameter.grad)
        parameter.grad /= self.count

    def _average(self, logs: dict[str, Any] | None) -> None:
        import torch

        if logs:
            device = self.model.trainable_variables[0].value.device
            values = torch.tensor([float(value) for value in logs.values()], device=device)
            torch.distributed.all_reduce(values)
            logs.update(zip(logs, (values / self.count).tolist(), strict=True))


@contextlib.contextmanager
def together() -> Iterator[list[keras.callbacks.Callback]]:
    """Give the callbacks that `fit` needs, before all others, where several processes of PyTorch train."""
    count = process()[1]
    if keras.backend.backend() != "torch" or count == 1:
        yield []
        return
    callback = _TorchProcesses(count)
    try:
        yield [callback]
    finally:
        callback.release()
