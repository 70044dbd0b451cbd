"""Every public function has an example, which its page in the docs shows; most of them run as doctests."""

import ast
import importlib.util
from pathlib import Path

import pytest

import fluxcube
from fluxcube import fetch

PUBLIC = {f"fluxcube.{name}": module for name, module in fluxcube._PUBLIC.items()} | {
    f"fluxcube.fetch.{name}": module for name, module in fetch._PUBLIC.items()
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_function_or_class_has_an_example(name):
    definition = _definition(PUBLIC[name], name.rpartition(".")[2])
    text = ast.get_docstring(definition) or ""
    assert "\nExamples\n--------\n" in text, f"{name} in {PUBLIC[name]} needs an Examples section"


def _definition(module, name):
    """Return the syntax tree of a function or class; of overloads the last, which has the docstring."""
    spec = importlib.util.find_spec(module)
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    return [node for node in tree.body if getattr(node, "name", None) == name][-1]
