"""Grader: a fine-tuned model with its head and image preparation, from image files to grades."""

import dataclasses
import json
import os
from collections.abc import Sequence

import keras
import numpy as np

from keras_ssl._checks import GRADE_NAMES
from keras_ssl._model_files import load_described, save_described
from keras_ssl._value_range import check_range
from keras_ssl.data import Preparation, load_images
from keras_ssl.data.batches import ArrayBatches
from keras_ssl.distribution import predict
from keras_ssl.heads.base import PooledHead


@dataclasses.dataclass(frozen=True)
class GradedImage:
    """Result of a `Grader` for one image.

    Args:
        path: the image file.
        grade: 0 to K - 1.
        name: name of the grade.
        probabilities: probability of each grade, summing to 1.
        referable: whether the grade is at or above `Grader.referable_from`.

    >>> GradedImage("eye.png", 2, "moderate", (0.1, 0.2, 0.7), referable=True).name
    'moderate'
    """

    path: str
    grade: int
    name: str
    probabilities: tuple[float, ...]
    referable: bool


@dataclasses.dataclass(frozen=True)
class Grader:
    """Grades image files, prepared in the same way as the training images.

    Args:
        model: the functional model of a `FineTuner`, on prepared images.
        head: its head, which must predict probabilities.
        preparation: preparation of the training images.
        grade_names: one name per grade.
        referable_from: lowest grade that requires referral, 0 to K - 1.

    Raises:
        ValueError: `head` does not predict probabilities, the arguments do not match, or `model` was trained
            on values of another range than those of `preparation`, such as 0 to 1 instead of 0 to 255. The
            range of a model that was not trained by a `FineTuner` is unknown, which gives a warning unless it
            scales its inputs.

    >>> import keras_ssl, tempfile
    >>> encoder = keras_ssl.encoders.small_encoder((32, 32, 3), filters=(4, 8), value_range=(0, 255))
    >>> tuner = keras_ssl.FineTuner(encoder, keras_ssl.OrdinalHead(5), seed=0)
    >>> grader = keras_ssl.Grader(tuner.model, tuner.head, keras_ssl.data.Preparation(size=32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keras.utils.save_img(folder + "/eye.png", np.ones((40, 40, 3)), scale=False)
    ...     graded = grader.grade([folder + "/eye.png"])
    >>> len(graded), graded[0].name in keras_ssl.data.GRADE_NAMES
    (1, True)
    """

    model: keras.Model
    head: PooledHead
    preparation: Preparation
    grade_names: Sequence[str] = GRADE_NAMES
    referable_from: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.head, PooledHead) or self.head.form in (None, "score"):
            raise ValueError(
                f"`head` must predict the probability of each grade. Received {type(self.head).__name__}, "
                "which predicts one number per image. Use OrdinalHead."
            )
        count = self.head.grade_count
        if len(self.grade_names) != count:
            raise ValueError(
                f"`grade_names` must be {count} names, one per grade of `head`. Received {self.grade_names}."
            )
        if self.referable_from not in range(count):
            raise ValueError(f"`referable_from` must lie in 0..{count - 1}. Received {self.referable_from}.")
        size, channels = self.preparation.size, self.preparation.channels
        if self.model.input_shape != (None, size, size, channels):
            raise ValueError(
                f"`model` must take images of `preparation`, (batch, {size}, {size}, {channels}). Received "
                f"a model of input shape {self.model.input_shape}."
            )
        if self.model.output_shape != (None, self.head.output_units):
            raise ValueError(
                f"`model` must end in `head`, with output shape (batch, {self.head.output_units}). Received "
                f"a model of output shape {self.model.output_shape}."
            )
        check_range(self.model, self.preparation.value_range)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to `path` (`.keras`), and everything else to a JSON file beside it.

        The model is written without optimizer and contains core layers only: it loads on every backend, and
        without this library. The JSON file includes the model's output for noise, which `load` checks.
        """
        described = {
            "preparation": json.loads(self.preparation.to_json()),
            "head": keras.saving.serialize_keras_object(self.head),
            "grade_names": list(self.grade_names),
            "referable_from": self.referable_from,
        }
        save_described(self.model, path, described)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Grader":
        """Load what `save` wrote.

        Raises:
            FileNotFoundError: the model or the JSON beside it is missing.
            ValueError: they are damaged or do not match, the model's output differs from when it was saved,
                or they contain code, unknown classes, or more data than their size allows (malicious files,
                of which nothing is executed).
        """
        with load_described(path, "grader") as (model, described):
            return cls(
                model,
                keras.saving.deserialize_keras_object(described["head"]),
                Preparation.from_json(json.dumps(described["preparation"])),
                tuple(described["grade_names"]),
                described["referable_from"],
            )

    def grade(self, paths: Sequence[str | os.PathLike[str]]) -> list[GradedImage]:
        """Grade image files.

        Args:
            paths: image files.

        Raises:
            FileNotFoundError: files are missing; the error names all.
            ValueError: files cannot be read; the error names all. Or `paths` is not a list.
        """
        if isinstance(paths, (str, os.PathLike)):
            raise ValueError(f"`paths` must be a list of files. Received {os.fspath(paths)!r}, a single one.")
        images, _ = load_images([str(path) for path in paths], self.preparation, verbose=0)
        outputs = predict(self.model, ArrayBatches((images,), shuffle=False))
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
