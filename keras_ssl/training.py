"""The one way in which this library calls `fit`: checked, seeded per epoch, stopped on NaN, resumable."""

import contextlib
import os
import random
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_ssl._fingerprint import fingerprint, remembering
from keras_ssl.callbacks._optimizer_handover import follow_trainable
from keras_ssl.callbacks.epoch_backup import EpochBackup
from keras_ssl.callbacks.stop_on_signal import StopOnSignal
from keras_ssl.data.batches import ArrayBatches, ShuffledBatches
from keras_ssl.data.streams import StreamBatches
from keras_ssl.devices import agree, filled_up, own_files, process, shared, sharing_devices, together
from keras_ssl.random import seed_states

# A first loss of so many times that of guessing is none of a network on scaled images.
_FAR = 4.0


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Make every weight and seed that Keras draws inside follow from `seed`; `None` leaves it to Keras.

    Keras draws its default seeds by `random.randint`. Inside, this thread's calls of it draw from a generator
    of their own: the event loops of Jupyter and Dask draw from the global one at any moment.

    >>> with seeded(0):
    ...     first = keras.random.SeedGenerator().get_config()["seed"]
    >>> with seeded(0):
    ...     keras.random.SeedGenerator().get_config()["seed"] == first
    True
    """
    if seed is None:
        yield
        return
    generator, thread, everybodys = random.Random(seed), threading.get_ident(), random.randint

    def randint(a: int, b: int) -> int:
        return (generator.randint if threading.get_ident() == thread else everybodys)(a, b)

    random.randint = randint
    try:
        yield
    finally:
        random.randint = everybodys


def resolve_seed(seed: int | None) -> int:
    """Return `seed` as a plain integer; draw one from Python's `random` where it is `None`.

    Raises:
        ValueError: `seed` is no integer from 0 to 2^31 - 1.

    >>> resolve_seed(3)
    3
    """
    if seed is None:
        return random.randrange(2**31)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31:
        raise ValueError(f"`seed` must be None or an integer from 0 to 2^31 - 1. Received {seed!r}.")
    return int(seed)


@contextlib.contextmanager
def _own_torch_generator() -> Iterator[None]:
    """On PyTorch, give back the state of the global generator, which a run reseeds every epoch."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


class _EpochSeeds(keras.callbacks.Callback):
    """Starts every epoch from seeds that depend on seed, run and epoch alone."""

    def __init__(self, data: Any, seed: int, run: int) -> None:
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

            # Keras' dropout draws from the global generator where its layer was given no seed.
            torch.manual_seed(start)
        for state in seed_states(self.model):
            seed = keras.ops.convert_to_numpy(state)[0]
            state.assign(np.array([seed, start], dtype=keras.backend.standardize_dtype(state.dtype)))


class _StopOnNaN(keras.callbacks.Callback):
    """Stops at the first loss that is not finite and goes back to the weights at that epoch's start."""

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
        # The last step of an epoch can spoil the weights without a loss to show it.
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
                f"The loss or a weight became NaN or infinite {self.failed}. The weights are the last good "
                "ones, of the start of that epoch. Compile again with a smaller learning rate or with "
                "`clipnorm`, then go on, with a new `backup_dir` where one was given."
            )


class _FirstLoss(keras.callbacks.Callback):
    """Warn if the first loss is far above chance level."""

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
                f"The first loss is {loss:.4g}, far above {self.chance:.2g}, that of guessing "
                f"{self.trained}. The likely cause is an encoder that does not scale pixels: build it with "
                "`value_range=(0, 255)`, or see `encoders.with_rescaling`. Large `sample_weight`, or "
                "losses that layers add, do it too.",
                stacklevel=2,
            )


class _EndsOfStream(keras.callbacks.Callback):
    """End an epoch with the last batch of a stream, and training, with a warning, with that of a generator.

    On TensorFlow, a step for which there is no batch would still count, and move what depends on no batch.
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
                f"The generator was asked for {wanted} batches ({self.data.steps} in an epoch) and gave "
                f"{self.batches}: training ended with them, in epoch {epoch + 1} of {epochs}.",
                stacklevel=2,
            )


class _AfterEndOfStream(keras.callbacks.Callback):
    """Let training go on, unless another callback stops it, after an epoch that `_EndsOfStream` ended."""

    def __init__(self, ends: _EndsOfStream) -> None:
        super().__init__()
        self.ends = ends

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.ends.ended_epoch:
            self.ends.ended_epoch = self.model.stop_training = False
            self.ends.data.on_epoch_end()


def _filled(data: Any, model: keras.Model) -> Any:
    """Fill up the batches of a stream, which is not divided, to a multiple of the devices of this process."""
    devices = sharing_devices(model) // process(model)[1]
    if isinstance(data, StreamBatches) and devices > 1:
        inner = data.transform
        data.transform = lambda batch: tuple(filled_up(part, devices) for part in inner(batch))
    return data


def _refuse_generator(data: StreamBatches, epochs: int, backup_dir: Any) -> None:
    """Refuse what cannot be done with data that can be read only once."""
    kind = type(data.stream).__name__
    if backup_dir is not None:
        raise ValueError(
            "`backup_dir` must be None where images are a generator: a resumed run cannot read again what "
            f"was read before. Received a {kind}. Give a data set that can be read again, a PyDataset say."
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
    # On PyTorch the arrays of `get_weights` share memory with the weights.
    return [np.array(weight) for weight in model.get_weights()]


def run_fit(
    model: keras.Model,
    data: Any,
    *,
    seed: int,
    run: int,
    epochs: int,
    initial_epoch: int,
    callbacks: list[keras.callbacks.Callback],
    validation_data: Any,
    backup_dir: str | os.PathLike[str] | None,
    settings: dict[str, Any],
    verbose: str | int,
    steps_per_epoch: int | None = None,
    chance: tuple[float | None, str] = (None, ""),
) -> keras.callbacks.History:
    """Train a compiled, built model; see `SelfSupervisedModel.fit_pretext` for the arguments.

    `seed` and `run`, the number of the fit of one object, set all draws; `settings` are what a run must
    share with the backup that it continues. `chance` is the loss of guessing, and what is guessed.
    """
    follow_trainable(model)
    with own_files(callbacks, model) as callbacks, together() as first:
        stop_on_nan = _StopOnNaN()
        stop_on_signal = StopOnSignal(
            "Nothing was saved, since `backup_dir` was not given."
            if backup_dir is None
            else f"The epochs before it are saved in {backup_dir}: the same call goes on with it."
        )
        own = callbacks
        callbacks = [stop_on_signal, stop_on_nan, _FirstLoss(*chance), _EpochSeeds(data, seed, run), *own]
        if isinstance(data, StreamBatches):
            if data.is_read_once:
                _refuse_generator(data, epochs - initial_epoch, backup_dir)
            ends = _EndsOfStream(data)
            callbacks = [_AfterEndOfStream(ends), *callbacks, ends]
        backup = finished = None
        if_interrupted: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if backup_dir is not None:
            settings = {**settings, "seed": seed, "earlier fits of the same model": run}
            settings = fingerprint(model, run, data, validation_data, own, settings)
            if_interrupted = remembering(model, run, data, own, settings)
            backup = EpochBackup(backup_dir, settings, callbacks, writes=process(model)[0] == 0)
            finished = backup.load_finished(model, epochs)
            initial_epoch = max(initial_epoch, backup.initial_epoch)
            callbacks = [*callbacks, backup]
        batches = len(data) if isinstance(data, (ArrayBatches, ShuffledBatches)) else None
        ended = finished is not None
        agree(
            model, seed=seed, run=run, first_epoch=initial_epoch, epochs=epochs, batches=batches, ended=ended
        )
        if finished is not None:
            return _history(model, finished)
        if initial_epoch > epochs:
            raise ValueError(
                f"`epochs` must be at least those that `backup_dir` holds. Received epochs={epochs} and "
                f"{backup_dir} with {initial_epoch}."
            )
        if backup is not None and isinstance(data, ShuffledBatches):
            for _ in range(backup.initial_epoch):
                data.dataset.on_epoch_end()
        with (
            if_interrupted,
            _own_torch_generator(),
            stop_on_signal.listening(),
            stop_on_nan.refused_values(),
            _quiet_ends(),
        ):
            history = model.fit(
                _filled(shared(data, model), model),
                # A run that was killed after its last epoch has only its end to come.
                epochs=initial_epoch if backup is not None and backup.stopped else epochs,
                initial_epoch=initial_epoch,
                callbacks=[*first, *callbacks],
                validation_data=_filled(shared(validation_data, model, whole=True), model),
                shuffle=False,
                steps_per_epoch=steps_per_epoch,
                verbose=verbose,
            )
        stop_on_nan.raise_if_failed()
        if backup is not None:
            backup.save_finished(model, epochs, history.history)
    return history


@contextlib.contextmanager
def _quiet_ends() -> Iterator[None]:
    """Silence the warning of Keras at the end of every pass over data whose length it does not know."""
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
