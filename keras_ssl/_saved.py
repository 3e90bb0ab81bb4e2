"""A model and, as JSON beside it, what is needed to use it: written and read together."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import keras


def save_described(model: keras.Model, path: str | os.PathLike[str], described: dict[str, Any]) -> None:
    """Write a functional model of one input and one output to `path` (`.keras`) and `described` beside it.

    The model is written without optimizer and loss: made of core layers, it loads where this library is
    not installed.
    """
    path = Path(path)
    # Both aside, then both into their places: a kill leaves no model with the settings of another.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        # The tensor and not a list of one: an array is then what the loaded model expects.
        keras.Model(model.inputs[0], model.outputs[0], name=model.name).save(partial)
        partial.with_suffix(".json").write_text(json.dumps(described, indent=2))
        partial.with_suffix(".json").replace(path.with_suffix(".json"))
        partial.replace(path)


def load_described(path: str | os.PathLike[str], what: str) -> tuple[keras.Model, dict[str, Any]]:
    """Load what `save_described` wrote.

    Raises:
        FileNotFoundError: the model or the JSON beside it is missing; `what` they are is said.
    """
    path = Path(path)
    for part in (path, path.with_suffix(".json")):
        if not part.is_file():
            raise FileNotFoundError(f"`path` must name a saved {what} with its JSON. Missing: {part}.")
    return keras.saving.load_model(path), json.loads(path.with_suffix(".json").read_text())
