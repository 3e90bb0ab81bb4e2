"""Grader: model, head and preparation travel together and grade as in training."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_ssl import FineTuner, Grader, MultiHotHead, OrdinalHead, RegressionHead, encoders
from keras_ssl.data import Preparation, synthetic_fundus


@pytest.fixture
def photographs(tmp_path):
    images, grades = synthetic_fundus(6, size=40)
    files = [tmp_path / f"{number}.png" for number in range(6)]
    for file, image in zip(files, images, strict=True):
        keras.utils.save_img(file, image, scale=False)
    return files, images, grades


@pytest.mark.parametrize("head", [OrdinalHead(5), MultiHotHead(5)])
def test_saved_and_loaded_it_grades_alike(head, photographs, tmp_path):
    files, images, _ = photographs
    preparation = Preparation(size=32)
    tuner = FineTuner(encoders.small_encoder((32, 32, 3), filters=(4, 8)), head, seed=0)
    Grader(tuner.model, head, preparation).save(tmp_path / "grader.keras")
    loaded = Grader.load(tmp_path / "grader.keras")
    assert (loaded.head, loaded.preparation) == (head, preparation)
    graded = loaded.grade(files)
    prepared = np.stack([preparation.apply(image) for image in images])
    assert [image.grade for image in graded] == tuner.predict(prepared).tolist()
    np.testing.assert_allclose(
        [image.probabilities for image in graded], tuner.predict_probabilities(prepared), atol=1e-5
    )
    for image in graded:
        assert sum(image.probabilities) == pytest.approx(1, abs=1e-5)
        assert image.name == loaded.grade_names[image.grade]
        assert image.referable == (image.grade >= 2)


def test_missing_parts_and_images_are_named(photographs, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.keras"):
        Grader.load(tmp_path / "nothing.keras")
    tuner = FineTuner(encoders.small_encoder((32, 32, 3), filters=(4,)), OrdinalHead(5), seed=0)
    grader = Grader(tuner.model, tuner.head, Preparation(size=32))
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        grader.grade([tmp_path / "absent.png"])
    broken = photographs[0][0]
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match=broken.name):
        grader.grade(photographs[0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"head": RegressionHead(5)}, "`head` must predict the probability .*Received RegressionHead"),
        ({"grade_names": ("healthy", "ill")}, "`grade_names` must be 5 names.*'healthy', 'ill'"),
        ({"referable_from": 5}, r"`referable_from` must lie in 0\.\.4\. Received 5"),
        ({"referable_from": -1}, r"`referable_from` must lie in 0\.\.4\. Received -1"),
        ({"preparation": Preparation(size=48)}, r"\(batch, 48, 48, 3\)\. .*\(None, 32, 32, 3\)"),
        ({"preparation": Preparation(size=32, channels=1)}, r"\(batch, 32, 32, 1\)"),
        ({"head": MultiHotHead(5)}, r"must end in `head`.*\(None, 4\)"),
    ],
)
def test_parts_that_do_not_fit_raise(changed, message):
    tuner = FineTuner(encoders.small_encoder((32, 32, 3), filters=(4,)), OrdinalHead(5), seed=0)
    grader = Grader(tuner.model, tuner.head, Preparation(size=32))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(grader, **changed)


def test_a_single_file_raises_as_no_list(photographs):
    files, _, _ = photographs
    tuner = FineTuner(encoders.small_encoder((32, 32, 3), filters=(4,)), OrdinalHead(5), seed=0)
    with pytest.raises(ValueError, match=r"`paths` must be a list of files\. Received '.*0\.png'"):
        Grader(tuner.model, tuner.head, Preparation(size=32)).grade(files[0])
