"""Grader: a fine-tuned model, its head and the preparation of its photographs, kept together on disk."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ssl.data import GRADE_NAMES, Preparation, load_images
from keras_ssl.layers.heads import Head


@dataclasses.dataclass(frozen=True)
class GradedImage:
    """What a grader says of one photograph.

    Args:
        path: the file.
        grade: 0 to K - 1.
        name: name of the grade.
        probabilities: of each grade, summing to 1.
        referable: whether the grade is at or above the grade from which a patient is referred.
    """

    path: str
    grade: int
    name: str
    probabilities: tuple[float, ...]
    referable: bool


@dataclasses.dataclass(frozen=True)
class Grader:
    """Grades new photographs in just the way in which those of the training were prepared.

    Args:
        model: the functional model of a `FineTuner`, taking prepared images as they are.
        head: its head.
        preparation: how photographs became images in training.
        grade_names: one name per grade.
        referable_from: lowest grade that is referred to a doctor.

    >>> import keras_ssl
    >>> encoder = keras_ssl.encoders.small_encoder((32, 32, 3), filters=(4, 8))
    >>> tuner = keras_ssl.FineTuner(encoder, keras_ssl.OrdinalHead(5), seed=0)
    >>> grader = keras_ssl.Grader(tuner.model, tuner.head, keras_ssl.data.Preparation(size=32))
    """

    model: keras.Model
    head: Head
    preparation: Preparation
    grade_names: Sequence[str] = GRADE_NAMES
    referable_from: int = 2

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to `path` (`.keras`), all else as JSON beside it.

        The model is written without optimizer: it is made of core layers and loads where this
        library is not installed.
        """
        path = Path(path)
        keras.Model(self.model.inputs, self.model.outputs, name=self.model.name).save(path)
        described = {
            "preparation": json.loads(self.preparation.to_json()),
            "head": keras.saving.serialize_keras_object(self.head),
            "grade_names": list(self.grade_names),
            "referable_from": self.referable_from,
        }
        path.with_suffix(".json").write_text(json.dumps(described, indent=2))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Grader":
        """Load what `save` wrote.

        Raises:
            FileNotFoundError: the model or the JSON beside it is missing.
        """
        path = Path(path)
        for part in (path, path.with_suffix(".json")):
            if not part.is_file():
                raise FileNotFoundError(f"`path` must name a saved grader with its JSON. Missing: {part}.")
        described: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        return cls(
            keras.saving.load_model(path),
            keras.saving.deserialize_keras_object(described["head"]),
            Preparation.from_json(json.dumps(described["preparation"])),
            tuple(described["grade_names"]),
            described["referable_from"],
        )

    def grade(self, paths: Sequence[str | os.PathLike[str]]) -> list[GradedImage]:
        """Grade photographs.

        Args:
            paths: image files.

        Raises:
            FileNotFoundError: files are missing; all are named.
            ValueError: files cannot be read; all are named.
        """
        images, _ = load_images([str(path) for path in paths], self.preparation, verbose=0)
        outputs = self.model.predict(images, verbose=0)
        grades, probabilities = self.head.decode(outputs), self.head.probabilities(outputs)
        return [
            GradedImage(
                str(path),
                int(grade),
                self.grade_names[grade],
                tuple(map(float, row)),
                bool(grade >= self.referable_from),
            )
            for path, grade, row in zip(paths, grades, np.asarray(probabilities), strict=True)
        ]
