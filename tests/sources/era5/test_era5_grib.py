"""GRIB from MARS and the Climate Data Store: the same forcing as from NetCDF, and errors that name the file."""

from __future__ import annotations

import logging
import sys
import zipfile

import cloudpickle
import numpy as np
import pytest
import xarray as xr
from grib_files import write_grib
from packages import optional

from fluxcube.errors import MissingPackageError, SourceError
from fluxcube.sources.era5 import grib, grib_read
from fluxcube.sources.era5.copy import copy_era5
from fluxcube.sources.era5.open import find_sources
from fluxcube.sources.era5.variables import open_era5

eccodes = optional("eccodes")
LATITUDE, LONGITUDE = np.array([47.5, 47.25, 47.0]), np.array([-0.25, 0.0, 0.25, 0.5])


@pytest.fixture(scope="module")
def weather():
    """Two days; the last cell is sea."""
    rng = np.random.default_rng(5)
    hours, shape = 49, (49, 3, 4)
    hour = np.arange(hours)[:, None, None]
    fields = {
        "t2m": 285 + rng.normal(size=shape),
        "d2m": 280 + rng.normal(size=shape),
        "ssrd": 2e6 * np.maximum(0, np.sin(2 * np.pi * (hour - 6.5) / 24)) * rng.uniform(0.6, 1, shape),
        "tp": np.where(rng.uniform(size=shape) < 0.2, 1e-3, 0.0),
    }
    time = np.datetime64("2019-07-01", "ns") + np.arange(hours) * np.timedelta64(1, "h")
    arrays = {name: (("time", "latitude", "longitude"), values) for name, values in fields.items()}
    ds = xr.Dataset(arrays, {"time": time, "latitude": LATITUDE, "longitude": LONGITUDE})
    ds[{"latitude": -1, "longitude": -1}] = np.nan
    for name, units in (("t2m", "K"), ("d2m", "K"), ("ssrd", "J m-2"), ("tp", "m")):
        ds[name].attrs["units"] = units
    # Forecasts have no value of the first stamp, as in a request of one month.
    ds["ssrd"][0] = ds["tp"][0] = np.nan
    return ds


@pytest.fixture(scope="module")
def files(weather, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grib")
    write_grib(folder / "mixed.grib", weather)
    return folder


@pytest.fixture(scope="module")
def expected(weather):
    accumulated = weather[["ssrd", "tp"]].isel(time=slice(1, None))
    return open_era5([weather[["t2m", "d2m"]], accumulated]).load()


def assert_same(found, expected):
    xr.testing.assert_allclose(found.load().drop_attrs(), expected.drop_attrs(), rtol=1e-5, atol=2e-3)


def test_a_file_of_analyses_and_accumulations_is_the_same_forcing(files, expected):
    """Temperature has one stamp more than sunlight: neither is dropped, and no hour is filled with nothing."""
    assert [one.parameters for one in find_sources(files)] == [("t2m", "d2m"), ("ssrd", "tp")]
    found = open_era5(files / "mixed.grib")
    assert_same(found, expected)
    assert np.isnan(found.TA[:, -1, -1]).all() and np.isfinite(found.SW_IN[:, 0, 0]).all()
    part = open_era5(files, bbox=(0.1, 46, 1, 47.3), time=("2019-07-01T10", "2019-07-02T03"))
    assert_same(part, expected.sel(time=part.time, latitude=part.latitude, longitude=part.longitude))
    assert_same(cloudpickle.loads(cloudpickle.dumps(part)), part)
    assert grib.process.worker is not None and grib.process.worker.usable


def test_a_long_file_shows_signs_of_life(files, monkeypatch):
    monkeypatch.setattr(grib_read, "_SIGN_OF_LIFE", 50)
    answers = list(grib_read.read_index(files / "mixed.grib"))
    assert answers[:3] == [None] * 3 and answers[-1].shape == (2 * 49 + 2 * 48, len(grib_read.COLUMNS))


def test_a_copy_of_a_file_is_the_same_forcing(files, expected, tmp_path):
    assert_same(open_era5(copy_era5(files, tmp_path / "copy.zarr")), expected)


def test_grib_in_a_zip_is_the_same_forcing(weather, files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    write_grib(tmp_path / "accum.grib", weather[["ssrd", "tp"]])
    with zipfile.ZipFile(tmp_path / "download.grib", "w") as archive:
        archive.write(write_grib(tmp_path / "instant.grb", weather[["t2m", "d2m"]]), "data_stepType-instant.grib")
        archive.write(tmp_path / "accum.grib", "data_stepType-accum.grib")
    assert_same(open_era5(tmp_path / "download.grib"), expected)


@pytest.mark.parametrize(("edition", "scan"), [(1, "south"), (2, "south"), (2, "alternate"), (2, "south alternate")])
def test_the_order_in_which_values_are_stored_does_not_matter(weather, expected, tmp_path, edition, scan):
    few = weather[["t2m"]].isel(time=slice(0, 3))
    path = write_grib(tmp_path / "a.grib", few, edition=edition, scan=scan)
    found = open_era5(path).sortby("latitude", ascending=False)
    np.testing.assert_allclose(found.TA, expected.TA[:2], atol=1e-4)


def test_mean_rates_are_amounts_of_an_hour(weather, expected, tmp_path):
    rates = {"ssrd": weather.ssrd / 3600, "tp": weather.tp / 3.6}
    ds = weather[["t2m"]].assign({f"{name}_rate": values for name, values in rates.items()})
    numbers = {"ssrd_rate": 235035, "tp_rate": 235055}
    path = write_grib(tmp_path / "rates.grib", ds, numbers=numbers)
    found = open_era5(path)
    assert found.attrs["accumulation"] == "hour"
    np.testing.assert_allclose(found.SW_IN, expected.SW_IN, rtol=1e-4, atol=2e-2)
    np.testing.assert_allclose(found.P, expected.P, atol=1e-5)


def test_era5_is_preferred_to_its_preliminary_release(weather, tmp_path):
    ds = weather[["t2m"]].isel(time=slice(0, 4))
    path = write_grib(tmp_path / "a.grib", ds + 5, expver="0005")
    write_grib(path, ds.isel(time=slice(0, 3)), mode="ab")
    series = grib.read_index(path).series[0]
    assert len(series.stamps) == 4
    found = grib.open_grib(path).t2m.values
    np.testing.assert_allclose(found[:3], ds.t2m[:3], atol=1e-4)
    np.testing.assert_allclose(found[3], ds.t2m[3] + 5, atol=1e-4)


def test_a_field_on_a_pressure_level_is_not_that_of_the_ground(weather, tmp_path):
    height = weather.t2m.isel(time=slice(0, 1)).to_dataset(name="z") * 190
    path = write_grib(tmp_path / "z.grib", height, typeOfLevel="isobaricInhPa", level=500)
    assert grib.read_index(path).groups == [] and grib.read_index(path).others == ("z",)
    ground = write_grib(tmp_path / "z0.grib", height / 100)
    assert grib.read_index(ground).groups == [("z",)]


def test_era5_land_is_known_by_its_class(weather, tmp_path):
    path = write_grib(tmp_path / "land.grib", weather[["t2m"]].isel(time=slice(0, 2)), **{"class": "l5"})
    assert grib.open_grib(path).attrs == {"dataset": "ERA5-Land"}


def test_files_that_cannot_be_right_are_refused(weather, tmp_path):
    few = weather[["t2m"]].isel(time=slice(0, 3))
    twice = write_grib(tmp_path / "twice.grib", few)
    twice.write_bytes(twice.read_bytes() * 2)
    cut = write_grib(tmp_path / "cut.grib", few)
    cut.write_bytes(cut.read_bytes()[:-30])
    members = write_grib(tmp_path / "members.grib", few)
    write_grib(members, few, mode="ab", localDefinitionNumber=1, perturbationNumber=2)
    tiles = write_grib(tmp_path / "tiles.grib", few)
    write_grib(tiles, few.isel(longitude=slice(0, 2)), mode="ab")
    noise = tmp_path / "noise.grib"
    noise.write_bytes(b"GRIB" + bytes(100))
    for path, match in (
        (twice, "t2m of 2019-07-01T00:00:00 appears twice"),
        (cut, "damaged or cut short"),
        (members, "2 ensemble members"),
        (tiles, "several grids"),
        (noise, "damaged or cut short|no GRIB message"),
    ):
        with pytest.raises(SourceError, match=match) as info:
            open_era5(path)
        assert path.name in str(info.value)
    # A damaged file does not keep others from being read.
    assert open_era5(write_grib(tmp_path / "good.grib", few)).sizes["time"] == 2


def test_a_reduced_grid_is_named(tmp_path):
    message = eccodes.codes_grib_new_from_samples("reduced_gg_sfc_grib1")
    eccodes.codes_set(message, "paramId", 167)
    with open(tmp_path / "reduced.grib", "wb") as file:
        eccodes.codes_write(message, file)
    with pytest.raises(SourceError, match=r"reduced_gg.*request grid=0.25/0.25"):
        open_era5(tmp_path / "reduced.grib")


def test_without_eccodes_the_extra_is_named(monkeypatch, files):
    monkeypatch.setitem(sys.modules, "eccodes", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'fluxcube\[grib\]'"):
        list(grib_read.read_index(files / "mixed.grib"))


def test_real_files(shared_data, caplog):
    """One stamp of temperature over Europe, and a skin temperature, which is not used."""
    folder = shared_data / "formats" / "era5_grib"
    ds = grib.open_grib(folder / "era5-single-level-scalar-time.grib")
    assert ds.t2m.shape == (1, 121, 201) and ds.latitude[0] == 60 and ds.longitude[-1] == 40
    assert 230 < float(ds.t2m.min()) < float(ds.t2m.mean()) < float(ds.t2m.max()) < 305
    with caplog.at_level(logging.WARNING), pytest.raises(SourceError, match="only one stamp"):
        open_era5(folder)
    assert "no parameter that is used (skt)" in caplog.text
