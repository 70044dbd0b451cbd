"""Cells of a forcing cube: edges and areas, heights, land cover in windows, several chips per cell."""

from __future__ import annotations

import cloudpickle
import numpy as np
import pytest
import xarray as xr
from packages import optional

from fluxcube.cubes import forcing_cells
from fluxcube.cubes.chips import build_chips
from fluxcube.cubes.forcing import open_forcing
from fluxcube.cubes.forcing_blocks import pressure_at
from fluxcube.cubes.forcing_cells import share_out
from fluxcube.errors import ConfigError, SchemaError
from fluxcube.geometry import cell_area, cell_bounds
from fluxcube.schema import validate_forcing
from fluxcube.sources.modis.grid import COLS, PIXEL, ROWS
from fluxcube.sources.modis.rasters import sinusoidal_pixel

rasterio = optional("rasterio")

LATITUDE, LONGITUDE = np.array([47.25, 47.0, 46.75]), np.array([7.0, 7.25, 7.5, 7.75])


def write_era5(path, fields=None, latitude=LATITUDE, longitude=LONGITUDE, hours=49):
    time = np.datetime64("2019-06-01", "ns") + np.arange(hours) * np.timedelta64(1, "h")
    shape = (hours, len(latitude), len(longitude))
    fields = {"t2m": (285.0, "K")} | (fields or {})
    arrays = {
        name: (("valid_time", "latitude", "longitude"), np.broadcast_to(values, shape).copy(), {"units": units})
        for name, (values, units) in fields.items()
    }
    xr.Dataset(arrays, coords={"valid_time": time, "latitude": latitude, "longitude": longitude}).to_netcdf(path)
    return path


def write_tiff(path, values, row, col, names):
    transform = rasterio.transform.from_origin((col - COLS / 2) * PIXEL, (ROWS / 2 - row) * PIXEL, PIXEL, PIXEL)
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
    crs = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
    path.parent.mkdir(exist_ok=True, parents=True)
    with rasterio.open(path, "w", driver="GTiff", dtype=values.dtype, crs=crs, transform=transform, **shape) as file:
        file.write(values)
        file.descriptions = names
    return path


@pytest.fixture(scope="module")
def ground():
    """Row, column, and latitude and longitude of pixels of a window around the cells."""
    rows, cols = sinusoidal_pixel(*np.meshgrid([47.5, 46.5], [6.8, 7.9]))
    row, col = rows.min() - 60, cols.min() - 60
    height, width = rows.max() + 60 - row, cols.max() + 60 - col
    lat = 90 - (row + np.arange(height) + 0.5)[:, None] / 240
    lon = ((col + np.arange(width) + 0.5) / 240 - 180) / np.cos(np.deg2rad(lat))
    return row, col, np.broadcast_to(lat, lon.shape), lon


@pytest.fixture(scope="module")
def files(tmp_path_factory, ground):
    """ERA5; land cover: GRA west of a line through each cell, ENF east, a lake in one; MODIS that shows the class."""
    folder = tmp_path_factory.mktemp("cells")
    row, col, lat, lon = ground
    east = (lon - 7.0 + 0.125) % 0.25 > 0.0625
    classes = np.where(east, 1, 10).astype("uint8")
    classes[(lat > 46.875) & (lat < 47.125) & (lon > 7.125) & (lon < 7.25)] = 17
    write_tiff(folder / "cover/MCD12Q1.A2019001.h18v04.061.x.tif", classes[None], row, col, ["LC_Type1"])
    names = [f"Nadir_Reflectance_Band{i}" for i in range(1, 8)]
    for day in (145, 153):
        bands = np.broadcast_to(100 * classes.astype("int16"), (7, *classes.shape))
        write_tiff(folder / f"modis/MCD43A4.A2019{day}.h18v04.061.x.tif", bands, row, col, names)
    write_era5(folder / "era5.nc")
    return folder


def test_edges_and_areas_of_cells(tmp_path):
    write_era5(tmp_path / "a.nc", latitude=np.arange(90.0, -91, -30), longitude=np.arange(0.0, 360, 30))
    ds = open_forcing(tmp_path / "a.nc", predictors="TA")
    assert float(ds.cell_area.sum()) == pytest.approx(510065621.7e6, rel=1e-9)
    np.testing.assert_allclose(ds.latitude_bnds, cell_bounds(ds.latitude.values, (-90, 90)))
    np.testing.assert_allclose(ds.longitude_bnds, cell_bounds(ds.longitude.values))
    up = open_forcing(write_era5(tmp_path / "b.nc", latitude=LATITUDE[::-1]), predictors="TA")
    edges = up.latitude_bnds.values
    assert (np.diff(edges, axis=1) > 0).all() and (edges[1:, 0] == edges[:-1, 1]).all()
    fine = open_forcing(tmp_path / "b.nc", predictors="TA", resolution=0.05)
    assert fine.sizes["latitude"] * fine.sizes["longitude"] == 25 * 12
    np.testing.assert_allclose(fine.cell_area.sum(), up.cell_area.sum(), rtol=1e-3)
    one = open_forcing(tmp_path / "b.nc", predictors="TA", bbox=(7.2, 46.9, 7.3, 47.1))
    np.testing.assert_allclose(one.cell_area, cell_area([[46.875, 47.125]], [[7.125, 7.375]]))
    across = open_forcing(tmp_path / "a.nc", predictors="TA", bbox=(140, -10, -140, 10))
    assert across.longitude.values.tolist() == [150, -180, -150]
    np.testing.assert_allclose(across.longitude_bnds, cell_bounds(across.longitude.values))


def test_pressure_of_another_height_by_hand(tmp_path):
    """The standard atmosphere: 101.325 kPa and 15 degC at sea level, 89.875 at 1000 m, 79.495 at 2000 m."""
    assert pressure_at(101.325, 15.0, np.array([0.0, 1000.0, 2000.0])) == pytest.approx([101.325, 89.875, 79.495], 3e-4)
    path = write_era5(tmp_path / "a.nc", {"sp": (101325.0, "Pa"), "t2m": (288.15, "K"), "z": (0.0, "m2 s-2")})
    plain = open_forcing(path, predictors=["PA"]).predictors
    assert plain.values == pytest.approx(101.325, rel=1e-6)
    ground = xr.DataArray(
        np.full((3, 4), 1000.0), dims=("latitude", "longitude"), coords={"latitude": LATITUDE, "longitude": LONGITUDE}
    )
    ground[1, 2], ground[2, 3] = 2000.0, np.nan
    ds = open_forcing(path, predictors=["PA", "DOY"], elevation=ground[::-1])
    got = ds.predictors.sel(variable="PA").isel(time=0).values
    assert got[0] == pytest.approx(89.875, rel=3e-4) and got[1, 2] == pytest.approx(79.495, rel=3e-4)
    assert got[2, 3] == pytest.approx(101.325)  # no height is known there
    assert ds.variable.values.tolist() == ["DOY", "PA"] or ds.variable.values.tolist() == ["PA", "DOY"]
    np.testing.assert_array_equal(ds.elevation, ground)
    tower = open_forcing(path, predictors=["PA"], elevation=1000, bbox=(7.2, 46.9, 7.3, 47.1))
    assert tower.predictors.values == pytest.approx(89.875, rel=3e-4)
    cold = write_era5(tmp_path / "b.nc", {"sp": (101325.0, "Pa"), "t2m": (258.15, "K"), "z": (0.0, "m2 s-2")})
    assert (open_forcing(cold, predictors="PA", elevation=1000).predictors < got[0, 0] - 1).all()  # cold air is heavy


def test_heights_that_cannot_be(tmp_path):
    path = write_era5(tmp_path / "a.nc", {"sp": (101325.0, "Pa")})
    with pytest.raises(ConfigError, match=r"geopotential \(z\)"):
        open_forcing(path, elevation=100.0)
    assert (open_forcing(path, predictors="TA", elevation=100.0).elevation == 100).all()
    with pytest.raises(ConfigError, match="elevation must be in m"):
        open_forcing(path, elevation=12000.0, predictors="TA")
    with pytest.raises(ConfigError, match="every cell"):
        some = xr.DataArray([[1.0]], dims=("latitude", "longitude"), coords={"latitude": [47.0], "longitude": [7.0]})
        open_forcing(path, elevation=some, predictors="TA")


def test_pressure_of_real_neighbours_agrees(shared_data):
    """Davos: a cell's pressure, brought to the height of each other cell, is that cell's."""
    path = shared_data / "era5/era5_davos_2020-01.nc"
    ds = open_forcing(path, predictors=["TA", "PA"])
    height = ds.elevation
    assert float(height.max() - height.min()) > 1000
    for i, j in ((0, 0), (3, 4)):
        moved = open_forcing(path, predictors=["PA"], elevation=float(height[i, j])).predictors[..., 0]
        there = ds.predictors.sel(variable="PA")[i, j]
        # Untouched, pressures differ by 6 to 9 % on average; inversions and weather between cells leave 0.2 %.
        off, before = (float(abs(one / there - 1).mean()) for one in (moved, ds.predictors.sel(variable="PA")))
        assert off < 0.004 and off < 0.04 * before


def test_land_cover_does_not_depend_on_windows(files, monkeypatch):
    def opened(**kw):
        ds = open_forcing(files / "era5.nc", land_cover=files / "cover", modis=files / "modis", **kw)
        return ds.drop_vars("predictors").compute()

    whole, several = opened(), opened(chips_per_cell=4)
    monkeypatch.setattr(forcing_cells, "_WINDOW", 0.3)
    xr.testing.assert_equal(opened(), whole)
    xr.testing.assert_equal(opened(chips_per_cell=4), several)
    assert set(whole.igbp.values.ravel()) == {"ENF"}
    lake = np.ones((3, 4))
    lake[1, 1] = 0.5
    np.testing.assert_allclose(whole.land_fraction, lake, atol=0.02)


def test_land_cover_is_read_once_a_window_not_once_a_cell(files, monkeypatch):
    reads = []
    read = forcing_cells.read_land_cover

    def counted(tiles, rows, cols):
        reads.append((rows, cols))
        return read(tiles, rows, cols)

    monkeypatch.setattr(forcing_cells, "read_land_cover", counted)
    open_forcing(files / "era5.nc", land_cover=files / "cover", resolution=0.05)
    assert len(reads) == 1


def test_several_chips_stand_for_the_classes_of_a_cell(files):
    """Three quarters forest, one quarter grass: of four chips three are forest's, far from each other."""
    ds = open_forcing(files / "era5.nc", modis=files / "modis", land_cover=files / "cover", chips_per_cell=4)
    ds = validate_forcing(ds).compute()
    assert ds.modis.dims == ("latitude", "longitude", "block", "day", "band", "y", "x")
    np.testing.assert_allclose(ds.block_weight.sum("block"), 1.0, rtol=1e-6)
    whole = ds.isel(latitude=[0, 2])
    assert (whole.block_igbp == np.array(["ENF", "ENF", "ENF", "GRA"])).all()
    np.testing.assert_allclose(whole.block_weight.sel(block=3), 0.25, atol=0.03)
    np.testing.assert_allclose(whole.block_weight[..., 0], whole.block_weight[..., 2])
    # Each chip shows the class that it stands for, lies in its cell, and is the chip of its centre.
    shown = {"ENF": 0.01, "GRA": 0.1}
    for i in np.ndindex(3, 4):
        cell = ds.isel(latitude=i[0], longitude=i[1])
        for b in range(4):
            if cell.block_weight[b] > 0:
                red = cell.modis[b, 0, 0]
                assert float((abs(red - shown[str(cell.block_igbp[b].values)]) < 1e-6).mean()) > 0.7
        assert (abs(cell.block_latitude - cell.latitude) <= 0.126).all()
        assert (abs(cell.block_longitude - cell.longitude) <= 0.126).all()
        forest = cell.where(cell.block_igbp == "ENF", drop=True)
        if i[0] != 1:
            away = np.hypot(forest.block_latitude.values[:, None] - forest.block_latitude.values, 0.0)
            assert away.max() > 0.15
    first = ds.isel(latitude=0, longitude=0)
    chips = build_chips(files / "modis", first.block_latitude.values, first.block_longitude.values)
    np.testing.assert_array_equal(first.modis, chips)


def test_one_chip_per_cell_is_the_plain_one(files):
    kw = {"modis": files / "modis", "land_cover": files / "cover"}
    plain, one = open_forcing(files / "era5.nc", **kw), open_forcing(files / "era5.nc", **kw, chips_per_cell=1)
    np.testing.assert_array_equal(one.modis.isel(block=0), plain.modis)
    assert (one.block_weight == 1).all() and (one.block_igbp.isel(block=0) == plain.igbp).all()
    small = open_forcing(files / "era5.nc", **kw, chips_per_cell=3, chunks={"latitude": 1, "longitude": 3, "time": 10})
    large = open_forcing(files / "era5.nc", **kw, chips_per_cell=3)
    xr.testing.assert_equal(small.compute(), large.compute())
    xr.testing.assert_equal(cloudpickle.loads(cloudpickle.dumps(small)).compute(), large.compute())


def test_options_that_contradict_each_other(files, tmp_path):
    with pytest.raises(ConfigError, match="needs modis= or surface=, and land_cover="):
        open_forcing(files / "era5.nc", modis=files / "modis", chips_per_cell=3)
    for n in (0, 2.5, 65):
        with pytest.raises(ConfigError, match="1 to 64"):
            open_forcing(files / "era5.nc", modis=files / "modis", land_cover=files / "cover", chips_per_cell=n)
    ds = open_forcing(files / "era5.nc", modis=files / "modis", land_cover=files / "cover", chips_per_cell=2)
    with pytest.raises(SchemaError, match="block_weight"):
        validate_forcing(ds.drop_vars("block_weight"))


def test_blocks_are_shared_out_by_largest_remainders():
    assert share_out(np.array([5, 0, 3, 2]), 5).tolist() == [3, 0, 1, 1]  # 2.5, 0, 1.5, 1: the first of equals
    assert share_out(np.array([1000, 1]), 1).tolist() == [1, 0]
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts, seats = rng.integers(0, 50, 6), int(rng.integers(1, 20))
        counts[0] += 1
        out = share_out(counts, seats)
        assert out.sum() == seats and (out[counts == 0] == 0).all()
        assert (np.abs(out - counts * seats / counts.sum()) < 1).all()  # the quota rule


def test_blocks_too_large_for_a_worker_are_refused_before_anything_is_read(tmp_path):
    latitude, longitude = np.arange(90.0, -91, -1), np.arange(0.0, 360)
    path = write_era5(tmp_path / "a.nc", latitude=latitude, longitude=longitude, hours=30)
    with pytest.raises(ConfigError, match=r"1800 x 3600 cells.*GiB.*chunks="):
        open_forcing(path, resolution=0.1, chunks={"latitude": -1, "longitude": -1})
    open_forcing(path, resolution=0.1, chunks={"latitude": 100, "longitude": -1})


def test_files_stored_in_chunks_of_the_globe_are_warned_of(tmp_path, caplog):
    latitude, longitude = np.arange(80.0, -81, -2), np.arange(0.0, 360, 2)
    ds = xr.open_dataset(write_era5(tmp_path / "a.nc", latitude=latitude, longitude=longitude, hours=30)).load()
    for name, sizes in (("globe", (1, 81, 180)), ("tiles", (30, 9, 9))):
        ds.to_netcdf(tmp_path / f"{name}.nc", encoding={"t2m": {"chunksizes": sizes, "zlib": True}})
    open_forcing(tmp_path / "tiles.nc")
    open_forcing(tmp_path / "globe.nc", chunks={"latitude": -1, "longitude": -1})
    assert "times what it keeps" not in caplog.text
    open_forcing(tmp_path / "globe.nc")
    assert "a block of (29, 16, 16) reads 57 times what it keeps" in caplog.text


def test_the_graph_of_a_globes_year_is_small(tmp_path):
    path = tmp_path / "a.nc"
    latitude, longitude = np.arange(90.0, -90.1, -0.25), np.arange(0.0, 360, 0.25)
    hours = np.datetime64("2019-01-01", "ns") + np.arange(8761) * np.timedelta64(1, "h")
    netCDF4 = pytest.importorskip("netCDF4")
    with netCDF4.Dataset(path, "w") as nc:  # a year of a globe that is never written: all fill values
        for name, values in (("latitude", latitude), ("longitude", longitude)):
            nc.createDimension(name, len(values))
            nc.createVariable(name, "f8", (name,))[:] = values
        nc.createDimension("valid_time", len(hours))
        at = nc.createVariable("valid_time", "i8", ("valid_time",))
        at.units, at[:] = "seconds since 1970-01-01", hours.astype("datetime64[s]").astype("i8")
        t2m = nc.createVariable(
            "t2m", "f4", ("valid_time", "latitude", "longitude"), chunksizes=(24, 16, 16), fill_value=np.nan
        )
        t2m.units = "K"
    ds = open_forcing(path, chunks={"latitude": 32, "longitude": 32, "time": 2208})
    graph = ds.predictors.__dask_graph__()
    assert len(graph) == 23 * 45 * 4
    size = len(cloudpickle.dumps(graph))
    assert size < 20 << 20, size


def test_finer_cells_and_several_chips_from_the_command_line_and_a_store(files, tmp_path):
    from typer.testing import CliRunner

    from fluxcube.cli import app

    kw = {"modis": files / "modis", "land_cover": files / "cover", "bbox": (7, 46.9, 7.5, 47.2)}
    made = open_forcing(files / "era5.nc", **kw, resolution=0.125, chips_per_cell=3)
    options = ["--modis", kw["modis"], "--land-cover", kw["land_cover"], "--bbox", "7,46.9,7.5,47.2"]
    options += ["--resolution", "0.125", "--chips-per-cell", "3", "--workers", "1"]
    result = CliRunner().invoke(app, list(map(str, ["forcing", files / "era5.nc", tmp_path / "f.zarr", *options])))
    assert result.exit_code == 0, result.output
    stored = open_forcing(tmp_path / "f.zarr").compute()
    assert stored.sizes["latitude"] * stored.sizes["longitude"] == 3 * 4 and stored.sizes["block"] == 3
    land = (made.land_fraction > 0).values
    for name in ("predictors", "modis"):
        np.testing.assert_allclose(stored[name].values[land], made[name].values[land], rtol=1e-5, atol=6e-5)
    for name in ("block_weight", "block_igbp", "cell_area", "latitude_bnds", "longitude_bnds", "elevation", "igbp"):
        np.testing.assert_array_equal(stored[name].values, made[name].values)


def test_the_check_of_values_can_be_left_out_on_the_command_line(files, tmp_path):
    from typer.testing import CliRunner

    from fluxcube.cli import app

    hour = np.arange(xr.open_dataset(files / "era5.nc").sizes["valid_time"])[:, None, None]
    night = 2e6 * np.maximum(0, np.cos(2 * np.pi * hour / 24))
    write_era5(tmp_path / "night.nc", {"ssrd": (night, "J m**-2")})
    command = ["forcing", str(tmp_path / "night.nc"), str(tmp_path / "f.zarr"), "--igbp", "GRA", "--workers", "1"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code != 0 and "at night" in str(refused.exception or refused.output)
    result = CliRunner().invoke(app, [*command, "--no-check"])
    assert result.exit_code == 0 and (tmp_path / "f.zarr").is_dir(), result.output
