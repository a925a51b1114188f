"""Sphinx: how the manual is built (`make docs`)."""

from __future__ import annotations

from importlib import metadata

project = "pytest-localcluster"
author = "The pytest-localcluster developers"
copyright = f"2026, {author}"
release = metadata.version("pytest-localcluster")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "pytest-localcluster"
nitpicky = False  # names of NumPy and gRPC are not ours to resolve, and no inventory is fetched

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
