"""The private names of Keras that this library needs; no other module touches any.

Each function or class says why, with the issue of keras-team/keras where there is one. All were tried on
Keras 3.12 and 3.15. When Keras changes one of these names, or makes it public, this file alone changes.
"""

import contextlib
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
from keras.src.random import seed_generator
from keras.src.saving import serialization_lib

# Base class of data sets that do not know how many batches they have: a public `keras.utils.PyDataset` must.
from keras.src.trainers.data_adapters.data_adapter import DataAdapter as DataAdapter

Variables = Sequence[keras.Variable]


class _DefaultSeeds(threading.local):
    """Stands for the module `random` where Keras draws default seeds; each thread may name another source."""

    source: Any = random

    def randint(self, low: int, high: int) -> int:
        return self.source.randint(low, high)


_default_seeds = _DefaultSeeds()
# `keras.random` has no way to set the default seeds of some layers only: `keras.utils.set_random_seed` seeds
# Python's global generator, from which the event loops of Jupyter and Dask draw at any moment.
seed_generator.python_random = _default_seeds


@contextlib.contextmanager
def default_seeds_from(source: random.Random) -> Iterator[None]:
    """Draw the default seeds of layers and initializers that this thread makes inside from `source`."""
    before = _default_seeds.source
    _default_seeds.source = source
    try:
        yield
    finally:
        _default_seeds.source = before


class _ImportedTensorFlow:
    """TensorFlow as the serialization of Keras sees it: available once something else has imported it.

    Keras imports it on any backend to look for its types among the objects to be serialized (keras#18455).
    There can be none as long as it is not imported.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def available(self) -> bool:
        return "tensorflow" in sys.modules and self.module.available

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


serialization_lib.tf = _ImportedTensorFlow(serialization_lib.tf)


# Graphs. Keras 3 has no public way to walk from a tensor to the operation that made it, nor through the calls
# that a functional model consists of (keras#19278, keras#20267, keras#21205).


def graph_of(model: Any) -> Any:
    """Return the functional model that a built sequential one holds; any other layer as it is.

    `keras.Model(model.inputs, model.outputs)` would make another model, of another name.
    """
    return getattr(model, "_functional", None) or model


def is_functional(model: keras.Layer) -> bool:
    """Tell whether a model has a graph that can be read: functional, or sequential and built."""
    return hasattr(graph_of(model), "_nodes_by_depth")


def nodes_in_order(graph: keras.Model) -> list[Any]:
    """List the calls of operations that make up a functional model, from its input to its output.

    The order follows from the graph alone, so that it is the same in a model loaded from a file.
    """
    return [node for _, at_depth in sorted(graph._nodes_by_depth.items(), reverse=True) for node in at_depth]


def operation_of(tensor: keras.KerasTensor) -> Any:
    """Return the operation that made a symbolic tensor."""
    return tensor._keras_history.operation


def parents_of(tensor: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Return the symbolic tensors from which a symbolic tensor was computed; none for an input."""
    operation, node, _ = tensor._keras_history
    return operation._inbound_nodes[node].input_tensors


# Layers and models.

# Where objects of Keras keep their names: layers in the first, policies of numeric types in the second.
NAME_ATTRIBUTES = ("name", "_name")


def layers_of(layer: keras.Layer, recursive: bool = True) -> list[keras.Layer]:
    """List the layers inside a layer; itself too, first, where `recursive`. `layers` is of models only."""
    return layer._flatten_layers(include_self=recursive, recursive=recursive)


def remat_mode_of(layer: keras.Layer) -> Any:
    """Return the `keras.RematScope` that a layer was made in, or `None`."""
    return getattr(layer, "_remat_mode", None)


class ModelBuiltInInit(keras.Model):
    """Base class of models that are built in `__init__`, for TensorFlow with several workers.

    There Keras builds a model from a batch that it reads and averages over the replicas. With several workers
    that fails, even where only the optimizer is yet to be built.
    """

    def reads_batch_to_build(self) -> bool:
        """Return True if Keras may read a batch to build the model."""
        raise NotImplementedError

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if self.reads_batch_to_build():
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
        elif self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)


def hold_all_parameters(model: keras.Model) -> None:
    """On PyTorch, register the trainable variables that share their path with another variable.

    Keras 3.12 to 3.15 register one parameter per path. `zero_grad` misses the others, whose gradients add up
    over all steps: for example those of a student, whose teacher has weights of the same paths.
    """
    if keras.backend.backend() != "torch":
        return
    held = set(map(id, model.parameters()))
    for number, variable in enumerate(model.trainable_variables):
        if id(variable.value) not in held:
            model.torch_params[f"{variable.path}#{number}"] = variable.value


# Metrics. Callbacks with `mode="auto"` read this attribute; without it they guess by the name (keras#18798).


def set_direction(metric: keras.metrics.Metric, direction: str | None) -> None:
    """Tell callbacks whether a metric improves `"up"` or `"down"`; `None` leaves them to guess."""
    if direction is not None:
        metric._direction = direction


def direction_of(metric: keras.metrics.Metric) -> str | None:
    """Return whether a metric improves `"up"` or `"down"`, or `None` where it does not tell."""
    return getattr(metric, "_direction", None)


# Callbacks.

# What Keras' own callbacks remember from epoch to epoch; each resets it in `on_train_begin`.
CALLBACK_STATE = (
    (keras.callbacks.EarlyStopping, ("wait", "stopped_epoch", "best", "best_weights", "best_epoch")),
    (keras.callbacks.ModelCheckpoint, ("best", "_batches_seen_since_last_saving", "_last_batch_seen")),
    (keras.callbacks.ReduceLROnPlateau, ("best", "wait", "cooldown_counter")),
    (keras.callbacks.SwapEMAWeights, ("_ema_weights_in_model",)),
)


def own_attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return the attributes of a callback except those that `fit` sets."""
    return {name: value for name, value in vars(callback).items() if name not in ("_model", "params")}


# Optimizers. Their state is transferred to a new optimizer when other variables become trainable; `compile`,
# which Keras wants then, would discard it (keras#22104).


def built_for(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the variables that an optimizer was built for."""
    return optimizer._trainable_variables


def set_built_for(optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable]) -> None:
    """Set the variables that an optimizer updates, without building anything for them."""
    # Past the tracking of attributes, which would count these as variables of the optimizer.
    vars(optimizer)["_trainable_variables"] = list(variables)


def step_counter(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Return the variable that counts steps; `iterations` divides it where gradients are accumulated."""
    return optimizer._iterations


def learning_rate_setting(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the variable, schedule or function of the learning rate, not its present value."""
    return optimizer._learning_rate


def own_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return an optimizer's variables without those of the optimizers that it holds."""
    return optimizer._variables


def state_of(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Return the attributes that may hold state: counts and scales, and lists of slots along `built_for`."""
    listed = ("_variables", "_trainable_variables")
    return {name: value for name, value in vars(optimizer).items() if name not in listed}


def averages_of(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable | None]:
    """Return the exponential moving averages (EMA) of the weights, along `built_for`."""
    return optimizer._model_variables_moving_average


class FindsAverages:
    """Mixin of optimizers made of parts: lets `keras.callbacks.SwapEMAWeights` find their moving averages."""

    parts: Callable[[], Sequence[keras.optimizers.Optimizer]]

    @property
    def _model_variables_moving_average(self) -> list[keras.Variable]:
        averages = {
            id(variable): average
            for part in self.parts()
            for variable, average in zip(built_for(part), averages_of(part), strict=True)
        }
        return [averages[id(variable)] for variable in built_for(self)]


def copy_decay_exclusions(source: keras.optimizers.Optimizer, target: keras.optimizers.Optimizer) -> None:
    """Copy what `exclude_from_weight_decay` has set, which is not part of the configuration."""
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))


def decays(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> bool:
    """Tell whether an optimizer applies weight decay to a variable."""
    return optimizer._use_weight_decay(variable)


class _MultiOptimizer(FindsAverages, keras.optimizers.Optimizer):
    """`keras.optimizers.MultiOptimizer` for Keras 3.12 to 3.14, which have none (keras#21741)."""

    def __init__(
        self,
        optimizer_map: Callable[[keras.Variable], keras.optimizers.Optimizer],
        loss_scale_factor: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(learning_rate=0.0, loss_scale_factor=loss_scale_factor, name=name)
        self._optimizer_map = optimizer_map
        self._inner_optimizers: list[keras.optimizers.Optimizer] = []
        self.parts = lambda: self._inner_optimizers

    @property
    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        return self._inner_optimizers

    @property
    def variables(self) -> list[keras.Variable]:
        return [*self._variables, *(variable for one in self.optimizers for variable in one.variables)]

    @property
    def learning_rate(self) -> Any:
        raise AttributeError("A MultiOptimizer has no learning rate: see those of its `optimizers`.")

    def _groups(self, variables: Variables) -> Iterator[tuple[keras.optimizers.Optimizer, list[int]]]:
        """Yield each optimizer that has some of `variables`, with their indices."""
        chosen = [self._optimizer_map(variable) for variable in variables]
        new = [one for one in dict.fromkeys(chosen) if one not in self._inner_optimizers]
        self._inner_optimizers.extend(new)
        for optimizer in self._inner_optimizers:
            indices = [index for index, one in enumerate(chosen) if one is optimizer]
            if indices:
                yield optimizer, indices

    def build(self, variables: Variables) -> None:
        if self.built:
            return
        for optimizer, indices in self._groups(variables):
            optimizer.loss_scale_factor = self.loss_scale_factor
            optimizer.build([variables[index] for index in indices])
        super().build(variables)

    def apply(
        self, grads: Sequence[Any], trainable_variables: Iterable[keras.Variable] | None = None
    ) -> None:
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        self.build(variables)
        for optimizer, indices in self._groups(variables):
            optimizer.apply([grads[index] for index in indices], [variables[index] for index in indices])
        self._iterations.assign_add(1)

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        for optimizer, indices in self._groups(var_list):
            optimizer.finalize_variable_values([var_list[index] for index in indices])


MultiOptimizer: Any = getattr(keras.optimizers, "MultiOptimizer", _MultiOptimizer)


class HoldingMultiOptimizer(MultiOptimizer):
    """A `MultiOptimizer` that holds optimizers in a given order, those of frozen variables included."""

    def __init__(
        self,
        optimizer_map: Callable[[keras.Variable], keras.optimizers.Optimizer],
        optimizers: Iterable[keras.optimizers.Optimizer],
        loss_scale_factor: float | None,
        name: str | None,
    ) -> None:
        super().__init__(optimizer_map, loss_scale_factor, name)
        self._inner_optimizers.extend(optimizers)
        self.loss_scale_factor = loss_scale_factor


def optimizer_map_of(
    multi: keras.optimizers.Optimizer,
) -> Callable[[keras.Variable], keras.optimizers.Optimizer]:
    """Return the function from a variable to its optimizer that a `MultiOptimizer` was made with."""
    return multi._optimizer_map


def optimizers_by_id(multi: keras.optimizers.Optimizer) -> dict[int, keras.optimizers.Optimizer]:
    """Return the optimizer of each variable that a `MultiOptimizer` was built for, by the variable's `id`.

    Its function may return a new optimizer at every call.
    """
    index = multi._var_to_optimizer_idx
    return {id(v): multi.optimizers[index[multi._var_key(v)]] for v in multi._trainable_variables}
