"""Sphinx settings: Markdown pages, the API reference drawn from docstrings, warnings as errors in CI."""

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
