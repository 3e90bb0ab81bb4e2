"""Sphinx settings: Markdown pages, the API reference drawn from docstrings, warnings as errors in CI."""

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")

import keras_ssl

project = "keras-ssl"
author = "The keras-ssl authors"
copyright = "The keras-ssl authors"
release = version = keras_ssl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"
html_theme = "furo"
html_title = f"keras-ssl {release}"
html_static_path = ["_static"]

autosummary_generate = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3


def draw_figures(app: Any) -> None:
    """Run the code of the pages whose figures it draws."""
    for page in map(Path(app.srcdir).joinpath, ("tutorial.md", "augmentation.md", "pretext_tasks.md")):
        code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
        figures = page.parent / "_figures"
        figures.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            with contextlib.redirect_stdout(None):
                exec(compile(code, page.name, "exec"), {"__name__": f"__{page.stem}__"})
            for figure in Path(folder).glob("*.png"):
                shutil.copy(figure, figures)


def setup(app: Any) -> None:
    """Draw before pages are read."""
    app.connect("builder-inited", draw_figures)
