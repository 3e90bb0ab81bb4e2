"""Saved models that were made to do harm: refused by name, nothing in them run, no memory taken for them."""

import io
import json
import os
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tiny

from keras_ssl import FineTuner, Grader, OrdinalHead, encoders
from keras_ssl.data import Preparation
from keras_ssl.evaluation import training_runs as study


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "grader.keras"
    tuner = FineTuner(encoders.small_encoder((32, 32, 3), filters=(4,)), OrdinalHead(5), seed=0)
    Grader(tuner.model, tuner.head, Preparation(size=32)).save(path)
    return path


@pytest.fixture
def members(saved):
    with zipfile.ZipFile(saved) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def refused(saved, tmp_path):
    """Put other members into the file of a grader: it must be refused for the reason that is told."""

    def check(members, match, described=None):
        path = tmp_path / "hostile.keras"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        described = saved.with_suffix(".json").read_text() if described is None else described
        path.with_suffix(".json").write_text(described)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=rf"(?s)saved grader.*hostile\.keras .*{match}") as caught:
                Grader.load(path)
            assert tracemalloc.get_traced_memory()[1] < 100_000_000
        finally:
            tracemalloc.stop()
        assert len(str(caught.value)) < 1000
        assert not (tmp_path / "sprung").exists()

    return check


def with_layer(members, **changes):
    """The members with the first layer that has weights changed."""
    config = json.loads(members["config.json"])
    layer = next(one for one in config["config"]["layers"] if one["class_name"] != "InputLayer")
    layer.update(changes)
    return {**members, "config.json": json.dumps(config)}


def with_setting(members, kind, **settings):
    """The members with settings of the first layer of a kind changed."""
    config = json.loads(members["config.json"])
    stack = [config]
    while stack:
        one = stack.pop(0)
        if isinstance(one, dict):
            if one.get("class_name") == kind:
                one["config"].update(settings)
                return {**members, "config.json": json.dumps(config)}
            stack += one.values()
        elif isinstance(one, list):
            stack += one
    raise AssertionError(f"no {kind}")


def trap(folder):
    """A layer whose code, stored in the file that it is saved to, makes a folder."""
    target = str(folder / "sprung")
    return keras.layers.Lambda(lambda x: (__import__("os").mkdir(target), x)[1], output_shape=(8, 8, 3))


@pytest.fixture
def trapped(tmp_path):
    """The file of an encoder that makes a folder when it is called."""
    inputs = keras.Input((8, 8, 3))
    encoder = keras.Model(inputs, keras.layers.Conv2D(4, 3)(trap(tmp_path)(inputs)))
    encoder.save(tmp_path / "trap.keras")
    return tmp_path / "trap.keras"


def test_python_code_is_not_run(refused, members, trapped):
    with zipfile.ZipFile(trapped) as archive:
        code = {"config.json": archive.read("config.json")}
    refused({**members, **code}, "`?lambda`?")


def test_an_encoder_of_a_study_is_loaded_as_carefully(trapped, monkeypatch):
    monkeypatch.setattr(study.Study, "encoder_file", lambda *_: trapped)
    one = study.Study(*[None] * 4, None, None, (), False)
    with pytest.raises(ValueError, match=r"(?s)saved encoder\. .*trap\.keras .*lambda"):
        one.load_encoder("none", None, 0)
    assert not (trapped.parent / "sprung").exists()


def test_a_model_of_a_task_is_loaded_without_running_code(tmp_path, trapped):
    path = tmp_path / "model.keras"
    tiny.quick_model().save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    with zipfile.ZipFile(trapped) as archive:
        config["config"]["encoder"] = json.loads(archive.read("config.json"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "config.json": json.dumps(config)}.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="lambda"):
        keras.saving.load_model(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("module", "name", "registered"),
    [
        ("os", "mkdir", None),
        ("os", "mkdir", "os>mkdir"),
        ("builtins", "eval", "function"),
        ("subprocess", "Popen", None),
        ("keras.utils", "get_file", None),
        ("keras.src.utils.file_utils", "get_file", None),
        ("keras_ssl.evaluation.training_runs", "Study", None),
        ("nothing", "Known", "somebody>Known"),
    ],
)
def test_foreign_classes_and_functions_are_not_called(refused, members, tmp_path, module, name, registered):
    called = {"path": str(tmp_path / "sprung"), "name": "sprung"}
    foreign = {"module": module, "class_name": name, "registered_name": registered, "config": called}
    refused(with_layer(members, **foreign), "[Cc]ould not|[Cc]annot")
    function = {**foreign, "class_name": "function", "config": name}
    refused(with_setting(members, "Conv2D", activation=function), "[Cc]ould not|[Cc]annot")


def test_a_wrapper_of_pickled_modules_raises(refused, members):
    wrapper = {"module": "keras.layers", "class_name": "TorchModuleWrapper", "registered_name": None}
    refused(with_layer(members, **wrapper, config={"module": "gASVAAAA", "name": "x"}), "")


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5", "metadata.json", "assets/x"])
def test_members_that_unpack_to_much_are_not_unpacked(refused, members, name):
    refused({**members, name: bytes(100_000_000)}, "its header must not declare .* 100000000 bytes")


def test_layers_of_more_weights_than_are_stored_are_not_built(refused, members):
    huge = with_setting(members, "Dense", units=10**9)
    refused(huge, r"its model must have the \d+ stored weights. Received one with \d{10}")
    refused(with_setting(members, "Conv2D", filters=10**9), "received input with shape")


def h5(fill):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        fill(file)
    return stream.getvalue()


def external(file):
    file.create_dataset("vars/0", (10,), "u1", external=[("/etc/passwd", 0, 10)])


def virtual(file):
    layout = h5py.VirtualLayout((10,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (10,))
    file.create_virtual_dataset("vars/0", layout)


def linked(file):
    file["layers"] = h5py.ExternalLink("/tmp/other.h5", "/")


@pytest.mark.parametrize(
    "fill",
    [
        lambda file: file.create_dataset(
            "vars/0", (10**5, 10**5), "f4", chunks=(100, 100), compression="gzip"
        ),
        lambda file: file.create_dataset("vars/0", (10**12,), "f8", chunks=(100,)),
        external,
        virtual,
        linked,
    ],
    ids=["packed claim", "claim", "external", "virtual", "linked"],
)
def test_weights_that_are_not_in_the_file_raise(refused, members, fill):
    refused({**members, "model.weights.h5": h5(fill)}, "")


def test_pickled_weights_raise(refused, members, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    stream = io.BytesIO()
    np.savez(stream, vars=np.array([Trap()], object))
    del members["model.weights.h5"]
    refused({**members, "model.weights.npz": stream.getvalue()}, r"model\.weights\.h5")


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\x89HDF\r\n\x1a\n" + bytes(100), b"{}"])
def test_damaged_members_raise(refused, members, name, content):
    refused({**members, name: content}, "")


def test_what_is_no_archive_raises(saved, tmp_path):
    (tmp_path / "a.json").write_text(saved.with_suffix(".json").read_text())
    for content in (b"", b"PK\3\4", saved.read_bytes()[:3000]):
        (tmp_path / "a.keras").write_bytes(content)
        with pytest.raises(ValueError, match=r"saved grader\. .*a\.keras cannot be loaded"):
            Grader.load(tmp_path / "a.keras")


@pytest.mark.parametrize(
    "change",
    [
        {
            "head": {
                "module": "os",
                "class_name": "mkdir",
                "config": {"path": "sprung"},
                "registered_name": None,
            }
        },
        {"head": {"class_name": "__lambda__", "config": {"value": ["AAAA", None, None]}}},
        {"head": 3},
        {"preparation": {"preparation": 1, "size": 10**9}},
        {"grade_names": None},
    ],
    ids=str,
)
def test_settings_that_are_none_raise(refused, saved, members, change):
    described = json.loads(saved.with_suffix(".json").read_text())
    refused(members, "", json.dumps({**described, **change}))


@pytest.mark.parametrize("described", ["", "[" * 100_000, "[]", "{}"])
def test_settings_that_cannot_be_read_raise(refused, members, described):
    refused(members, "", described)


def test_layers_that_keep_what_they_were_adapted_to_are_loaded(tmp_path):
    rescale = keras.layers.Normalization(axis=-1)
    rescale.adapt(tiny.images(4, (32, 32, 3)))
    inputs = keras.Input((32, 32, 3))
    features = keras.layers.BatchNormalization()(keras.layers.Dropout(0.5)(rescale(inputs)))
    tuner = FineTuner(keras.Model(inputs, features), OrdinalHead(5), seed=0)
    Grader(tuner.model, tuner.head, Preparation(size=32)).save(tmp_path / "a.keras")
    images = tiny.images(2, (32, 32, 3))
    expected = tuner.model.predict(images, verbose=0)
    np.testing.assert_array_equal(
        Grader.load(tmp_path / "a.keras").model.predict(images, verbose=0), expected
    )
