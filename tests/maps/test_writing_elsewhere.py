"""Maps and forcing stores as xarray writes them elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from inference_fakes import fake

from fluxcube.cubes.forcing import open_forcing
from fluxcube.cubes.forcing_daily import daily_forcing
from fluxcube.cubes.forcing_store import write_forcing
from fluxcube.inference.grid import upscale
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.simulation.example import example_forcing
from fluxcube.stores.reading import open_group


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    forcing = example_forcing(shape=(4, 6), days=4).chunk(latitude=2, longitude=3)
    return {
        "maps": write_maps(upscale(fake(), forcing, time_chunk=48), folder / "maps.zarr"),
        "forcing": write_forcing(forcing, folder / "forcing.zarr"),
        "daily": write_forcing(daily_forcing(forcing), folder / "daily.zarr"),
    }


def opened(kind, store):
    return open_maps(store) if kind == "maps" else open_forcing(store)


KINDS = ("maps", "forcing", "daily")
PARTS = {
    "whole": lambda ds: ds,
    "slice": lambda ds: ds.isel(time=slice(1, 3), latitude=slice(0, 3)),
    "rechunked": lambda ds: ds.chunk(time=17, longitude=4),
    "loaded": lambda ds: ds.load(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", PARTS)
def test_netcdf_and_zarr_of_both_formats(stores, tmp_path, kind, part):
    ds = PARTS[part](opened(kind, stores[kind]))
    ds.to_netcdf(tmp_path / "x.nc")
    same(xr.open_dataset(tmp_path / "x.nc"), ds)
    for zarr_format in (2, 3):
        ds.to_zarr(tmp_path / f"{zarr_format}.zarr", zarr_format=zarr_format, consolidated=False)
        same(xr.open_zarr(tmp_path / f"{zarr_format}.zarr", consolidated=False), ds)


def same(found, ds):
    for name in ("time", "land_fraction", "igbp"):
        np.testing.assert_array_equal(found[name].values, ds[name].values)
    for name in ds.data_vars:  # packed chips are unpacked with the scale as a double
        np.testing.assert_allclose(found[name].values, ds[name].values, rtol=1e-6 if name == "modis" else 0)
    assert found.attrs["complete"] == 1 and found.attrs["kind"] == ds.attrs["kind"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_xarray_opened_itself(stores, tmp_path, kind):
    xr.open_zarr(stores[kind], consolidated=False).to_netcdf(tmp_path / "x.nc")
    assert xr.open_dataset(tmp_path / "x.nc").attrs["complete"] == 1


def test_a_store_of_an_earlier_version_is_complete_with_true(stores, tmp_path):
    for kind in ("maps", "forcing"):
        group = open_group(stores[kind], "r+")
        group.update_attributes({"complete": True})
        ds = opened(kind, stores[kind])
        assert ds.attrs["complete"] == 1
        ds.to_netcdf(tmp_path / f"{kind}.nc")
        group.update_attributes({"complete": 1})


def test_packing_is_kept(stores, tmp_path):
    ds = opened("forcing", stores["forcing"])
    ds[["modis"]].to_netcdf(tmp_path / "x.nc")
    raw = xr.open_dataset(tmp_path / "x.nc", decode_cf=False)
    assert raw.modis.dtype == np.int16 and raw.modis.attrs["scale_factor"] == np.float32(1e-4)
