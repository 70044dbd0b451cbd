"""Optional packages that a test module needs, imported when a test first uses them and not when tests are collected."""

from __future__ import annotations

import importlib
import importlib.util

import pytest


class Package:
    """A package or module whose import waits for the first use of a name in it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        return getattr(importlib.import_module(self._name), attribute)


def optional(name: str) -> Package:
    """Return a package, or skip the test module where it is not installed."""
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)
    return Package(name)
