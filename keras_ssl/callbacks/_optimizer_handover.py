"""Lets variables leave and rejoin a training, also one under way, without loss of optimizer state."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras

from keras_ssl.callbacks._parted_optimizers import (
    ByVariable,
    Optimizer,
    PartedOptimizer,
    ScaledOptimizer,
    SeveralOptimizers,
    Variables,
    copy_state,
    seed_averages,
    without_doubles,
)


def follow_trainable(model: keras.Model) -> None:
    """Make the next `fit` of a compiled model train the variables that are trainable now.

    Keras compiles a training step for those that were trainable in the first `fit`. On TensorFlow it goes on
    with these, on JAX and PyTorch it stops at the first other one.
    """
    optimizer, variables = model.optimizer, model.trainable_variables if model.built else []
    if optimizer is None or not optimizer.built or not variables:
        return
    if list(map(id, optimizer._trainable_variables)) != list(map(id, variables)):
        renew_training(model)


def renew_training(model: keras.Model, apart: Variables = (), parts: Any = None) -> None:
    """Give a model an optimizer and a training step for what is trainable now, also in the midst of `fit`.

    Args:
        model: compiled model.
        apart: variables, trained now or later, that get step counts of their own, such as an encoder's.
        parts: how to divide the optimizer, see `parts_of`.
    """
    ids = set(map(id, apart))

    def compiled_for() -> list[keras.Variable]:
        return [variable for variable in model.variables if variable.trainable or id(variable) in ids]

    # TensorFlow's strategies want the optimizer's variables made in their scope.
    strategy = getattr(model, "distribute_strategy", None)
    with strategy.scope() if strategy else contextlib.nullcontext():
        variables = model.trainable_variables if model.built else []
        if parts is not None:
            apart = [model.variables[index] for index in _later_parts(parts)]
        model.optimizer = hand_over(model.optimizer, variables, apart, compiled_for)
        if parts is not None:
            _divide(model.optimizer, parts, model.variables)
    model.train_function = None
    model.make_train_function()
    if keras.distribution.distribution() is not None:
        # On JAX these, too, are compiled for the weights that were trained when they were made.
        model.test_function = model.predict_function = None


def hand_over(
    optimizer: Optimizer,
    variables: Variables,
    apart: Variables = (),
    compiled_for: Callable[[], Variables] | None = None,
) -> Optimizer:
    """Return an optimizer that goes on where `optimizer` stands and updates `variables`.

    Args:
        optimizer: the one in use until now: of any kind, or one that was handed over before.
        variables: those to train now. Empty where the model is yet to be built, by its first batch.
        apart: those, trained now or later, that get step counts of their own, such as an encoder's.
        compiled_for: returns the variables, in the model's order, that the optimizer of a saved model is
            built for when it is loaded. By default `variables` and `apart`.

    Raises:
        ValueError: `optimizer` is a `MultiOptimizer` of a model that is yet to be built.
    """
    if compiled_for is None:
        every = without_doubles([*variables, *apart])
        compiled_for = lambda: every  # noqa: E731
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        successor = ScaledOptimizer(
            hand_over(optimizer.inner_optimizer, variables, apart, compiled_for),
            initial_scale=optimizer.initial_scale,
            dynamic_growth_steps=optimizer.dynamic_growth_steps,
            name=optimizer.name,
        )
    elif isinstance(optimizer, keras.optimizers.MultiOptimizer):
        successor = _hand_over_each(optimizer, variables, apart, compiled_for)
    else:
        if not isinstance(optimizer, PartedOptimizer):
            optimizer = PartedOptimizer(optimizer)
        optimizer.compiled_for = compiled_for
        optimizer.train(variables, apart)
        return optimizer
    # These two remember what they were built for, hence a new one at every hand-over.
    if variables:
        successor.build(list(variables))
        copy_state(optimizer, successor)
    return successor


def with_encoder_optimizer(
    optimizer: Optimizer, encoder_optimizer: Optimizer, encoder: keras.Layer, model: keras.Model
) -> keras.optimizers.MultiOptimizer:
    """Return an optimizer that updates the encoder's variables by one optimizer, the others by another.

    Args:
        optimizer: for the variables that are not the encoder's; the one that `model` was compiled with.
        encoder_optimizer: for the encoder's.
        encoder: built layer or model.
        model: the model to train.
    """
    mapping = ByVariable(dict.fromkeys(map(id, encoder.variables), encoder_optimizer), lambda _: optimizer)
    return SeveralOptimizers(
        mapping, [optimizer, encoder_optimizer], lambda: model.trainable_variables, compiled_with_first=True
    )


def parts_of(optimizer: Optimizer, variables: Variables) -> Any:
    """Describe how an optimizer was divided, as plain values: `None`, or for each part which of `variables`.

    >>> parts_of(keras.optimizers.SGD(), [])
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return parts_of(optimizer.inner_optimizer, variables)
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        inner = [parts_of(one, variables) for one in optimizer.optimizers]
        return inner if any(inner) else None
    if not isinstance(optimizer, PartedOptimizer):
        return None
    number = {id(variable): index for index, variable in enumerate(variables)}
    return [[number[id(variable)] for variable in part._trainable_variables] for part in optimizer.parts()]


def _later_parts(parts: Any) -> list[int]:
    """Numbers of the variables that are not in the first part of their optimizer."""
    several = any(part is None or not all(isinstance(one, int) for one in part) for part in parts)
    if several:
        return [index for inner in parts if inner is not None for index in _later_parts(inner)]
    return [index for part in parts[1:] for index in part]


def _divide(optimizer: Optimizer, parts: Any, variables: Variables) -> None:
    """Divide an optimizer that was handed over, as `parts_of` described another one."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        _divide(optimizer.inner_optimizer, parts, variables)
    elif isinstance(optimizer, keras.optimizers.MultiOptimizer):
        for inner, own in zip(optimizer.optimizers, parts, strict=True):
            _divide(inner, own, variables)
    elif isinstance(optimizer, PartedOptimizer) and parts is not None:
        optimizer.divide([[variables[index] for index in part] for part in parts])


def _hand_over_each(
    optimizer: keras.optimizers.MultiOptimizer,
    variables: Variables,
    apart: Variables,
    compiled_for: Callable[[], Variables],
) -> SeveralOptimizers:
    if not variables:
        raise ValueError(
            "`model` must be built before it is fitted with a MultiOptimizer and a warm-up. Received a "
            "model without weights of its own yet. Call it on a batch of inputs first."
        )
    trained, separate = set(map(id, variables)), set(map(id, apart))
    # In this order at every hand-over, whatever is trained.
    every = [*(v for v in variables if id(v) not in separate), *apart]
    mapping = _mapping_of(optimizer, every)
    current = {id(v): mapping(v) for v in every}
    inner = list(dict.fromkeys([*optimizer.optimizers, *current.values()]))
    successors = {}
    for one in inner:
        own = [v for v in every if current[id(v)] is one]
        known = own if not one.built else without_doubles([*one._trainable_variables, *own])
        kinds = {(id(v) in trained, id(v) in separate) for v in known}
        if isinstance(one, PartedOptimizer) or len(kinds) > 1 or (one.built and own and known != own):
            parted = one if isinstance(one, PartedOptimizer) else PartedOptimizer(one)
            parted.compiled_for = compiled_for
            parted.train([v for v in own if id(v) in trained], [v for v in own if id(v) in separate])
            successors[one] = parted
        else:
            if own:
                one.build(own)
                seed_averages(one, apart)
            successors[one] = one

    def otherwise(variable: keras.Variable) -> Optimizer:
        found = mapping(variable)
        return successors.get(found, found)

    return SeveralOptimizers(
        ByVariable({key: successors[one] for key, one in current.items()}, otherwise),
        list(successors.values()),
        compiled_for,
        isinstance(optimizer, SeveralOptimizers) and optimizer.compiled_with_first,
        optimizer.loss_scale_factor,
        optimizer.name,
    )


def _mapping_of(optimizer: keras.optimizers.MultiOptimizer, variables: Variables) -> ByVariable:
    if isinstance(optimizer._optimizer_map, ByVariable):
        return optimizer._optimizer_map
    if not optimizer.built:
        optimizer.build(list(variables))
    known = {
        id(v): optimizer.optimizers[optimizer._var_to_optimizer_idx[optimizer._var_key(v)]]
        for v in optimizer._trainable_variables
    }
    return ByVariable(known, optimizer._optimizer_map)
