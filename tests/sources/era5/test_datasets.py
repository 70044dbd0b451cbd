"""ERA5 from an open Dataset: the values of a file, and the same checks."""

from __future__ import annotations

import cloudpickle
import numpy as np
import pytest
import xarray as xr

from fluxcube.cubes.forcing import open_forcing
from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.era5.copy import copy_era5
from fluxcube.sources.era5.open import DatasetSource


def weather(hours=24 * 6 + 1, latitude=(47.25, 47.0, 46.75), longitude=(7.0, 7.25), start="2019-06-01"):
    time = np.datetime64(start, "ns") + np.arange(hours) * np.timedelta64(1, "h")
    shape = (hours, len(latitude), len(longitude))
    t2m = 283.15 + np.random.default_rng(0).normal(0, 3, shape)
    hump = np.maximum(0, np.sin(2 * np.pi * (np.arange(hours) - 6) / 24))
    sun = np.broadcast_to(2e6 * hump[:, None, None], shape).copy()
    dims = ("valid_time", "latitude", "longitude")
    return xr.Dataset(
        {"t2m": (dims, t2m, {"units": "K"}), "ssrd": (dims, sun, {"units": "J m**-2"})},
        coords={"valid_time": time, "latitude": np.array(latitude), "longitude": np.array(longitude)},
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("era5")
    weather().to_netcdf(folder / "era5.nc")
    weather().to_zarr(folder / "era5.zarr", zarr_format=3, consolidated=False)
    return folder


def test_a_dataset_has_the_values_of_its_file(files):
    expected = open_forcing(files / "era5.nc").load()
    makes = {
        "in RAM": weather(),
        "lazy NetCDF": xr.open_dataset(files / "era5.nc"),
        "lazy NetCDF in Dask chunks": xr.open_dataset(files / "era5.nc", chunks={"valid_time": 24}),
        "Zarr": xr.open_zarr(files / "era5.zarr", consolidated=False),
        "other order of dimensions": weather().transpose("longitude", "valid_time", "latitude"),
        "longitudes from 0 to 360": weather().assign_coords(longitude=weather().longitude.values + 360.0),
        "long names": weather().rename(t2m="2m_temperature", valid_time="time", latitude="lat", longitude="lon"),
    }
    for make, ds in makes.items():
        found = open_forcing(ds)
        xr.testing.assert_allclose(found.load(), expected, rtol=1e-6), make
        assert found.attrs == expected.attrs


def test_datasets_and_files_may_be_mixed(files):
    ds = weather(start="2019-06-07T01")
    both = open_forcing([files / "era5.nc", ds])
    assert both.sizes["time"] == 24 * 12 + 1 and np.isfinite(both.predictors.sel(variable="TA").values).all()
    parts = open_forcing([weather()[["t2m"]], weather()[["ssrd"]]])
    np.testing.assert_allclose(parts.predictors, open_forcing(files / "era5.nc").predictors, rtol=1e-6)


def test_the_same_checks_apply():
    def changed(**attrs):
        ds = weather()
        ds.t2m.attrs.update(attrs)
        return ds

    with pytest.raises(SourceError, match=r"Dataset .*: t2m must be in K, found units 'degC'"):
        open_forcing(changed(units="degC"))
    with pytest.raises(SourceError, match="t2m"):
        open_forcing(weather().assign(t2m=weather().t2m - 273.15))  # Celsius that is declared as kelvin
    local = weather().assign_coords(valid_time=weather().valid_time + np.timedelta64(8, "h"))
    with pytest.raises(SourceError, match=r"SW_IN_POT|night"):
        open_forcing(local)
    with pytest.raises(SourceError, match=r"steps must be 1 hour, found 24 hours \(daily"):
        open_forcing(weather().isel(valid_time=slice(None, None, 24)))
    with pytest.raises(SourceError, match="appears twice"):
        open_forcing(xr.concat([weather(), weather().isel(valid_time=[-1])], "valid_time"))
    with pytest.raises(SourceError, match="exchanged"):
        exchanged = weather()
        exchanged.latitude.attrs["units"] = "degrees_east"
        open_forcing(exchanged)
    with pytest.raises(SourceError, match="nothing usable"):
        open_forcing(xr.Dataset({"albedo": ("x", [0.1])}))
    with pytest.raises(SourceError, match=r"expected a path, a URL or an xr\.Dataset of ERA5, found DataArray"):
        open_forcing([weather().t2m])
    with pytest.raises(ConfigError, match="forcing cube already"):
        open_forcing(open_forcing(weather()))


def test_names_of_lazy_arrays_follow_the_values(files):
    """By these names a stopped run knows its inputs."""

    def name(ds):
        return open_forcing(ds).predictors.data.name

    assert name(weather()) == name(weather())
    assert name(weather()) != name(weather().assign(t2m=weather().t2m + 1))
    lazy = xr.open_dataset(files / "era5.nc")
    assert name(lazy) == name(xr.open_dataset(files / "era5.nc"))
    source = DatasetSource.of(lazy)
    again = cloudpickle.loads(cloudpickle.dumps(source))
    assert again == source and again.identity == source.identity
    np.testing.assert_array_equal(again.open().t2m, weather().t2m)


def test_a_dataset_can_be_copied(tmp_path):
    store = copy_era5(weather(), tmp_path / "copy.zarr")
    np.testing.assert_allclose(open_forcing(store).predictors, open_forcing(weather()).predictors, rtol=1e-5, atol=1e-4)
