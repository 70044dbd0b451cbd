"""Files for other programs: what their own readers find in them is what was in the maps, where it was."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from packages import optional

from fluxcube.errors import ConfigError, SchemaError, StoreError, UnknownNameError
from fluxcube.maps.export import export_maps
from fluxcube.maps.means import mean_cycle, mean_maps
from fluxcube.maps.totals import totals
from fluxcube.simulation.example import example_maps

netCDF4 = optional("netCDF4")
rasterio = optional("rasterio")
rioxarray = optional("rioxarray")


@pytest.fixture(scope="module")
def hours():
    return example_maps(days=4)


@pytest.fixture(scope="module")
def days(hours):
    return mean_maps(hours)


def globe(latitude, longitude, **attrs):
    """One map whose value tells where a cell is."""
    east = (np.asarray(longitude) + 180) % 360 - 180
    values = (1000 * np.asarray(latitude)[:, None] + east).astype("float32")
    cells = ("latitude", "longitude")
    return xr.Dataset(
        {"NEE": (cells, values, {"units": "umol m-2 s-1"})},
        {"latitude": latitude, "longitude": longitude, "land_fraction": (cells, np.ones(values.shape))},
        attrs,
    )


def test_netcdf_holds_what_the_maps_hold(hours, tmp_path):
    (path,) = export_maps(hours.chunk(time=24, latitude=2), tmp_path / "maps.nc")
    with xr.open_dataset(path) as back:
        assert set(back.data_vars) >= {"NEE", "GPP_NT", "RECO_NT", "land_fraction", "igbp", "cell_area"}
        for name in hours.data_vars:
            np.testing.assert_array_equal(back[name], hours[name])
        np.testing.assert_array_equal(back.time, hours.time)
        np.testing.assert_array_equal(back.time_bnds, hours.time_bnds)
        np.testing.assert_array_equal(back.lat, hours.latitude)
        meanings = back.igbp.attrs["flag_meanings"].split()
        assert [meanings[i] for i in back.igbp.values.ravel()] == hours.igbp.values.ravel().tolist()
        again = back.rename(lat="latitude", lon="longitude").set_coords(["land_fraction", "cell_area"])
        assert float(totals(again, targets=["NEE"]).NEE) == pytest.approx(float(totals(hours).NEE), rel=1e-6)


def test_netcdf_is_as_cf_and_x_base_have_it(days, tmp_path):
    (path,) = export_maps(days, tmp_path / "nee.nc", variables=["NEE"], units="gC m-2 d-1")
    with netCDF4.Dataset(path) as nc:
        nc.set_auto_mask(False)
        flux = nc["NEE"]
        assert nc.Conventions == "CF-1.11" and "exported from" in nc.history
        assert flux.dimensions == ("time", "lat", "lon") and flux.dtype == np.float32
        assert flux.units == "g m-2 d-1" and flux.mass_of == "C" and flux._FillValue == np.float32(-9999)
        assert (flux[:, 0, 0] == -9999).all() and np.isfinite(flux[:]).all()  # the ocean
        assert flux.filters()["zlib"] and flux.filters()["shuffle"] and flux.chunking() == [4, 3, 4]
        assert flux.cell_methods == "time: mean area: mean where land"
        assert flux.cell_measures == "area: cell_area" and flux.ancillary_variables == "land_fraction"
        for name in (flux.grid_mapping, "lat_bnds", "lon_bnds", "time_bnds", "land_fraction", "cell_area"):
            assert name in nc.variables
        assert nc["crs"].grid_mapping_name == "latitude_longitude"
        assert nc["lat"].units == "degrees_north" and nc["lat"].bounds == "lat_bnds"
        assert nc["time"].bounds == "time_bnds"
        np.testing.assert_allclose(nc["lat_bnds"][:, 0], nc["lat"][:] + 0.125)
        assert nc.dimensions["time"].isunlimited() and nc["time"].units.startswith("hours since 1970-01-01")
        assert not any("_FillValue" in nc[name].ncattrs() for name in ("lat", "lon", "time", "lat_bnds", "time_bnds"))
        values = np.where(flux[:] == -9999, np.nan, flux[:])
    np.testing.assert_allclose(values, days.NEE * 12.011e-6 * 86400, rtol=1e-6)  # 1 umol m-2 s-1 is 1.0378 gC m-2 d-1


def test_other_programs_place_netcdf_right(days, tmp_path):
    import rioxarray  # noqa: F401  (gives arrays their .rio)

    (path,) = export_maps(days, tmp_path / "nee.nc", variables=["NEE"])
    with xr.open_dataset(path, decode_coords="all") as back:
        assert back.rio.crs.to_epsg() == 4326 or back.rio.crs.is_geographic
        assert back.NEE.rio.bounds() == pytest.approx((7.875, 46.375, 8.875, 47.125))


def test_a_folder_has_a_file_for_each_variable_and_year(tmp_path):
    maps = example_maps(days=3)
    one = mean_maps(maps)
    days = xr.concat([one, one.assign_coords(time=one.time + np.timedelta64(365, "D"))], "time")
    names = [path.name for path in export_maps(days, tmp_path, format="netcdf")]
    assert names == [f"{v}_{y}_025_daily.nc" for v in ("NEE", "GPP_NT", "RECO_NT") for y in (2018, 2019)]
    with xr.open_dataset(tmp_path / names[1]) as back:
        assert set(back.time.dt.year.values) == {2019} and "time_bnds" in back
    (path,) = export_maps(maps, tmp_path, format="geotiff", variables=["NEE"])
    assert path.name == "NEE_2018_025_hourly.tif"
    (path,) = export_maps(maps, tmp_path / "products", format="geotiff", variables=["NEE"])  # the folder is made
    assert path == tmp_path / "products" / "NEE_2018_025_hourly.tif" and path.is_file()
    month = mean_maps(maps, "month", min_coverage=0)
    assert export_maps(month, tmp_path, format="netcdf", variables=["NEE"])[0].name == "NEE_2018_025_monthly.nc"
    cycle = mean_cycle(maps, "month", min_coverage=0)
    (path,) = export_maps(cycle, tmp_path, format="netcdf", variables=["NEE"])
    assert path.name == "NEE_2018_025_monthlycycle.nc"
    with xr.open_dataset(path, decode_times=False) as back:
        assert back.NEE.dims == ("time", "hour", "lat", "lon") and back.hour_bnds.shape == (24, 2)
        np.testing.assert_array_equal(back.NEE, cycle.NEE)


def test_geotiff_holds_what_the_maps_hold(days, tmp_path):
    (path,) = export_maps(days.chunk(time=1, latitude=2), tmp_path / "nee.tif", variables=["NEE"], units="gC m-2 d-1")
    back = rioxarray.open_rasterio(path, mask_and_scale=True)
    np.testing.assert_allclose(back, days.NEE * 12.011e-6 * 86400, rtol=1e-6)
    np.testing.assert_allclose(back.y, days.latitude)
    np.testing.assert_allclose(back.x, days.longitude)
    assert back.rio.crs.to_epsg() == 4326
    with rasterio.open(path) as tiff:
        assert tiff.nodata == -9999 and tiff.dtypes == ("float32",) * 4
        assert tiff.descriptions == tuple(f"NEE 2018-06-0{day}" for day in (1, 2, 3, 4))
        assert tiff.units == ("gC m-2 d-1",) * 4 and "net ecosystem exchange" in tiff.tags()["long_name"]
        assert (tiff.read(1)[0, 0] == -9999) and tiff.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_hours_of_mean_days_are_bands(hours, tmp_path):
    cycle = mean_cycle(hours)
    (path,) = export_maps(cycle, tmp_path / "day.tif", variables=["GPP_NT"])
    with rasterio.open(path) as tiff:
        assert tiff.count == 24 and tiff.descriptions[5] == "GPP_NT 05 h"
        np.testing.assert_array_equal(np.where(tiff.read(14) == -9999, np.nan, tiff.read(14)), cycle.GPP_NT[13])
    (path,) = export_maps(hours.isel(time=slice(0, 30)), tmp_path / "hours.tif", variables=["NEE"])
    with rasterio.open(path) as tiff:
        assert tiff.descriptions[29] == "NEE 2018-06-02T05:00Z"


def offsets(path):
    """Where the first and last directory of a TIFF begin, and where its pixels do (TIFF 6.0, section 2)."""
    raw = path.read_bytes()
    order = "<" if raw[:2] == b"II" else ">"
    number = lambda at, kind: int(np.frombuffer(raw, f"{order}{kind}", 1, at)[0])  # noqa: E731
    directory, directories, pixels = number(4, "u4"), [], []
    while directory:
        directories.append(directory)
        count = number(directory, "u2")
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            if number(entry, "u2") == 324:  # TileOffsets
                tiles = number(entry + 4, "u4")
                at = entry + 8 if tiles == 1 else number(entry + 8, "u4")
                pixels.append(min(filter(None, (number(at + 4 * i, "u4") for i in range(tiles)))))
        directory = number(directory + 2 + 12 * count, "u4")
    return directories, pixels


def test_large_geotiffs_are_cloud_optimised(tmp_path):
    maps = globe(89.9 - 0.2 * np.arange(900), -179.9 + 0.2 * np.arange(1800))
    ocean = maps.assign(NEE=maps.NEE.where(maps.longitude > -100)).chunk(latitude=300, longitude=700)
    (path,) = export_maps(ocean, tmp_path / "big.tif")
    directories, pixels = offsets(path)
    # Headers before pixels, and coarse overviews before fine ones: a reader needs the beginning of the file only.
    assert len(directories) == 3 and max(directories) < min(pixels)
    assert pixels[0] > pixels[1] > pixels[2]
    with rasterio.open(path) as tiff:
        assert tiff.overviews(1) == [2, 4] and tiff.block_shapes == [(512, 512)]
        np.testing.assert_array_equal(np.where(tiff.read(1) == -9999, np.nan, tiff.read(1)), ocean.NEE)
    with rasterio.open(path, overview_level=0) as tiff:
        coarse = tiff.read(1)
        np.testing.assert_allclose(coarse[10, 800], maps.NEE[20:22, 1600:1602].mean(), rtol=1e-6)
        assert (coarse[:, :199] == -9999).all()


@pytest.mark.parametrize("suffix", [".nc", ".tif"])
@pytest.mark.parametrize(
    ("latitude", "longitude", "west"),
    [
        (np.arange(-85.0, 90, 10), np.arange(0.0, 360, 20), -180.0),  # the globe from Greenwich on
        (np.arange(85.0, -90, -10), np.arange(10.0, 370, 20), -170.0),
        (np.arange(60.0, 64, 1), np.array([178.0, 179, -180, -179]), 178.0),  # across the antimeridian
        (np.arange(60.0, 64, 1), np.arange(176.0, 186), 176.0),
        (np.arange(60.0, 64, 1), np.arange(181.0, 190), -179.0),
        (np.array([50.0]), np.arange(5.0, 9), 5.0),
    ],
)
def test_cells_stay_where_they_are(latitude, longitude, west, suffix, tmp_path):
    (path,) = export_maps(globe(latitude, longitude), tmp_path / f"map{suffix}")
    if suffix == ".nc":
        with xr.open_dataset(path) as back:
            north, east, values = back.lat.values, back.lon.values, back.NEE.values
    else:
        back = rioxarray.open_rasterio(path, mask_and_scale=True)[0]
        north, east, values = back.y.values, back.x.values, back.values
    assert values.size == len(latitude) * len(longitude) and east[0] == pytest.approx(west)
    assert (np.diff(east) > 0).all() and (np.diff(north) < 0).all()
    np.testing.assert_allclose(values, 1000 * north[:, None] + (east + 180) % 360 - 180, rtol=1e-5)


def test_edges_that_are_given_are_kept(tmp_path):
    maps = globe(np.array([60.0, 61.0]), np.array([179.0, -180.0]))
    edges = {"latitude_bnds": [[59.5, 60.4], [60.4, 61.5]], "longitude_bnds": [[178.5, 179.6], [-180.4, -179.5]]}
    maps = maps.assign_coords({name: ((name[:-5], "bnds"), values) for name, values in edges.items()})
    (path,) = export_maps(maps, tmp_path / "map.nc")
    with xr.open_dataset(path) as back:
        np.testing.assert_allclose(back.lat_bnds, [[61.5, 60.4], [60.4, 59.5]])
        np.testing.assert_allclose(back.lon_bnds, [[178.5, 179.6], [179.6, 180.5]])


def test_what_is_there_stays_until_it_is_replaced(days, tmp_path):
    import dask.array as da

    def fail(block):
        return block / 0 if not block.size else 1 / 0

    path = tmp_path / "nee.tif"
    export_maps(days, path, variables=["NEE"])
    first = path.read_bytes()
    with pytest.raises(StoreError, match="overwrite=True"):
        export_maps(days, path, variables=["NEE"])
    broken = days.assign(NEE=days.NEE.copy(data=da.map_blocks(fail, days.NEE.chunk().data, dtype="float32")))
    for target in (path, tmp_path / "nee.nc"):
        with pytest.raises(ZeroDivisionError):
            export_maps(broken, target, variables=["NEE"], overwrite=True)
    assert path.read_bytes() == first and [p.name for p in tmp_path.iterdir()] == ["nee.tif"]
    export_maps(days, path, variables=["GPP_NT"], overwrite=True)
    assert path.read_bytes() != first


def test_equal_maps_give_equal_files(days, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fluxcube.exports.origin._history", lambda attrs: "exported"
    )  # it contains the time of the export
    for suffix in ("tif", "nc"):
        one, other = (export_maps(days, tmp_path / f"{n}.{suffix}", variables=["NEE"])[0] for n in "ab")
        assert one.read_bytes() == other.read_bytes()


def test_progress_is_told(days, tmp_path):
    told = []
    export_maps(days, tmp_path, format="netcdf", progress=lambda *args: told.append(args))
    assert [(done, total) for done, total, _ in told] == [(1, 3), (2, 3), (3, 3)] and told[0][2].startswith("NEE")


def test_what_cannot_be_written_is_refused(hours, days, tmp_path):
    with pytest.raises(ConfigError, match=r"\.nc, \.tif"):
        export_maps(days, tmp_path / "maps.zarr")
    with pytest.raises(ConfigError, match="ending"):
        export_maps(days, tmp_path / "maps.nc", format="geotiff")
    with pytest.raises(ConfigError, match="format: expected"):
        export_maps(days, tmp_path / "maps.nc", format="grib")
    with pytest.raises(StoreError, match="does not exist"):
        export_maps(days, tmp_path / "none" / "maps.nc")
    with pytest.raises(ConfigError, match="contains one variable"):
        export_maps(days, tmp_path / "maps.tif")
    with pytest.raises(UnknownNameError, match="NEE"):
        export_maps(days, tmp_path / "maps.tif", variables=["NEEE"])
    with pytest.raises(ConfigError, match="converted into 'degC'"):
        export_maps(days, tmp_path / "maps.nc", units="degC")
    many = xr.concat([hours.NEE] * 11, "time").to_dataset(name="NEE")
    with pytest.raises(ConfigError, match="1056 bands"):
        export_maps(many, tmp_path / "maps.tif")
    with pytest.raises(SchemaError, match="an evenly spaced"):
        export_maps(globe(np.array([50.0, 51, 52.2, 53]), np.arange(4.0)), tmp_path / "maps.tif")
    assert list(tmp_path.iterdir()) == []


def test_types_are_those_of_the_convention_that_is_named(hours, tmp_path):
    within = xr.ones_like(hours.NEE).assign_attrs(flag_values=[0.0, 1.0], flag_meanings="outside inside", units="1")
    (path,) = export_maps(hours.assign(applicable=within), tmp_path / "maps.nc", variables="all")
    with netCDF4.Dataset(path) as nc:
        for name in ("applicable", "igbp"):
            assert nc[name].flag_values.dtype == nc[name].dtype
            assert len(nc[name].flag_values) == len(nc[name].flag_meanings.split())
        # int64 and unsigned integers are types of CF-1.9 and later
        assert nc["time"].dtype == np.int64 and tuple(map(int, nc.Conventions[3:].split("."))) >= (1, 9)


def test_maps_without_bounds_of_time_are_written(hours, tmp_path):
    (path,) = export_maps(hours[["NEE"]].drop_vars("time_bnds", errors="ignore"), tmp_path / "maps.nc")
    with xr.open_dataset(path) as back:
        np.testing.assert_array_equal(back.time, hours.time)


def test_what_stays_in_its_own_units_is_logged_and_a_map_without_units_is_refused(days, tmp_path, caplog):
    within = xr.ones_like(days.NEE).drop_attrs()
    heat = days.assign(LE=days.NEE.assign_attrs(units="W m-2"), applicable=within)
    export_maps(heat, tmp_path / "heat.nc", units="gC m-2 d-1")
    assert "fluxes in their own units, not in gC m-2 d-1: LE (W m-2)" in caplog.text
    assert "not exported: applicable" in caplog.text
    bare = heat.assign(NEE=days.NEE.drop_attrs())
    with pytest.raises(ConfigError, match="NEE has no attribute units"):
        export_maps(bare, tmp_path / "bare.nc", units="gC m-2 d-1")
