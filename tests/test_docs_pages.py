"""Pages of the docs that must follow the package, and pages that must be found."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"test", "docs"}))
def test_the_page_on_installing_explains_every_extra(extra):
    assert f"`{extra}`" in (DOCS / "install.md").read_text("utf-8")


@pytest.mark.parametrize("page", sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "index"))
def test_a_page_is_listed_once_on_the_first_page(page):
    lines = (DOCS / "index.md").read_text("utf-8").splitlines()
    assert lines.count(page) == 1, f"docs/index.md must list {page} in one of its toctrees"


def test_terms_of_the_glossary_are_in_order():
    text = (DOCS / "glossary.md").read_text("utf-8").split("```{glossary}\n")[1]
    terms = [term.lower() for term in re.findall(r"^(\S.*)\n  \S", text, re.MULTILINE)]
    assert len(terms) > 80
    assert terms == sorted(terms)
    assert len(terms) == len(set(terms))


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_a_picture_has_a_text_that_stands_for_it(page):
    assert not re.findall(r"!\[\s*\]\(", page.read_text("utf-8"))


def described():
    """Yield what the pages of the reference describe: modules, functions and classes, by their dotted names."""
    yield from re.findall(r"^\.\. auto\w+:: (\S+)$", (DOCS / "modules.md").read_text("utf-8"), re.MULTILINE)
    generator = (DOCS / "reference_pages.py").read_text("utf-8")
    yield from re.findall(r'"(\S+)"', generator.split("CLASSES = (\n")[1].split("\n)")[0])


def source(path):
    """Return the file of a module; None if there is none."""
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


@pytest.mark.parametrize("name", list(described()))
def test_what_the_reference_describes_is_where_it_says(name):
    path = ROOT.joinpath(*name.split("."))
    if source(path) is None:
        last = path.name
        pattern = rf"^(?:def|class) {last}\b|^{last}\b|\bimport .*\b{last}\b"
        assert re.search(pattern, source(path.parent).read_text("utf-8"), re.MULTILINE), f"{name} is elsewhere"
