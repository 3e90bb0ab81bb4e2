"""Every Python block of README and of the pages is run, each page in an order that a reader would follow."""

import re
from pathlib import Path

import pytest

import keras_ssl

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {
    page: re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE) for page in PAGES
}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if BLOCKS[page]], ids=lambda page: page.name)
def test_code_of_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__page__"}
    for number, block in enumerate(BLOCKS[page], start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


def test_there_are_blocks_to_run():
    assert {"README.md", "tutorial.md", "encoders.md", "tasks.md"} <= {
        page.name for page in PAGES if BLOCKS[page]
    }


def test_public_names_are_in_the_guides():
    """A name that no guide needs is private."""
    reference = {"api.md", "glossary.md", "results.md", "design.md"}
    guides = "\n".join(page.read_text() for page in PAGES if page.name not in reference)
    packages = [value for value in vars(keras_ssl).values() if hasattr(value, "__path__")]
    public = {name for package in [keras_ssl, *packages] for name in package.__all__} - {"__version__"}
    missing = {name for name in public if not re.search(rf"\b{name}\b", guides)}
    assert missing <= {package.__name__.split(".")[-1] for package in packages}
