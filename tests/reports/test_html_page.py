"""The HTML report: well-formed, without network access, accessible and escaped."""

import functools
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.figure import Figure
from records import NAMES, failed, study
from surroundings import full_disk

from keras_ssl.reports import report_study
from keras_ssl.reports.html_page import pretext_histories, write_report

pytestmark = pytest.mark.no_backend

EVIL = '<script>alert("x")</script>&\'$\\frac'
RANDOM = {"arm": "random", "fraction": 1.0, "labels": 9, "qw_kappa": 0.5, "pretrained_on": "none"}
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Elements as (tag, attributes, text inside), and whether every one is closed where it must be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self.open.append((tag, self.elements[-1]))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        for _, element in self.open:
            element[2].append(text)

    def all(self, *tags):
        return [(attributes, "".join(text)) for tag, attributes, text in self.elements if tag in tags]


def records():
    found = study()
    found[3] = failed(found[3])
    return found


def figure():
    made = Figure()
    made.subplots().imshow(np.eye(3))
    return made


def everything(path, **changed):
    arguments = {
        "grade_names": NAMES,
        "configuration": {"encoder": "small", "fractions": (0.05, 1.0)},
        "provenance": {"images": 750, "license": "CC BY 4.0"},
        "pretext_histories": {"rotation": {"loss": [1.4, 0.9], "val_loss": [1.5, 1.2]}},
        "figures": {"Inputs of the pretext task": figure(), "A map": figure()},
        **changed,
    }
    return write_report(arguments.pop("records", None) or records(), path, **arguments)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("page") / "new" / "report.html")


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text())


def test_sections_are_in_order_with_the_summary_first(page):
    headings = [text for _, text in page.all("h2")]
    assert headings == [
        "Summary",
        "Results by fraction of the labels",
        "Label efficiency",
        "Paired differences",
        "Labels saved",
        "Convergence",
        "Results per grade",
        "Pretraining",
        "Further figures",
        "All runs",
        "Configuration",
        "Data",
        "Software versions",
    ]
    assert len(page.all("h1")) == 1
    assert not page.all("h3", "h4")
    assert page.all("html")[0][0]["lang"] == "en"


def test_nothing_is_fetched_and_nothing_runs(page, written):
    assert not page.all("script", "iframe", "object", "img")
    for _, attributes, _ in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "action", "data", "xlink:href"):
                assert value.startswith(("#", "data:")), value
            for target in re.findall(r"url\(([^)]*)\)", value or ""):
                assert target.startswith("#")
    style = page.all("style")[0][1]
    assert len(page.all("style")) == 1
    assert "url(" not in style
    assert "@import" not in style
    assert [path.name for path in written.parent.iterdir()] == ["report.html"]


def test_figures_have_alternative_text(page):
    figures = page.all("svg")
    assert len(figures) == 8
    for attributes, _ in figures:
        assert attributes["role"] == "img"
        assert attributes["aria-label"]
    first = figures[0][0]["aria-label"]
    mean = np.mean([r["qw_kappa"] for r in records() if (r["arm"], r["fraction"]) == ("random", 1.0)])
    assert f"from scratch {mean:.3f}" in first
    assert any("Still rising" in attributes["aria-label"] for attributes, _ in figures)


def test_ids_are_unique_and_references_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert ids
    assert len(set(ids)) == len(ids)
    for _, attributes, _ in page.elements:
        for value in attributes.values():
            for target in re.findall(r"url\(#([^)]*)\)", value or ""):
                assert target in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids


def test_figures_take_the_colors_of_the_page(page):
    assert not any(
        "#000000" in (value or "") for _, attributes, _ in page.elements for value in attributes.values()
    )
    assert all(attributes["fill"] == "currentColor" for attributes, _ in page.all("svg"))
    assert sum("currentColor" in (a.get("style") or "") for _, a, _ in page.elements) > 50
    style = page.all("style")[0][1]
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_tables_have_captions_and_scopes_and_scroll_by_keyboard(page):
    assert len(page.all("caption")) == len(page.all("table")) == 9
    assert all(attributes.get("scope") for attributes, _ in page.all("th"))
    wide = [attributes for attributes, _ in page.all("div") if attributes.get("class") == "wide"]
    assert len(wide) == 9 + 8
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in wide)


def test_every_run_is_listed_with_its_numbers(page):
    text = "".join(page.all("tbody")[-4][1])
    assert all(
        text.count(label) == 15 for label in ("pretrained, fine-tuned", "pretrained, frozen", "from scratch")
    )
    assert text.count("failed") == 1
    assert page.all("caption")[-4][1] == "All 45 runs, 1 of them failed; one row per run"
    for run in records():
        if run["status"] == "ok":
            assert f"{run['qw_kappa']:.4g}" in text


def test_the_same_records_give_the_same_page(written, tmp_path):
    again = everything(tmp_path / "again.html", records=records()[::-1])
    assert again.read_text() == written.read_text()


def test_what_comes_from_outside_is_escaped(tmp_path):
    evil = [{**run, "arm": EVIL} if run["arm"] == "frozen" else {**run, "backend": EVIL} for run in records()]
    evil[0]["pretrained_on"] = "all"
    path = everything(
        tmp_path / "evil.html",
        records=evil,
        title=EVIL,
        grade_names=[EVIL, *NAMES[1:]],
        configuration={EVIL: EVIL},
        provenance={EVIL: [EVIL]},
        pretext_histories={EVIL: {"loss": [1.0, 0.5]}},
        figures={EVIL: figure()},
    )
    found = Page(path.read_text())
    assert not found.all("script")
    assert "<script" not in path.read_text()
    assert found.all("h1")[0][1] == EVIL
    assert sum(EVIL in text for _, text in found.all("th")) > 5
    assert any(EVIL in text for _, text in found.all("text")), "figures name the arm as it is called"


def test_pretraining_on_test_images_is_warned_of_above_the_summary(tmp_path):
    def notes(arms, source):
        runs = [
            {"arm": arm, "fraction": 1.0, "labels": 9, "qw_kappa": 0.5, "pretrained_on": source}
            for arm in arms
        ]
        page = write_report([*runs, RANDOM], tmp_path / "a.html").read_text()
        found = [(a.get("class"), text) for a, text in Page(page).all("div") if a.get("role") == "note"]
        assert not found or page.index(found[0][1]) < page.index("Summary")
        return found

    assert not notes(("frozen",), "fold")
    ((kind, text),) = notes(("frozen",), "all")
    assert kind == "warning"
    assert "Pretrained on all images, including test images: pretrained, frozen." in text
    ((kind, text),) = notes(("frozen",), "given")
    assert kind == "note"
    assert "Pretrained elsewhere: pretrained, frozen." in text


def test_gains_over_given_weights_have_a_table_of_their_own(tmp_path):
    records = study(arms=("imagenet", "imagenet+rotation", "random"))
    page = write_report(records, tmp_path / "a.html").read_text()
    assert "Gain over the same weights without pretraining" in page
    assert "Pretrained elsewhere: ImageNet, fine-tuned; ImageNet + rotation, fine-tuned." in page
    assert "Gain over the same weights" not in write_report(study(), tmp_path / "b.html").read_text()


def test_records_from_a_table_have_fewer_sections(tmp_path):
    text = [{key: str(value) for key, value in run.items() if not isinstance(value, list)} for run in study()]
    headings = [heading for _, heading in Page(write_report(text, tmp_path / "a.html").read_text()).all("h2")]
    assert "Paired differences" in headings
    assert not {"Convergence", "Results per grade", "Pretraining", "Configuration"} & set(headings)


def test_an_earlier_page_stays_where_the_new_one_fails(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("earlier")
    with pytest.raises(ValueError, match="at least one completed run"):
        write_report([failed(run) for run in study(repetitions=1)], path)
    assert path.read_text() == "earlier"


def test_a_full_disk_keeps_the_earlier_page_and_is_named(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("earlier")
    with (
        full_disk(1000),
        pytest.raises(OSError, match=r"report\.html could not be written.*\[Errno.* is kept"),
    ):
        write_report([run for run in study(repetitions=1) if run["fraction"] == 1.0], path)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


@functools.cache
def browser():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_a_browser_shows_it(written, tmp_path):
    if not browser():
        pytest.skip("there is no Chromium on the path")
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    flags += f"disable-component-update disable-sync user-data-dir={tmp_path} dump-dom"
    command = [browser(), *(f"--{flag}" for flag in flags.split()), written.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # The browser writes what it understood: a piece that is not well-formed would end elsewhere.
    shown, meant = Page(done.stdout), Page(written.read_text())
    for tag in ("h2", "figure", "svg", "table", "tr", "td", "text"):
        assert len(shown.all(tag)) == len(meant.all(tag)), tag
    assert [text for _, text in shown.all("td")] == [text for _, text in meant.all("td")]


CONFIGURATION = {"protocol.steps": 200, "head": "OrdinalHead(5)"}


@pytest.fixture
def folder(tmp_path):
    found = {"configuration": CONFIGURATION, "data": {"images": 1000, "copies": 2}}
    (tmp_path / "study.json").write_text(json.dumps(found))
    (tmp_path / "encoders").mkdir()
    for fold in (1, 0):
        curves = {"loss": [1.4, 0.9 - fold], "val_loss": [1.3, 1.1]}
        file = tmp_path / "encoders" / f"rotation-r0-f{fold}.json"
        file.write_text(json.dumps({"task": "rotation", "history": curves}))
    return tmp_path


def pngs(folder):
    return sorted(file.name for file in folder.glob("*.png") if file.read_bytes().startswith(b"\x89PNG"))


def test_page_and_figures_are_written_into_the_folder(folder):
    page = report_study(study(), folder, grade_names=NAMES, provenance={"source": "synthetic"})
    assert page == folder / "report.html"
    text = page.read_text()
    for part in (
        "protocol.steps",
        "OrdinalHead(5)",
        "copies",
        "synthetic",
        "rotation-r0-f1",
        "Results per grade",
    ):
        assert part in text
    assert pngs(folder) == ["confusion.png", "convergence.png", "label_efficiency.png"]


def test_figures_without_values_are_left_out(folder):
    lost = ("curve_", "test_predictions", "test_grades")
    plain = [{name: run[name] for name in run if not name.startswith(lost)} for run in study()]
    report_study(plain, folder, metric="accuracy", grade_names=NAMES)
    assert pngs(folder) == ["label_efficiency.png"]
    assert "accuracy (fraction of correct grades)" in (folder / "report.html").read_text()


def test_curves_of_the_pretext_are_read_in_order(folder):
    found = pretext_histories(folder)
    assert list(found) == ["rotation-r0-f0", "rotation-r0-f1"]
    assert found["rotation-r0-f1"]["loss"] == pytest.approx([1.4, -0.1])


def test_a_folder_without_a_study_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"study\.json"):
        report_study(study(), tmp_path)
