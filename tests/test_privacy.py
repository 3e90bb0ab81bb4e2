"""Who a patient is, and whose computer it was, is written nowhere: all files are searched for it."""

import gzip
import json
import re
import shutil
import warnings
import zipfile

import keras
import nibabel
import numpy as np
import pytest
import tiny
from volume_files import dicom_slice

import keras_ssl
from keras_ssl.data import (
    ImageTable,
    Preparation,
    VolumePreparation,
    VolumeTable,
    load_images,
    load_volumes,
    open_volumes,
    read_volume,
    write_volume,
)
from keras_ssl.evaluation import PretextRecipe, Protocol, label_efficiency
from keras_ssl.reports import report_study

# What the tags below hold and nothing else does.
MARK = re.compile(rb"Zzyzx|19871231|17\.987654321|0815|ZZ", re.IGNORECASE)
PATIENT = {
    **dict.fromkeys(
        (
            *("PatientName", "PatientID", "OtherPatientNames", "PatientAddress", "PatientComments"),
            *("InstitutionName", "ReferringPhysicianName", "OperatorsName", "StationName", "StudyID"),
            *("AccessionNumber", "StudyDescription", "SeriesDescription", "ImageComments", "ProtocolName"),
        ),
        "Zzyzx",
    ),
    **dict.fromkeys(
        ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"), "19871231"
    ),
    **dict.fromkeys(("StudyTime", "AcquisitionTime"), "081500"),
    **dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"), "1.2.17.987654321"),
    "PatientAge": "081Y",
}


def found_in(content):
    return {match.decode() for match in MARK.findall(content)}


def files_below(folder):
    """Every file and what it unpacks to."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()
            if path.suffix == ".gz":
                yield path, gzip.decompress(path.read_bytes())
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    yield from ((path / name, archive.read(name)) for name in archive.namelist())


def save_series(folder, count=3, **tags):
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 8, (count, 16, 16)).astype(np.int16)
    for index in range(count):
        one = dicom_slice(index, (16, 16), signed=True)
        number = f"1.2.17.987654321.{index}"
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = number
        one.file_meta.SourceApplicationEntityTitle = "Zzyzx"
        for name, value in {**PATIENT, **tags}.items():
            setattr(one, name, value)
        one.private_block(0x0011, "Zzyzx", create=True).add_new(1, "LO", "Zzyzx")
        one.PixelData = pixels[index].tobytes()
        one.save_as(folder / f"{index}.dcm", enforce_file_format=True)
    return folder


def test_of_a_series_nothing_but_pixels_and_places_is_kept(tmp_path):
    series = save_series(tmp_path / "series")
    assert found_in((series / "0.dcm").read_bytes()) >= {"Zzyzx", "19871231", "17.987654321", "0815"}
    volume = read_volume(series)
    assert set(volume._asdict()) == {"voxels", "affine"}
    out = tmp_path / "out"
    out.mkdir()
    write_volume(out / "a.nii.gz", *volume)
    preparation = VolumePreparation(shape=(16, 16, 16))
    load_volumes(VolumeTable([str(series)]), preparation, out / "loaded", verbose=0)
    opened, _ = open_volumes(VolumeTable([str(series)]), preparation, out / "opened", verbose=0)
    written = list(files_below(out))
    assert len(written) >= 6
    for path, content in written:
        assert not found_in(content), path
    assert not found_in(repr([volume, opened]).encode())


def test_no_message_about_a_damaged_series_tells_whose_it_is(tmp_path, caplog):
    series = save_series(tmp_path / "series")
    content, generator = (series / "1.dcm").read_bytes(), np.random.default_rng(0)
    messages = []
    for _ in range(150):
        damaged = bytearray(content)
        for at in generator.integers(0, len(content) - 512, 6):
            damaged[at] = generator.integers(256)
        (series / "1.dcm").write_bytes(damaged[: generator.integers(400, 2 * len(content))])
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                read_volume(series)
            except ValueError as error:
                messages.append(str(error))
        messages += [str(warning.message) for warning in warned]
    assert len(messages) > 50
    for message in [*messages, caplog.text]:
        assert not found_in(message.encode()), message[:300]


def test_series_that_are_mixed_are_distinguished_without_their_numbers(tmp_path):
    series = save_series(tmp_path / "series")
    other = save_series(tmp_path / "other", 4, SeriesInstanceUID="1.2.17.987654321.5")
    shutil.copy(other / "3.dcm", series)
    with pytest.raises(
        ValueError, match=r"no number \(3 files, 0\.dcm\), no number \(1 files, 3\.dcm\)"
    ) as caught:
        read_volume(series)
    assert not found_in(str(caught.value).encode())


def test_a_written_volume_replaces_it_from_another_and_nothing_else(tmp_path):
    scan = nibabel.Nifti1Image(np.ones((3, 4, 5), np.int16), np.eye(4))
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        scan.header[name] = b"Zzyzx"
    scan.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Zzyzx"))
    scan.to_filename(tmp_path / "scan.nii")
    assert found_in((tmp_path / "scan.nii").read_bytes())
    write_volume(tmp_path / "labels.nii", np.ones((3, 4, 5), np.uint8), like=tmp_path / "scan.nii")
    assert not found_in((tmp_path / "labels.nii").read_bytes())


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home" / "zzyzx"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    return folder


def test_a_study_and_what_is_saved_of_it_name_no_folder_of_its_maker(home):
    for name, image in enumerate(keras_ssl.data.synthetic_fundus(30, size=40)[0]):
        path = home / "images" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        keras.utils.save_img(path, image, scale=False)
    table = ImageTable.from_folder(home / "images")
    images, _ = load_images(table, Preparation(size=16), home / "out" / "cache", verbose=0)
    encoder = tiny.functional_encoder((16, 16, 3))
    recipe = PretextRecipe(task=keras_ssl.RotationTask(guards=None), epochs=1, batch_size=8, verbose=0)
    found = label_efficiency(
        images,
        np.arange(30) % 3,
        encoder=encoder,
        pretrained={"rotation": recipe},
        head=keras_ssl.OrdinalHead(3),
        output_dir=home / "out" / "study",
        protocol=Protocol(
            fractions=(1.0,), arms=("initialized",), folds=1, steps=2, validations=1, warmup_fraction=0
        ),
        save_graders=True,
        verbose=False,
    )
    report_study(list(found), home / "out" / "study", grade_names=("a", "b", "c"))
    tuner = keras_ssl.FineTuner(encoder, keras_ssl.OrdinalHead(3), seed=0)
    tuner.fit(images, np.arange(30) % 3, backup_dir=home / "out" / "backup", verbose=0)
    names = ("a", "b", "c")
    keras_ssl.Grader(tuner.model, tuner.head, Preparation(size=16), names).save(home / "out" / "grader.keras")
    written = list(files_below(home / "out"))
    kinds = {path.name for path, _ in written}
    assert kinds >= {"report.html", "records.csv", "records.jsonl", "study.json", "grader.json", "state.json"}
    for path, content in written:
        assert not re.search(rb"zzyzx", content, re.IGNORECASE), path.relative_to(home)


@pytest.mark.parametrize("content", [b"no image", b"\x89PNG\r\n\x1a\nxx", b"\xff\xd8\xff\xe0 no jpeg"])
def test_what_a_cache_keeps_of_unreadable_files_names_no_folder(home, content):
    keras.utils.save_img(home / "a.png", np.ones((40, 40, 3)), scale=False)
    (home / "b.png").write_bytes(content)
    with pytest.warns(UserWarning, match=r"skipped as unreadable: \S*b\.png"):
        load_images(
            [home / "a.png", home / "b.png"], Preparation(16), home / "out", skip_unreadable=True, verbose=0
        )
    (home / "a.nii.gz").write_bytes(content)
    series = save_series(home / "series")
    (series / "1.dcm").write_bytes(content)
    for files in (["a.nii.gz"], ["series"]):
        table = VolumeTable([str(home / file) for file in files])
        with pytest.raises(ValueError, match=rf"zzyzx/{files[0]}"):
            load_volumes(table, VolumePreparation(shape=(4, 4, 4)), home / "out", verbose=0)
    reasons = [json.loads(path.read_text()) for path in (home / "out").rglob("unreadable.json")]
    assert len(reasons) == 3
    assert all(reasons)
    assert "zzyzx" not in json.dumps(reasons)
