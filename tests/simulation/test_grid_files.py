"""ERA5, MODIS and land-cover files, against a real CDS file, pyproj and the planet."""

from __future__ import annotations

import re

import numpy as np
import pyproj
import pytest
import xarray as xr
from packages import optional

from fluxcube.biomes import igbp_code
from fluxcube.simulation import sinusoidal
from fluxcube.simulation.grids import composite_days, write_land_cover
from fluxcube.simulation.planet import Planet
from fluxcube.simulation.surface import region_ground, tower_ground

rasterio = optional("rasterio")
optional("netCDF4")
HOUR = np.timedelta64(1, "h")


@pytest.fixture(scope="module")
def era5(small_raw) -> dict[str, xr.Dataset]:
    files = {
        "instant": "data_stream-oper_stepType-instant",
        "accum": "data_stream-oper_stepType-accum",
        "still": "invariant",
    }
    return {kind: xr.load_dataset(small_raw / "era5" / f"{name}.nc", engine="netcdf4") for kind, name in files.items()}


def test_era5_is_laid_out_as_the_cds_does(era5, shared_data):
    with xr.open_dataset(shared_data / "era5" / "era5land_sierra-leone_2025-02.nc", engine="netcdf4") as real:
        for ds in era5.values():
            assert set(ds.coords) == set(real.coords) and set(ds.dims) == set(real.dims)
            for name in ("latitude", "longitude", "valid_time", "number"):
                assert ds[name].dtype == real[name].dtype
                assert {**ds[name].attrs} == {**real[name].attrs}
        for kind, name in (("instant", "t2m"), ("accum", "tp")):
            ours, theirs = era5[kind][name], real[name]
            assert ours.dims == theirs.dims and ours.dtype == theirs.dtype
            # Step type and data type differ between ERA5-Land and ERA5, sizes with the grid; units and names do not.
            for key in ("units", "long_name", "GRIB_units", "GRIB_paramId", "GRIB_cfVarName"):
                assert ours.attrs[key] == theirs.attrs[key]
    assert (np.diff(era5["instant"].latitude) == -0.25).all()


def test_instantaneous_fields_are_those_at_the_valid_time(era5, small_planet):
    ds = era5["instant"].isel(valid_time=slice(0, 96))
    lat, lon = (x.ravel() for x in np.meshgrid(ds.latitude, ds.longitude, indexing="ij"))
    # A step of two minutes centred on the time.
    air = small_planet.weather(ds.valid_time.values - np.timedelta64(60, "s"), lat, lon, step_hours=1 / 30)
    flat = {name: ds[name].values.reshape(96, -1).T for name in ("t2m", "d2m", "sp", "u10")}
    assert np.allclose(flat["t2m"] - 273.15, air["TA"], atol=1e-3)
    assert np.allclose(flat["d2m"] - 273.15, air["TD"], atol=1e-3)
    assert np.allclose(flat["sp"] / 1000, air["PA"], atol=1e-4)
    assert np.allclose(flat["u10"], air["U"], atol=1e-3)


def test_accumulations_cover_the_hour_that_ends(era5, small_planet):
    ds = era5["accum"].isel(valid_time=slice(0, 96))
    lat, lon = (x.ravel() for x in np.meshgrid(ds.latitude, ds.longitude, indexing="ij"))
    fine = np.arange(ds.valid_time.values[0] - HOUR, ds.valid_time.values[-1], np.timedelta64(5, "m"))
    air = small_planet.weather(fine, lat, lon, step_hours=1 / 12)
    mean = air["SW_IN"].reshape(len(lat), 96, 12).mean(-1)
    ours = ds.ssrd.values.reshape(96, -1).T / 3600
    assert np.abs(ours - mean).mean() < 0.02 * mean.mean()
    assert np.abs(np.roll(ours, 1, 1) - mean).mean() > 0.1 * mean.mean()  # detects an error of one hour
    rain = air["P"].reshape(len(lat), 96, 12).sum(-1)
    assert np.allclose(1000 * ds.tp.values.reshape(96, -1).T.sum(1), rain.sum(1), rtol=0.1, atol=0.3)


def test_invariant_fields_are_the_lands(era5, small_planet):
    cells, still = small_planet.region, era5["still"].isel(valid_time=0)
    assert np.allclose(still.z / 9.80665, cells.elevation, rtol=1e-5)
    assert np.array_equal(still.lsm.values == 1, cells.igbp != "WAT")


def test_files_end_with_the_hour_that_the_last_step_needs(era5, small_planet):
    for kind in ("instant", "accum"):
        time = era5[kind].valid_time.values
        assert (np.diff(time) == HOUR).all()
        assert time[0] == small_planet.forcing_start and time[-1] == small_planet.period[1]
    assert small_planet.period[0] - small_planet.forcing_start >= np.timedelta64(30, "D")


def test_the_sinusoidal_grid_is_projs():
    lat, lon = np.array([0.0, 47.2, -33.9, 68.0]), np.array([0.0, 8.1, 151.0, -120.0])
    # From a sphere's own latitudes: MODIS takes geodetic ones as they are.
    sphere = pyproj.Transformer.from_crs("+proj=longlat +R=6371007.181", sinusoidal.CRS, always_xy=True)
    x, y = sphere.transform(lon, lat)
    row, column = sinusoidal.pixel_at(lat, lon)
    assert np.allclose((column - 43200) * sinusoidal.PIXEL, x, atol=1e-3)
    assert np.allclose((21600 - row) * sinusoidal.PIXEL, y, atol=1e-3)
    assert abs(sinusoidal.PIXEL - 463.3127165) < 1e-6
    back = sinusoidal.centre_of(np.floor(row), np.floor(column))
    again = sinusoidal.pixel_at(*back)
    assert np.allclose(again[0] - np.floor(row), 0.5) and np.allclose(again[1] - np.floor(column), 0.5)
    assert sinusoidal.tile_name(*sinusoidal.pixel_at(39.32, -86.41)) == "h11v05"  # Indiana
    assert sinusoidal.tile_name(*sinusoidal.pixel_at(61.8, 24.3)) == "h19v02"  # Finland


def _modis(small_raw, pattern):
    return sorted((small_raw / "modis").glob(pattern))


def test_modis_files_are_on_the_grid_and_describe_their_bands(small_raw, small_planet):
    crops = {t.site for t in small_planet.towers} | {"region"}
    names = re.compile(r"MCD43A([24])\.A(\d{4})(\d{3})\.(h\d\dv\d\d)\.061\.(.+)\.tif")
    seen = set()
    for path in _modis(small_raw, "*.tif"):
        product, _, day, tile, crop = names.fullmatch(path.name).groups()
        assert crop in crops and int(day) % 8 == 1
        if crop in seen:
            continue
        seen.add(crop)
        with rasterio.open(path) as tiff:
            t = tiff.transform
            assert t.a == pytest.approx(463.3127165, abs=1e-6) and t.e == -t.a
            for offset in (t.c / t.a, t.f / t.a):
                assert abs(offset - round(offset)) < 1e-6
            row, column = 21600 - round(t.f / t.a), 43200 + round(t.c / t.a)
            assert tile == f"h{(column + tiff.width // 2) // 2400:02d}v{(row + tiff.height // 2) // 2400:02d}"
            parameters = tiff.crs.to_dict()
            assert parameters["proj"] == "sinu" and parameters["R"] == 6371007.181
            assert tiff.count == {"4": 7, "2": 2}[product]
    assert seen == crops


def test_reflectance_has_fill_and_valid_values(small_raw):
    missing = []
    for path in _modis(small_raw, "MCD43A4.*.tif"):
        with rasterio.open(path) as tiff:
            assert tiff.dtypes[0] == "int16" and tiff.nodata == 32767 and tiff.scales == (1e-4,) * 7
            assert tiff.descriptions == tuple(f"Nadir_Reflectance_Band{n}" for n in range(1, 8))
            bands = tiff.read()
        assert ((bands == 32767) | ((bands >= 1) & (bands <= 10000))).all()
        missing.append((bands == 32767).mean())
    assert 0.05 < np.mean(missing) < 0.5 and max(missing) > 0.6 and min(missing) < 0.05


def test_snow_and_water_are_flags(small_raw):
    kinds = set()
    for path in _modis(small_raw, "MCD43A2.*.tif"):
        with rasterio.open(path) as tiff:
            assert tiff.descriptions == ("Snow_BRDF_Albedo", "BRDF_Albedo_LandWaterType") and tiff.nodata == 255
            snow, kind = tiff.read()
        assert set(np.unique(snow)) <= {0, 1, 255} and set(np.unique(kind)) <= set(range(8)) | {255}
        kinds |= set(np.unique(kind))
    assert {1, 3} <= kinds


def test_a_pixel_looks_the_same_in_every_file(small_raw, small_planet):
    region, site = region_ground(small_planet), next(t for t in small_planet.towers if t.site == "ES-Zen")
    crop = tower_ground(small_planet, site)
    top, left = crop.row - region.row, crop.column - region.column
    pairs = 0
    for path in _modis(small_raw, "MCD43A4.*.ES-Zen.tif"):
        others = _modis(small_raw, path.name.split(".h")[0] + ".*.region.tif")
        if not others:  # the tower's record continues after the period of the maps
            continue
        with rasterio.open(path) as one, rasterio.open(others[0]) as two:
            inner = two.read(window=rasterio.windows.Window(left, top, 14, 14))
            assert np.array_equal(one.read(), inner)
        pairs += 1
    assert pairs > 5


@pytest.mark.parametrize("seed", [0, 1])
def test_the_most_frequent_land_cover_of_a_cell_is_its_class(seed, tmp_path):
    planet = Planet(seed)
    with rasterio.open(write_land_cover(planet, tmp_path)) as tiff:
        assert tiff.dtypes == ("uint8",) and tiff.nodata == 255 and tiff.descriptions == ("LC_Type1",)
        numbers, t = tiff.read(1), tiff.transform
    row, column = 21600 - round(t.f / t.a), 43200 + round(t.c / t.a)
    lat, lon = sinusoidal.centre_of(*np.mgrid[row : row + numbers.shape[0], column : column + numbers.shape[1]])
    mixed = 0
    for i, y in enumerate(planet.region.latitude):
        for j, x in enumerate(planet.region.longitude):
            rows = np.abs(lat[:, 0] - y) <= 0.125  # a row has one latitude
            inside = numbers[rows][np.abs(lon[rows] - x) <= 0.125]
            assert 2000 < inside.size < 4000
            counts = np.bincount(inside)
            assert igbp_code(counts.argmax()) == planet.region.igbp[i, j]
            mixed += (counts > 0).sum() > 1
    assert mixed > 100


def test_composites_come_every_eighth_day_of_the_year():
    days = composite_days(np.datetime64("2017-12-20"), np.datetime64("2018-01-20"))
    assert [str(day) for day in days] == [
        "2017-12-11",
        "2017-12-19",
        "2017-12-27",
        "2018-01-01",
        "2018-01-09",
        "2018-01-17",
    ]
