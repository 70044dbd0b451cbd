"""The forcing cube: ERA5, MODIS and land cover of one grid, lazily."""

from __future__ import annotations

import cloudpickle
import dask
import numpy as np
import pytest
import xarray as xr
from packages import optional

from fluxcube.cubes.chips import build_chips, chip_index, sinusoidal_pixel
from fluxcube.cubes.forcing import open_forcing
from fluxcube.errors import ConfigError, SourceError, UnknownNameError
from fluxcube.schema import validate_forcing
from fluxcube.solar import potential_radiation
from fluxcube.sources.modis.rasters import COLS, PIXEL, ROWS
from fluxcube.timestamps import local_clock
from fluxcube.variables import variable

rasterio = optional("rasterio")

LATITUDE, LONGITUDE = np.array([47.25, 47.0, 46.75]), np.array([7.0, 7.25, 7.5, 7.75])
CRS = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"


@pytest.fixture
def era5(tmp_path):
    """Ten days of two members over 3 x 4 cells, each cell and hour with a number of its own."""
    time = np.datetime64("2019-06-01", "ns") + np.arange(241) * np.timedelta64(1, "h")
    shape = (len(time), len(LATITUDE), len(LONGITUDE))
    t2m = 273.15 + np.arange(np.prod(shape)).reshape(shape) / 100
    hump = np.maximum(0, np.sin(2 * np.pi * (np.arange(241) - 6) / 24))
    ds = xr.Dataset(
        {
            "t2m": (("valid_time", "latitude", "longitude"), t2m, {"units": "K"}),
            "ssrd": (
                ("valid_time", "latitude", "longitude"),
                np.broadcast_to(2e6 * hump[:, None, None], shape).copy(),
                {"units": "J m**-2"},
            ),
        },
        coords={"valid_time": time, "latitude": LATITUDE, "longitude": LONGITUDE},
    )
    ds.to_netcdf(tmp_path / "era5.nc")
    return tmp_path / "era5.nc"


def region(margin=60):
    """Corner and size, on the global grid, of a window around the cells."""
    rows, cols = sinusoidal_pixel(*np.meshgrid([47.5, 46.5], [6.8, 7.9]))
    row, col = rows.min() - margin, cols.min() - margin
    return row, col, rows.max() + margin - row, cols.max() + margin - col


def write(path, values, row, col, names):
    transform = rasterio.transform.from_origin((col - COLS / 2) * PIXEL, (ROWS / 2 - row) * PIXEL, PIXEL, PIXEL)
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
    path.parent.mkdir(exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", dtype=values.dtype, crs=CRS, transform=transform, **shape) as file:
        file.write(values)
        file.descriptions = names


@pytest.fixture
def modis(tmp_path):
    """Two days of both products over the region: noise."""
    row, col, height, width = region()
    rng = np.random.default_rng(0)
    for day in (145, 153, 161):
        a4 = rng.integers(0, 10000, (7, height, width)).astype("int16")
        a2 = rng.integers(0, 2, (2, height, width)).astype("uint8")
        names = [f"Nadir_Reflectance_Band{i}" for i in range(1, 8)]
        write(tmp_path / "modis" / f"MCD43A4.A2019{day}.h18v04.061.region.tif", a4, row, col, names)
        names = ["Snow_BRDF_Albedo", "BRDF_Albedo_LandWaterType"]
        write(tmp_path / "modis" / f"MCD43A2.A2019{day}.h18v04.061.region.tif", a2, row, col, names)
    return tmp_path / "modis"


def write_classes(folder, classes, row, col):
    path = folder / "land_cover" / "MCD12Q1.A2019001.h18v04.061.region.tif"
    write(path, classes[None].astype("uint8"), row, col, ["LC_Type1"])
    return path


def lat_lon(row, col, height, width):
    """Latitude and longitude of pixel centres."""
    lat = 90 - (row + np.arange(height) + 0.5)[:, None] / 240
    lon = ((col + np.arange(width) + 0.5) / 240 - 180) / np.cos(np.deg2rad(lat))
    return np.broadcast_to(lat, lon.shape), lon


def test_weather_and_sun_of_every_cell(era5):
    ds = validate_forcing(open_forcing(era5, igbp="GRA"))
    assert ds.variable.values.tolist() == ["DOY", "TOD", "TA", "SW_IN", "PPFD_IN", "SW_IN_POT"]
    assert ds.predictors.dtype == np.float32 and "modis" not in ds
    raw = xr.open_dataset(era5)
    got = ds.predictors.compute()
    expected = (raw.t2m.values[:-1] + raw.t2m.values[1:]) / 2 - 273.15
    np.testing.assert_allclose(got.sel(variable="TA"), np.moveaxis(expected, 0, -1), atol=1e-4)
    lat, lon = np.meshgrid(LATITUDE, LONGITUDE, indexing="ij")
    doy, tod = local_clock(ds.time.values, lon / 15)
    np.testing.assert_allclose(got.sel(variable="DOY"), doy, rtol=1e-6)
    np.testing.assert_allclose(got.sel(variable="TOD"), tod, rtol=1e-6)
    sun = potential_radiation(ds.time.values, lat, lon)
    np.testing.assert_allclose(got.sel(variable="SW_IN_POT"), sun, rtol=1e-5, atol=1e-4)
    assert (ds.igbp == "GRA").all() and ds.elevation.isnull().all() and (ds.land_fraction == 1).all()
    for name in ds.variable.values:
        assert str(ds.units.sel(variable=name).values) == variable(name).units


def test_clocks_stay_inside_their_bounds(tmp_path):
    """14.9958 degrees east is a second short of one hour ahead: float32 would round 365.99999 up to 366."""
    time = np.datetime64("2020-12-31T20", "ns") + np.arange(6) * np.timedelta64(1, "h")
    t2m = ("valid_time", "latitude", "longitude"), np.full((6, 1, 1), 280.0), {"units": "K"}
    coords = {"valid_time": time, "latitude": [50.0], "longitude": [14.99584]}
    xr.Dataset({"t2m": t2m}, coords=coords).to_netcdf(tmp_path / "a.nc")
    got = open_forcing(tmp_path / "a.nc").predictors.compute()
    assert 365.99 < got.sel(variable="DOY").max() < 366 and 23.99 < got.sel(variable="TOD").max() < 24
    assert got.sel(variable="DOY").min() < 1


def test_subsets_by_box_time_and_predictors(era5, modis):
    whole = open_forcing(era5, modis=modis)
    part = open_forcing(
        era5, modis=modis, predictors=["SW_IN", "DOY"], bbox=(7.2, 46.9, 7.6, 47.1), time=("2019-06-03", "2019-06-04")
    )
    assert dict(part.predictors.sizes) == {"latitude": 1, "longitude": 2, "time": 48, "variable": 2}
    same = whole.sel(variable=["SW_IN", "DOY"], latitude=[47.0], longitude=[7.25, 7.5])
    same = same.sel(time=slice("2019-06-03", "2019-06-04"))
    np.testing.assert_array_equal(part.predictors.compute(), same.predictors.compute())
    # Chips of the 32 days before are kept: a model looks back for the latest one.
    assert part.day.dt.dayofyear.values.tolist() == [145, 153] and whole.day.dt.dayofyear.values[-1] == 161
    np.testing.assert_array_equal(part.modis.compute(), same.modis.isel(day=slice(0, 2)).compute())
    only = open_forcing(era5, predictors="TOD")
    assert only.predictors.sizes["variable"] == 1


def test_a_box_across_the_antimeridian(tmp_path):
    longitude = np.arange(0.0, 360.0, 2.0)
    time = np.datetime64("2019-06-01", "ns") + np.arange(4) * np.timedelta64(1, "h")
    values = np.broadcast_to(273.15 + longitude / 10, (4, 2, 180)).copy()
    ds = xr.Dataset(
        {"t2m": (("time", "latitude", "longitude"), values, {"units": "K"})},
        coords={"time": time, "latitude": [-17.0, -19.0], "longitude": longitude},
    )
    ds.to_netcdf(tmp_path / "a.nc")
    got = open_forcing(tmp_path / "a.nc", predictors="TA", bbox=(176, -18, -176, -16)).compute()
    assert got.longitude.values.tolist() == [176, 178, -180, -178, -176]
    np.testing.assert_allclose(got.predictors[0, :, 0, 0], got.longitude % 360 / 10, rtol=1e-4)


def test_nothing_is_computed_before_it_is_asked_for(era5, modis):
    computes = []

    def scheduler(graph, keys, **kwargs):
        computes.append(keys)
        return dask.get(graph, keys, **kwargs)

    with dask.config.set(scheduler=scheduler):
        ds = open_forcing(era5, modis=modis, chunks={"latitude": 2, "longitude": 3, "time": 96})
        assert not computes
        assert ds.predictors.chunks == ((2, 1), (3, 1), (96, 96, 48), (6,))
        assert ds.modis.chunks[:2] == ds.predictors.chunks[:2]
        ds.predictors[0, 0, :3].values  # noqa: B018
        assert len(computes) == 1


def test_chunks_and_transport_do_not_change_values(era5, modis):
    whole = open_forcing(era5, modis=modis).compute()
    parts = open_forcing(era5, modis=modis, chunks={"latitude": 1, "longitude": 3, "time": 50})
    xr.testing.assert_equal(whole, parts.compute())
    xr.testing.assert_equal(whole, cloudpickle.loads(cloudpickle.dumps(parts)).compute())
    again = open_forcing(era5, modis=modis)
    assert again.predictors.data.name == open_forcing(era5, modis=modis).predictors.data.name
    assert again.predictors.data.name != open_forcing(era5, time=("2019-06-02", None)).predictors.data.name


def test_chips_without_land_cover_are_at_the_centres(era5, modis):
    ds = open_forcing(era5, modis=modis)
    lat, lon = np.meshgrid(LATITUDE, LONGITUDE, indexing="ij")
    chips = build_chips(modis, lat.ravel(), lon.ravel())
    np.testing.assert_array_equal(ds.modis.values.reshape(12, *chips.shape[1:]), chips)
    np.testing.assert_array_equal(ds.day, chips.day)
    assert np.isfinite(ds.modis).all()


def test_land_cover_gives_class_share_of_land_and_chip(era5, modis, tmp_path):
    """Cell by cell: forest with one pure patch of cropland aside; and a shore."""
    row, col, height, width = region()
    lat, lon = lat_lon(row, col, height, width)
    classes = np.full((height, width), 4)
    classes[lat > 47.125] = 17  # the northern cells are water...
    shore = (lat > 47.125) & (np.abs(lon - 7.25) < 0.125) & (lat < 47.175)
    classes[shore] = 10  # ...but for a fifth of one, which is grass
    south = lat <= 46.875
    speckle = (np.arange(height)[:, None] + np.arange(width)) % 3 == 0
    classes[south] = np.where(speckle[south], 5, 12)  # crops everywhere, never pure...
    patch = south & (np.abs(lat - 46.70) < 0.04) & (np.abs(lon - 7.58) < 0.06)
    classes[patch] = 12  # ...but in one patch of the cell at 46.75 N, 7.5 E
    ds = open_forcing(era5, modis=modis, land_cover=write_classes(tmp_path, classes, row, col))
    assert ds.igbp.values.tolist() == [["WAT", "GRA", "WAT", "WAT"], ["DBF"] * 4, ["CRO"] * 4]
    assert ds.land_fraction.values[0] == pytest.approx([0, 0.2, 0, 0], abs=0.02)
    assert (ds.land_fraction.values[1:] == 1).all() and "MCD12Q1" in ds.land_fraction.comment
    # Pure forest: the block nearest to the centre is at the centre.
    centre = build_chips(modis, np.full(4, 47.0), LONGITUDE)
    np.testing.assert_array_equal(ds.modis.values[1], centre)
    # The mixed cell takes its chip from the patch, which holds nothing but crops: so says the land cover itself.
    chip = ds.modis.values[2, 2, 0, 0]
    found = [(r, c) for r in range(height) for c in range(width) if patch[r, c]]
    at = np.array([(lat[p], lon[p]) for p in found])
    rows, cols = chip_index(*at.T)
    with rasterio.open(modis / "MCD43A4.A2019145.h18v04.061.region.tif") as file:
        red = file.read(1) / 1e4
    match = np.flatnonzero((np.abs(red[rows - row, cols - col] - chip) < 1e-6).all((1, 2)))
    assert len(match) == 1
    inside = classes[rows[match[0]] - row, cols[match[0]] - col]
    assert (inside == 12).mean() > 0.95  # pixels relative to the centre may differ by one from those of the cell's chip
    distance = np.hypot(at[:, 0] - 46.75, (at[:, 1] - 7.5) * np.cos(np.deg2rad(46.75)))
    purity = (classes[rows - row, cols - col] == 12).mean((1, 2))
    assert distance[match[0]] <= distance[purity == 1].min() + 2 / 240


def test_cells_without_land_cover_have_no_class(era5, tmp_path, caplog):
    row, col, height, width = region()
    lat, _ = lat_lon(row, col, height, width)
    ds = open_forcing(era5, land_cover=write_classes(tmp_path, np.where(lat > 47.125, 255, 1), row, col))
    assert (ds.igbp[0] == "").all() and (ds.igbp[1:] == "ENF").all() and (ds.land_fraction == 1).all()
    assert "4 of 12 cells have no land cover" in caplog.text


def test_the_land_sea_mask_goes_before_land_cover(era5, tmp_path):
    mask = xr.Dataset(
        {"lsm": (("valid_time", "latitude", "longitude"), np.full((1, 3, 4), 0.3), {"units": "(0 - 1)"})},
        coords={"valid_time": [np.datetime64("2019-06-01", "ns")], "latitude": LATITUDE, "longitude": LONGITUDE},
    )
    mask.to_netcdf(tmp_path / "lsm.nc")
    row, col, height, width = region()
    cover = write_classes(tmp_path, np.full((height, width), 8), row, col)
    ds = open_forcing([era5, tmp_path / "lsm.nc"], land_cover=cover)
    assert ds.land_fraction.values == pytest.approx(0.3) and (ds.igbp == "WSA").all()


def test_classes_from_a_map(era5):
    numbers = xr.DataArray(
        np.arange(1, 13).reshape(3, 4),
        dims=("latitude", "longitude"),
        coords={"latitude": LATITUDE, "longitude": LONGITUDE},
    )
    upside_down = open_forcing(era5, igbp=numbers[::-1].T)
    assert upside_down.igbp.values[0].tolist() == ["ENF", "EBF", "DNF", "DBF"]
    codes = xr.full_like(numbers, "SAV", dtype="U3")
    assert (open_forcing(era5, igbp=codes).igbp == "SAV").all()
    with pytest.raises(ConfigError, match="every cell"):
        open_forcing(era5, igbp=numbers[:2])


def test_mistakes_are_named(era5, modis, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'TA'"):
        open_forcing(era5, predictors=["TAA"])
    with pytest.raises(UnknownNameError, match="NEE"):
        open_forcing(era5, predictors=["NEE"])
    with pytest.raises(ConfigError, match=r"LW_IN cannot be derived.*strd"):
        open_forcing(era5, predictors=["TA", "LW_IN"])
    with pytest.raises(UnknownNameError, match="IGBP"):
        open_forcing(era5, igbp="FOREST")
    with pytest.raises(ConfigError, match="not both"):
        open_forcing(era5, igbp="GRA", land_cover=tmp_path)
    with pytest.raises(ConfigError, match=r"contains no cell.*latitudes 46.75 to 47.25"):
        open_forcing(era5, bbox=(0, 0, 1, 1))
    with pytest.raises(ConfigError, match="south 50 above north 40"):
        open_forcing(era5, bbox=(0, 50, 10, 40))
    with pytest.raises(ConfigError, match="the files cover 2019-06-01"):
        open_forcing(era5, time=("2020-01-01", "2020-02-01"))
    with pytest.raises(SourceError, match="no MODIS raster from 2019-05-05"):
        for path in modis.iterdir():
            path.rename(path.with_name(path.name.replace("A2019", "A2012")))
        open_forcing(era5, modis=modis, time=("2019-06-06", None))


def test_modis_of_elsewhere_is_refused(era5, tmp_path):
    names = [f"Nadir_Reflectance_Band{i}" for i in range(1, 8)]
    path = tmp_path / "far" / "MCD43A4.A2019153.h18v04.061.region.tif"
    write(path, np.zeros((7, 20, 20), "int16"), 100, 100, names)
    with pytest.raises(SourceError, match="covers the grid"):
        open_forcing(era5, modis=tmp_path / "far")


@pytest.mark.parametrize("name", ["era5_davos_2020-01", "era5land_sierra-leone_2025-02", "era5_berlin_2017"])
def test_real_grids_open(shared_data, name):
    ds = open_forcing(shared_data / "era5" / f"{name}.nc", igbp="ENF", time=(None, "2025-02-03"))
    assert {"DOY", "TOD", "SW_IN_POT", "TA"} <= set(ds.variable.values)
    part = ds.predictors.isel(latitude=slice(0, 2), longitude=slice(0, 2)).compute()
    assert np.isfinite(part.sel(variable=["DOY", "TOD", "SW_IN_POT"])).all()


def test_cells_at_the_pole_and_across_the_antimeridian(tmp_path):
    """Cells of 2 degrees, with land cover around Fiji and the North Pole."""
    time = np.datetime64("2019-06-01", "ns") + np.arange(3) * np.timedelta64(1, "h")
    latitude, longitude = np.arange(90.0, -91.0, -2.0), np.arange(0.0, 360.0, 2.0)
    t2m = ("valid_time", "latitude", "longitude"), np.full((3, 91, 180), 280.0), {"units": "K"}
    coords = {"valid_time": time, "latitude": latitude, "longitude": longitude}
    xr.Dataset({"t2m": t2m}, coords=coords).to_netcdf(tmp_path / "a.nc")
    rows, cols = sinusoidal_pixel(np.array([-18.0, -18.0]), np.array([177.5, 179.9]))
    cover = write_classes(tmp_path, np.full((100, cols[1] - cols[0]), 2), rows[0] - 50, cols[0])
    ds = open_forcing(tmp_path / "a.nc", land_cover=cover, bbox=(174, -20, -178, -16))
    known = ds.igbp.where(ds.igbp != "", drop=True)
    assert known.latitude.values.tolist() == [-18.0] and known.longitude.values.tolist() == [178.0]
    write_classes(tmp_path, np.full((300, 1000), 15), 0, 43200 - 500)
    ds = open_forcing(tmp_path / "a.nc", land_cover=cover, bbox=(-4, 88, 4, 90))
    assert (ds.igbp == "SNO").all() and np.isfinite(ds.predictors).all()
