"""Fingerprint of a run: everything that determines its result, by content, to match backups to runs."""

import contextlib
import inspect
import itertools
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from keras_ssl._identity import (
    Json,
    UnknownIdentityError,
    array_digest,
    describe,
    digest,
    shortened,
    weights_digest,
    without_names,
)
from keras_ssl._keras_private import own_attributes
from keras_ssl._types import Dataset, Structure, Tensor
from keras_ssl.data.batches import ArrayBatches, ShuffledBatches, StreamBatches
from keras_ssl.data.lazy_collections import LazyImages
from keras_ssl.data.patch_sampling import PatchBatches

_SAMPLED_IMAGES = 16
_SAMPLED_BATCHES = 32
_SAMPLED_PATCHES = 4

# Arguments of callbacks that only determine where they write and what they print.
_OUTPUTS = ("filepath", "filename", "log_dir", "verbose")

# State at the start of an interrupted fit, by model: (run, state, digest of the weights after it, callbacks
# and augmentation with their descriptions).
_Interrupted = tuple[int, dict[str, Any], str, list[tuple[weakref.ref, Any]]]
_interrupted: "weakref.WeakKeyDictionary[keras.Model, _Interrupted]" = weakref.WeakKeyDictionary()


def fingerprint(
    model: keras.Model,
    run: int,
    data: Dataset,
    validation_data: Dataset,
    callbacks: list[keras.callbacks.Callback],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Describe everything that determines the result of a run, by content."""
    start = _start_of(model)
    known: list[tuple[weakref.ref, Any]] = []
    if model in _interrupted:
        # The same call again, for example after Ctrl-C, with the interrupted model.
        last_run, last_start, left, last_callbacks = _interrupted[model]
        if (run, start["starting weights"]) == (last_run, left):
            start, known = last_start, last_callbacks

    def known_as(value: object) -> Json:
        # As described before the interrupted fit: callbacks and augmentations may have state.
        return next((described for kept, described in known if kept() is value), None)

    described = {
        **settings,
        **start,
        "backend": keras.backend.backend(),
        "callbacks": [known_as(callback) or describe_callback(callback) for callback in callbacks],
        **(describe_data(data) or {}),
        "validation_data": describe_data(validation_data),
    }
    augment = getattr(data, "augment", None)
    if augment is not None and (earlier := known_as(augment)):
        described["augment"] = earlier
    return {name: shortened(_described(name, value)) for name, value in described.items()}


def _described(name: str, value: object) -> Json:
    try:
        return describe(value)
    except UnknownIdentityError as error:
        raise ValueError(f"`{name}` must be identified by its settings. {error}") from error


# Keys of `_start_of`.
_START = ("architecture", "starting weights", "trainable weights", "optimizer", "learning rate")


def _start_of(model: keras.Model) -> dict[str, Any]:
    optimizer = model.get_compile_config()["optimizer"]
    schedules = [s for s in vars(model.optimizer).values() if isinstance(s, LearningRateSchedule)]
    rates = [v for v in model.optimizer.variables if v.path.endswith("learning_rate")]
    return {
        "architecture": f"digest {digest(model, weights=False)}",
        "starting weights": weights_digest(model.weights),
        "trainable weights": [bool(variable.trainable) for variable in model.weights],
        "optimizer": [without_names(optimizer), *schedules],
        "learning rate": [float(keras.ops.convert_to_numpy(rate)) for rate in rates],
    }


@contextlib.contextmanager
def remember_if_interrupted(
    model: keras.Model,
    run: int,
    data: Dataset,
    callbacks: list[keras.callbacks.Callback],
    described: dict[str, Any],
) -> Iterator[None]:
    """Store the initial state of an interrupted fit, so that the same call on the model can resume."""
    try:
        yield
    except BaseException:
        start = {name: described[name] for name in _START}
        # Weak references: callbacks refer to the model, which is the key.
        known = list(zip(map(weakref.ref, callbacks), described["callbacks"], strict=True))
        if getattr(data, "augment", None) is not None:
            known.append((weakref.ref(data.augment), described.get("augment")))
        _interrupted[model] = (run, start, weights_digest(model.weights), known)
        raise


def describe_callback(callback: keras.callbacks.Callback) -> dict[str, Json]:
    """Describe a callback by its class and the arguments it was created with, without its state.

    Keras' callbacks and ours store arguments in attributes of the same names. Callbacks that do not are
    described by their attributes. Paths of logs and checkpoints, and verbosity, are ignored.
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
        arguments = own_attributes(callback)
    for name, value in arguments.items():
        if name in _OUTPUTS or getattr(value, "__self__", None) is callback:
            continue
        try:
            # Without weights: the trained model may be an argument.
            described[name] = describe_data(value) or describe(value, weights=False)
        except UnknownIdentityError:
            described[name] = type(value).__qualname__
    return described


def describe_data(data: Dataset) -> dict[str, Any] | None:
    """Describe batches by the content of their arrays; `None` for values that are not a data set.

    For a `PyDataset` other than `ArrayBatches`, 32 batches are read, for a stream the first 32. Parts that
    differ when read twice, such as shuffled or augmented images, are ignored.
    """
    if isinstance(data, ArrayBatches):
        names = ("images", "labels", "sample_weight")
        settings = {
            "batch_size": data.batch_size,
            "steps_per_epoch": len(data),
            "augment": _described("augment", data.augment),
        }
        return {**dict(zip(names, map(_array, data.arrays), strict=False)), **settings}
    if isinstance(data, ShuffledBatches):
        return {**_batches_of(data), "steps_per_epoch": len(data)}
    if isinstance(data, keras.utils.PyDataset) and data.num_batches is not None:
        return _batches_of(ShuffledBatches(data, shuffle=False))
    if isinstance(data, StreamBatches):
        described = {"stream": type(data.stream).__qualname__, "steps": data.steps}
        return described if data.is_read_once else {**described, **_first_batches(data.stream)}
    is_stream = hasattr(data, "__iter__") and not isinstance(data, (str, Mapping, list, tuple, np.ndarray))
    return {"stream": type(data).__qualname__} if is_stream and not keras.ops.is_tensor(data) else None


def _first_batches(stream: Dataset) -> dict[str, Any]:
    first = _parts(next(iter(stream), ()))
    batches = itertools.islice(stream, len(stream) if isinstance(stream, list) else _SAMPLED_BATCHES)
    return _stable(first, (_parts(batch) for batch in batches))


def _stable(first: list[str], batches: Iterable[list[str]]) -> dict[str, Any]:
    """Describe the parts of batches, such as images or labels, that are equal when read twice."""
    read = list(batches)
    same = [one == other for one, other in zip(first, read[0] if read else [], strict=False)]
    chosen = [[part for part, keep in zip(batch, same, strict=False) if keep] for batch in read]
    return {f"batch {number}": parts for number, parts in enumerate(chosen) if parts}


def _array(array: Tensor) -> Json:
    """Describe an array; lazy images by paths, sizes and samples."""
    if not isinstance(array, LazyImages):
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
    count = _SAMPLED_PATCHES if isinstance(dataset, PatchBatches) else _SAMPLED_BATCHES
    chosen = np.unique(np.linspace(0, dataset.num_batches - 1, count).astype(int)).tolist()
    first = _parts(dataset[chosen[0]])
    return {**described, **_stable(first, (_parts(dataset[index]) for index in chosen))}


def _parts(batch: Structure) -> list[str]:
    return [array_digest(part) for part in keras.tree.flatten(batch)]
