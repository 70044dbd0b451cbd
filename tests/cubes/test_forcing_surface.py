"""Surface reflectance of grids: from MOD09GA rasters by the rule of towers, and from Datasets on the grid."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from modis_files import write_tiff
from packages import optional

from fluxcube.cubes.climatology import surface_climatology
from fluxcube.cubes.forcing import open_forcing
from fluxcube.cubes.forcing_daily import daily_forcing
from fluxcube.cubes.forcing_store import open_forcing_store, write_forcing
from fluxcube.cubes.surface import build_surface
from fluxcube.errors import ConfigError, SourceError, UnknownNameError
from fluxcube.sources.modis.rasters import sinusoidal_pixel

optional("rasterio")

LATITUDE, LONGITUDE = np.array([47.25, 47.0, 46.75]), np.array([7.0, 7.25, 7.5, 7.75])
#: Days of the rasters: one too old for the hours, two before them, one within, one after.
DAYS = ("2019-02-01", "2019-03-01", "2019-05-30", "2019-06-03", "2019-09-01")
HOURS = 10 * 24


def weather():
    time = np.datetime64("2019-06-01", "ns") + np.arange(HOURS + 1) * np.timedelta64(1, "h")
    shape = (len(time), len(LATITUDE), len(LONGITUDE))
    t2m = 283.15 + np.random.default_rng(0).normal(0, 3, shape)
    hump = np.maximum(0, np.sin(2 * np.pi * (np.arange(len(time)) - 6) / 24))
    dims = ("valid_time", "latitude", "longitude")
    arrays = {
        "t2m": (dims, t2m, {"units": "K"}),
        "ssrd": (dims, np.broadcast_to(2e6 * hump[:, None, None], shape).copy(), {"units": "J m**-2"}),
    }
    return xr.Dataset(arrays, {"valid_time": time, "latitude": LATITUDE, "longitude": LONGITUDE})


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """MOD09GA of the region: noise, with clouds over a fifth of the pixels; wholly cloudy on the last day of May."""
    folder = tmp_path_factory.mktemp("mod09ga")
    rows, cols = sinusoidal_pixel(*np.meshgrid([47.5, 46.5], [6.8, 7.9]))
    corner = (int(rows.min()) - 20) // 2 * 2, (int(cols.min()) - 60) // 2 * 2
    shape = int(rows.max()) + 20 - corner[0], int(cols.max()) + 60 - corner[1]
    rng = np.random.default_rng(1)
    for day in DAYS:
        raw = rng.integers(100, 6000, (7, *shape))
        state = rng.choice([0b1000, 0b1001], shape, p=[0.8, 0.2])
        name = f"MOD09GA.A{day[:4]}{np.datetime64(day).astype('datetime64[D]').item().timetuple().tm_yday:03d}"
        write_tiff(folder / f"{name}.h18v04.061.a.tif", np.concatenate([raw, state[None]]).astype("int32"), corner)
    return folder


@pytest.fixture(scope="module")
def forcing(tiles):
    return open_forcing(weather(), surface=tiles, chunks={"latitude": 2, "longitude": 3})


def test_cells_have_the_reflectance_of_towers_at_their_centres(forcing, tiles):
    assert forcing.surface.dims == ("latitude", "longitude", "surface_day", "surface_band")
    assert forcing.surface.attrs["product"] == "MOD09GA" and forcing.surface.attrs["units"] == "1"
    kept = np.array(DAYS, "datetime64[D]")[1:4]  # from 96 days before the first hour to the last
    np.testing.assert_array_equal(forcing.surface_day.values.astype("datetime64[D]"), kept)
    lat, lon = (x.ravel() for x in np.meshgrid(LATITUDE, LONGITUDE, indexing="ij"))
    towers = build_surface(tiles, lat, lon)
    values = forcing.surface.values.reshape(len(lat), len(kept), -1)
    bands = forcing.surface_band.values.tolist()
    np.testing.assert_array_equal(values, towers.sel(day=kept.astype("datetime64[ns]"), band=bands))
    assert np.isfinite(values).mean() > 0.5
    whole = surface_climatology(towers.sel(band=bands).values, towers.day.values.astype("datetime64[D]"), bands)
    np.testing.assert_array_equal(forcing.surface_climatology.values.reshape(whole.shape), whole)
    assert np.isfinite(whole).any()  # September and February count, although no hour uses them


def test_nothing_is_read_before_it_is_needed(tiles, monkeypatch):
    from fluxcube.cubes import forcing_surface

    calls = []
    read = forcing_surface.read_surface_blocks
    monkeypatch.setattr(forcing_surface, "read_surface_blocks", lambda *a, **k: calls.append(a) or read(*a, **k))
    ds = open_forcing(weather(), surface=tiles, chunks={"latitude": 2, "longitude": 2})
    assert not calls
    ds.surface.isel(latitude=0, longitude=0).compute(scheduler="synchronous")
    assert len(calls) == 1
    ds.predictors.compute(scheduler="synchronous")
    assert len(calls) == 1


def test_chunks_do_not_change_values(forcing, tiles):
    other = open_forcing(weather(), surface=tiles, chunks={"latitude": 1, "longitude": 4})
    for name in ("surface", "surface_climatology"):
        np.testing.assert_array_equal(other[name], forcing[name])
    assert (
        forcing.surface.data.name
        == open_forcing(weather(), surface=tiles, chunks={"latitude": 2, "longitude": 3}).surface.data.name
    )


def test_a_store_keeps_reflectance_and_statistics_exactly(forcing, tmp_path):
    write_forcing(forcing, tmp_path / "forcing.zarr", workers=1)
    opened = open_forcing(tmp_path / "forcing.zarr")
    for name in ("surface", "surface_climatology"):
        np.testing.assert_array_equal(opened[name], forcing[name])
        assert opened[name].dims == forcing[name].dims
    assert opened.surface.attrs["product"] == "MOD09GA"
    cut = open_forcing_store(tmp_path / "forcing.zarr", bbox=(7.2, 46.9, 7.6, 47.1), time=("2019-06-05", "2019-06-06"))
    assert dict(cut.surface.sizes) == {"latitude": 1, "longitude": 2, "surface_day": 3, "surface_band": 8}
    with pytest.raises(ConfigError, match="surface can no longer change it"):
        open_forcing(tmp_path / "forcing.zarr", surface=tmp_path)


def test_a_daily_forcing_has_the_same_reflectance(forcing):
    days = daily_forcing(forcing)
    assert days.surface.dims == ("latitude", "longitude", "day", "band")
    np.testing.assert_array_equal(days.surface, forcing.surface)
    assert days.surface.attrs["product"] == "MOD09GA"
    np.testing.assert_array_equal(days.surface_climatology, forcing.surface_climatology)


def test_each_block_of_a_cell_has_its_own_reflectance(tiles, tmp_path):
    rows, cols = sinusoidal_pixel(*np.meshgrid([47.5, 46.5], [6.8, 7.9]))
    corner = int(rows.min()) - 60, int(cols.min()) - 60
    classes = np.random.default_rng(4).choice([4, 10], (int(np.ptp(rows)) + 120, int(np.ptp(cols)) + 120))
    write_tiff(
        tmp_path / "MCD12Q1.A2019001.h18v04.061.a.tif", classes[None].astype("uint8"), corner, names=["LC_Type1"]
    )
    forcing = open_forcing(weather(), surface=tiles, land_cover=tmp_path, chips_per_cell=2)
    assert forcing.surface.dims == ("latitude", "longitude", "block", "surface_day", "surface_band")
    assert forcing.surface_climatology.dims == ("latitude", "longitude", "block", "statistic", "feature")
    places = forcing.block_latitude.values.ravel(), forcing.block_longitude.values.ravel()
    towers = build_surface(tiles, *places).sel(day=forcing.surface_day.values)
    np.testing.assert_array_equal(forcing.surface.values.reshape(towers.shape), towers)
    write_forcing(forcing, tmp_path / "forcing.zarr", workers=1)
    np.testing.assert_array_equal(open_forcing(tmp_path / "forcing.zarr").surface, forcing.surface)
    days = daily_forcing(forcing)
    assert days.surface.dims == ("latitude", "longitude", "day", "band") and "block" not in days.dims
    weight = forcing.block_weight.where(forcing.surface.notnull())
    expected = (forcing.surface * weight).sum("block") / weight.sum("block")
    np.testing.assert_allclose(days.surface, expected, rtol=1e-5)
    with pytest.raises(SourceError, match="leave out chips_per_cell"):
        open_forcing(weather(), surface=on_grid(), land_cover=tmp_path, chips_per_cell=2)


def on_grid(days=("2019-02-01", "2019-05-30", "2019-06-03"), bands=("red", "nir", "snow"), **attrs):
    rng = np.random.default_rng(2)
    shape = (len(LATITUDE), len(LONGITUDE), len(days), len(bands))
    values = rng.uniform(0.05, 0.5, shape).astype("float32")
    coords = {
        "latitude": LATITUDE,
        "longitude": LONGITUDE,
        "day": np.array(days, "datetime64[ns]"),
        "band": np.array(bands, object),
    }
    return xr.DataArray(values, coords, ("latitude", "longitude", "day", "band"), attrs=attrs).to_dataset(
        name="surface"
    )


def test_a_dataset_on_the_grid_is_used_as_it_is(tmp_path):
    ds = on_grid(product="MCD43A4", collection="061", lookahead_days=8)
    plain = open_forcing(weather(), surface=ds)
    np.testing.assert_array_equal(plain.surface, ds.surface[:, :, 1:])  # February is too old, but in the statistics
    assert {"product": "MCD43A4", "collection": "061", "lookahead_days": 8}.items() <= plain.surface.attrs.items()
    assert np.isfinite(plain.surface_climatology.sel(statistic="m02", feature="red")).all()
    ds.to_netcdf(tmp_path / "surface.nc")
    ds.to_zarr(tmp_path / "surface.zarr", consolidated=False)
    larger = ds.pad(latitude=(1, 1), mode="edge").assign_coords(latitude=[47.5, *LATITUDE, 46.5])
    makes = {
        "array": ds.surface,
        "file": tmp_path / "surface.nc",
        "store": tmp_path / "surface.zarr",
        "Dask": ds.chunk(latitude=1, day=1),
        "turned": ds.isel(latitude=slice(None, None, -1), day=slice(None, None, -1)).transpose("band", ...),
        "0 to 360, larger": larger.assign_coords(longitude=LONGITUDE + 360),
        "names of hourly forcings": ds.rename(day="surface_day", band="surface_band"),
    }
    for make, source in makes.items():
        found = open_forcing(weather(), surface=source)
        np.testing.assert_array_equal(found.surface, plain.surface, make)
        np.testing.assert_array_equal(found.surface_climatology, plain.surface_climatology, make)
    # By the names of lazy arrays a stopped run knows its inputs.
    first, again = (open_forcing(weather(), surface=xr.open_dataset(tmp_path / "surface.nc")) for _ in range(2))
    for name in ("surface", "surface_climatology"):
        assert first[name].data.name == again[name].data.name
    quality = ds.assign(surface_quality=ds.surface.isel(band=0, drop=True)).isel(day=slice(None, None, -1))
    np.testing.assert_array_equal(
        open_forcing(weather(), surface=quality).surface_quality, plain.surface.isel(surface_band=0)
    )
    statistics = plain.surface_climatology.compute() * 0 + 0.25
    known = open_forcing(weather(), surface=ds.assign(surface_climatology=statistics))
    np.testing.assert_array_equal(known.surface_climatology, statistics)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda ds: ds * 10000, SourceError, "expected reflectance from 0 to 1, found"),
        (lambda ds: ds * 1e-4, SourceError, "scaled twice"),
        (lambda ds: ds.where(ds.band != "nir", ds * 1e-4), SourceError, "values of nir, .* scaled twice"),
        (lambda ds: ds.where(ds.surface < 0.45, -28672), SourceError, "found -28672 in .* fill values"),
        (lambda ds: ds.assign_coords(day=[32, 150, 154]), SourceError, "convert days of the year"),
        (lambda ds: ds.isel(day=[0, 1, 1]), SourceError, "expected each day once, found 2019-05-30 twice"),
        (lambda ds: ds.assign_coords(band=["red", "nir", "B8A"]), UnknownNameError, "B8A"),
        (lambda ds: ds.isel(latitude=[0, 1]), SourceError, "none at latitude 46.75"),
        (lambda ds: ds.assign_coords(longitude=ds.longitude + 0.1), SourceError, "bring it to the grid"),
        (lambda ds: ds.stack(site=("latitude", "longitude")), SourceError, "table of sites"),
        (lambda ds: ds.rename(surface="reflectance"), SourceError, "found reflectance: rename"),
        (lambda ds: ds.assign_coords(day=ds.day - np.timedelta64(400, "D")), SourceError, "from 96 days before"),
        (lambda ds: ds.assign(surface=ds.surface.assign_attrs(units="%")), SourceError, "units '%'"),
    ],
)
def test_bad_reflectance_is_named(change, error, message):
    with pytest.raises(error, match=message):
        open_forcing(weather(), surface=change(on_grid()))


def test_reflectance_without_any_clear_value_is_a_warning(caplog):
    open_forcing(weather(), surface=on_grid())
    assert "sampled values" not in caplog.text
    open_forcing(weather(), surface=on_grid() * np.nan)
    assert "sampled values is clear and valid" in caplog.text


def test_a_folder_without_reflectance_names_its_product(tmp_path):
    with pytest.raises(SourceError, match=r"names like MOD09GA\.A2019185"):
        open_forcing(weather(), surface=tmp_path)


def test_rasters_of_elsewhere_or_another_time_are_refused(tiles, tmp_path):
    late = weather().assign_coords(valid_time=weather().valid_time + np.timedelta64(730, "D"))
    with pytest.raises(SourceError, match=r"no MOD09GA raster with state flags of 2021-02-24 to .* covers the grid"):
        open_forcing(late, surface=tiles, check=False)
    far = weather().assign_coords(longitude=LONGITUDE + 40)
    with pytest.raises(SourceError, match="covers the grid"):
        open_forcing(far, surface=tiles, check=False)
    (tmp_path / "broken.nc").write_bytes(b"no NetCDF")
    for name in ("broken.nc", "absent.nc"):
        with pytest.raises(SourceError, match=f"{name}: expected NetCDF or Zarr with surface"):
            open_forcing(weather(), surface=tmp_path / name)
    ocean = open_forcing(weather(), surface=on_grid().where(on_grid().latitude < 47))  # a part without any view
    with dask.config.set(scheduler="synchronous"):
        assert np.isnan(ocean.surface.values[0]).all() and np.isnan(ocean.surface_climatology.values[0]).all()


def test_the_command_writes_and_reports_reflectance(tmp_path):
    from typer.testing import CliRunner

    from fluxcube.cli import app

    weather().to_netcdf(tmp_path / "era5.nc")
    on_grid(product="MOD09GA").to_netcdf(tmp_path / "surface.nc")
    arguments = ["forcing", "era5.nc", "forcing.zarr", "--surface", "surface.nc", "--igbp", "GRA"]
    done = CliRunner().invoke(app, [str(tmp_path / x) if x.endswith((".nc", ".zarr")) else x for x in arguments])
    assert done.exception is None, done.output
    assert "surface reflectance: MOD09GA, red, nir, snow, 2019-05-30 to 2019-06-03" in done.stdout
    np.testing.assert_array_equal(open_forcing(tmp_path / "forcing.zarr").surface, on_grid().surface[:, :, 1:])
