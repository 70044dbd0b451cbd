"""Configuration of Sphinx: pages are written in Markdown; the reference is generated from the package itself."""

import logging
import os
import re
import sys
from pathlib import Path

from sphinx.errors import ExtensionError

import fluxcube

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from diagrams import write_diagrams  # noqa: E402
from reference_pages import write_pages  # noqa: E402

logging.getLogger("traitlets").setLevel(logging.WARNING)  # nbclient reports each notebook
# Each kernel warns that it talks to this process without encryption; the settings of the user are not read.
SETTINGS = DOCS / "_build" / "ipython"
(SETTINGS / "profile_default").mkdir(parents=True, exist_ok=True)
(SETTINGS / "profile_default" / "ipython_kernel_config.py").write_text("get_config().Application.log_level = 40\n")
os.environ["IPYTHONDIR"] = str(SETTINGS)
write_pages(DOCS / "reference")
write_diagrams(DOCS / "reference" / "diagrams")

project = "fluxcube"
author = "The fluxcube developers"
copyright = "2026, the fluxcube developers"
version = release = fluxcube.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_design"]
exclude_patterns = ["_build"]
# A name in single backticks of a docstring becomes a link to its page, where there is one.
default_role = "py:obj"
# A bare name that two modules have (`Network`) links to one of them.
suppress_warnings = ["ref.python"]

smartquotes_action = "qe"  # two hyphens begin an option, and are no dash
html_theme = "furo"
html_title = f"fluxcube {version}"
html_static_path = ["_static"]
html_css_files = ["fluxcube.css"]
html_show_sourcelink = False

autodoc_typehints = "signature"
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
add_module_names = False
napoleon_google_docstring = False
napoleon_use_ivar = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 2
# Pages with code cells are executed at every build, in a folder of their own; a cell that fails ends the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
copybutton_exclude = ".linenos, .gp, .go"

# Annotations as a reader knows them: whole names of xarray's classes, and words for unions that every path has.
READABLE = {
    r"\bxr\.": "xarray.",
    r"\bpd\.": "pandas.",
    r"\bnp\.": "numpy.",
    r"str \| (?:os\.)?PathLike(?:\[\w+\])? \| (?:fluxcube\.stores\.objects\.)?Bucket": "path",
    r"(?:str \| (?:os\.)?PathLike(?:\[\w+\])?|(?:os\.)?PathLike(?:\[\w+\])? \| str)": "path",
    r"\bfluxcube(?:\.\w+)+\.(\w+)": r"\1",
}


def readable(app, what, name, obj, options, signature, returns):
    """Shorten the annotations of a signature."""

    def short(text):
        for pattern, replacement in READABLE.items():
            text = re.sub(pattern, replacement, text) if text else text
        return text

    return short(signature), short(returns)


def check_pictures(app, exception):
    """End the build if a page has the name of a figure where its picture should be."""
    pages = [] if exception or app.builder.name != "html" else Path(app.outdir).glob("*.html")
    if lacking := [page.name for page in pages if re.search(r"&lt;(Figure size|Axes:)", page.read_text("utf-8"))]:
        raise ExtensionError(f"figures are named and not shown: {', '.join(lacking)}")


def setup(app):
    """Connect the functions that shorten signatures and look for pictures."""
    app.connect("autodoc-process-signature", readable)
    app.connect("build-finished", check_pictures)
