"""Every public function has an example, which its page in the docs shows; most of them run as doctests."""

import importlib
import inspect

import pytest

import fluxcube
from fluxcube import fetch

PUBLIC = {f"fluxcube.{name}": module for name, module in fluxcube._PUBLIC.items()} | {
    f"fluxcube.fetch.{name}": module for name, module in fetch._PUBLIC.items()
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_function_or_class_has_an_example(name):
    value = getattr(importlib.import_module(PUBLIC[name]), name.rpartition(".")[2])
    text = inspect.getdoc(value) or ""
    assert "\nExamples\n--------\n" in text, f"{name} in {PUBLIC[name]} needs an Examples section"
