"""Sphinx settings: Markdown pages, the API reference drawn from docstrings, warnings as errors in CI."""

import contextlib
import inspect
import operator
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")

import keras

import keras_ssl

project = "keras-ssl"
author = "The keras-ssl authors"
copyright = "The keras-ssl authors"
release = version = keras_ssl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"
html_theme = "furo"
html_title = f"keras-ssl {release}"
html_static_path = ["_static"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
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


def own_signature(
    app: Any, what: str, name: str, found: Any, options: Any, *signature: Any
) -> tuple[str, None] | None:
    """Return the signature of `__init__`: the `__new__` of Keras' classes takes any arguments."""
    if what != "class" or not issubclass(found, (keras.Layer, keras.Loss, keras.Metric)):
        return None
    arguments = inspect.signature(found.__init__)
    return str(
        arguments.replace(
            parameters=list(arguments.parameters.values())[1:], return_annotation=arguments.empty
        )
    ), None


def skip_inherited(app: Any, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Leave out attributes, which the docstring of the class lists as arguments, and overridden methods."""
    if what != "class" or name.startswith("_"):
        return None
    function = inspect.unwrap(getattr(found, "fget", None) or getattr(found, "__func__", found))
    if not inspect.isfunction(function) or "<locals>" in function.__qualname__:
        return True
    owner = operator.attrgetter(function.__qualname__.rpartition(".")[0])(sys.modules[function.__module__])
    return True if any(name in vars(base) for base in owner.__mro__[1:]) else None


def setup(app: Any) -> None:
    """Draw figures before pages are read."""
    app.connect("builder-inited", draw_figures)
    app.connect("autodoc-process-signature", own_signature)
    app.connect("autodoc-skip-member", skip_inherited)
