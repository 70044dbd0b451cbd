"""The catalog is what its command generates, and every entry opens, on samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

import fluxcube as fc
from fluxcube import catalogfile
from fluxcube.errors import ConfigError, StoreError
from fluxcube.simulation.example import example_forcing, example_maps

ROOT = Path(__file__).resolve().parents[1]
CATALOG = ROOT / "catalogs" / "fluxcube.yaml"
MAPS = ("demo/maps.zarr", "regional_map/maps.zarr", "global_map_025/maps.zarr", "global_map_005/maps.zarr", "maps.zarr")


@pytest.fixture(scope="module")
def data(planet_files, cube_store, tmp_path_factory):
    """Folder with a sample of every store of the catalog, and the files of a forcing."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("demo", "regional_map", "global_map_025", "global_map_005", "era5_forcing", "tower_chips"):
        (folder / name).mkdir()
    for name in ("carbonsense.zarr", "demo/carbonsense.zarr", "tower_chips/chips.zarr"):
        (folder / name).symlink_to(cube_store)
    fc.build_carbonsense(planet_files / "towers", folder / "daily.zarr", resolution="daily", sites=["US-Zgr"])
    (folder / "carbonsense_daily.zarr").symlink_to(folder / "daily.zarr")
    fc.write_forcing(example_forcing(days=3), folder / "era5_forcing" / "forcing.zarr", workers=1)
    fc.write_maps(example_maps(days=3).chunk(), folder / MAPS[0], scheduler="threads", workers=1)
    for name in MAPS[1:]:
        (folder / name).symlink_to(folder / MAPS[0])
    for name in ("era5", "land_cover"):
        (folder / name).symlink_to(planet_files / name)
    return folder


def test_the_catalog_is_what_its_command_generates(tmp_path):
    catalogfile.main([str(ROOT / "recipes"), str(tmp_path / "catalog.yaml")])
    expected = (tmp_path / "catalog.yaml").read_text("utf-8")
    assert CATALOG.read_text("utf-8") == expected, "run `make catalog`"
    sources = yaml.safe_load(expected)["sources"]
    assert {"carbonsense", "carbonsense_daily", "forcing", "maps", "demo_cube", "demo_maps"} <= set(sources)
    folders = {path.parent.name for path in (ROOT / "recipes").glob("*/meta.yaml")}
    assert all(row["metadata"]["recipe"].removeprefix("recipes/") in folders for row in sources.values())
    assert "catalog: $(INSTALLED)" in (ROOT / "Makefile").read_text("utf-8")


def test_every_entry_of_the_shipped_catalog_opens_where_its_recipe_writes(data, monkeypatch, tmp_path):
    intake = pytest.importorskip("intake")
    monkeypatch.setenv("FLUXCUBE_DATA", str(data))
    (tmp_path / "catalogs").mkdir()
    shutil.copy(CATALOG, tmp_path / "catalogs")
    for name in ("demo", "regional_map", "global_map_025", "global_map_005", "era5_forcing", "tower_chips"):
        (tmp_path / name).symlink_to(data / name)
    catalog = intake.open_catalog(str(tmp_path / "catalogs" / "fluxcube.yaml"))
    kinds = {name: row["args"]["kind"] for name, row in yaml.safe_load(CATALOG.read_text("utf-8"))["sources"].items()}
    opened = {name: catalog[name].to_dask() for name in kinds}
    assert {name: ds.attrs["kind"] for name, ds in opened.items()} == kinds
    assert opened["forcing_store"].identical(fc.open_forcing(data / "era5_forcing" / "forcing.zarr"))
    other = catalog.regional_map(store=str(data / MAPS[0])).to_dask()
    assert other.identical(opened["regional_map"])


def test_a_catalog_of_data_has_the_place_extent_and_attributes_of_every_store(data, tmp_path):
    intake = pytest.importorskip("intake")
    path = catalogfile.write_catalog(ROOT / "recipes", tmp_path / "ours.yaml", data=data)
    sources = yaml.safe_load(path.read_text("utf-8"))["sources"]
    catalog = intake.open_catalog(str(path))
    with_store = {name: row for name, row in sources.items() if "parameters" not in row}
    assert set(with_store) == set(sources) - {"forcing", "maps"}
    for name, row in with_store.items():
        ds = catalog[name].to_dask()
        facts = row["metadata"]
        assert facts["sizes"]["time"] == ds.sizes["time"]
        assert facts["period"][0] == str(ds.time.values[0].astype("datetime64[h]"))
        assert facts["title"] == ds.attrs["title"] and len(facts["bbox"]) == 4
    assert with_store["carbonsense"]["metadata"]["licences"] == "CC-BY-4.0"
    assert with_store["carbonsense_daily"]["args"]["resolution"] == "daily"
    assert with_store["regional_map"]["metadata"]["fluxes"] == ["GPP_NT", "NEE", "RECO_NT"]
    assert {"TA", "SW_IN"} <= set(with_store["forcing_store"]["metadata"]["predictors"])


def write_recipe(folder, entry="x", kind="maps"):
    folder.mkdir(parents=True)
    product = f"products: {{{entry}: {{description: d, kind: {kind}, store: m.zarr, path: m.zarr}}}}"
    (folder / "meta.yaml").write_text(f"title: t\ndescription: d\nsources: [s]\nlicence: l\n{product}\n", "utf-8")


def test_faults_of_recipes_and_stores_are_named(data, tmp_path):
    with pytest.raises(ConfigError, match="contains no recipe"):
        catalogfile.catalog_text(tmp_path)
    write_recipe(tmp_path / "r" / "one")
    (tmp_path / "m.zarr").symlink_to(data / "carbonsense.zarr")
    with pytest.raises(StoreError, match="maps"):  # a store of another kind
        catalogfile.catalog_text(tmp_path / "r", data=tmp_path)
    write_recipe(tmp_path / "r" / "two")
    with pytest.raises(ConfigError, match="two recipes have a product x: rename that of two"):
        catalogfile.catalog_text(tmp_path / "r")
