"""Optimizers that keep their state while variables are frozen and unfrozen during training."""

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

from keras_ssl._keras_private import (
    FindsAverages,
    HoldingMultiOptimizer,
    MultiOptimizer,
    averages_of,
    built_for,
    copy_decay_exclusions,
    decays,
    learning_rate_setting,
    optimizer_map_of,
    optimizers_by_id,
    own_variables,
    set_built_for,
    state_of,
    step_counter,
)
from keras_ssl._types import Tensor

Optimizer: TypeAlias = keras.optimizers.Optimizer
Variables: TypeAlias = Sequence[keras.Variable]
# Indices of the variables of each part of an optimizer, nested for a `MultiOptimizer`; see `parts_of`.
Parts: TypeAlias = list[Any] | None


class Rate(NamedTuple):
    """Learning rate of some variables, relative to a schedule or, without one, to the optimizer's rate."""

    factor: float = 1.0
    schedule: keras.optimizers.schedules.LearningRateSchedule | None = None


class PartitionedOptimizer(FindsAverages, Optimizer):
    """Optimizer partitioned by variables: separate slots and step counts per part, one learning rate.

    Callbacks see a single optimizer, with the learning rate and the step count of the original. A part is
    trained as a whole or not at all; a part that is not trained keeps its slots and step count.

    Args:
        optimizer: a plain optimizer, whose settings and state are transferred to the parts.
        rates: learning rates by `id` of the variable; others are trained at the optimizer's.
    """

    def __init__(self, optimizer: Optimizer, rates: Mapping[int, Rate] | None = None) -> None:
        super().__init__(
            learning_rate=0.0, loss_scale_factor=optimizer.loss_scale_factor, name=optimizer.name
        )
        # For callbacks that read it; the parts keep the averages.
        self.use_ema = optimizer.use_ema
        self.compiled_for: Callable[[], Variables] = list
        # Functions, since Keras saves optimizers in attributes; the parts are saved as one optimizer.
        held = [optimizer] if optimizer.built else []
        # Read now, since TensorFlow may create parts while tracing the first step.
        config = optimizer.get_config()
        self.config = lambda: config
        self.original = lambda: optimizer
        self.parts = lambda: held
        self.rate_of = lambda variable: (rates or {}).get(id(variable), Rate())

    def train(self, variables: Variables, apart: Variables = ()) -> None:
        """Update `variables` from now on, with separate parts for those in `apart`."""
        trained, separate = set(map(id, variables)), set(map(id, apart))
        kinds = [(own, now) for own in (False, True) for now in (True, False)]

        def by_kind(some: Variables) -> list[list[keras.Variable]]:
            groups: dict[Any, list[keras.Variable]] = {}
            for kind in kinds:
                for v in some:
                    if (id(v) in separate, id(v) in trained) == kind:
                        groups.setdefault((kind, self.rate_of(v)), []).append(v)
            return list(groups.values())

        known = [built_for(part) for part in self.parts()]
        ids = {id(variable) for own in known for variable in own}
        new = [v for v in without_duplicates([*variables, *apart]) if id(v) not in ids]
        self.partition([group for own in (*known, new) for group in by_kind(own)])
        before = set(map(id, built_for(self)))
        for part in self.parts():
            seed_averages(part, [v for v in apart if id(v) not in before])
        set_built_for(self, variables)
        self.built = bool(variables)

    def partition(self, groups: Sequence[Variables]) -> None:
        """Create one part per group of variables, with the state of the previous parts."""
        sources, original = self.parts(), self.original()
        parts = []
        for group in groups:
            ids = set(map(id, group))
            source = next((s for s in sources if not ids.isdisjoint(map(id, built_for(s)))), None)
            if source is not None and source is not original and len(built_for(source)) == len(ids):
                parts.append(source)
                continue
            part = _part(original, self.config(), self._rate_function(self.rate_of(group[0])), group)
            if source is None:
                seed_averages(part, group)
            else:
                copy_state(source, part)
            parts.append(part)
        self.parts = lambda: parts

    def _rate_function(self, rate: Rate) -> Callable[[], Tensor]:
        """Return a reference, not a copy: parts share values set by callbacks and the place in a schedule."""
        original, (factor, schedule) = self.original(), rate
        if rate == Rate():
            return lambda: original.learning_rate
        if schedule is None:
            return lambda: original.learning_rate * factor
        return lambda: schedule(step_counter(original)) * factor

    def build(self, variables: Variables) -> None:
        """Update `variables` from now on; may be called again with other variables."""
        self.train(variables)

    @property
    def variables(self) -> list[keras.Variable]:
        """Variables of all parts, including those not trained now."""
        clock = (step_counter(self.original()), learning_rate_setting(self.original()))
        own = [one for one in clock if isinstance(one, keras.Variable)]
        return own + [variable for part in self.parts() for variable in part.variables]

    @property
    def iterations(self) -> keras.Variable:
        """Steps since the optimizer was created."""
        return self.original().iterations

    @property
    def learning_rate(self) -> Tensor:
        """Learning rate of all parts."""
        return self.original().learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Tensor) -> None:
        self.original().learning_rate = value

    def apply(
        self, grads: Sequence[Any], trainable_variables: Iterable[keras.Variable] | None = None
    ) -> None:
        """Update each part with its gradients; parts without gradients make no step."""
        variables = built_for(self) if trainable_variables is None else list(trainable_variables)
        if not self.built:
            self.build(variables)
        gradient_of = {id(variable): grad for grad, variable in zip(grads, variables, strict=True)}
        for part in self.parts():
            own = [variable for variable in built_for(part) if id(variable) in gradient_of]
            if own:
                part.apply([gradient_of[id(variable)] for variable in own], own)
        # Last, since it advances the schedule.
        step_counter(self.original()).assign_add(1)

    def finalize_variable_values(self, var_list: Iterable[keras.Variable]) -> None:
        """Overwrite the weights of trained parts with their moving averages, if kept."""
        ids = set(map(id, var_list))
        for part in self.parts():
            if not ids.isdisjoint(map(id, built_for(part))):
                part.finalize_variable_values(built_for(part))
                for variable in built_for(part) if part.use_ema else ():
                    # On JAX weight and average now share a buffer, which the next `fit` does not accept.
                    _assign_copy(variable, variable)

    def as_one(self) -> Optimizer:
        """Return one plain optimizer with the state of all parts, for the variables of `compiled_for`.

        Its step count is the smallest of the parts, from which Adam continues without overshooting.
        """
        ids = {id(variable) for part in self.parts() for variable in built_for(part)}
        return _joined(self.original(), self.parts(), [v for v in self.compiled_for() if id(v) in ids])

    def save_own_variables(self, store: MutableMapping[str, np.ndarray]) -> None:
        """Save the state of `as_one`, since a loaded model is compiled with one optimizer."""
        _store(self, store)

    def load_own_variables(self, store: MutableMapping[str, np.ndarray]) -> None:
        """Load the state saved by `save_own_variables`."""
        _restore(self, store)

    def load_from(self, one: Optimizer) -> None:
        """Load the state of an optimizer like that of `as_one`."""
        for part in self.parts():
            copy_state(one, part)
        for read in (step_counter, learning_rate_setting):
            if isinstance(read(one), keras.Variable):
                _assign_copy(read(self.original()), read(one))

    def get_config(self) -> dict[str, Any]:
        """Return the settings, which all parts share."""
        return self.original().get_config()


class OptimizerByVariable:
    """Mapping from variables to the optimizers of a `MultiOptimizer`, by identity, since paths may repeat.

    Args:
        optimizers: optimizers by `id` of the variable.
        otherwise: function from other variables to their optimizer.
    """

    def __init__(
        self, optimizers: dict[int, Optimizer], otherwise: Callable[[keras.Variable], Optimizer]
    ) -> None:
        self.optimizers = optimizers
        self.otherwise = otherwise

    def __call__(self, variable: keras.Variable) -> Optimizer:
        # Called once per variable: a user's function may return a new optimizer at every call.
        if id(variable) not in self.optimizers:
            self.optimizers[id(variable)] = self.otherwise(variable)
        return self.optimizers[id(variable)]


class MultipleOptimizers(HoldingMultiOptimizer):
    """A `MultiOptimizer` by identity of variables, saved as the optimizer that its model was compiled with.

    Args:
        mapping: optimizer of each variable.
        optimizers: all optimizers in order, including those of frozen variables.
        compiled_for: see `transfer_optimizer`.
        compiled_with_first: whether the model was compiled with only the first of `optimizers`.
        loss_scale_factor: as in `MultiOptimizer`.
        name: name of the optimizer.
    """

    def __init__(
        self,
        mapping: OptimizerByVariable,
        optimizers: Sequence[Optimizer],
        compiled_for: Callable[[], Variables],
        compiled_with_first: bool,
        loss_scale_factor: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(mapping, optimizers, loss_scale_factor, name)
        self.compiled_for = compiled_for
        self.compiled_with_first = compiled_with_first

    def as_first(self) -> Optimizer:
        """Return one plain optimizer like the first; variables of the others start with new state."""
        first = self.optimizers[0]
        if isinstance(first, PartitionedOptimizer):
            return _joined(first.original(), first.parts(), self.compiled_for())
        return _joined(first, [first] if first.built else [], self.compiled_for())

    def save_own_variables(self, store: MutableMapping[str, np.ndarray]) -> None:
        """Save the state in the form that the optimizer of a loaded model has."""
        _store(self, store)

    def load_own_variables(self, store: MutableMapping[str, np.ndarray]) -> None:
        """Load the state saved by `save_own_variables`."""
        _restore(self, store)


class ScaledOptimizer(keras.optimizers.LossScaleOptimizer):
    """A `LossScaleOptimizer`, saved as the optimizer that its model was compiled with.

    Takes the arguments of `LossScaleOptimizer`.
    """

    def save_own_variables(self, store: MutableMapping[str, np.ndarray]) -> None:
        """Save the state in the form that the optimizer of a loaded model has."""
        _store(self, store)

    def load_own_variables(self, store: MutableMapping[str, np.ndarray]) -> None:
        """Load the state saved by `save_own_variables`."""
        _restore(self, store)


def _store(optimizer: Optimizer, store: MutableMapping[str, np.ndarray]) -> None:
    for number, variable in enumerate(_saved(optimizer)[0]):
        store[str(number)] = keras.ops.convert_to_numpy(variable)


def _restore(optimizer: Optimizer, store: MutableMapping[str, np.ndarray]) -> None:
    variables, partitioned = _saved(optimizer)
    if len(store.keys()) != len(variables):
        warnings.warn(
            f"The state of the optimizer {optimizer.name!r} is not loaded: it has {len(variables)} "
            f"variables, the saved one {len(store.keys())}.",
            stacklevel=2,
        )
        return
    for number, variable in enumerate(variables):
        variable.assign(store[str(number)])
    for one, copy in partitioned:
        one.load_from(copy)


def _saved(
    optimizer: Optimizer,
) -> tuple[list[keras.Variable], list[tuple["PartitionedOptimizer", Optimizer]]]:
    """Return the variables to save, and pairs of partitioned optimizers and their copies among these."""
    if isinstance(optimizer, PartitionedOptimizer):
        copy = optimizer.as_one()
        return copy.variables, [(optimizer, copy)]
    if isinstance(optimizer, MultipleOptimizers) and optimizer.compiled_with_first:
        return optimizer.as_first().variables, []
    if isinstance(optimizer, (MultipleOptimizers, ScaledOptimizer)):
        several = isinstance(optimizer, MultipleOptimizers)
        inner = map(_saved, optimizer.optimizers if several else [optimizer.inner_optimizer])
        variables, partitioned = zip(*inner, strict=True)
        return [*own_variables(optimizer), *itertools.chain(*variables)], [*itertools.chain(*partitioned)]
    return optimizer.variables, []


def _joined(original: Optimizer, parts: Sequence[Optimizer], variables: Variables) -> Optimizer:
    """Return one plain optimizer for `variables`, with the state of `parts`."""
    one = _part(original, original.get_config(), learning_rate_setting(original), variables)
    ids = set(map(id, variables))
    parts = [part for part in parts if not ids.isdisjoint(map(id, built_for(part)))]
    for part in parts:
        copy_state(part, one)
    known = {id(variable) for part in parts for variable in built_for(part)}
    steps = [int(part.iterations) for part in parts] if ids <= known else [0]
    step_counter(one).assign(min(steps, default=0))
    return one


def without_duplicates(variables: Variables) -> list[keras.Variable]:
    return list({id(variable): variable for variable in variables}.values())


def _part(
    optimizer: Optimizer, config: dict[str, Any], learning_rate: Tensor, variables: Variables
) -> keras.optimizers.Optimizer:
    """Return a new optimizer with the same settings, built for `variables` if there are any."""
    own = {} if isinstance(learning_rate, keras.Variable) else {"learning_rate": learning_rate}
    part = type(optimizer).from_config({**config, **own})
    copy_decay_exclusions(optimizer, part)
    if variables:
        part.build(list(variables))
        if not any(decays(part, variable) for variable in variables):
            # Keras' AdamW for PyTorch fails for an empty list of decayed variables.
            part.weight_decay = None
    return part


def copy_state(source: keras.optimizers.Optimizer, target: keras.optimizers.Optimizer) -> None:
    """Copy optimizer state: counts and scales by name, slots by variable.

    Optimizers keep slots in lists along the variables, Muon of Keras 3.12 in dictionaries by path.
    """
    before, now = built_for(source), built_for(target)
    index = {id(variable): i for i, variable in enumerate(before)}
    shared = [(index[id(variable)], i) for i, variable in enumerate(now) if id(variable) in index]
    places = state_of(target)
    for name, old in state_of(source).items():
        new = places.get(name)
        pairs = [(old, new)]
        if isinstance(old, list) and isinstance(new, list):
            slots = len(old) == len(before) and len(new) == len(now)
            pairs = [(old[i], new[j]) for i, j in shared] if slots else []
        elif isinstance(old, dict) and isinstance(new, dict):
            pairs = [(old[path], new[path]) for path in old.keys() & new.keys()]
        for value, place in pairs:
            if isinstance(value, keras.Variable) and isinstance(place, keras.Variable):
                _assign_copy(place, value)


def seed_averages(optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable]) -> None:
    """Initialize moving averages with the weights: from zero, `SwapEMAWeights` would swap in zeros."""
    ids = set(map(id, variables))
    if optimizer.use_ema and optimizer.built:
        averages = averages_of(optimizer)
        for variable, average in zip(built_for(optimizer), averages, strict=True):
            if id(variable) in ids and average is not None:
                _assign_copy(average, variable)


def decay_kernels_only(optimizer: Optimizer) -> None:
    """Apply the weight decay of a plain optimizer, not yet built, to kernels only.

    Biases, scales of normalization and embeddings of positions do not decay.
    """
    optimizer.exclude_from_weight_decay(var_names=["^(?!.*kernel)"])


def _assign_copy(target: keras.Variable, source: keras.Variable) -> None:
    # Through NumPy, since JAX reuses buffers: two variables must not share one.
    target.assign(keras.ops.convert_to_numpy(source))


def follow_trainable(model: keras.Model) -> None:
    """Make the next `fit` of a compiled model train the variables that are trainable now.

    Keras compiles the training step for the variables that were trainable in the first `fit`. With others, it
    silently continues with the first ones on TensorFlow, and fails on JAX and PyTorch.
    """
    optimizer, variables = model.optimizer, model.trainable_variables if model.built else []
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    # Parts that the first step built, while TensorFlow traces it, could not be given averages.
    if optimizer is None or not variables or not (optimizer.built or isinstance(inner, PartitionedOptimizer)):
        return
    if list(map(id, built_for(optimizer))) != list(map(id, variables)):
        rebuild_training(model)


def rebuild_training(model: keras.Model, apart: Variables = (), parts: Parts = None) -> None:
    """Replace optimizer and training step of a model by ones for the trainable variables, also during `fit`.

    Args:
        model: compiled model.
        apart: variables, trained now or later, with separate step counts, such as an encoder's.
        parts: how to partition the optimizer, see `parts_of`.
    """
    ids = set(map(id, apart))

    def compiled_for() -> list[keras.Variable]:
        return [variable for variable in model.variables if variable.trainable or id(variable) in ids]

    # TensorFlow's strategies require that the optimizer's variables are created in their scope.
    strategy = getattr(model, "distribute_strategy", None)
    with strategy.scope() if strategy else contextlib.nullcontext():
        variables = model.trainable_variables if model.built else []
        if parts is not None:
            apart = [model.variables[index] for index in _variables_of_later_parts(parts)]
        model.optimizer = transfer_optimizer(model.optimizer, variables, apart, compiled_for)
        if parts is not None:
            _partition(model.optimizer, parts, model.variables)
    model.train_function = None
    model.make_train_function()
    if keras.distribution.distribution() is not None:
        # On JAX these are also compiled for the previously trainable weights.
        model.test_function = model.predict_function = None


def transfer_optimizer(
    optimizer: Optimizer,
    variables: Variables,
    apart: Variables = (),
    compiled_for: Callable[[], Variables] | None = None,
) -> Optimizer:
    """Return an optimizer for `variables` with the state of `optimizer`.

    Args:
        optimizer: the previous optimizer, of any class, or a result of this function.
        variables: variables to train now; empty for a model that its first batch will build.
        apart: variables, trained now or later, with separate step counts, such as an encoder's.
        compiled_for: returns the variables, in the model's order, for which the optimizer of a saved model is
            built when it is loaded. Default: `variables` and `apart`.

    Raises:
        ValueError: `optimizer` is a `MultiOptimizer` of a model that is not built yet.
    """
    if compiled_for is None:
        every = without_duplicates([*variables, *apart])
        compiled_for = lambda: every  # noqa: E731
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        successor = ScaledOptimizer(
            transfer_optimizer(optimizer.inner_optimizer, variables, apart, compiled_for),
            initial_scale=optimizer.initial_scale,
            dynamic_growth_steps=optimizer.dynamic_growth_steps,
            name=optimizer.name,
        )
    elif isinstance(optimizer, MultiOptimizer):
        successor = _transfer_each(optimizer, variables, apart, compiled_for)
    else:
        if not isinstance(optimizer, PartitionedOptimizer):
            optimizer = PartitionedOptimizer(optimizer)
        optimizer.compiled_for = compiled_for
        optimizer.train(variables, apart)
        return optimizer
    # These two are built once, hence new ones at every transfer.
    if variables:
        successor.build(list(variables))
        copy_state(optimizer, successor)
    return successor


def with_encoder_optimizer(
    optimizer: Optimizer, encoder_optimizer: Optimizer, encoder: keras.Layer, model: keras.Model
) -> Optimizer:
    """Return an optimizer with a separate optimizer for the variables of the encoder.

    Args:
        optimizer: optimizer of all other variables, with which `model` was compiled.
        encoder_optimizer: optimizer of the encoder's variables.
        encoder: built layer or model.
        model: the model to train.
    """
    mapping = OptimizerByVariable(
        dict.fromkeys(map(id, encoder.variables), encoder_optimizer), lambda _: optimizer
    )
    return MultipleOptimizers(
        mapping, [optimizer, encoder_optimizer], lambda: model.trainable_variables, compiled_with_first=True
    )


def relative_rate(optimizer: Optimizer, rate: Any, factor: float) -> Rate:
    """Return a learning rate relative to that of an optimizer.

    Args:
        optimizer: a plain optimizer.
        rate: a number, a schedule, or `None` for `factor` times the rate of `optimizer`.
        factor: see `rate`.
    """
    if rate is None:
        return Rate(factor)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return Rate(1.0, rate)
    base = learning_rate_setting(optimizer)
    if isinstance(base, keras.Variable) and float(base):
        return Rate(rate / float(base))
    # Constant, whatever the schedule of the optimizer.
    return Rate(1.0, keras.optimizers.schedules.ExponentialDecay(rate, decay_steps=1, decay_rate=1.0))


def with_rates(optimizer: Optimizer, rates: Mapping[int, Rate]) -> Optimizer:
    """Return an optimizer with a separate learning rate for some variables.

    Exact for every optimizer, since each rate has a part of its own. Callbacks that set the learning rate
    set that of all variables whose `Rate` has no schedule.

    Args:
        optimizer: a plain optimizer, or a `LossScaleOptimizer` of one, not yet built.
        rates: see `PartitionedOptimizer`.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return ScaledOptimizer(
            with_rates(optimizer.inner_optimizer, rates),
            initial_scale=optimizer.initial_scale,
            dynamic_growth_steps=optimizer.dynamic_growth_steps,
            name=optimizer.name,
        )
    return PartitionedOptimizer(optimizer, rates)


def parts_of(optimizer: Optimizer, variables: Variables) -> Parts:
    """Describe the parts of an optimizer as indices of `variables`; `None` for one without parts.

    >>> parts_of(keras.optimizers.SGD(), [])
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return parts_of(optimizer.inner_optimizer, variables)
    if isinstance(optimizer, MultiOptimizer):
        inner = [parts_of(one, variables) for one in optimizer.optimizers]
        return inner if any(inner) else None
    if not isinstance(optimizer, PartitionedOptimizer):
        return None
    number = {id(variable): index for index, variable in enumerate(variables)}
    return [[number[id(variable)] for variable in built_for(part)] for part in optimizer.parts()]


def _variables_of_later_parts(parts: list[Any]) -> list[int]:
    """Return the indices of variables that are not in the first part of their optimizer."""
    several = any(part is None or not all(isinstance(one, int) for one in part) for part in parts)
    if several:
        return [index for inner in parts if inner is not None for index in _variables_of_later_parts(inner)]
    return [index for part in parts[1:] for index in part]


def _partition(optimizer: Optimizer, parts: Parts, variables: Variables) -> None:
    """Partition a result of `transfer_optimizer` as `parts_of` describes."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        _partition(optimizer.inner_optimizer, parts, variables)
    elif isinstance(optimizer, MultiOptimizer):
        assert parts is not None
        for inner, own in zip(optimizer.optimizers, parts, strict=True):
            _partition(inner, own, variables)
    elif isinstance(optimizer, PartitionedOptimizer) and parts is not None:
        optimizer.partition([[variables[index] for index in part] for part in parts])


def _transfer_each(
    optimizer: Optimizer,
    variables: Variables,
    apart: Variables,
    compiled_for: Callable[[], Variables],
) -> MultipleOptimizers:
    if not variables:
        raise ValueError(
            "`model` must be built before `fit` with a MultiOptimizer and a warm-up. Received a model "
            "without weights. Call it on a batch of inputs first."
        )
    trained, separate = set(map(id, variables)), set(map(id, apart))
    # In this order at every transfer, whatever is trained.
    every = [*(v for v in variables if id(v) not in separate), *apart]
    mapping = _mapping_of(optimizer, every)
    current = {id(v): mapping(v) for v in every}
    inner = list(dict.fromkeys([*optimizer.optimizers, *current.values()]))
    successors = {}
    for one in inner:
        own = [v for v in every if current[id(v)] is one]
        known = own if not one.built else without_duplicates([*built_for(one), *own])
        kinds = {(id(v) in trained, id(v) in separate) for v in known}
        if isinstance(one, PartitionedOptimizer) or len(kinds) > 1 or (one.built and own and known != own):
            partitioned = one if isinstance(one, PartitionedOptimizer) else PartitionedOptimizer(one)
            partitioned.compiled_for = compiled_for
            partitioned.train([v for v in own if id(v) in trained], [v for v in own if id(v) in separate])
            successors[one] = partitioned
        else:
            if own:
                one.build(own)
                seed_averages(one, apart)
            successors[one] = one

    def otherwise(variable: keras.Variable) -> Optimizer:
        found = mapping(variable)
        return successors.get(found, found)

    return MultipleOptimizers(
        OptimizerByVariable({key: successors[one] for key, one in current.items()}, otherwise),
        list(successors.values()),
        compiled_for,
        isinstance(optimizer, MultipleOptimizers) and optimizer.compiled_with_first,
        optimizer.loss_scale_factor,
        optimizer.name,
    )


def _mapping_of(optimizer: Optimizer, variables: Variables) -> OptimizerByVariable:
    mapping = optimizer_map_of(optimizer)
    if isinstance(mapping, OptimizerByVariable):
        return mapping
    if not optimizer.built:
        optimizer.build(list(variables))
    return OptimizerByVariable(optimizers_by_id(optimizer), mapping)
