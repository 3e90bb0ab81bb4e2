"""Fingerprint of a run: all that decides it, by content, so that a backup answers for this very run."""

import contextlib
import inspect
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_ssl._identity import (
    UnknownIdentityError,
    array_digest,
    describe,
    digest,
    shortened,
    weights_digest,
    without_names,
)
from keras_ssl.data.batches import ArrayBatches, ShuffledBatches
from keras_ssl.data.patch_batches import PatchBatches
from keras_ssl.data.stored_images import StoredImages
from keras_ssl.data.streams import StreamBatches

_SAMPLED_IMAGES = 16
_SAMPLED_BATCHES = 4
# Arguments of callbacks that tell where they write and what they print.
_OUTPUTS = ("filepath", "filename", "log_dir", "verbose")

# What an interrupted fit began with, by model: (run, start, digest of the weights that it left, callbacks).
_Interrupted = tuple[int, dict[str, Any], str, list[tuple[weakref.ref, Any]]]
_interrupted: "weakref.WeakKeyDictionary[keras.Model, _Interrupted]" = weakref.WeakKeyDictionary()


def fingerprint(
    model: keras.Model,
    run: int,
    data: Any,
    validation_data: Any,
    callbacks: list[keras.callbacks.Callback],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Describe all that decides a run by content, so that a backup answers for this very run."""
    start = _start_of(model)
    known: list[tuple[weakref.ref, Any]] = []
    if model in _interrupted:
        # The same call again, after Ctrl-C say: the model is the one that was interrupted.
        last_run, last_start, left, last_callbacks = _interrupted[model]
        if (run, start["starting weights"]) == (last_run, left):
            start, known = last_start, last_callbacks
    described = {
        **settings,
        **start,
        "backend": keras.backend.backend(),
        "callbacks": [
            next((described for kept, described in known if kept() is callback), None)
            or describe_callback(callback)
            for callback in callbacks
        ],
        **(describe_data(data) or {}),
        "validation_data": describe_data(validation_data),
    }
    return {name: shortened(describe(value)) for name, value in described.items()}


def _start_of(model: keras.Model) -> dict[str, Any]:
    optimizer = model.get_compile_config()["optimizer"]
    rates = [v for v in model.optimizer.variables if v.path.endswith("learning_rate")]
    return {
        "architecture": f"digest {digest(model, weights=False)}",
        "starting weights": weights_digest(model.weights),
        "trainable weights": [bool(variable.trainable) for variable in model.weights],
        "optimizer": without_names(optimizer),
        "learning rate": [float(keras.ops.convert_to_numpy(rate)) for rate in rates],
    }


@contextlib.contextmanager
def remembering(
    model: keras.Model, run: int, callbacks: list[keras.callbacks.Callback], described: dict[str, Any]
) -> Iterator[None]:
    """Remember what an interrupted fit began with, so that the same call on the same model is known again."""
    try:
        yield
    except BaseException:
        start = {name: described[name] for name in _start_of(model)}
        # Weakly: callbacks hold the model, by which this is found.
        known = list(zip(map(weakref.ref, callbacks), described["callbacks"], strict=True))
        _interrupted[model] = (run, start, weights_digest(model.weights), known)
        raise


def describe_callback(callback: Any) -> Any:
    """Describe a callback by its class and by what it was made with, whatever it has gathered since.

    Keras' callbacks and ours keep their arguments under the arguments' names. Another callback that does not
    is described by its plain attributes. Where logs and checkpoints go, and what is printed, does not count.
    """
    kind = type(callback)
    described = {"class": describe(kind)}
    arguments, complete = {}, True
    for name in inspect.signature(kind.__init__).parameters:
        kept = next((key for key in (name, f"_{name}") if hasattr(callback, key)), None)
        if kept is not None:
            arguments[name] = getattr(callback, kept)
        elif name != "self":
            complete = False
    if not (complete or isinstance(described["class"], str)):
        plain = (bool, int, float, str, tuple, list, dict, types.FunctionType, np.ndarray)
        arguments = {key: value for key, value in vars(callback).items() if isinstance(value, plain)}
        arguments.pop("params", None)
    for name, value in arguments.items():
        if name in _OUTPUTS or getattr(value, "__self__", None) is callback:
            continue
        try:
            # Without weights: the model that is trained may be among the arguments.
            described[name] = describe_data(value) or describe(value, weights=False)
        except UnknownIdentityError:
            described[name] = type(value).__qualname__
    return described


def describe_data(data: Any) -> dict[str, Any] | None:
    """Describe batches by the content of their arrays; `None` of what is no data set.

    Of a `PyDataset` other than `ArrayBatches`, whose arrays are not known, four batches are read, unless they
    change from one reading to the next; of a stream, which could not be read twice, type and length are all.
    """
    if isinstance(data, ArrayBatches):
        names = ("images", "labels", "sample_weight")
        settings = {
            "batch_size": data.batch_size,
            "steps_per_epoch": len(data),
            "augment": describe(data.augment),
        }
        return {**dict(zip(names, map(_array, data.arrays), strict=False)), **settings}
    if isinstance(data, ShuffledBatches):
        return {**_batches_of(data), "steps_per_epoch": len(data)}
    if isinstance(data, keras.utils.PyDataset) and data.num_batches is not None:
        return _batches_of(ShuffledBatches(data, shuffle=False))
    if isinstance(data, StreamBatches):
        batches = [_parts(batch) for batch in data.stream] if isinstance(data.stream, list) else None
        return {"stream": type(data.stream).__qualname__, "steps": data.steps, "batches": batches}
    is_stream = hasattr(data, "__iter__") and not isinstance(data, (str, Mapping, list, tuple, np.ndarray))
    return {"stream": type(data).__qualname__} if is_stream and not keras.ops.is_tensor(data) else None


def _array(array: Any) -> Any:
    """Describe an array; images that stay in their files by paths, sizes and samples."""
    if not isinstance(array, StoredImages):
        return array_digest(array)
    rows = np.unique(np.linspace(0, len(array) - 1, _SAMPLED_IMAGES).astype(int))
    return {
        "shape": list(array.shape),
        "read": f"digest {digest(array.read)}",
        "files": f"digest {digest(array.files)}",
        "samples": array_digest(array[rows]),
    }


def _batches_of(data: ShuffledBatches) -> dict[str, Any]:
    dataset = data.dataset
    described: dict[str, Any] = {"data set": describe(type(dataset)), "batches": dataset.num_batches}
    if isinstance(dataset, PatchBatches):
        parts = {"images": dataset.images, "labels": dataset.masks, "augment": dataset.augment}
        described |= {name: f"digest {digest(part)}" for name, part in parts.items()}
    data.epoch = 0
    for index in np.unique(np.linspace(0, dataset.num_batches - 1, _SAMPLED_BATCHES).astype(int)):
        first, second = (_parts(dataset[int(index)]) for _ in range(2))
        if first == second:
            described[f"batch {index}"] = first
    return described


def _parts(batch: Any) -> Any:
    return [array_digest(part) for part in keras.tree.flatten(batch)]
