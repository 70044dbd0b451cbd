"""Recipes, docs and catalog hold what they say."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import fluxcube as fc

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(path for path in (ROOT / "recipes").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_whole(folder):
    meta = yaml.safe_load((folder / "meta.yaml").read_text("utf-8"))
    assert {"title", "description", "sources", "parameters", "licence"} <= set(meta)
    ast.parse((folder / "recipe.py").read_text("utf-8"))
    assert (folder / "README.md").is_file() and f"({folder.name})" in (ROOT / "recipes/README.md").read_text("utf-8")


def test_the_demo_takes_its_recipe_s_parameters():
    parameters = yaml.safe_load((ROOT / "recipes/demo/meta.yaml").read_text("utf-8"))["parameters"]
    assert set(parameters) <= set(inspect.signature(fc.run_demo).parameters)


def test_docs_build_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", ROOT / "docs", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "build_carbonsense" in (tmp_path / "reference.html").read_text("utf-8")
