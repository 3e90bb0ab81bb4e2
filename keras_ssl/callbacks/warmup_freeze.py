"""Callback that freezes a pretrained encoder for the first epochs of `fit`, while a new head is trained."""

import functools
import inspect
import itertools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_ssl._keras_private import layers_of
from keras_ssl.callbacks._optimizers import rebuild_training
from keras_ssl.encoders._depth import layer_groups


class WarmupFreeze(keras.callbacks.Callback):
    """Freezes an encoder for the first epochs of `fit`, then trains it with the rest of the model.

    A new head sends large, random gradients into the encoder and damages its pretrained features. During the
    warm-up the encoder's weights do not change, including batch statistics, and it runs in inference mode
    (no dropout). In compiled training there is no backward pass through it, unless a layer below it is
    trained. Weights that are not trainable when `fit` begins are never trained.

    Works with any compiled model that contains the encoder: nested, its layers inlined, or inside a
    subclassed model. When the encoder is unfrozen, the optimizer keeps its state for the head and its place
    in a learning-rate schedule. The encoder has a separate step count, so that Adam starts it as gently as
    in a new run, and `global_clipnorm` is applied to encoder and head separately. `model.save` works at any
    time; the file contains the optimizer as it was compiled, with the state of both parts and the smaller
    of their step counts, from which Adam continues without overshooting. (For a `MultiOptimizer` with one
    optimizer for both parts, Keras warns that it skips a copy; the state itself is loaded.)

    Warns if the encoder would never be trained: its weights are not trainable, or the fit ends with the
    warm-up.

    The next `fit` from epoch 0 warms up again; with `initial_epoch` at or beyond `epochs` it does not.
    If `fit` ends during the warm-up, the model is unfrozen; after an exception or an interrupt, which Keras
    does not report to callbacks, call `unfreeze` or `fit` again.

    With `stages` above 1 the encoder is unfrozen gradually, from its output to its input: the layers nearest
    to the head after `epochs` epochs, and one more part of the encoder at the start of each further epoch.
    Parts hold about equally many groups of layers; a group is a convolution, a residual block, or whatever
    else lies between two points that every path through the encoder passes.

    Args:
        encoder: a built layer or model with weights, all of which are part of the fitted model.
        epochs: number of epochs to freeze it for, counted from epoch 0; 0 does nothing.
        stages: number of epochs over which it is unfrozen. 1 unfreezes all of it after `epochs`.

    Raises:
        TypeError: `encoder` is not a Keras layer or model, or `epochs` or `stages` is not an integer.
        ValueError: `epochs` is negative; `stages` is below 1, above 1 without `epochs`, or above the number
            of groups of layers. When `fit` begins: the encoder is not part of the model or has no weights, or
            no other weights of the model are trainable.

    >>> import keras
    >>> import numpy as np
    >>> from keras_ssl.callbacks import WarmupFreeze
    >>> encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> model = keras.Sequential([encoder, keras.layers.Dense(2)])
    >>> model.compile("adam", "mse")
    >>> history = model.fit(
    ...     np.ones((8, 3)), np.ones((8, 2)), epochs=3, verbose=0, callbacks=[WarmupFreeze(encoder, epochs=2)]
    ... )
    >>> len(history.epoch)
    3

    References:
        Howard, J. and Ruder, S. (2018). Universal language model fine-tuning for text
        classification. ACL.
        Kumar, A. et al. (2022). Fine-tuning can distort pretrained features and underperform
        out-of-distribution. ICLR.
    """

    def __init__(self, encoder: keras.Layer, epochs: int, stages: int = 1) -> None:
        super().__init__()
        if not isinstance(encoder, keras.Layer):
            raise TypeError(f"`encoder` must be a Keras layer or model. Received {encoder!r}.")
        for name, value in (("epochs", epochs), ("stages", stages)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"`{name}` must be an integer. Received {value!r}.")
        if epochs < 0:
            raise ValueError(f"`epochs` must not be negative. Received {epochs}.")
        if stages < 1 or (stages > 1 and not epochs):
            raise ValueError(
                f"`stages` must be at least 1, and 1 if `epochs` is 0. Received {stages}, epochs={epochs}."
            )
        self.encoder = encoder
        self.epochs = epochs
        self.stages = stages
        self._parts = _parts(encoder, stages)
        self._trained: list[keras.Variable] = []
        self._calls: list[tuple[keras.Layer, Callable[..., Any] | None]] = []
        # Number of parts that are trained; all of them outside of a warm-up.
        self._unfrozen = stages

    @property
    def is_frozen(self) -> bool:
        """True while a part of the encoder is frozen."""
        return self._unfrozen < self.stages

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that the encoder is part of the model; unfreeze after an interrupted fit."""
        self.unfreeze()
        if self.epochs:
            of_encoder = set(map(id, self.encoder.weights))
            self._trained = [v for v in self.model.trainable_variables if id(v) in of_encoder]
            self._check_model()
            self._warn_if_never_trained()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Freeze at the start of the warm-up and unfreeze after it; idempotent."""
        self._unfreeze_parts(min(max(epoch + 1 - self.epochs, 0), self.stages))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Unfreeze the encoder."""
        self.unfreeze()

    def unfreeze(self) -> None:
        """End the warm-up now; only needed after an interrupted `fit`."""
        self._unfreeze_parts(self.stages)

    def _unfreeze_parts(self, count: int) -> None:
        """Train the last `count` parts of the encoder and freeze the others."""
        if count == self._unfrozen:
            return
        frozen = [layer for part in self._parts[: self.stages - count] for layer in part]
        # The variables' flags, not the layers': layers that the user froze stay frozen, and a checkpoint of
        # these epochs loads as the model that the user built.
        of_frozen = {id(variable) for layer in frozen for variable in layer.weights}
        for variable in self._trained:
            variable.trainable = id(variable) not in of_frozen
        for layer, call in self._calls:
            if call is None:
                del vars(layer)["call"]
            else:
                vars(layer)["call"] = call
        # `trainable` alone would leave dropout on. For every layer, since those of an inlined encoder are
        # called one by one; in `vars`, not by `setattr`, since Keras and its backends track attributes.
        inner = {id(one): one for layer in frozen for one in layers_of(layer)}.values()
        with_mode = [one for one in inner if "training" in inspect.signature(one.call).parameters]
        self._calls = [(layer, vars(layer).get("call")) for layer in with_mode]
        for layer in with_mode:
            vars(layer)["call"] = _in_inference(layer.call)
        self._unfrozen = count
        rebuild_training(self.model, apart=self._trained)

    def _warn_if_never_trained(self) -> None:
        # Frozen on purpose in every fit.
        if self.epochs == sys.maxsize:
            return
        if self.model.built and not self._trained:
            warnings.warn(
                f"The encoder {self.encoder.name!r} is never trained in this fit, because none of its "
                f"weights is trainable: the warm-up of {self.epochs} epochs has no effect.",
                stacklevel=2,
            )
        elif self.params.get("epochs", sys.maxsize) < self.epochs + self.stages:
            part = "Part of the encoder" if self.params["epochs"] > self.epochs else "The encoder"
            length = self.epochs + self.stages - 1
            warnings.warn(
                f"{part} {self.encoder.name!r} is never trained in this fit, because its warm-up lasts "
                f"{length} epochs and the fit ends after epoch {self.params['epochs']}.",
                stacklevel=2,
            )

    def _check_model(self) -> None:
        in_model = {id(v) for v in self.model.weights}
        missing = [v.path for v in self.encoder.weights if id(v) not in in_model]
        if missing:
            raise ValueError(
                "All weights of `encoder` must be part of the fitted model. Received an encoder with "
                f"{len(missing)} that are not, for example {missing[0]!r}. Is it a copy?"
            )
        if not self.encoder.weights:
            raise ValueError(
                f"`encoder` must be built and have weights. Received {self.encoder.name!r} with none."
            )
        if self.model.built and len(self.model.trainable_variables) == len(self._trained):
            raise ValueError(
                "The model must have trainable weights outside of `encoder`, to train during the warm-up. "
                f"Received {self.model.name!r} with none."
            )


def _parts(encoder: keras.Layer, stages: int) -> list[list[keras.Layer]]:
    """Divide an encoder into parts with about equally many groups of layers, from input to output."""
    if stages == 1:
        return [[encoder]]
    groups = layer_groups(encoder)
    if stages > len(groups):
        raise ValueError(
            f"`stages` must be at most the number of groups of layers of the encoder, {len(groups)} for "
            f"{encoder.name!r}. Received {stages}."
        )
    ends = [round(len(groups) * part / stages) for part in range(stages + 1)]
    return [
        [layer for group in groups[first:last] for layer in group] for first, last in itertools.pairwise(ends)
    ]


def _in_inference(call: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(call)

    @functools.wraps(call)
    def inference_call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["training"] = False
        return call(*bound.args, **bound.kwargs)

    return inference_call
