"""Precise batch normalization: moving statistics re-estimated over training images."""

import contextlib
import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_ssl._keras_private import layers_of
from keras_ssl._seeding import preserve_torch_generator, seed_states
from keras_ssl._types import Dataset, Structure, Tensor
from keras_ssl.callbacks._base import PeriodicCheck, array_of
from keras_ssl.callbacks.warmup_freeze import WarmupFreeze
from keras_ssl.data.batches import LATEST, ArrayBatches, ShuffledBatches, StreamBatches

# Momentum during a fit, at most: what runs in inference mode meanwhile, such as the teacher of MoCo, would
# otherwise see an average over hundreds of steps.
_MOMENTUM_IN_FIT = 0.9
# Near 1, so that several calls of a layer in one forward pass count alike.
_MOMENTUM_IN_ESTIMATE = 0.99
# Callbacks that do not use the weights at the end of an epoch.
_BLIND = (
    keras.callbacks.CSVLogger,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.TensorBoard,
    keras.callbacks.TerminateOnNaN,
    WarmupFreeze,
)


def batch_normalizations(model: keras.Layer) -> list[keras.layers.BatchNormalization]:
    """Return the batch normalization layers whose moving statistics training updates."""
    return [
        layer
        for layer in {id(layer): layer for layer in layers_of(model)}.values()
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.built
        and layer.trainable
        # Batch renormalization keeps further statistics, which training uses.
        and not getattr(layer, "renorm", False)
    ]


@contextlib.contextmanager
def _momentum(
    layers: Iterable[keras.layers.BatchNormalization], change: Callable[[float], float]
) -> Iterator[None]:
    """Change the momentum of `layers` in the context."""
    before = [(layer, layer.momentum) for layer in layers]
    for layer, momentum in before:
        layer.momentum = change(momentum)
    try:
        yield
    finally:
        for layer, momentum in before:
            layer.momentum = momentum


def short_memory(model: keras.Layer) -> contextlib.AbstractContextManager[None]:
    """Limit the momentum of batch normalization while a model is trained."""
    return _momentum(batch_normalizations(model), lambda momentum: min(momentum, _MOMENTUM_IN_FIT))


def estimate_batch_statistics(
    model: keras.Model,
    batches: Iterable[Structure],
    seed: int = 0,
    run: Callable[[Structure], None] | None = None,
) -> None:
    """Set the moving statistics of batch normalization to mean and variance over `batches`.

    Keras' moving averages need several times `1 / (1 - momentum)` steps to forget their initial values, 500
    with the usual 0.99: after a shorter run, inference sees another network than training did. Here the model
    runs on `batches` in training mode, each layer normalizing by its batch as in training, and the statistics
    are averaged with equal weights. Nothing else changes: seed generators, EMA teachers and queues are
    restored. A function of weights, batches and seed.

    Args:
        model: built model, called with `training=True`.
        batches: inputs of the model.
        seed: seed of dropout and of random transforms.
        run: `in_training(model)`, which JAX compiles once; `None` makes it.

    References:
        Wu, Y., Johnson, J. (2021). Rethinking "batch" in batchnorm. arXiv:2105.07576.
    """
    layers = batch_normalizations(model)
    if not layers:
        return
    own = {id(variable) for layer in layers for variable in (layer.moving_mean, layer.moving_variance)}
    before = [(variable, array_of(variable)) for variable in model.non_trainable_variables]
    run = in_training(model) if run is None else run
    calls: list[int] = []
    sums: list[np.ndarray] = []
    total = 0
    try:
        with _momentum(layers, lambda _: _MOMENTUM_IN_ESTIMATE), preserve_torch_generator():
            _set_seeds(model, seed)
            for batch in batches:
                rows = len(keras.tree.flatten(batch)[0])
                if not calls:
                    # Started from 1 and from 0, statistics differ by momentum ** calls, 1 without a call.
                    from_one = _statistics(layers, run, batch, 1.0)
                    _assign_all((v, array) for v, array in before if id(v) not in own)
                    _set_seeds(model, seed)
                found = _statistics(layers, run, batch, 0.0)
                if not calls:
                    calls = [_count(one[0], zero[0]) for one, zero in zip(from_one, found, strict=True)]
                    sums = [np.zeros((3, len(mean))) for mean, _ in found]
                for parts, (mean, variance), count in zip(sums, found, calls, strict=True):
                    if count:
                        scale = 1 / (1 - _MOMENTUM_IN_ESTIMATE**count)
                        parts += rows * np.stack([scale * mean, scale * variance, (scale * mean) ** 2])
                total += rows
    finally:
        _assign_all(before)
    for layer, count, parts in zip(layers, calls, sums, strict=False):
        mean, variance, square = parts / total
        variance = variance + np.maximum(square - mean**2, 0)
        if count and np.isfinite(parts).all():
            layer.moving_mean.assign(mean.astype("float32"))
            layer.moving_variance.assign(variance.astype("float32"))


def _assign_all(pairs: Iterable[tuple[keras.Variable, np.ndarray]]) -> None:
    for variable, array in pairs:
        variable.assign(array)


def _set_seeds(model: keras.Model, seed: int) -> None:
    if keras.backend.backend() == "torch":
        import torch

        # Dropout layers without a seed use the global generator.
        torch.manual_seed(seed)
    for number, state in enumerate(seed_states(model)):
        state.assign(np.array([seed, number], dtype=keras.backend.standardize_dtype(state.dtype)))


def _statistics(
    layers: Sequence[keras.layers.BatchNormalization],
    run: Callable[[Structure], None],
    batch: Structure,
    start: float,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return moving mean and variance, float64, of each layer after one call that starts from `start`."""
    for layer in layers:
        for variable in (layer.moving_mean, layer.moving_variance):
            variable.assign(np.full(variable.shape, start, "float32"))
    run(batch)
    return [
        (array_of(layer.moving_mean).astype("float64"), array_of(layer.moving_variance).astype("float64"))
        for layer in layers
    ]


def _count(from_one: np.ndarray, from_zero: np.ndarray) -> int:
    """Return how often a layer updated its statistics, from those that started at 1 and at 0."""
    difference = float(np.median(from_one - from_zero))
    return max(round(math.log(difference) / math.log(_MOMENTUM_IN_ESTIMATE)), 0) if difference > 0 else 0


def in_training(model: keras.Model) -> Callable[[Structure], None]:
    """Return a function that calls `model` in training mode and updates its non-trainable variables."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        @jax.jit
        def updated(trainable: Tensor, others: Tensor, batch: Structure) -> Tensor:
            return model.stateless_call(trainable, others, batch, training=True)[1]

        def run(batch: Structure) -> None:
            trainable, others = (
                [variable.value for variable in variables]
                for variables in (model.trainable_variables, model.non_trainable_variables)
            )
            new = updated(trainable, others, batch)
            _assign_all(zip(model.non_trainable_variables, new, strict=True))

        return run

    def call(batch: Structure) -> None:
        model(batch, training=True)

    if backend == "torch":
        import torch

        return torch.no_grad()(call)
    return call


class PreciseStatistics(keras.callbacks.Callback):
    """Re-estimates batch statistics before validation, before callbacks that use the weights, and at the end.

    First in `callbacks`; `restore`, after those of the user, continues with the moving averages of training,
    so that training is the same with and without checks.

    Args:
        data: the batches of the fit.
        callbacks: the callbacks of the user.
        seed: seed of the fit.
    """

    def __init__(self, data: Dataset, callbacks: list[keras.callbacks.Callback], seed: int) -> None:
        super().__init__()
        self.data = data
        self.seed = seed
        self.checks = [one for one in callbacks if isinstance(one, PeriodicCheck)]
        self.uses_weights = any(_uses_weights(one) for one in callbacks)
        self.restore = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: self._restore())
        self._running: list[tuple[keras.Variable, np.ndarray]] | None = None
        self._trained = False
        self._run: tuple[weakref.ref, Callable[[Structure], None]] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._running, self._trained, self._run = None, False, None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._trained = True

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._estimate()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.uses_weights or any(check.is_due(epoch) for check in self.checks):
            self._estimate()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        # Before other callbacks unfreeze the encoder, or restore the weights of an epoch with the statistics
        # of that epoch.
        if self._trained:
            self._estimate()

    def get_state(self) -> dict[str, Any]:
        """Return no state: all of it is of one epoch."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Note that a resumed run was trained, even if no epoch is left."""
        self._trained = True

    def _estimate(self) -> None:
        if self._running is None:
            layers = batch_normalizations(self.model)
            variables = [v for layer in layers for v in (layer.moving_mean, layer.moving_variance)]
            self._running = [(variable, array_of(variable)) for variable in variables]
            # Freezing replaces the training step: layers are then called in another mode. A weak reference,
            # since JAX takes a new step for the old one as long as the old one is alive.
            step = self.model.train_function
            if self._run is None or self._run[0]() is not step:
                self._run = (weakref.ref(step), in_training(self.model))
            estimate_batch_statistics(self.model, self._batches(), self.seed, self._run[1])

    def _restore(self) -> None:
        _assign_all(self._running or ())
        self._running = None

    def _batches(self) -> Iterator[Structure]:
        if isinstance(self.data, StreamBatches):
            batches: Iterable[Structure] = list(self.data.latest)
        elif isinstance(self.data, (ArrayBatches, ShuffledBatches)):
            batches = self._of_first_epoch()
        else:
            batches = itertools.islice(self.data, LATEST)
        return (batch[0] for batch in batches)

    def _of_first_epoch(self) -> Iterator[Structure]:
        # The same in every epoch, so that best weights that are restored get their statistics back.
        for index in range(min(LATEST, len(self.data))):
            epoch, self.data.epoch = self.data.epoch, 0
            batch = self.data[index]
            self.data.epoch = epoch
            yield batch


def _uses_weights(callback: keras.callbacks.Callback) -> bool:
    if isinstance(callback, keras.callbacks.EarlyStopping):
        return callback.restore_best_weights
    return not isinstance(callback, (*_BLIND, PeriodicCheck))
