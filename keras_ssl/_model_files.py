"""Saving and loading of a Keras model with a JSON description; protection from malicious files."""

import contextlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from keras_ssl._atomic import atomic_write, sync
from keras_ssl._value_range import noted_range
from keras_ssl.data.files import check_decompressed_size
from keras_ssl.distribution import predict_on_batch

# Highest plausible compression ratio: Keras does not compress, but its files may have been zipped again.
_MAX_COMPRESSION = 20
# Characters of an error message, which may quote a whole layer.
_MAX_MESSAGE = 400
# Difference of outputs between backends and devices; those of other weights differ by more.
_TOLERANCE = 0.01
# Side of the noise images for a model without a fixed input shape.
_SIDE = 32


def without_optimizer(model: keras.Model) -> keras.Model:
    """Return a model without optimizer, loss and metrics, which loads on any backend."""
    # A tensor, not a list with one tensor, so that the loaded model expects an array.
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def save_described(model: keras.Model, path: str | os.PathLike[str], described: dict[str, Any]) -> None:
    """Write a functional model of one input and one output to `path` (`.keras`) and `described` beside it.

    The model is written without optimizer and loss: if it has core layers only, it loads without this
    library.

    Raises:
        FileExistsError: the JSON file beside `path` exists and does not describe a saved model.
        OSError: `path` cannot be written; previous files are kept.
    """
    path = Path(path)
    _check_json_is_ours(path.with_suffix(".json"))

    def write(partial: Path) -> None:
        without_optimizer(model).save(partial)
        beside = partial.with_suffix(".json")
        beside.write_text(json.dumps({**described, "expected": _outputs_for_noise(model)}, indent=2))
        for file in (partial, beside):
            sync(file)
        # Both are complete now. Deletes the old model first, so that a kill leaves no model with the settings
        # of another.
        path.unlink(missing_ok=True)
        beside.replace(path.with_suffix(".json"))

    atomic_write(path, write)


def _check_json_is_ours(file: Path) -> None:
    """Raise FileExistsError if saving would replace a JSON file that `save_described` did not write."""
    if not os.path.lexists(file):
        return
    try:
        described = json.loads(file.read_text())
        ours = isinstance(described, dict) and "preparation" in described
    # Any error of other content.
    except Exception:
        ours = False
    if not ours:
        raise FileExistsError(
            f"`path` must not replace other files. {file} exists and does not describe a saved model. "
            "Save under another name."
        )


def load_model(path: str | os.PathLike[str], what: str) -> keras.Model:
    """Load a `.keras` file without its optimizer; errors name the file and `what` it should be.

    Safe for malicious files: no code is executed and no pickle is read (unless
    `keras.config.enable_unsafe_deserialization` was called).

    Raises:
        ValueError: the file is damaged, contains code or unknown classes, or is a decompression bomb.
    """
    with _named(path, what):
        _refuse_claims(path)
        return keras.saving.load_model(path, compile=False)


@contextlib.contextmanager
def load_described(path: str | os.PathLike[str], what: str) -> Iterator[tuple[keras.Model, dict[str, Any]]]:
    """Load files of `save_described`, like `load_model`; errors in the `with` block name the file as well.

    Memory is limited to the size of the stored weights, whatever layers the file describes. Classes other
    than Keras' must be registered (`keras.saving.register_keras_serializable`).

    Raises:
        FileNotFoundError: the model or its JSON file is missing; the message names `what`.
        ValueError: as in `load_model`, or the model has more weights than are stored.
    """
    path = Path(path)
    for part in (path, path.with_suffix(".json")):
        if not part.is_file():
            raise FileNotFoundError(
                f"`path` must name a saved {what} with its JSON. Missing: {part}. A model alone, as "
                f"`FineTuner.save` writes it, becomes one by `{what.capitalize()}(...).save`."
            )
    with _named(path, what):
        config, stored = _refuse_claims(path)
        with ThreadPoolExecutor(1) as thread:
            # In a thread, whose uninitialized weights are discarded; here, Keras would create them later.
            needed = thread.submit(_count_weights, config).result()
        if needed > stored:
            raise ValueError(f"its model must have the {stored} stored weights. Received one with {needed}")
        model = keras.saving.load_model(path, compile=False)
        described = json.loads(path.with_suffix(".json").read_text())
        expected, found = described["expected"], _outputs_for_noise(model)
        if not np.allclose(expected, found, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise ValueError(
                f"its model must have the output {_rounded(expected)} for noise, as when it was saved. "
                f"Received {_rounded(found)}: another model or other weights"
            )
        yield model, described


@contextlib.contextmanager
def _named(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Convert any error of loading a file to a `ValueError` that names it."""
    try:
        yield
    except MemoryError:
        raise
    # Keras, zipfile, h5py and json raise many kinds of errors.
    except Exception as error:
        # Keras quotes the whole model before the error of a layer.
        message = (str(error) or type(error).__name__).rpartition("Exception encountered: ")[2][:_MAX_MESSAGE]
        raise ValueError(f"`path` must name a saved {what}. {path} cannot be loaded: {message}") from error


def _refuse_claims(path: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
    """Return configuration and number of weights of a `.keras` file; raise for decompression bombs."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            check_decompressed_size(
                member.file_size, member.compress_size, compressed=True, max_ratio=_MAX_COMPRESSION
            )
        config = archive.read("config.json")
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights) as file:
        found: list[h5py.Dataset] = []
        file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        count, size = sum(one.size or 0 for one in found), sum(one.nbytes for one in found)
    check_decompressed_size(size, len(weights.getbuffer()), compressed=True, max_ratio=_MAX_COMPRESSION)
    return json.loads(config), count


def _outputs_for_noise(model: keras.Model) -> list[float]:
    """Return the mean outputs of a model for two noise images, in the range of its training images."""
    shape = [side or _SIDE for side in model.input_shape[1:]]
    low, high = noted_range(model) or (0.0, 1.0)
    noise = np.random.default_rng(0).uniform(low, high, (2, *shape)).astype("float32")
    outputs = np.asarray(predict_on_batch(model, noise), "float64")
    return [float(value) for value in outputs.mean(axis=tuple(range(outputs.ndim - 1)))]


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]


def _count_weights(config: dict[str, Any]) -> int:
    """Count the weights of a model without creating them."""
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object({**config, "compile_config": None})
        return sum(math.prod(weight.shape) for weight in model.weights)
