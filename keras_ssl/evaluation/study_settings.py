"""Settings that identify a study, recorded in its folder and compared when it is resumed."""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ssl._files import write_aside
from keras_ssl._identity import UnknownIdentityError, describe, digest, weights_digest
from keras_ssl.evaluation.protocol import Protocol
from keras_ssl.evaluation.recipes import Recipe
from keras_ssl.layers.heads import Head

# What may grow from one call to the next: more of it adds runs and changes none.
_EXTENSIBLE = ("fractions", "repetitions", "arms", "attempts")

# What a study writes into its folder, with its reports.
_RESULTS = (
    *("records.csv", "encoders", "graders", "backups", "report.html"),
    *("label_efficiency.png", "convergence.png", "confusion.png"),
)


def study_settings(
    protocol: Protocol,
    recipes: Mapping[str, Recipe],
    models: Mapping[str, keras.Model],
    encoder: keras.Model,
    head: Head,
    arrays: Mapping[str, np.ndarray | None],
) -> dict[str, Any]:
    """Describe all that decides the results of a study: readable, with a digest of the content.

    Args:
        protocol: the protocol.
        recipes: recipes of pretraining by name.
        models: given encoders by name.
        encoder: the encoder whose architecture is trained from scratch, called before.
        head: the head.
        arrays: images, labels, groups and test rows by name.
    """
    return {
        **{f"protocol.{name}": _shown(name, value) for name, value in vars(protocol).items()},
        **{f"task {name}": _shown(name, recipe) for name, recipe in recipes.items()},
        **{f"task {name}": f"given [{digest(model)}]" for name, model in models.items()},
        "encoder": _shown_encoder(encoder),
        "head": _shown("head", head),
        "backend": keras.backend.backend(),
        **{name: None if array is None else _checksum(array) for name, array in arrays.items()},
    }


def record_settings(folder: Path, settings: dict[str, Any], data: dict[str, Any]) -> None:
    """Write down what decides the results; refuse a folder that holds those of other settings."""
    file = folder / "study.json"
    settings = json.loads(json.dumps(settings))
    if not file.exists() and (folder / "records.jsonl").exists():
        raise ValueError(f"{folder} holds records without the study.json that says how they were made.")
    foreign = [name for name in _RESULTS if os.path.lexists(folder / name)]
    if foreign and not file.exists():
        raise FileExistsError(
            f"`output_dir` must be a new folder or hold the same study. {folder} holds {', '.join(foreign)}, "
            "which would be replaced, without the study.json of a study that wrote them. Name another folder."
        )
    if file.exists():
        try:
            earlier = json.loads(file.read_text())["settings"]
        except (ValueError, KeyError) as error:
            raise ValueError(f"{file} is damaged. Choose another `output_dir`.") from error
        shared = earlier.keys() & settings.keys() - {f"protocol.{name}" for name in _EXTENSIBLE}
        changed = sorted(name for name in shared if earlier[name] != settings[name])
        if changed:
            said = "; ".join(f"{name}: {earlier[name]} there, {settings[name]} here" for name in changed)
            raise ValueError(
                f"`output_dir` must be a new folder or hold the same study. Received {folder}, which holds "
                f"one with other settings ({said})."
            )
        settings = {**earlier, **settings}
    text = json.dumps({"settings": settings, "data": data}, indent=2)
    write_aside(file, lambda path: path.write_text(text))


def _shown(name: str, value: Any) -> Any:
    """Show a setting so that a person can read it, with a digest of all that it does."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    try:
        described = describe(value)
    except UnknownIdentityError as error:
        raise ValueError(f"`{name}` must be identified by its settings. {error}") from error
    text = getattr(value, "__qualname__", None) or repr(value)
    if " at 0x" in text:
        text = type(value).__qualname__
    return text if isinstance(described, list) and text == repr(value) else f"{text} [{digest(described)}]"


def _checksum(array: np.ndarray) -> str:
    """Show shape, type and checksum of an array, row by row, so that a memory-mapped set stays on disk."""
    found = 0
    for row in array:
        found = zlib.crc32(np.ascontiguousarray(row).data, found)
    return f"{array.shape} {array.dtype} [{found:08x}]"


def _shown_encoder(encoder: keras.Model) -> str:
    """Show an architecture, with what was adapted to data and is not made anew, as by `Normalization`."""
    kept = [layer for layer in encoder._flatten_layers() if layer.trainable and not layer.trainable_weights]
    weights = weights_digest([weight for layer in kept for weight in layer.weights])
    return f"{encoder.count_params()} weights [{digest([describe(encoder, weights=False), weights])}]"
