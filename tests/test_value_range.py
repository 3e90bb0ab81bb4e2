"""A model says what values it was trained on, and Grader and Segmenter refuse others, here and once saved."""

import json
import os
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
import tiny

import keras_ssl
from keras_ssl import FineTuner, Grader, OrdinalHead, SegmentationHead, Segmenter, encoders
from keras_ssl._value_range import noted_range
from keras_ssl.data import Preparation, VolumePreparation, Window, ZScore

SHAPE = (16, 16, 3)
PIXELS = (255 * tiny.images(12, SHAPE)).astype("uint8")
GRADES = np.arange(12) % 5
PREPARATION = Preparation(size=16, crop=None)


def trained(images, value_range=(0, 255), fit=None):
    encoder = encoders.small_encoder(SHAPE, filters=(4,), value_range=value_range)
    tuner = FineTuner(encoder, OrdinalHead(5), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuner.fit(*(fit or (images, GRADES)), verbose=0)
    return tuner


def test_the_input_is_named_after_the_range_of_all_that_was_trained_on(tmp_path):
    tuner = trained(PIXELS[:6], fit=(PIXELS[:6] // 2 + 5, GRADES[:6]))
    first = noted_range(tuner.model)
    assert first == (PIXELS[:6].min() // 2 + 5, PIXELS[:6].max() // 2 + 5)
    tuner.fit(PIXELS, GRADES, verbose=0)
    assert noted_range(tuner.model) == (
        float(PIXELS.min()),
        first[1] if first[1] > PIXELS.max() else PIXELS.max(),
    )
    tuner.model.save(tmp_path / "model.keras")
    tuner.save(tmp_path / "bare.keras")
    for name in ("model", "bare"):
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras")
        assert noted_range(loaded) == noted_range(tuner.model)
        np.testing.assert_allclose(
            loaded.predict(PIXELS, verbose=0), tuner.model.predict(PIXELS, verbose=0), atol=1e-6
        )


@pytest.mark.parametrize("kind", ["PyDataset", "stream"])
def test_data_sets_are_watched_as_they_are_read(kind):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return PIXELS[index::2], GRADES[index::2]

    data = Batches() if kind == "PyDataset" else [(PIXELS[k::2], GRADES[k::2]) for k in range(2)]
    low, high = noted_range(trained(None, fit=(data,)).model)
    assert (low, high) == pytest.approx((PIXELS.min(), PIXELS.max()), abs=3)


@pytest.mark.parametrize("scaled", [PIXELS / 255, PIXELS / 127.5 - 1, PIXELS / 50 - 2, 257.0 * PIXELS])
def test_a_grader_refuses_values_of_another_range(scaled, tmp_path):
    tuner = trained(scaled.astype("float32"), value_range=None)
    message = r"`preparation` must have the value range that `model` was trained on, .* Received 0 to 255"
    with pytest.raises(ValueError, match=message):
        Grader(tuner.model, tuner.head, PREPARATION)
    tuner.model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=message):
        Grader(keras.saving.load_model(tmp_path / "model.keras", compile=False), tuner.head, PREPARATION)


@pytest.mark.parametrize("images", [PIXELS, PIXELS.astype("float32"), PIXELS // 20])
def test_a_grader_takes_pixels_as_they_are_stored_even_dark_ones(images):
    tuner = trained(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Grader(tuner.model, tuner.head, PREPARATION)


def test_a_model_of_unknown_range_warns_unless_it_scales_inside():
    for value_range, told in ((None, 1), ((0, 255), 0)):
        encoder = encoders.small_encoder(SHAPE, filters=(4,), value_range=value_range)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            Grader(FineTuner(encoder, OrdinalHead(5), seed=0).model, OrdinalHead(5), PREPARATION)
        assert sum("unknown whether `model` was trained" in str(w.message) for w in found) == told


def test_a_segmenter_refuses_values_of_another_range():
    encoder = encoders.unet_encoder((8, 8, 8, 1), filters=(2, 4))
    tuner = FineTuner(encoder, SegmentationHead(2), seed=0)
    volumes = tiny.images(2, (8, 8, 8, 1))
    tuner.fit(255 * volumes, (volumes[..., 0] > 0.5).astype("uint8"), verbose=0)
    names = ("background", "part")
    for preparation in (VolumePreparation(), VolumePreparation(intensity=Window(0, 80))):
        assert preparation.value_range == (0.0, 1.0)
        with pytest.raises(ValueError, match="`preparation` must have the value range"):
            Segmenter(tuner.model, preparation, names)
    assert VolumePreparation(intensity=ZScore()).value_range is None
    Segmenter(tuner.model, VolumePreparation(intensity=None), names)


def test_graders_of_a_study_know_their_range(tmp_path):
    from keras_ssl.evaluation import Protocol, label_efficiency

    images, grades = keras_ssl.data.synthetic_fundus(40, size=16)
    protocol = Protocol(
        arms=("random",), fractions=(1.0,), folds=1, steps=2, validations=1, warmup_fraction=0.0, batch_size=8
    )
    encoder = encoders.small_encoder(SHAPE, filters=(4,))
    study = {"encoder": encoder, "pretrained": {}, "head": OrdinalHead(5), "protocol": protocol}
    folder = {"output_dir": tmp_path / "study", "save_graders": True, "verbose": False}
    assert len(list(label_efficiency(images / 255, grades, **study, **folder))) == 1
    (file,) = (tmp_path / "study" / "graders").glob("*.keras")
    with pytest.raises(ValueError, match="`preparation` must have the value range"):
        Grader(keras.saving.load_model(file), OrdinalHead(5), PREPARATION)


def test_a_loaded_grader_must_give_what_it_gave_when_it_was_saved(tmp_path):
    tuner = trained(PIXELS)
    path = tmp_path / "grader.keras"
    Grader(tuner.model, tuner.head, PREPARATION).save(path)
    Grader.load(path)
    described = json.loads((tmp_path / "grader.json").read_text())
    assert len(described["expected"]) == 4
    other = trained(PIXELS)
    other.model.set_weights([weight + 0.5 for weight in tuner.model.get_weights()])
    other.save(path)
    with pytest.raises(ValueError, match=r"its model must have the output .* for noise"):
        Grader.load(path)


@pytest.mark.slow
def test_a_grader_trained_on_one_backend_grades_where_that_is_missing(tmp_path):
    here = keras.backend.backend()
    there = "tensorflow" if here != "tensorflow" else "jax"
    pytest.importorskip(there)
    tuner = trained(PIXELS)
    Grader(tuner.model, tuner.head, PREPARATION).save(tmp_path / "grader.keras")
    tuner.save(tmp_path / "bare.keras")
    np.savez(tmp_path / "expected.npz", pixels=PIXELS, outputs=tuner.model.predict(PIXELS, verbose=0))
    script = f"""
        import sys
        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == {here!r}:
                    raise ImportError(name)
        sys.meta_path.insert(0, Missing())
        import keras, numpy as np
        known = np.load("expected.npz")
        for name in ("bare", "grader"):
            model = keras.saving.load_model(name + ".keras")
            np.testing.assert_allclose(model.predict(known["pixels"], verbose=0), known["outputs"], atol=1e-5)
        import keras_ssl
        keras_ssl.Grader.load("grader.keras")
        assert keras.backend.backend() == {there!r}
    """
    environment = {**os.environ, "KERAS_BACKEND": there}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
