"""ERA5 in zips, in Zarr stores and on finer grids: the same values as from plain files."""

from __future__ import annotations

import stat
import zipfile

import cloudpickle
import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.era5 import unpacked
from fluxcube.sources.era5.files import read_files
from fluxcube.sources.era5.grid import target_axes
from fluxcube.sources.era5.variables import open_era5

LATITUDE, LONGITUDE = np.array([47.5, 47.25, 47.0]), np.array([7.0, 7.25, 7.5, 7.75])
LONG = {
    "t2m": ("2m_temperature", "K"),
    "ssrd": ("surface_solar_radiation_downwards", "J m**-2"),
    "u10": ("10m_u_component_of_wind", "m s**-1"),
    "v10": ("10m_v_component_of_wind", "m s**-1"),
    "z": ("geopotential_at_surface", "m**2 s**-2"),
    "lsm": ("land_sea_mask", "(0 - 1)"),
}


def parameters(hours=73, latitude=LATITUDE, longitude=LONGITUDE, seed=0):
    rng = np.random.default_rng(seed)
    shape = (hours, len(latitude), len(longitude))
    light = np.maximum(0, np.sin(2 * np.pi * (np.arange(hours) - 6.5) / 24))[:, None, None]
    return {
        "t2m": 280 + rng.normal(size=shape).astype("float32"),
        "u10": rng.normal(size=shape).astype("float32"),
        "v10": rng.normal(size=shape).astype("float32"),
        "ssrd": (2e6 * light * rng.uniform(0.5, 1, shape)).astype("float32"),
        "z": np.broadcast_to(9806.65 * np.arange(shape[2]), shape).astype("float32"),
        "lsm": np.broadcast_to(np.linspace(0, 1, shape[2]), shape).astype("float32"),
    }


def dataset(fields, *, dim="valid_time", long=False, start="2019-07-01", latitude=LATITUDE, longitude=LONGITUDE):
    hours = len(next(iter(fields.values())))
    time = np.datetime64(start, "ns") + np.arange(hours) * np.timedelta64(1, "h")
    arrays = {
        (LONG[name][0] if long else name): ((dim, "latitude", "longitude"), values, {"units": LONG[name][1]})
        for name, values in fields.items()
    }
    return xr.Dataset(arrays, coords={dim: time, "latitude": latitude, "longitude": longitude})


@pytest.fixture
def own_temporary(tmp_path, monkeypatch):
    """A temporary folder for one test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def zipped(path, tmp_path, fields, **entries):
    """The zip that the CDS delivers for a request of instantaneous and accumulated parameters."""
    parts = {"instant": [n for n in fields if n != "ssrd"], "accum": ["ssrd"]}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for kind, names in parts.items():
            one = tmp_path / f"{kind}.nc"
            dataset({n: fields[n] for n in names}).to_netcdf(one)
            archive.write(one, f"data_stream-oper_stepType-{kind}.nc")
            one.unlink()
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_a_zip_of_instantaneous_and_accumulated_parameters_is_one_forcing(tmp_path, own_temporary):
    fields = parameters()
    dataset(fields).to_netcdf(tmp_path / "plain.nc")
    expected = open_era5(tmp_path / "plain.nc").load()
    # On a request for NetCDF the CDS names it .nc, although it is a zip.
    for name in ("download.zip", "download.nc"):
        ds = open_era5(zipped(tmp_path / name, tmp_path, fields, readme=b"text"))
        xr.testing.assert_equal(ds.load(), expected)
        xr.testing.assert_equal(cloudpickle.loads(cloudpickle.dumps(open_era5(tmp_path / name))).load(), expected)
    left = [path for path in own_temporary.rglob("*") if path.is_file()]
    assert len(left) == 4 and not [path for path in left if path.suffix == ".part"]
    assert stat.S_IMODE(left[0].parent.stat().st_mode) == 0o700


def test_a_header_that_hdf5_cannot_read_is_tried_again_and_then_named(tmp_path, monkeypatch):
    dataset(parameters()).to_netcdf(tmp_path / "era5.nc")
    left, real = [RuntimeError("NetCDF: HDF error")] * 3, xr.open_dataset

    def fails(*args, **keywords):
        if left:
            raise left.pop()
        return real(*args, **keywords)

    monkeypatch.setattr(xr, "open_dataset", fails)
    with pytest.raises(SourceError, match=r"era5.nc: cannot be read as NetCDF \(NetCDF: HDF error\): download it"):
        open_era5(tmp_path / "era5.nc")
    assert len(left) == 1
    assert open_era5(tmp_path / "era5.nc").sizes["latitude"] == 3 and not left


def test_a_zip_is_checked_before_anything_is_unpacked(tmp_path, own_temporary, monkeypatch):
    fields = {name: values for name, values in parameters().items() if name in ("t2m", "ssrd")}
    for name, match in (
        ("../../evil.nc", "has '..'"),
        ("/evil.nc", "absolute"),
        ("C:\\evil.nc", "absolute"),
        ("..\\evil.nc", "has '..'"),
    ):
        with pytest.raises(SourceError, match=match):
            open_era5(zipped(tmp_path / "bad.zip", tmp_path, fields, **{name: b"x"}))
    bomb = zipped(tmp_path / "bomb.zip", tmp_path, fields, **{"bomb.nc": bytes(70 << 20)})
    with pytest.raises(SourceError, match=r"bomb\.nc.*grows from"):
        open_era5(bomb)
    good = zipped(tmp_path / "good.zip", tmp_path, fields)
    with monkeypatch.context() as patch:
        patch.setattr(unpacked, "_SPARE", 1 << 60)
        with pytest.raises(SourceError, match="MiB are free"):
            open_era5(good)
    assert not [path for path in tmp_path.rglob("*evil*")] and not any(own_temporary.rglob("*.nc"))
    cut = tmp_path / "cut.zip"
    cut.write_bytes(good.read_bytes()[:-40])
    with pytest.raises(SourceError, match="cut or broken"):
        open_era5(cut)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "b")
    with pytest.raises(SourceError, match="without NetCDF"):
        open_era5(tmp_path / "other.zip")


def test_the_folder_of_unpacked_files_must_be_ones_own(tmp_path, own_temporary):
    fields = {name: values for name, values in parameters().items() if name in ("t2m", "ssrd")}
    path = zipped(tmp_path / "good.zip", tmp_path, fields)
    folder = unpacked._own_folder()
    folder.chmod(0o777)
    with pytest.raises(SourceError, match="belongs to you alone"):
        open_era5(path)
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="belongs to you alone"):
        open_era5(path)


def arco(path, fields, *, begin=30, after=40, chunks=(1, 3, 4), **kw):
    """A store like ARCO-ERA5: long names, empty hours before and after the valid period, one hour in each chunk."""
    ds = dataset(fields, dim="time", long=True, **kw)
    full = np.datetime64("2019-07-01", "ns") + np.arange(-begin, ds.sizes["time"] + after) * np.timedelta64(1, "h")
    padded = ds.reindex(time=full)
    padded["temperature"] = (("level", "latitude", "longitude"), np.zeros((2, *ds["2m_temperature"].shape[1:])))
    last = str(full[-after - 1].astype("datetime64[D]"))
    padded.attrs = {"valid_time_start": "2019-07-01", "valid_time_stop": last, "valid_time_stop_era5t": last}
    encoding = {name: {"chunks": chunks} for name in ds.data_vars}
    padded.to_zarr(path, encoding=encoding, consolidated=True, zarr_format=kw.pop("zarr_format", 3))
    return path


def test_a_store_like_arco_equals_files(tmp_path):
    """72 hours of values on a longer axis: only the period that the store declares is used."""
    fields = parameters(72)
    dataset(fields).to_netcdf(tmp_path / "plain.nc")
    expected = open_era5(tmp_path / "plain.nc").load()
    path = arco(tmp_path / "arco.zarr", fields)
    for source in (path, str(path), f"file://{path}", tmp_path / "arco.zarr"):
        ds = open_era5(source)
        xr.testing.assert_equal(ds.load(), expected)
    assert expected.elevation[0].values == pytest.approx([0, 1000, 2000, 3000], rel=1e-6)
    assert expected.land_fraction[0].values == pytest.approx(np.linspace(0, 1, 4), rel=1e-6)
    with pytest.raises(SourceError, match=r"nowhere\.zarr.*Zarr"):
        open_era5(f"file://{tmp_path}/nowhere.zarr")


def test_only_the_chunks_of_requested_hours_and_cells_are_read(tmp_path):
    """Hours and cells are selected in the store: chunks that are not needed may be missing."""
    path = arco(tmp_path / "arco.zarr", parameters(72), chunks=(6, 3, 2))
    expected = open_era5(path).TA.sel(time=slice("2019-07-02T06", "2019-07-02T16")).isel(longitude=slice(2, 4)).load()
    box = {"bbox": (7.4, 46, 8, 48), "time": ("2019-07-02T06", "2019-07-02T16"), "accumulation": "hour"}
    touched = {f"c/{30 // 6 + n}/0/1" for n in (5, 6)} | {"zarr.json"}
    for file in [f for f in (path / "2m_temperature").rglob("*") if f.is_file()]:
        if str(file.relative_to(path / "2m_temperature")) not in touched:
            file.write_bytes(b"broken")
    ds = open_era5(path, **box)
    xr.testing.assert_equal(ds.TA.load(), expected)
    with pytest.raises(SourceError, match=r"t2m at positions .* cannot be read"):
        open_era5(path, **(box | {"time": None})).load()


def test_a_finer_grid_is_interpolated_bilinearly(tmp_path):
    """A plane equals its interpolation; the components of wind are interpolated, not its speed."""
    fields = parameters(25)
    north, east = np.meshgrid(LATITUDE, LONGITUDE, indexing="ij")
    plane = np.broadcast_to(200 + 2 * north - 3 * east, (25, 3, 4))
    fields |= {"t2m": plane, "u10": np.broadcast_to(east - 7.375, plane.shape), "v10": 0 * plane}
    del fields["lsm"], fields["ssrd"]
    dataset(fields).to_netcdf(tmp_path / "plain.nc")
    ds = open_era5(tmp_path / "plain.nc", resolution=0.05, bbox=(7.0, 47.0, 7.75, 47.5))
    np.testing.assert_allclose(ds.latitude, np.arange(47.475, 47.0, -0.05))
    np.testing.assert_allclose(ds.longitude, np.arange(7.025, 7.75, 0.05))
    np.testing.assert_allclose(ds.TA[0], (200 - 273.15 + 2 * ds.latitude - 3 * ds.longitude), atol=1e-3)
    np.testing.assert_allclose(ds.elevation[0], 4000 * (ds.longitude - 7.0), rtol=1e-6)
    np.testing.assert_allclose(ds.WS[0, 0], np.abs(ds.longitude - 7.375), atol=1e-6)
    whole = open_era5(tmp_path / "plain.nc", resolution=0.05)
    # Half a cell beyond the outermost centres, with their values.
    assert whole.sizes == {"time": 24, "latitude": 15, "longitude": 20}
    assert (whole.TA[:, :3] == whole.TA[:, :1]).all() and (whole.TA[..., -2:] == whole.TA[..., -1:]).all()
    part = whole.sel(latitude=ds.latitude, longitude=ds.longitude)
    xr.testing.assert_equal(part.load(), ds.load())
    chunked = open_era5(tmp_path / "plain.nc", resolution=0.05, chunks={"latitude": 4, "longitude": 7, "time": 5})
    xr.testing.assert_equal(chunked.load(), whole.load())


def test_coasts_take_their_weather_from_land(tmp_path):
    """By hand, half-way between land (290 K) and sea (280 K) and a cell with 0.25 of land (284 K)."""
    t2m = np.broadcast_to(np.array([290.0, 280.0, 280.0, 284.0]), (3, 3, 4))
    lsm = np.broadcast_to(np.array([1.0, 0.0, 0.0, 0.25]), (3, 3, 4))
    dataset({"t2m": t2m, "lsm": lsm}).to_netcdf(tmp_path / "a.nc")
    ds = open_era5(tmp_path / "a.nc", resolution=0.125, bbox=(7, 47, 7.75, 47.5))
    at = ds.longitude.values
    np.testing.assert_allclose(at, np.arange(7.0625, 7.75, 0.125))
    found = ds.TA[0, 1].values + 273.15
    # Left of 7.25 only land counts; between the seas both do; right of 7.5 only the last.
    np.testing.assert_allclose(found, [290, 290, 280, 280, 284, 284], atol=1e-3)
    np.testing.assert_allclose(ds.land_fraction[1], [0.75, 0.25, 0, 0, 0.0625, 0.1875], atol=1e-6)
    both = np.broadcast_to(np.array([1.0, 0.5, 0.5, 0.25]), (3, 3, 4))
    dataset({"t2m": t2m, "lsm": both}).to_netcdf(tmp_path / "b.nc")
    mixed = open_era5(tmp_path / "b.nc", resolution=0.125, bbox=(7, 47, 7.2, 47.5)).TA[0, 1, 0] + 273.15
    assert float(mixed) == pytest.approx((0.75 * 290 + 0.25 * 0.5 * 280) / (0.75 + 0.125), abs=1e-3)


def test_cells_at_sea_without_values_stay_without_and_do_not_spread(tmp_path):
    t2m = np.broadcast_to(np.array([290.0, 291.0, np.nan, np.nan]), (3, 3, 4))
    dataset({"t2m": t2m}).to_netcdf(tmp_path / "land.nc")
    ds = open_era5(tmp_path / "land.nc", resolution=0.125, bbox=(7, 47, 7.75, 47.5))
    np.testing.assert_allclose(ds.TA[0, 0] + 273.15, [290.25, 290.75, 291, 291, np.nan, np.nan], atol=1e-3)
    assert ds.land_fraction[0].values.tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("first", [0.0, -180.0])
@pytest.mark.parametrize("north_up", [True, False])
def test_a_finer_globe_has_no_seam(tmp_path, first, north_up):
    latitude, longitude = np.arange(90.0, -91, -30), first + np.arange(0, 360.0, 30)
    latitude = latitude if north_up else latitude[::-1]
    values = 280 + 10 * np.add.outer(np.sin(np.deg2rad(latitude)), np.cos(np.deg2rad(longitude)))
    fields = {"t2m": np.broadcast_to(values, (3, 7, 12)).copy()}
    dataset(fields, latitude=latitude, longitude=longitude).to_netcdf(tmp_path / "a.nc")
    ds = open_era5(tmp_path / "a.nc", resolution=5).load()
    assert ds.sizes == {"time": 2, "latitude": 36, "longitude": 72}
    assert ds.longitude.values[[0, -1]].tolist() == [-177.5, 177.5]
    assert (np.diff(ds.latitude) < 0).all() == north_up and np.isfinite(ds.TA).all()
    # The globe is symmetric about the prime meridian, whichever way longitudes are counted and where the file begins.
    np.testing.assert_allclose(ds.TA[0].values, ds.TA[0, :, ::-1].values, atol=1e-4)
    across = open_era5(tmp_path / "a.nc", resolution=5, bbox=(170, -20, 190, 20)).load()
    assert across.longitude.values.tolist() == [172.5, 177.5, -177.5, -172.5]
    xr.testing.assert_equal(across, ds.sel(latitude=across.latitude, longitude=across.longitude))


def test_invalid_finer_grids_are_refused(tmp_path):
    dataset({"t2m": parameters()["t2m"]}).to_netcdf(tmp_path / "a.nc")
    for resolution, match in ((0.5, "at most"), (0.0, "above 0"), (-1.0, "above 0"), (0.07, "divide 180")):
        with pytest.raises(ConfigError, match=match):
            open_era5(tmp_path / "a.nc", resolution=resolution)
    with pytest.raises(ConfigError, match="contains no cell"):
        open_era5(tmp_path / "a.nc", resolution=0.05, bbox=(8, 40, 9, 41))


def test_the_cells_of_a_twentieth_of_a_degree_are_those_of_xbase():
    latitude, longitude = np.arange(90, -90.1, -0.25), np.arange(-180, 180, 0.25)
    rows, columns = target_axes(latitude, longitude, np.arange(1440), 0.05, None)
    assert (len(rows), len(columns)) == (3600, 7200)
    assert rows.centres[0] == 89.975 and columns.centres[0] == -179.975
    for axis, centres in ((rows, latitude), (columns, longitude)):
        step = axis.centres - (centres[axis.low] + axis.share * (centres[axis.high] - centres[axis.low]))
        assert np.abs(step[axis.centres < 179.75]).max() < 1e-9


def test_what_goes_into_a_graph_is_small(tmp_path):
    """A globe of 0.05 degrees: tasks do not contain the coordinates of all cells."""
    latitude, longitude = np.arange(90.0, -91, -1), np.arange(0.0, 360)
    fields = {"t2m": np.full((3, 181, 360), 280, "float32")}
    dataset(fields, latitude=latitude, longitude=longitude).to_netcdf(tmp_path / "a.nc")
    files = read_files(tmp_path / "a.nc", resolution=0.1)
    assert files.elevation.shape == (1800, 3600)
    block = files.cut(slice(0, 1), slice(100, 116), slice(200, 216))
    assert len(cloudpickle.dumps(block)) < 1 << 13 < files.elevation.nbytes
    np.testing.assert_array_equal(block.latitude, files.latitude[100:116])
