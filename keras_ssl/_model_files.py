"""Saving and loading of a Keras model together with a JSON description."""

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

from keras_ssl._atomic import sync, write_aside
from keras_ssl._value_range import noted_range
from keras_ssl.data.files import check_decompressed_size
from keras_ssl.distribution import predict_on_batch

# Keras compresses nothing; others, who pack its files again, get no further than this.
_TIGHTEST = 20


# Characters of a reason, which may quote a whole layer.
_LONGEST = 400


# Of outputs on another backend or device; those of other weights differ by more.
_TOLERANCE = 0.01


# Of noise for a model that takes images of any size.
_SIDE = 32


def bare(model: keras.Model) -> keras.Model:
    """Return a model without optimizer, loss and metrics, which loads on any backend."""
    # The tensor and not a list of one: an array is then what the loaded model expects.
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def save_described(model: keras.Model, path: str | os.PathLike[str], described: dict[str, Any]) -> None:
    """Write a functional model of one input and one output to `path` (`.keras`) and `described` beside it.

    The model is written without optimizer and loss: made of core layers, it loads where this library is
    not installed.

    Raises:
        FileExistsError: the JSON file beside `path` exists and describes no saved model.
        OSError: `path` cannot be written; what was there before is kept.
    """
    path = Path(path)
    _refuse_other_json(path.with_suffix(".json"))

    def write(partial: Path) -> None:
        bare(model).save(partial)
        beside = partial.with_suffix(".json")
        beside.write_text(json.dumps({**described, "expected": _outputs_for_noise(model)}, indent=2))
        for file in (partial, beside):
            sync(file)
        # Both are whole now. The old model first: a kill leaves no model with the settings of another.
        path.unlink(missing_ok=True)
        beside.replace(path.with_suffix(".json"))

    write_aside(path, write)


def _refuse_other_json(file: Path) -> None:
    """Refuse to replace a file that the user did not name, unless it was written here."""
    if not os.path.lexists(file):
        return
    try:
        described = json.loads(file.read_text())
        ours = isinstance(described, dict) and "preparation" in described
    # Whatever another kind of content leads to.
    except Exception:
        ours = False
    if not ours:
        raise FileExistsError(
            f"`path` must have a name of its own. {file} describes no saved model and would be replaced. "
            "Save under another name."
        )


def load_model(path: str | os.PathLike[str], what: str) -> keras.Model:
    """Load a `.keras` file without its optimizer; an error names the file and `what` it must be.

    No code in it is run and no pickle is read (unless `keras.config.enable_unsafe_deserialization` was
    called).

    Raises:
        ValueError: it is damaged, holds code or classes that are not known here, or claims more than its
            bytes can hold.
    """
    with _named(path, what):
        _refuse_claims(path)
        return keras.saving.load_model(path, compile=False)


@contextlib.contextmanager
def load_described(path: str | os.PathLike[str], what: str) -> Iterator[tuple[keras.Model, dict[str, Any]]]:
    """Load what `save_described` wrote, as `load_model` does; errors in the block name the file too.

    No more memory is taken than the weights that are stored ask for, whatever layers the file describes.
    Classes other than Keras' must be registered (`keras.saving.register_keras_serializable`).

    Raises:
        FileNotFoundError: the model or the JSON beside it is missing; `what` they are is said.
        ValueError: as `load_model`, or the model has more weights than are stored.
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
            # Weights that a thread puts off are forgotten with it; those put off here would be made later.
            asked = thread.submit(_count_weights, config).result()
        if asked > stored:
            raise ValueError(f"its model must have the {stored} weights stored. Received one of {asked}")
        model = keras.saving.load_model(path, compile=False)
        described = json.loads(path.with_suffix(".json").read_text())
        expected, found = described["expected"], _outputs_for_noise(model)
        if not np.allclose(expected, found, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise ValueError(
                f"its model must give {_rounded(expected)} for noise, as when it was saved. Received one "
                f"that gives {_rounded(found)}: another model or other weights"
            )
        yield model, described


@contextlib.contextmanager
def _named(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn whatever goes wrong in loading a file into a `ValueError` that names it."""
    try:
        yield
    except MemoryError:
        raise
    # Keras, zipfile, h5py and json raise whatever the content led to.
    except Exception as error:
        # Keras quotes the whole model before it says what was wrong with one of its layers.
        said = (str(error) or type(error).__name__).rpartition("Exception encountered: ")[2][:_LONGEST]
        raise ValueError(f"`path` must name a saved {what}. {path} cannot be loaded: {said}") from error


def _refuse_claims(path: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
    """The configuration in a `.keras` file, and how many weights it holds; refuse one that claims more."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            check_decompressed_size(
                member.file_size, member.compress_size, compressed=True, max_ratio=_TIGHTEST
            )
        config = archive.read("config.json")
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights) as file:
        found: list[h5py.Dataset] = []
        file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        count, claimed = sum(one.size or 0 for one in found), sum(one.nbytes for one in found)
    check_decompressed_size(claimed, len(weights.getbuffer()), compressed=True, max_ratio=_TIGHTEST)
    return json.loads(config), count


def _outputs_for_noise(model: keras.Model) -> list[float]:
    """Mean outputs of a model for two images of noise, in the range that it was trained on."""
    shape = [side or _SIDE for side in model.input_shape[1:]]
    low, high = noted_range(model) or (0.0, 1.0)
    noise = np.random.default_rng(0).uniform(low, high, (2, *shape)).astype("float32")
    outputs = np.asarray(predict_on_batch(model, noise), "float64")
    return [float(value) for value in outputs.mean(axis=tuple(range(outputs.ndim - 1)))]


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]


def _count_weights(config: dict[str, Any]) -> int:
    """How many numbers the weights of a model are, none of which are made."""
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object({**config, "compile_config": None})
        return sum(math.prod(weight.shape) for weight in model.weights)
