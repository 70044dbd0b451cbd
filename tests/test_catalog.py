"""The default store and intake's view of it give what open_carbonsense gives."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml

import fluxcube as fc
from fluxcube.errors import ConfigError, StoreError, UnknownNameError
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.building import staging
from fluxcube.stores.reading import open_store

CATALOG = Path(__file__).resolve().parents[1] / "catalogs" / "fluxcube.yaml"


def test_no_store_and_no_variable_says_how_to_get_one(monkeypatch):
    monkeypatch.delenv("FLUXCUBE_DATA", raising=False)
    with pytest.raises(StoreError, match=r"fluxcube build.*fluxcube fetch towers RAW.*--source zenodo"):
        fc.open_carbonsense()


def test_a_variable_that_names_nothing_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("FLUXCUBE_DATA", str(tmp_path))
    with pytest.raises(StoreError, match="contains no store"):
        fc.open_carbonsense()


def test_the_variable_names_a_store_or_its_folder(monkeypatch, cube_store):
    for path in (cube_store, cube_store.parent):
        monkeypatch.setenv("FLUXCUBE_DATA", str(path))
        assert fc.open_carbonsense().identical(fc.open_carbonsense(cube_store))


@pytest.fixture
def data(monkeypatch, cube_store) -> Path:
    monkeypatch.setenv("FLUXCUBE_DATA", str(cube_store))
    return cube_store


def test_intake_gives_the_same_dataset(data):
    intake = pytest.importorskip("intake")
    entry = intake.open_catalog(str(CATALOG)).carbonsense
    assert entry.to_dask().identical(fc.open_carbonsense())
    assert entry.read().fluxes.chunks is None


def test_an_entry_takes_another_place(monkeypatch, cube_store):
    intake = pytest.importorskip("intake")
    monkeypatch.delenv("FLUXCUBE_DATA", raising=False)
    catalog = intake.open_catalog(str(CATALOG))
    assert catalog.carbonsense(store=str(cube_store)).to_dask().identical(fc.open_carbonsense(cube_store))
    with pytest.raises(StoreError, match="fluxcube build"):
        catalog.carbonsense.to_dask()


def test_the_daily_entry_wants_days(monkeypatch, cube_store, tmp_path):
    intake = pytest.importorskip("intake")
    catalog = intake.open_catalog(str(CATALOG))
    with pytest.raises(StoreError, match="expected daily data, found a cube of hourly"):
        catalog.carbonsense_daily(store=str(cube_store)).to_dask()
    monkeypatch.setenv("FLUXCUBE_DATA", str(cube_store.parent))
    with pytest.raises(StoreError, match=r"no store carbonsense_daily\.zarr"):
        catalog.carbonsense_daily.to_dask()


def test_forcing_is_opened_from_a_folder_of_files(monkeypatch, planet_files):
    intake = pytest.importorskip("intake")
    monkeypatch.setenv("FLUXCUBE_DATA", str(planet_files))
    catalog = intake.open_catalog(str(CATALOG))
    expected = fc.open_forcing(
        planet_files / "era5", modis=planet_files / "modis", land_cover=planet_files / "land_cover"
    )
    assert catalog.forcing.to_dask().identical(expected)
    bare = catalog.forcing(era5=str(planet_files / "era5"))
    assert bare.to_dask().predictors.identical(expected.predictors)
    monkeypatch.delenv("FLUXCUBE_DATA")
    with pytest.raises(ConfigError, match="era5="):
        catalog.forcing.to_dask()


def test_maps_are_opened_by_name(monkeypatch, tmp_path):
    intake = pytest.importorskip("intake")
    time = np.arange("2020-01-01", "2020-01-03", dtype="datetime64[h]").astype("datetime64[ns]")
    coords = xr.Dataset(coords={"time": time, "latitude": [1.0], "longitude": [2.0]})
    like = {"shape": (48, 1, 1), "chunks": (48, 1, 1), "fill_value": np.nan}
    spec = ArraySpec(dims=("time", "latitude", "longitude"), dtype="float32", **like)
    with staging(tmp_path / "maps.zarr") as building:
        create(building, coords, {"NEE": spec}, {"kind": "maps"})
    monkeypatch.setenv("FLUXCUBE_DATA", str(tmp_path))
    maps = intake.open_catalog(str(CATALOG)).maps.to_dask()
    assert maps.identical(open_store(tmp_path / "maps.zarr", kind="maps"))


def test_every_entry_is_of_a_known_kind():
    sources = yaml.safe_load(CATALOG.read_text("utf-8"))["sources"]
    assert {"carbonsense", "carbonsense_daily", "forcing", "maps"} <= set(sources)
    assert {row["driver"] for row in sources.values()} == {"fluxcube"}
    assert {row["args"]["kind"] for row in sources.values()} <= {"cube", "maps", "forcing"}
    with pytest.raises(UnknownNameError):
        fc.catalog.open_entry("cubes", "x")


def test_a_url_names_a_store_or_its_folder(monkeypatch):
    daily = "carbonsense_daily.zarr"
    for value in ("s3://bucket/carbon", "s3://bucket/carbon/", "s3://bucket/carbon/carbonsense.zarr"):
        monkeypatch.setenv("FLUXCUBE_DATA", value)
        assert fc.catalog.default_store() == "s3://bucket/carbon/carbonsense.zarr"
        assert fc.catalog.default_store(daily) == f"s3://bucket/carbon/{daily}"


def test_a_wheel_holds_the_catalog_and_intake_finds_it(data, tmp_path):
    """The wheel alone on the path: no checkout from which the catalog could come."""
    pytest.importorskip("intake")
    pytest.importorskip("hatchling")
    root = CATALOG.parents[1]
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    wheel = tmp_path / "dist"
    wheel.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(wheel)], cwd=root, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(wheel / done.stdout.split()[-1]) as archive:
        assert archive.read("fluxcube/data/fluxcube.yaml") == CATALOG.read_bytes()
        assert "fluxcube/py.typed" in archive.namelist()
        archive.extractall(tmp_path / "site")
    code = (
        "import sys, intake, fluxcube; assert fluxcube.__file__.startswith(sys.argv[1]), fluxcube.__file__\n"
        "assert 'fluxcube' in list(intake.cat)\n"
        "ds = intake.cat.fluxcube.carbonsense.to_dask(); assert ds.identical(fluxcube.open_carbonsense())"
    )
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
