"""Lets an encoder leave and rejoin a training that is under way, without loss of optimizer state.

An encoder that joins late brings slots that are still zero. Under the step count of a running Adam,
whose bias correction takes them for settled, its first updates come out up to 6.6 times too large.
So the encoder gets a step count of its own, beside its own slots.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import keras


def hand_over(
    optimizer: keras.optimizers.Optimizer,
    encoder_variables: Sequence[keras.Variable],
    variables: Sequence[keras.Variable],
) -> keras.optimizers.Optimizer:
    """Return an optimizer that goes on where `optimizer` stands and updates `variables`.

    Its own variables are the same ones in the same order whether the encoder is among `variables` or not.

    Args:
        optimizer: the one in use until now: of any kind, or one that was handed over before.
        encoder_variables: those of the encoder that are trained, now or later.
        variables: those to train now. Empty where the model is yet to be built, by its first batch.

    Raises:
        ValueError: `optimizer` was handed over for another encoder, or is a `MultiOptimizer` of a model
            that is yet to be built.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        successor = keras.optimizers.LossScaleOptimizer(
            hand_over(optimizer.inner_optimizer, encoder_variables, variables),
            initial_scale=optimizer.initial_scale,
            dynamic_growth_steps=optimizer.dynamic_growth_steps,
            name=optimizer.name,
        )
    elif isinstance(optimizer, keras.optimizers.MultiOptimizer):
        successor = _hand_over_each(optimizer, encoder_variables, variables)
    else:
        return _hand_over_plain(optimizer, encoder_variables, variables)
    # These two remember what they were built for, hence a new one at every hand-over.
    if variables:
        successor.build(list(variables))
        _copy_state(optimizer, successor)
    return successor


def is_handed_over(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether `optimizer` came out of `hand_over`."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return is_handed_over(optimizer.inner_optimizer)
    return isinstance(optimizer, PartedOptimizer) or isinstance(
        getattr(optimizer, "_optimizer_map", None), _ByVariable
    )


def with_encoder_optimizer(
    optimizer: keras.optimizers.Optimizer,
    encoder_optimizer: keras.optimizers.Optimizer,
    encoder_variables: Sequence[keras.Variable],
    variables: Sequence[keras.Variable],
) -> keras.optimizers.MultiOptimizer:
    """Return an optimizer that updates the encoder's variables by one optimizer, the others by another.

    Args:
        optimizer: for those of `variables` that are not the encoder's.
        encoder_optimizer: for the encoder's.
        encoder_variables: trainable variables of the encoder.
        variables: all trainable variables.
    """
    ids = set(map(id, encoder_variables))
    # In the order of a hand-over, so that one changes nothing.
    every = [*(v for v in variables if id(v) not in ids), *encoder_variables]
    return keras.optimizers.MultiOptimizer(
        _ByVariable({id(v): encoder_optimizer if id(v) in ids else optimizer for v in every})
    )


class PartedOptimizer(keras.optimizers.Optimizer):
    """Two optimizers of one kind, for encoder and head: slots and step count apart, one learning rate.

    Callbacks see one optimizer, with the learning rate and the step count of the head.

    Args:
        optimizer: a plain optimizer, whose settings and state both parts take over.
        encoder_variables: variables of the one part.
        head_variables: variables of the other. Empty where they are yet to be made.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        encoder_variables: Sequence[keras.Variable],
        head_variables: Sequence[keras.Variable],
    ) -> None:
        super().__init__(
            learning_rate=0.0, loss_scale_factor=optimizer.loss_scale_factor, name=optimizer.name
        )
        # For callbacks that ask; the averages are kept by the parts.
        self.use_ema = optimizer.use_ema
        self.encoder_ids = frozenset(map(id, encoder_variables))
        self.head = _part(optimizer, optimizer._learning_rate, head_variables)
        _copy_state(optimizer, self.head)
        # The head's, not a copy: a value set by a callback and the place in a schedule are one for both.
        self.encoder = _part(optimizer, lambda: self.head.learning_rate, encoder_variables)
        if not self.encoder_ids.isdisjoint(map(id, optimizer._trainable_variables)):
            _copy_state(optimizer, self.encoder)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Update `variables` from now on; may be called again with others."""
        if not self.head.built:
            self.head.build([v for v in variables if id(v) not in self.encoder_ids])
        # Past Keras' tracking, which would count these as variables of the optimizer.
        self.__dict__["_trainable_variables"] = list(variables)
        self.built = True

    @property
    def variables(self) -> list[keras.Variable]:
        """All of both parts, also while the encoder is frozen."""
        return self.head.variables + self.encoder.variables

    @property
    def iterations(self) -> Any:
        """Steps that the head has made."""
        return self.head.iterations

    @property
    def learning_rate(self) -> Any:
        """Learning rate of both parts."""
        return self.head.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.head.learning_rate = value

    @property
    def _model_variables_moving_average(self) -> list[keras.Variable]:
        # Where `keras.callbacks.SwapEMAWeights` looks for them, beside `_trainable_variables`.
        averages = {
            id(variable): average
            for part in (self.head, self.encoder)
            for variable, average in zip(
                part._trainable_variables, part._model_variables_moving_average, strict=True
            )
        }
        return [averages[id(variable)] for variable in self._trainable_variables]

    def apply(
        self, grads: Sequence[Any], trainable_variables: Iterable[keras.Variable] | None = None
    ) -> None:
        """Update each part with its gradients; a part that has none makes no step."""
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if not self.built:
            self.build(variables)
        # The encoder first: the head's step moves the schedule on.
        for part, of_encoder in ((self.encoder, True), (self.head, False)):
            own = [
                (gradient, variable)
                for gradient, variable in zip(grads, variables, strict=True)
                if (id(variable) in self.encoder_ids) == of_encoder
            ]
            if own:
                part.apply([gradient for gradient, _ in own], [variable for _, variable in own])

    def finalize_variable_values(self, var_list: Iterable[keras.Variable]) -> None:
        """Overwrite the weights of the parts being trained with their moving averages, where kept."""
        ids = set(map(id, var_list))
        for part in (self.encoder, self.head):
            if not ids.isdisjoint(map(id, part._trainable_variables)):
                part.finalize_variable_values(part._trainable_variables)
                for variable in part._trainable_variables if part.use_ema else ():
                    # On JAX Keras has made weight and average one buffer, which the next `fit` refuses.
                    _assign_copy(variable, variable)

    def get_config(self) -> dict[str, Any]:
        """Settings that both parts share."""
        return self.head.get_config()


class _ByVariable:
    """Which optimizer of a `MultiOptimizer` updates which variable, by identity: paths need not be unique."""

    def __init__(self, optimizers: dict[int, keras.optimizers.Optimizer]) -> None:
        self.optimizers = optimizers

    def __call__(self, variable: keras.Variable) -> keras.optimizers.Optimizer:
        return self.optimizers[id(variable)]

    def values(self) -> Iterable[keras.optimizers.Optimizer]:
        """All of them, so that `MultiOptimizer` holds those of a frozen encoder too."""
        return self.optimizers.values()


def _hand_over_plain(
    optimizer: keras.optimizers.Optimizer,
    encoder_variables: Sequence[keras.Variable],
    variables: Sequence[keras.Variable],
) -> PartedOptimizer:
    ids = set(map(id, encoder_variables))
    if not isinstance(optimizer, PartedOptimizer):
        head_variables = [v for v in variables if id(v) not in ids]
        optimizer = PartedOptimizer(optimizer, encoder_variables, head_variables)
    elif optimizer.encoder_ids != ids:
        raise ValueError(
            "The model's optimizer must serve one encoder, with the same weights trainable in every fit. "
            f"Received an encoder with {len(ids)} trainable weights for an optimizer that was set up "
            f"for another {len(optimizer.encoder_ids)}. Compile the model again."
        )
    _seed_averages(optimizer.encoder, encoder_variables)
    if variables:
        optimizer.build(variables)
    return optimizer


def _hand_over_each(
    optimizer: keras.optimizers.MultiOptimizer,
    encoder_variables: Sequence[keras.Variable],
    variables: Sequence[keras.Variable],
) -> keras.optimizers.MultiOptimizer:
    if not variables:
        raise ValueError(
            "`model` must be built before it is fitted with a MultiOptimizer and a warm-up. Received a "
            "model without weights of its own yet. Call it on a batch of inputs first."
        )
    encoder_ids = set(map(id, encoder_variables))
    # In this order at every hand-over, whatever is trained.
    every = [*(v for v in variables if id(v) not in encoder_ids), *encoder_variables]
    current = _optimizer_of_each(optimizer, every)
    successors = {}
    for inner in current.values():
        own = [v for v in every if current[id(v)] is inner]
        of_encoder = [v for v in own if id(v) in encoder_ids]
        if 0 < len(of_encoder) < len(own):
            successors[id(inner)] = _hand_over_plain(inner, of_encoder, [])
        else:
            _seed_averages(inner, of_encoder)
            successors[id(inner)] = inner
    # In the order of the user's, by which a saved state is loaded.
    order = {id(inner): i for i, inner in enumerate(optimizer.optimizers)}
    current = dict(sorted(current.items(), key=lambda item: order[id(item[1])]))
    mapping = _ByVariable({key: successors[id(inner)] for key, inner in current.items()})
    return keras.optimizers.MultiOptimizer(mapping, optimizer.loss_scale_factor, optimizer.name)


def _optimizer_of_each(
    optimizer: keras.optimizers.MultiOptimizer, variables: Sequence[keras.Variable]
) -> dict[int, keras.optimizers.Optimizer]:
    if isinstance(optimizer._optimizer_map, _ByVariable):
        return {id(v): optimizer._optimizer_map(v) for v in variables}
    # Asked once only: a user's function may return a new optimizer at every call.
    if not optimizer.built:
        optimizer.build(list(variables))
    return {
        id(v): optimizer.optimizers[optimizer._var_to_optimizer_idx[optimizer._var_key(v)]] for v in variables
    }


def _part(
    optimizer: keras.optimizers.Optimizer, learning_rate: Any, variables: Sequence[keras.Variable]
) -> keras.optimizers.Optimizer:
    """Another `optimizer` with the same settings, built for `variables` where there are any yet."""
    config = optimizer.get_config()
    if not isinstance(learning_rate, keras.Variable):
        config["learning_rate"] = learning_rate
    part = type(optimizer).from_config(config)
    # What `exclude_from_weight_decay` sets is not part of the configuration.
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(optimizer, name):
            setattr(part, name, getattr(optimizer, name))
    if variables:
        part.build(list(variables))
        if not any(map(part._use_weight_decay, variables)):
            # Keras' AdamW for PyTorch cannot decay an empty list.
            part.weight_decay = None
    return part


def _copy_state(source: keras.optimizers.Optimizer, target: keras.optimizers.Optimizer) -> None:
    """Copy counts and scales by name, and slots, kept in lists along the variables, by variable."""
    before, now = source._trainable_variables, target._trainable_variables
    index = {id(variable): i for i, variable in enumerate(before)}
    shared = [(index[id(variable)], i) for i, variable in enumerate(now) if id(variable) in index]
    for name in vars(source).keys() - {"_variables", "_trainable_variables"}:
        old, new = vars(source)[name], vars(target).get(name)
        pairs = [(old, new)]
        if isinstance(old, list) and isinstance(new, list):
            slots = len(old) == len(before) and len(new) == len(now)
            pairs = [(old[i], new[j]) for i, j in shared] if slots else []
        for value, place in pairs:
            if isinstance(value, keras.Variable) and isinstance(place, keras.Variable):
                _assign_copy(place, value)


def _seed_averages(optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable]) -> None:
    """Start moving averages from the weights: from zero, `SwapEMAWeights` would swap in zeros."""
    ids = set(map(id, variables))
    if optimizer.use_ema and optimizer.built:
        averages = optimizer._model_variables_moving_average
        for variable, average in zip(optimizer._trainable_variables, averages, strict=True):
            if id(variable) in ids and average is not None:
                _assign_copy(average, variable)


def _assign_copy(target: keras.Variable, source: keras.Variable) -> None:
    # Through NumPy: JAX may only be given each buffer once, since it reuses those it was given.
    target.assign(keras.ops.convert_to_numpy(source))
