"""The default store and intake's view of it give what open_carbonsense gives."""

from __future__ import annotations

from pathlib import Path

import pytest

import fluxcube as fc
from fluxcube.errors import StoreError, UnknownNameError

CATALOG = Path(__file__).resolve().parents[1] / "catalogs" / "fluxcube.yaml"


def test_no_store_and_no_variable_says_how_to_get_one(monkeypatch):
    monkeypatch.delenv("FLUXCUBE_DATA", raising=False)
    with pytest.raises(StoreError, match="fluxcube build"):
        fc.open_carbonsense()


def test_a_variable_that_names_nothing_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("FLUXCUBE_DATA", str(tmp_path))
    with pytest.raises(StoreError, match="holds no store"):
        fc.open_carbonsense()


def test_the_variable_names_a_store_or_its_folder(monkeypatch, cube_store):
    for path in (cube_store, cube_store.parent):
        monkeypatch.setenv("FLUXCUBE_DATA", str(path))
        assert fc.open_carbonsense().identical(fc.open_carbonsense(cube_store))


def test_intake_gives_the_same_dataset(monkeypatch, cube_store):
    intake = pytest.importorskip("intake")
    monkeypatch.setenv("FLUXCUBE_DATA", str(cube_store))
    entry = intake.open_catalog(str(CATALOG)).carbonsense
    assert entry.to_dask().identical(fc.open_carbonsense())
    assert entry.read().fluxes.chunks is None


def test_every_entry_is_of_a_known_kind():
    import yaml

    sources = yaml.safe_load(CATALOG.read_text("utf-8"))["sources"]
    assert {row["driver"] for row in sources.values()} == {"fluxcube"}
    assert {row["args"]["kind"] for row in sources.values()} <= {"cube", "maps"}
    with pytest.raises(UnknownNameError):
        fc.catalog.open_entry("cubes", "x")
