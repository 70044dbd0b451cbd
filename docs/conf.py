"""Configuration of Sphinx: pages are written in Markdown, the reference is generated from docstrings."""

import fluxcube

project = "fluxcube"
author = "The fluxcube developers"
copyright = "2026, the fluxcube developers"
version = release = fluxcube.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"fluxcube {version}"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_ivar = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 2
