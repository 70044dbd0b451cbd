"""The demo: what it trains, what it needs, and what it says before it writes anything."""

from __future__ import annotations

import importlib.util

import pytest

from fluxcube import demo
from fluxcube.errors import ConfigError, MissingPackageError


@pytest.fixture
def without(monkeypatch):
    """Let packages be absent."""
    found = importlib.util.find_spec

    def hide(*packages):
        monkeypatch.setattr(demo, "find_spec", lambda name: None if name in packages else found("json"))

    return hide


def test_the_models_are_those_that_were_asked_for(without):
    without()
    assert demo._chosen("both") == demo.MODELS
    for name in demo.MEMBERS:
        assert demo._chosen(name) == (name, *demo.BASELINES)
    with pytest.raises(ConfigError, match="expected ecoperceiver, xgboost, both; found 'tamrl'"):
        demo._chosen("tamrl")


def test_without_torch_the_demo_says_what_to_install_or_to_leave_out(without, tmp_path):
    without("torch")
    with pytest.raises(MissingPackageError, match=r"'fluxcube\[train\]'.*fluxcube demo --model xgboost"):
        demo.run_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []
    assert demo._chosen("xgboost") == ("xgboost", *demo.BASELINES)


@pytest.mark.parametrize(
    ("package", "words"),
    [("xgboost", r"\[train\].*--model ecoperceiver"), ("rasterio", r"\[grid\]'"), ("matplotlib", r"\[plot\]'")],
)
def test_every_package_is_looked_for_at_once(without, tmp_path, package, words):
    without(package)
    with pytest.raises(MissingPackageError, match=words):
        demo.run_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []
