"""Resumable `fit` with seeds per epoch, which stops on NaN and on signals; the only caller of `model.fit`."""

import contextlib
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_ssl._keras_private import hold_all_parameters
from keras_ssl._run_identity import fingerprint, remember_if_interrupted
from keras_ssl._seeding import preserve_torch_generator, seed_states
from keras_ssl._types import Dataset
from keras_ssl.callbacks._batch_statistics import PreciseStatistics, short_memory
from keras_ssl.callbacks._optimizers import follow_trainable
from keras_ssl.callbacks._weight_averages import AveragedWeights
from keras_ssl.callbacks.epoch_backup import EpochBackup
from keras_ssl.data.batches import ArrayBatches, ShuffledBatches, StreamBatches
from keras_ssl.distribution import (
    check_processes_agree,
    num_replicas,
    pad_batch,
    rank_and_world_size,
    shard_batches,
    torch_data_parallel,
    write_on_rank_0,
)
from keras_ssl.layers.run_clock import RunClock

_KINDS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class StopOnSignal(keras.callbacks.Callback):
    """Defers Ctrl-C (SIGINT) and SIGTERM to the end of the batch, so that backups are complete.

    A second signal stops the run at once. Signal handlers of the program itself are not replaced. Only the
    main thread receives signals; in other threads this does nothing.

    Args:
        advice: advice on how to continue, for the message.

    Raises:
        KeyboardInterrupt: at the end of a batch after Ctrl-C.
        SystemExit: at the end of a batch after SIGTERM, with exit code 143.

    >>> import signal
    >>> stop = StopOnSignal("Call it again.")
    >>> with stop.listening():
    ...     signal.getsignal(signal.SIGTERM) == stop.receive
    True
    """

    def __init__(self, advice: str) -> None:
        super().__init__()
        self.advice = advice
        self.received: int | None = None
        self.epoch = 0
        self._before: dict[int, Any] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals in this context."""
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in _KINDS}
            untouched = (signal.default_int_handler, signal.SIG_DFL)
            self._before = {number: handler for number, handler in before.items() if handler in untouched}
        for number in self._before:
            signal.signal(number, self.receive)
        try:
            yield
        finally:
            self._stop_listening()

    def receive(self, number: int, frame: types.FrameType | None) -> None:
        """Store the signal; the next one has its usual effect."""
        self.received = number
        self._stop_listening()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Store the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop if a signal was received."""
        if self.received is None:
            return
        message = (
            f"Stopped by {_KINDS[signal.Signals(self.received)]} in epoch {self.epoch + 1}. {self.advice}"
        )
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt(message)
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(128 + self.received)

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop during validation if a signal was received."""
        self.on_train_batch_end(batch)

    def _stop_listening(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)


# A first loss this many times the chance level indicates unscaled images.
_FAR = 4.0


class _EpochSeeds(keras.callbacks.Callback):
    """Sets all seeds at the start of each epoch, as a function of seed, run and epoch only."""

    def __init__(self, data: Dataset, seed: int, run: int) -> None:
        super().__init__()
        self.data = data
        self.seed = seed
        self.run = run

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if isinstance(self.data, (ArrayBatches, ShuffledBatches)):
            self.data.epoch = epoch
        start = int(np.random.SeedSequence((self.seed, self.run, epoch)).generate_state(1)[0] % 2**31)
        if keras.backend.backend() == "torch":
            import torch

            # Dropout layers without a seed use the global generator.
            torch.manual_seed(start)
        for state in seed_states(self.model):
            seed = keras.ops.convert_to_numpy(state)[0]
            state.assign(np.array([seed, start], dtype=keras.backend.standardize_dtype(state.dtype)))


class _StopOnNaN(keras.callbacks.Callback):
    """Stops at the first loss that is not finite and restores the weights of the start of the epoch."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.good_weights = _copied_weights(self.model)
        self.epoch = 0
        self.failed: str | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        weights = _copied_weights(self.model)
        if _finite(weights):
            self.good_weights = weights
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not np.isfinite(float((logs or {}).get("loss", 0.0))):
            self.failed = f"in epoch {self.epoch + 1}, step {batch + 1}"
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # The weights after the last step of an epoch have no loss.
        if not self.failed and not _finite(self.model.get_weights()):
            self.failed = f"in epoch {epoch + 1}, in its last step"
            self.model.stop_training = True
        # Here and not only after `fit`, so that checkpoints written next hold good weights.
        if self.failed:
            self.model.set_weights(self.good_weights)

    @contextlib.contextmanager
    def refused_values(self) -> Iterator[None]:
        """Take PyTorch's refusal of a cross-entropy of NaN for what it is: a loss that is not finite."""
        try:
            yield
        except RuntimeError as error:
            if "elements of input should be between 0 and 1" not in str(error):
                raise
            self.failed = f"in epoch {self.epoch + 1}"
            self.raise_if_failed()

    def raise_if_failed(self) -> None:
        if self.failed:
            self.model.set_weights(self.good_weights)
            raise FloatingPointError(
                f"The loss or a weight became NaN or infinite {self.failed}. The weights of the start of "
                "that epoch are restored. Compile with a smaller learning rate or with `clipnorm`, and call "
                "again, with a new `backup_dir` if one was given."
            )


class _FirstLoss(keras.callbacks.Callback):
    """Warns if the first loss is far above chance level."""

    def __init__(self, chance: float | None, trained: str) -> None:
        super().__init__()
        self.chance = chance
        self.trained = trained

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.waiting = self.chance is not None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.waiting:
            return
        self.waiting = False
        loss = float((logs or {}).get("loss", 0.0))
        assert self.chance is not None
        if loss > _FAR * self.chance and loss - _regularization(self.model) > _FAR * self.chance:
            warnings.warn(
                f"The first loss is {loss:.4g}, far above the chance level {self.chance:.2g} "
                f"{self.trained}. The likely cause is an encoder that does not scale pixels: build it with "
                "`value_range=(0, 255)`, or see `encoders.with_rescaling`. Other causes are large "
                "`sample_weight` and losses of layers.",
                stacklevel=2,
            )


class _EndsOfStream(keras.callbacks.Callback):
    """Ends an epoch with the last batch of a stream, and training with that of a generator.

    On TensorFlow, a step without a batch would still count, and update whatever does not depend on a batch.
    """

    def __init__(self, data: StreamBatches) -> None:
        super().__init__()
        self.data = data
        self.ended_epoch = False
        self.batches = 0
        self.first_epoch: int | None = None
        data.if_unknown = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.first_epoch is None:
            self.first_epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.batches += 1
        if not self.model.stop_training and self.data.ends_with(batch):
            self.ended_epoch = self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.data.is_read_once or self.data.steps is None or self.model.stop_training:
            return
        epochs = self.params["epochs"]
        if self.data.has_ended(look=epoch + 1 < epochs):
            self.model.stop_training = True
            wanted = (epochs - (self.first_epoch or 0)) * self.data.steps
            warnings.warn(
                f"The generator ended after {self.batches} of {wanted} batches ({self.data.steps} per "
                f"epoch): training ended in epoch {epoch + 1} of {epochs}.",
                stacklevel=2,
            )


class _AfterEndOfStream(keras.callbacks.Callback):
    """Continues training, unless another callback stops it, after an epoch that `_EndsOfStream` ended."""

    def __init__(self, ends: _EndsOfStream) -> None:
        super().__init__()
        self.ends = ends

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.ends.ended_epoch:
            self.ends.ended_epoch = self.model.stop_training = False
            self.ends.data.on_epoch_end()


def _padded(data: Dataset, model: keras.Model) -> Dataset:
    """Pad the batches of a stream, which is not sharded, to a multiple of the devices of this process."""
    devices = num_replicas(model) // rank_and_world_size(model)[1]
    if isinstance(data, StreamBatches) and devices > 1:
        inner = data.transform
        data.transform = lambda batch: tuple(pad_batch(part, devices) for part in inner(batch))
    return data


def _check_generator(data: StreamBatches, epochs: int, backup_dir: str | os.PathLike[str] | None) -> None:
    """Check that the arguments are possible with data that can be read only once."""
    kind = type(data.stream).__name__
    if backup_dir is not None:
        raise ValueError(
            "`backup_dir` must be None with a generator, since a resumed run cannot read its batches again. "
            f"Received a {kind}. Use a data set that can be read again, such as a PyDataset."
        )
    if data.steps is None and epochs > 1:
        raise ValueError(
            "`steps_per_epoch` must be given to train for several epochs on a generator, which can be read "
            f"only once. Received None with {epochs} epochs and a {kind}."
        )


def _regularization(model: keras.Model) -> float:
    regularized = (v for v in model.trainable_variables if v.regularizer is not None)
    return sum(float(keras.ops.convert_to_numpy(variable.regularizer(variable))) for variable in regularized)


def _finite(weights: list[np.ndarray]) -> bool:
    return all(np.isfinite(weight).all() for weight in weights)


def _copied_weights(model: keras.Model) -> list[np.ndarray]:
    # Copied: on PyTorch the arrays of `get_weights` share memory with the weights.
    return [np.array(weight) for weight in model.get_weights()]


def run_fit(
    model: keras.Model,
    data: Dataset,
    *,
    seed: int,
    run: int,
    epochs: int,
    initial_epoch: int,
    callbacks: list[keras.callbacks.Callback],
    validation_data: Dataset,
    backup_dir: str | os.PathLike[str] | None,
    settings: dict[str, Any],
    verbose: str | int,
    steps_per_epoch: int | None = None,
    averages: bool = False,
    chance: tuple[float | None, str] = (None, ""),
    clock: RunClock | None = None,
    steps: int | None = None,
    announcement: keras.callbacks.Callback | None = None,
) -> keras.callbacks.History:
    """Train a compiled, built model; see `SelfSupervisedModel.fit_pretext` for the arguments.

    `seed` and `run`, the number of fits before, determine all random draws. `settings` must be equal in the
    backup that the run resumes. `averages` tells that the optimizer keeps moving averages of the weights.
    `chance` is the loss at chance level, and a phrase for the message. `clock` counts `steps`, those of the
    whole run, `None` if unknown. `announcement` prints, on rank 0.
    """
    follow_trainable(model)
    with write_on_rank_0(callbacks, model) as callbacks, torch_data_parallel() as first:
        stop_on_nan = _StopOnNaN()
        stop_on_signal = StopOnSignal(
            "Nothing is saved, since `backup_dir` was not given."
            if backup_dir is None
            else f"Earlier epochs are saved in {backup_dir}: call again to resume."
        )
        own = callbacks
        callbacks = [stop_on_signal, stop_on_nan, _FirstLoss(*chance), _EpochSeeds(data, seed, run)]
        # Each epoch, since Keras registers its parameters anew when it builds something.
        callbacks.append(
            keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: hold_all_parameters(model))
        )
        if clock is not None:
            callbacks.append(
                keras.callbacks.LambdaCallback(
                    on_train_begin=lambda logs: clock.start(steps),
                    # A backup may be of a run with fewer epochs.
                    on_epoch_begin=lambda epoch, logs: clock.plan(steps),
                )
            )
        # Averaged weights first: batch statistics are those of the weights in use.
        averaged = [AveragedWeights()] if averages else []
        batch_statistics = PreciseStatistics(data, own, seed)
        callbacks += [*averaged, batch_statistics, *own, batch_statistics.restore]
        callbacks += [one.restore for one in averaged]
        if isinstance(data, StreamBatches):
            if data.is_read_once:
                _check_generator(data, epochs - initial_epoch, backup_dir)
            ends = _EndsOfStream(data)
            callbacks = [_AfterEndOfStream(ends), *callbacks, ends]
        backup = finished = None
        if_interrupted: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if backup_dir is not None:
            settings = {**settings, "seed": seed, "earlier fits of the same model": run}
            settings = fingerprint(model, run, data, validation_data, own, settings)
            if_interrupted = remember_if_interrupted(model, run, data, own, settings)
            backup = EpochBackup(backup_dir, settings, callbacks, writes=rank_and_world_size(model)[0] == 0)
            finished = backup.load_finished(model, epochs)
            initial_epoch = max(initial_epoch, backup.initial_epoch)
            callbacks = [*callbacks, backup]
        batches = len(data) if isinstance(data, (ArrayBatches, ShuffledBatches)) else None
        ended = finished is not None
        check_processes_agree(
            model, seed=seed, run=run, first_epoch=initial_epoch, epochs=epochs, batches=batches, ended=ended
        )
        if finished is not None:
            return _history(model, finished)
        if initial_epoch > epochs:
            raise ValueError(
                f"`epochs` must be at least the number of epochs in `backup_dir`. Received epochs={epochs} "
                f"and {backup_dir} with {initial_epoch}."
            )
        if backup is not None and isinstance(data, ShuffledBatches):
            for _ in range(backup.initial_epoch):
                data.dataset.on_epoch_end()
        said = [announcement] if announcement is not None and rank_and_world_size(model)[0] == 0 else []
        with (
            if_interrupted,
            short_memory(model),
            preserve_torch_generator(),
            stop_on_signal.listening(),
            stop_on_nan.refused_values(),
            _ignore_end_of_data_warning(),
        ):
            history = model.fit(
                _padded(shard_batches(data, model), model),
                # A run killed after early stopping, in its last epoch, only has to finish.
                epochs=initial_epoch if backup is not None and backup.stopped else epochs,
                initial_epoch=initial_epoch,
                callbacks=[*first, *said, *callbacks],
                validation_data=_padded(shard_batches(validation_data, model, validation=True), model),
                shuffle=False,
                steps_per_epoch=steps_per_epoch,
                verbose=verbose,
            )
        stop_on_nan.raise_if_failed()
        if backup is not None:
            backup.save_finished(model, epochs, history.history)
    return history


@contextlib.contextmanager
def _ignore_end_of_data_warning() -> Iterator[None]:
    """Ignore the warning that Keras gives at the end of data of unknown length."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        yield


def _history(model: keras.Model, values: dict[str, list[float]]) -> keras.callbacks.History:
    history = keras.callbacks.History()
    history.set_model(model)
    history.history = values
    history.epoch = list(range(len(next(iter(values.values()), []))))
    model.history = history
    return history
