"""What an editor and a type checker see of the public names is what importing them gives."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import fluxcube

ROOT = Path(__file__).resolve().parents[1]
LAZY = ("fluxcube", "fluxcube.fetch", "fluxcube.simulation")


def seen_by_editors(module):
    """Return name: module of the imports for type checkers of a module."""
    tree = ast.parse(Path(importlib.import_module(module).__file__).read_text("utf-8"))
    blocks = [n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    imports = [n for block in blocks for n in block.body if isinstance(n, ast.ImportFrom)]
    assert all(alias.name == alias.asname for n in imports for alias in n.names), "a re-export is `name as name`"
    return {alias.name: n.module for n in imports for alias in n.names}


def home(module, name):
    """Return the module that defines a public name."""
    return getattr(getattr(module, name), "__module__", module.__name__)


@pytest.mark.parametrize("module", LAZY)
def test_editors_see_every_public_name_and_no_other(module):
    lazy, seen = importlib.import_module(module), seen_by_editors(module)
    public = set(lazy.__all__) - {"__version__"}
    lacking = [f"from {home(lazy, name)} import {name} as {name}" for name in sorted(public - set(seen))]
    assert not lacking, f"add these imports for TYPE_CHECKING to {module}: {lacking}"
    assert not set(seen) - public, f"remove imports for TYPE_CHECKING from {module}: {set(seen) - public}"
    assert public <= set(dir(lazy))
    for name, place in seen.items():
        assert getattr(importlib.import_module(place), name, None) is getattr(lazy, name), f"{module}.{name}"
    with pytest.raises(AttributeError, match="upscail"):
        _ = lazy.upscail


def test_scores_are_a_list_of_names():
    scores = fluxcube.scores
    assert {name for name, one in vars(scores).items() if callable(one) and one.__module__ == scores.__name__} >= set(
        scores.__all__
    ) - {"LONG_NAMES", "UNITLESS"}
    assert all(hasattr(scores, name) for name in scores.__all__)


def test_types_are_shipped_and_the_face_is_checked():
    assert (Path(fluxcube.__file__).parent / "py.typed").exists()
    assert "tests/face_for_mypy.py" in (ROOT / "pyproject.toml").read_text("utf-8")
