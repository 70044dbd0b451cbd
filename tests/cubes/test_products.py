"""Satellite products of cubes: what is recorded of them, and the bias between two at towers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr
from inference_fakes import fake

import fluxcube as fc
from fluxcube.cubes.products import product_bias, product_record
from fluxcube.errors import ConfigError
from fluxcube.inference.checks import check_product
from fluxcube.simulation.example import example_cube

SITES = np.array([f"XX-S{i:02d}" for i in range(6)], object)


def surface(bands=("red", "nir"), first="2020-01-01", clear=1.0, sites=SITES, daily=False, **attrs):
    rng = np.random.default_rng(0)
    days = np.datetime64(first) + np.arange(60)
    values = rng.uniform(0.05, 0.4, (len(sites), 60, len(bands)))
    values[np.random.default_rng(1).random(values.shape[:2]) > clear] = np.nan
    day, band = ("day", "band") if daily else ("surface_day", "surface_band")
    coords = {"site": sites, day: days.astype("datetime64[ns]"), band: np.array(bands, object)}
    ds = xr.Dataset({"surface": (("site", day, band), values.astype("float32"), attrs)}, coords)
    return ds.assign_attrs({"resolution": "daily"} if daily else {})


def test_the_bias_between_two_products_per_band_and_index():
    one, other = surface(product="MOD09GA"), surface(product="MCD43A4", daily=True, clear=0.5)
    offset = np.linspace(-0.02, 0.04, len(SITES))
    other = other.assign(surface=other.surface - offset.astype("float32")[:, None, None])
    bias = product_bias(one, other.assign(surface=other.surface.assign_attrs(product="MCD43A4")))
    assert bias.feature.values.tolist() == ["red", "nir", "NDVI", "NIRv"]
    np.testing.assert_allclose(bias.site_bias.sel(feature="red"), offset, atol=1e-6)
    np.testing.assert_allclose(bias.bias.sel(feature=["red", "nir"]), offset.mean(), atol=1e-6)
    np.testing.assert_allclose(bias.spread.sel(feature="nir"), offset.std(), atol=1e-6)
    assert bias.sites.values.tolist() == [6] * 4
    assert int(bias.views.sel(feature="red")) == np.isfinite(other.surface.values[..., 0]).sum()
    assert bias.attrs["summary"].startswith("MOD09GA minus MCD43A4: red +0.0100, nir +0.0100, NDVI")
    # Sites, days and bands in another order or number are matched by name.
    turned = other.isel(site=slice(None, None, -1), day=slice(10, None)).assign(
        surface=lambda ds: ds.surface.isel(band=[1, 0])
    )
    np.testing.assert_allclose(product_bias(one, turned).bias.sel(feature="red"), offset.mean(), atol=1e-6)


def test_chips_are_compared_by_their_middle():
    cube = example_cube(sites=3, days=20)
    days, bands = cube.day.values, ["red", "nir"]
    middle = cube.modis.sel(band=bands).isel(y=slice(2, 6), x=slice(2, 6)).mean(("y", "x"))
    both = cube.assign(
        surface=(("site", "surface_day", "surface_band"), middle.values + np.float32(0.01), {"product": "MOD09GA"})
    ).assign_coords(surface_day=days, surface_band=bands)
    both["modis"].attrs["product"] = "MCD43A4"
    bias = fc.product_bias(both)
    np.testing.assert_allclose(bias.bias.sel(feature=bands), 0.01, atol=1e-5)
    assert (bias.attrs["one"], bias.attrs["other"]) == ("MOD09GA", "MCD43A4")


def test_products_without_anything_in_common_are_refused():
    with pytest.raises(ConfigError, match="a site in common"):
        product_bias(surface(), surface(sites=np.array(["YY-Abc"], object)))
    with pytest.raises(ConfigError, match="a day in common"):
        product_bias(surface(), surface(first="2021-01-01"))
    with pytest.raises(ConfigError, match="a band in common"):
        product_bias(surface(), surface(bands=("swir1",)))
    with pytest.raises(ConfigError, match="both saw the ground"):
        product_bias(surface(), surface(clear=0.0))
    with pytest.raises(ConfigError, match="build it with surface= or modis="):
        product_bias(surface().drop_vars("surface"))


def test_a_checkpoint_records_each_product(tmp_path):
    cube = surface(product="MOD09GA", collection="006")
    assert product_record(cube) == {"surface_product": "MOD09GA", "surface_collection": "006"}
    daily = surface(product="MOD09GA", collection="006", daily=True)
    assert product_record(daily) == {"satellite_product": "MOD09GA", "satellite_collection": "006"}
    both = example_cube(sites=6).assign(cube.data_vars)
    both["modis"].attrs["long_name"] = "reflectance (MCD43A4 bands 1-7)"
    record = product_record(both)
    assert record["satellite_product"] == "MCD43A4" and record["surface_product"] == "MOD09GA"
    assert product_record(example_cube(sites=2).drop_vars("modis")) == {}


def test_a_map_records_the_bias_between_its_products():
    spec = dataclasses.replace(fake(bands=()).spec, surface=("NDVI",))
    model = dataclasses.replace(fake(bands=()), spec=spec, metadata={"cube": {"surface_product": "MOD09GA"}})
    bias = product_bias(surface(product="MOD09GA"), surface(product="MCD43A4"))
    attrs = check_product(model, surface(product="MCD43A4"), True, bias=bias)
    assert attrs["product_bias"] == bias.attrs["summary"]
    other = product_bias(surface(product="MOD09GA"), surface(product="MOD13A1"))
    with pytest.raises(ConfigError, match=r"products of the model and of the data \(MCD43A4, MOD09GA\)"):
        check_product(model, surface(product="MCD43A4"), True, bias=other)
