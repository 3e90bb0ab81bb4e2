"""The report of a study from its folder."""

import json

import pytest
from records import NAMES, study

from keras_ssl.reports import pretext_histories, report_study

pytestmark = pytest.mark.no_backend

SETTINGS = {"protocol.steps": 200, "head": "OrdinalHead(5)"}


@pytest.fixture
def folder(tmp_path):
    found = {"settings": SETTINGS, "data": {"images": 1000, "copies": 2}}
    (tmp_path / "study.json").write_text(json.dumps(found))
    (tmp_path / "encoders").mkdir()
    for fold in (1, 0):
        curves = {"loss": [1.4, 0.9 - fold], "val_loss": [1.3, 1.1]}
        file = tmp_path / "encoders" / f"rotation-r0-f{fold}.json"
        file.write_text(json.dumps({"task": "rotation", "history": curves}))
    return tmp_path


def pngs(folder):
    return sorted(file.name for file in folder.glob("*.png") if file.read_bytes().startswith(b"\x89PNG"))


def test_page_and_figures_lie_in_the_folder(folder):
    page = report_study(study(), folder, grade_names=NAMES, provenance={"source": "drawn"})
    assert page == folder / "report.html"
    text = page.read_text()
    for part in ("protocol.steps", "OrdinalHead(5)", "copies", "drawn", "rotation-r0-f1", "Grade by grade"):
        assert part in text
    assert pngs(folder) == ["confusion.png", "convergence.png", "label_efficiency.png"]


def test_what_records_do_not_hold_is_not_drawn(folder):
    lost = ("curve_", "test_predictions", "test_grades")
    plain = [{name: run[name] for name in run if not name.startswith(lost)} for run in study()]
    report_study(plain, folder, metric="accuracy", grade_names=NAMES)
    assert pngs(folder) == ["label_efficiency.png"]
    assert "accuracy (share of right grades)" in (folder / "report.html").read_text()


def test_curves_of_the_pretext_are_read_in_order(folder):
    found = pretext_histories(folder)
    assert list(found) == ["rotation-r0-f0", "rotation-r0-f1"]
    assert found["rotation-r0-f1"]["loss"] == pytest.approx([1.4, -0.1])


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"study\.json"):
        report_study(study(), tmp_path)
