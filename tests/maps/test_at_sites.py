"""Maps at towers: the cell of each tower on every kind of grid, read lazily, and what is known about it."""

from __future__ import annotations

import logging

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

import fluxcube as fc
from fluxcube.errors import ConfigError, SchemaError, UnknownNameError
from fluxcube.simulation.example import example_maps

TIME = np.datetime64("2018-06-01", "ns") + np.arange(48) * np.timedelta64(1, "h")


def towers(*places, igbp="GRA", elevation=100.0):
    """Towers at (latitude, longitude)."""
    latitude, longitude = np.array(places, float).reshape(-1, 2).T
    count = len(latitude)
    return xr.Dataset(
        coords={
            "site": ("site", np.array([f"XX-T{i:02d}" for i in range(count)], object)),
            "latitude": ("site", latitude),
            "longitude": ("site", longitude),
            "igbp": ("site", np.broadcast_to(np.array(igbp, object), count)),
            "elevation": ("site", np.full(count, elevation)),
        }
    )


def grid(latitude, longitude, value=None, time=TIME[:3]):
    """Maps of a flux that is a function of latitude and longitude, by default different in every cell."""
    latitude, longitude = np.asarray(latitude, float), np.asarray(longitude, float)
    east = (longitude + 180) % 360 - 180
    field = latitude[:, None] * 1000 + east if value is None else np.broadcast_to(value, (len(latitude), len(east)))
    values = np.arange(len(time))[:, None, None] + field[None]
    coords = {"time": time, "latitude": latitude, "longitude": longitude}
    return xr.Dataset({"NEE": (("time", "latitude", "longitude"), values, {"units": "umol m-2 s-1"})}, coords)


REGION = {"latitude": 47.0 - 0.5 * np.arange(5), "longitude": 8.0 + 0.5 * np.arange(6)}
INSIDE = towers((46.0, 9.0), (46.2, 9.1), (45.2, 10.4), (47.1, 8.1))


def test_the_cell_that_contains_a_tower_is_sampled():
    out = fc.sample_at_sites(grid(**REGION), INSIDE)
    assert out.NEE.dims == ("site", "time") and out.NEE.attrs == {"units": "umol m-2 s-1"}
    np.testing.assert_array_equal(out.NEE[:, 0], [46009.0, 46009.0, 45010.5, 47008.0])
    np.testing.assert_array_equal(out.NEE[:, 2] - out.NEE[:, 0], 2)
    assert out.cell_distance[0] == 0 and 20 < out.cell_distance[1] < 25
    np.testing.assert_array_equal(out.cell_latitude, [46, 46, 45, 47])
    assert out.igbp.values.tolist() == ["GRA"] * 4 and set(out.cell_note.values) == {""}
    assert out.attrs["sampling"] == "nearest cell"


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_constant_map_is_returned_exactly(method, dtype):
    places = np.random.default_rng(0).uniform((44.8, 7.8), (47.2, 10.7), (50, 2))
    maps = grid(**REGION, value=0.1).isel(time=[0]).astype(dtype)
    out = fc.sample_at_sites(maps, towers(*places), method=method)
    assert out.NEE.dtype == dtype and (maps.NEE[0, 0, 0] == out.NEE).all()


def test_bilinear_interpolation_of_a_plane_is_exact():
    places = np.random.default_rng(0).uniform((45.0, 8.0), (47.0, 10.5), (50, 2))
    out = fc.sample_at_sites(grid(**REGION), towers(*places), method="bilinear")
    np.testing.assert_allclose(out.NEE[:, 0], places[:, 0] * 1000 + places[:, 1], rtol=1e-12)
    beyond = fc.sample_at_sites(grid(**REGION), towers((47.2, 9.0), (46.0, 10.7)), method="bilinear")
    np.testing.assert_allclose(beyond.NEE[:, 0], [47009.0, 46010.5])  # constant beyond the outermost centres


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.isel(latitude=slice(None, None, -1)),
        lambda m: m.isel(longitude=slice(None, None, -1)),
        lambda m: m.assign_coords(longitude=m.longitude % 360),
        lambda m: m.assign_coords(longitude=m.longitude % 360).sortby("longitude"),
        lambda m: m.transpose("longitude", "time", "latitude"),
        lambda m: m.rename(latitude="lat", longitude="lon"),
        lambda m: m.rename(latitude="y", longitude="x").assign_coords(
            x=lambda d: d.x.assign_attrs(units="degrees_east"), y=lambda d: d.y.assign_attrs(standard_name="latitude")
        ),
        lambda m: m.assign_coords(latitude=m.latitude.astype("f4"), longitude=m.longitude.astype("f4")),
        lambda m: m.chunk(time=2, latitude=2, longitude=3),
    ],
)
def test_order_and_names_of_the_axes_do_not_matter(change, method):
    maps = grid(np.arange(-2, 2.5, 0.5), np.arange(-3, 3.5, 0.5))  # across the meridian of Greenwich
    places = towers((0.1, 0.2), (0.25, -0.25), (-2.2, -3.2), (1.9, 2.9), (0.3, -0.1))
    expected = fc.sample_at_sites(maps, places, method=method)
    xr.testing.assert_allclose(fc.sample_at_sites(change(maps), places, method=method).compute(), expected)


def test_a_global_grid_continues_across_the_date_line():
    maps = grid(np.arange(-89.5, 90), np.arange(-179.5, 180))
    places = towers((10.4, 179.9), (10.4, -179.9), (10.4, 180.0), (89.9, 0.2), (-90.0, 12.4))
    near = fc.sample_at_sites(maps, places)
    np.testing.assert_array_equal(near.cell_longitude, [179.5, -179.5, -179.5, 0.5, 12.5])
    np.testing.assert_array_equal(near.NEE[:, 0], [10679.5, 10320.5, 10320.5, 89500.5, -89487.5])
    both = fc.sample_at_sites(grid(maps.latitude, maps.longitude % 360, value=2.0), places, method="bilinear")
    assert (both.NEE[:, 0] == 2).all()
    middle = fc.sample_at_sites(maps, towers((10.5, 180.0)), method="bilinear")
    assert middle.NEE[0, 0].item() == pytest.approx(10500)  # the mean of 179.5 and -179.5


def test_a_column_that_is_there_twice_is_one_column():
    """Some global files repeat the first column at 360 degrees."""
    maps = grid([50.0, 51.0], np.arange(0.0, 361.0, 2.0))
    out = fc.sample_at_sites(maps, towers((50, -0.5), (50, 359.5), (50, 0.9)))
    np.testing.assert_array_equal(out.cell_longitude, [0, 0, 0])
    between = fc.sample_at_sites(maps, towers((50, -0.5)), method="bilinear")
    assert between.NEE[0, 0].item() == pytest.approx(50000 - 0.5)


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_no_towers_and_towers_in_one_cell(chunks, method):
    maps = grid(**REGION) if chunks is None else grid(**REGION).chunk(chunks)
    none = fc.sample_at_sites(maps, INSIDE.isel(site=slice(0, 0)), method=method, max_distance_km=10)
    assert none.NEE.shape == (0, 3)
    same = fc.sample_at_sites(maps, towers(*[(46.0, 9.0)] * 3), method=method)
    np.testing.assert_array_equal(same.NEE[:, 0], [46009.0] * 3)


def test_a_region_across_the_date_line_ends_at_its_edges():
    maps = grid([50.0, 51.0], [177.5, 178.5, 179.5, -179.5, -178.5])
    out = fc.sample_at_sites(maps, towers((50, 179.99), (50, -178.1), (50, -177.9), (50, 177.0), (50, 0)))
    np.testing.assert_array_equal(out.cell_longitude, [179.5, -178.5, np.nan, 177.5, np.nan])


def test_towers_outside_the_maps_are_named(caplog):
    product = grid(np.arange(59.75, 40, -0.5), np.arange(-179.75, 180, 0.5))  # stops at 60 degrees north
    places = towers((59.9, 10), (60.0, 10), (60.2, 10), (68.4, 18), (np.nan, 10), (50, np.nan))
    with caplog.at_level(logging.WARNING):
        out = fc.sample_at_sites(product, places)
    np.testing.assert_array_equal(np.isfinite(out.NEE[:, 0]), [True, True, False, False, False, False])
    assert out.cell_note.values.tolist() == ["", ""] + ["outside the maps"] * 2 + ["without coordinates"] * 2
    assert "2 of 6 towers outside the maps (XX-T02, XX-T03)" in out.attrs["sampling"]
    assert "XX-T02, XX-T03" in caplog.text and "XX-T04, XX-T05" in caplog.text
    assert np.isnan(out.cell_distance[2:]).all()
    nowhere = fc.sample_at_sites(product.chunk(), places.isel(site=[2, 3]))
    assert nowhere.NEE.shape == (2, 3) and nowhere.NEE.isnull().all()


@pytest.mark.parametrize(
    "rows, columns, inside",
    [
        ([50.0], [8.0, 8.5, 9.0], [True, True, False]),
        ([50.0, 50.5], [8.0], [True, True, False]),
        ([50.0], [8.0], [True, False, False]),
    ],
)
def test_a_single_row_or_column_is_as_wide_as_the_other_cells(rows, columns, inside):
    out = fc.sample_at_sites(grid(rows, columns), towers((50.1, 8.1), (50.24, 8.24), (50.8, 7.7)))
    np.testing.assert_array_equal(np.isfinite(out.NEE[:, 0]), inside)


def test_bounds_give_the_width_of_a_single_cell():
    maps = grid([50.0], [8.0]).assign(lat_bnds=(("latitude", "bnds"), [[49.0, 51.0]]))
    assert np.isfinite(fc.sample_at_sites(maps, towers((50.9, 8.9))).NEE).all()


def test_no_value_is_taken_across_missing_cells():
    maps = grid([50.0, 49.0, 40.0, 39.0], [8.0, 9.0])
    out = fc.sample_at_sites(maps, towers((48.6, 8), (46.0, 8), (40.4, 8)), method="bilinear")
    np.testing.assert_array_equal(out.NEE[:, 0], [49008.0, np.nan, 40008.0])


def coast():
    """Maps of which the eastern half is sea, and a land fraction."""
    maps = grid(**REGION)
    return maps.where(maps.longitude < 9.2)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_a_tower_at_the_sea_takes_the_nearest_cell_with_data(lazy, method, caplog):
    maps = coast().chunk(latitude=2, longitude=2) if lazy else coast()
    places = towers((46.0, 9.3), (46.0, 10.4), (46.0, 9.0))
    assert np.isnan(fc.sample_at_sites(maps, places).NEE[:2]).all()
    with caplog.at_level(logging.WARNING):
        out = fc.sample_at_sites(maps, places, max_distance_km=30, method=method)
    np.testing.assert_array_equal(out.NEE[:, 0], [46009.0, np.nan, 46009.0])
    assert out.cell_note.values[0].startswith("the nearest cell with data, 23.") and out.cell_note.values[2] == ""
    assert out.cell_note.values[1] == "without a cell with data within 30 km"
    assert "1 of 3 towers without a cell with data within 30 km (XX-T01)" in out.attrs["sampling"]
    assert "XX-T00" in caplog.text
    assert out.cell_distance[0] == pytest.approx(23.2, abs=0.1)


def test_cells_without_land_are_noted_and_never_taken():
    land = xr.where(coast().NEE[0].isnull(), 0.0, 0.7).drop_vars("time")
    maps = grid(**REGION, value=1.0).assign_coords(land_fraction=land)
    places = towers((46.0, 9.3), (46.0, 9.0))
    out = fc.sample_at_sites(maps, places)
    assert out.cell_note.values.tolist() == ["in a cell without land", ""]
    np.testing.assert_array_equal(out.cell_land_fraction, [0, 0.7])
    assert fc.sample_at_sites(maps, places, max_distance_km=30).cell_longitude.values.tolist() == [9.0, 9.0]


def test_interpolation_leaves_missing_cells_out():
    maps = coast()
    out = fc.sample_at_sites(maps, towers((46.0, 9.1), (46.0, 9.4)), method="bilinear")
    np.testing.assert_array_equal(out.NEE[:, 0], [46009.0, np.nan])  # 80 and 20 % of the weights have a value
    one = maps.copy(deep=True)
    one.NEE[1] = np.nan
    assert np.isnan(fc.sample_at_sites(one, towers((46.2, 8.6)), method="bilinear").NEE[0]).values.tolist() == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("kind", ["codes", "numbers", "floats", "array", "finer array"])
def test_the_nearest_cell_of_the_class_of_a_tower(kind):
    maps = grid(**REGION)
    codes = xr.full_like(maps.NEE[0].drop_vars("time"), "DBF", dtype=object)
    codes[2, 4], codes[0, 0] = "GRA", "GRA"
    classes = codes
    if kind in ("numbers", "floats"):
        classes = xr.where(codes == "GRA", 10, 4).astype("int16" if kind == "numbers" else "float32")
    if kind == "finer array":
        finer = {"latitude": np.arange(47.2, 44.7, -0.1), "longitude": np.arange(7.8, 10.8, 0.1)}
        classes = codes.reindex(finer, method="nearest").rename(latitude="lat", longitude="lon")
    array = "array" in kind
    maps = maps if array else maps.assign_coords(igbp=classes)
    places = towers((46.0, 9.0), (47.0, 10.5), (45.0, 8.0), (46.0, 9.5), igbp=["GRA", "GRA", "DBF", ""])
    out = fc.sample_at_sites(maps, places, match_igbp=classes if array else True)
    np.testing.assert_array_equal(out.NEE[:, 0], [46010.0, 46010.0, 45008.0, np.nan])
    assert "XX-T03" in out.attrs["sampling"] and "of their class within 2 cells" in out.cell_note.values[3]
    if not array:
        assert out.cell_igbp.values.tolist() == ["GRA", "GRA", "DBF", ""]
        assert fc.sample_at_sites(maps, places).cell_igbp.values.tolist() == ["DBF"] * 4
    near = fc.sample_at_sites(maps, places, match_igbp=classes if array else True, max_distance_km=80)
    assert np.isnan(near.NEE[1]).all() and np.isfinite(near.NEE[0]).all()


def test_a_class_farther_than_two_cells_is_not_taken():
    maps = grid(**REGION)
    codes = xr.full_like(maps.NEE[0].drop_vars("time"), "DBF", dtype=object)
    codes[2, 5] = "GRA"
    out = fc.sample_at_sites(maps, towers((46.0, 9.0), (46.0, 9.5)), match_igbp=codes)
    np.testing.assert_array_equal(out.cell_longitude, [np.nan, 10.5])


def test_elevation_difference_and_flags():
    maps = grid(**REGION).assign(applicable=lambda m: m.NEE > 46008)
    maps = maps.assign(elevation=(("latitude", "longitude"), np.full((5, 6), 350.0), {"units": "m"}))
    out = fc.sample_at_sites(maps, INSIDE, method="bilinear")
    assert (out.cell_elevation_difference == 250).all() and (out.cell_elevation == 350).all()
    assert (out.elevation == 100).all() and "elevation" not in out.data_vars
    assert out.applicable.dtype == bool and out.applicable.values.all(1).tolist() == [True, True, False, True]


def test_an_array_stays_an_array():
    maps = grid(**REGION).NEE
    out = fc.sample_at_sites(maps, INSIDE)
    assert isinstance(out, xr.DataArray) and out.name == "NEE" and out.attrs["units"] == "umol m-2 s-1"
    mean = fc.sample_at_sites(maps.mean("time"), INSIDE)
    assert mean.dims == ("site",)
    both = fc.sample_at_sites(xr.concat([maps, maps], "member"), INSIDE)
    assert set(both.dims) == {"site", "time", "member"} and both.dims[:2] == ("site", "time")


class CountingStore(LocalStore):
    """A Zarr store that records the chunks that are read."""

    def __init__(self, root, **options):
        super().__init__(root, **options)
        self.read = []

    async def get(self, key, *args, **options):
        if "/c/" in key:
            self.read.append(key)
        return await super().get(key, *args, **options)


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """A product in the layout of X-BASE, (time, hour, lat, lon) with north first, in a Zarr store."""
    path = tmp_path_factory.mktemp("product") / "x.zarr"
    days = np.datetime64("2001-01-01", "ns") + np.arange(10) * np.timedelta64(24, "h")
    latitude, longitude = 89.5 - np.arange(80), np.arange(120) - 59.5
    values = np.arange(240, dtype="f4").reshape(10, 24, 1, 1) * 1000 + (latitude[:, None] + longitude / 1000)
    ds = xr.Dataset(
        {"NEE": (("time", "hour", "lat", "lon"), values.astype("f4"), {"units": "umolCO2 m-2 s-1"})},
        {"time": days, "hour": np.arange(24) + 0.5, "lat": latitude, "lon": longitude},
    )
    ds["land_fraction"] = ("lat", "lon"), np.ones((80, 120), "f4")
    ds.to_zarr(path, zarr_format=3, encoding={"NEE": {"chunks": (5, 24, 40, 40)}}, consolidated=False)
    return path, ds


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_only_the_chunks_of_towers_are_read(product, chunks, method):
    path, ds = product
    store = CountingStore(path, read_only=True)
    maps = xr.open_zarr(store, chunks=chunks, consolidated=False, zarr_format=3)
    # The first two are in one chunk, the last one is outside the grid.
    places = towers((52.5, 13.5), (51.3, 14.2), (20.4, -30.4), (np.nan, 0.0))
    store.read.clear()
    out = fc.sample_at_sites(maps, places, method=method)
    assert not [key for key in store.read if key.startswith("NEE")]
    assert out.NEE.shape == (4, 240) and out.NEE.chunks is not None
    with dask.config.set(scheduler="synchronous"):
        values = out.NEE.isel(site=[0, 1]).values
        assert sorted(k for k in store.read if k.startswith("NEE")) == ["NEE/c/0/0/0/1", "NEE/c/1/0/0/1"]
        store.read.clear()
        first = out.NEE.isel(site=[2], time=slice(0, 120)).values
        assert [key for key in store.read if key.startswith("NEE")] == ["NEE/c/0/0/1/0"]
    eager = fc.sample_at_sites(ds, places, method=method)
    np.testing.assert_array_equal(values, eager.NEE[:2])
    np.testing.assert_array_equal(first, eager.NEE[2:3, :120])
    xr.testing.assert_identical(out.compute(), eager)


def test_a_property_of_cells_is_read_in_the_chunks_of_towers(tmp_path):
    maps = grid(90 - np.arange(80.0), np.arange(120.0))
    maps["land_fraction"] = xr.where(maps.NEE[0].drop_vars("time") > 60000, 0.5, 1.0)
    maps.to_zarr(
        tmp_path / "x.zarr", zarr_format=3, encoding={"land_fraction": {"chunks": (20, 20)}}, consolidated=False
    )
    store = CountingStore(tmp_path / "x.zarr", read_only=True)
    lazy = xr.open_zarr(store, chunks=None, consolidated=False, zarr_format=3)
    store.read.clear()
    places = towers((88.0, 3.0), (30.2, 100.0), (np.nan, 0), (86.0, 4.0))
    out = fc.sample_at_sites(lazy, places)
    assert sorted(store.read) == ["land_fraction/c/0/0", "land_fraction/c/3/5"]
    np.testing.assert_array_equal(out.cell_land_fraction, [0.5, 1.0, np.nan, 0.5])


def test_sampled_maps_can_be_written(tmp_path, product):
    _, ds = product
    out = fc.sample_at_sites(ds, towers((52.5, 13.5), (-60.0, 14.5)))
    out.to_zarr(tmp_path / "out.zarr", zarr_format=3, consolidated=False)
    back = xr.open_zarr(tmp_path / "out.zarr", consolidated=False)
    np.testing.assert_array_equal(back.NEE, out.NEE)
    assert back.cell_note.values.tolist() == ["", "outside the maps"] and back.attrs == out.attrs


def test_a_derived_variable_is_read_in_the_chunks_of_the_others(product):
    path, _ = product
    store = CountingStore(path, read_only=True)
    maps = xr.open_zarr(store, chunks=None, consolidated=False, zarr_format=3)
    derived = maps.NEE.copy(deep=False)
    derived.encoding = {}  # as that of a sum of two arrays
    out = fc.sample_at_sites(maps.assign(RECO=derived), towers((52.5, 13.5), (84.5, 14.5)))
    store.read.clear()
    with dask.config.set(scheduler="synchronous"):
        assert np.isfinite(out.RECO.isel(time=slice(0, 24)).values).all()
    assert [key for key in store.read if key.startswith("NEE")] == ["NEE/c/0/0/0/1"]
    assert not derived.encoding and "preferred_chunks" in maps.NEE.encoding


def test_days_and_hours_become_hourly_time_steps(product):
    _, ds = product
    out = fc.sample_at_sites(ds, towers((52.5, 13.5)))
    np.testing.assert_array_equal(out.time.values, ds.time.values[0] + np.arange(240) * np.timedelta64(1, "h"))
    np.testing.assert_allclose(out.NEE[0], np.arange(240) * 1000 + 52.5 + 0.0135, rtol=1e-6)
    assert "hour" not in out.dims and (out.time_bnds[:, 1] - out.time_bnds[:, 0] == np.timedelta64(1, "h")).all()


@pytest.mark.parametrize("hour", [np.arange(24), np.arange(1, 25), None, np.arange(24).astype("timedelta64[h]")])
def test_hours_may_be_labelled_by_their_start_middle_or_end(product, hour):
    _, ds = product
    expected = fc.sample_at_sites(ds, towers((52.5, 13.5)))
    other = ds.drop_vars("hour") if hour is None else ds.assign_coords(hour=hour)
    xr.testing.assert_identical(fc.sample_at_sites(other, towers((52.5, 13.5))), expected)
    turned = other.isel(time=[3, 2, 1, 0, *range(4, 10)])  # files of several years in another order
    xr.testing.assert_identical(fc.sample_at_sites(turned, towers((52.5, 13.5))), expected)


def test_mean_diurnal_cycles_keep_their_hours(product):
    _, ds = product
    months = np.arange("2001-01", "2001-11", dtype="datetime64[M]").astype("datetime64[ns]")
    cycle = fc.sample_at_sites(ds.assign_coords(time=months), towers((52.5, 13.5)))
    assert dict(cycle.NEE.sizes) == {"site": 1, "time": 10, "hour": 24}
    with pytest.raises(SchemaError, match="divide the day"):
        fc.sample_at_sites(ds.isel(hour=slice(0, 20)), towers((52.5, 13.5)))


def test_maps_of_fluxcube_are_sampled_the_same_from_a_store(tmp_path):
    maps = example_maps(days=2)
    fc.write_maps(maps.chunk(time=24, latitude=2, longitude=2), tmp_path / "maps.zarr", scheduler="threads")
    places = towers((46.6, 8.3), (46.9, 8.0), (47.0, 8.7))
    out = fc.sample_at_sites(fc.open_maps(tmp_path / "maps.zarr"), places)
    xr.testing.assert_allclose(out.compute()[["NEE"]], fc.sample_at_sites(maps, places)[["NEE"]])
    assert out.cell_igbp.values.tolist() == fc.sample_at_sites(maps, places).cell_igbp.values.tolist()
    assert "kind" not in out.attrs
    group = zarr.open_group(tmp_path / "maps.zarr", mode="r")
    assert group.attrs["kind"] == "maps"


def test_real_reanalysis_at_davos(shared_data):
    with xr.open_dataset(shared_data / "era5" / "era5_davos_2020-01.nc") as era5:
        davos = towers((46.81533, 9.85591))
        out = fc.sample_at_sites(era5, davos)
        expected = era5.t2m.sel(latitude=46.7, longitude=9.792, method="nearest")
        np.testing.assert_array_equal(out.t2m[0], expected)
        assert 12 < out.cell_distance.item() < 15
        smooth = fc.sample_at_sites(era5, davos, method="bilinear").t2m[0]
        cells = era5.t2m.sel(latitude=[46.7, 46.95], longitude=[9.792, 10.042], method="nearest").astype(float)
        down, across = (
            (place - float(axis[0])) / float(axis[1] - axis[0])
            for place, axis in ((46.81533, cells.latitude.astype(float)), (9.85591, cells.longitude.astype(float)))
        )
        corners = cells.values
        rows = corners[:, 0] * (1 - down) + corners[:, 1] * down
        np.testing.assert_allclose(smooth, rows[:, 0] * (1 - across) + rows[:, 1] * across, atol=1e-4)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda m, c: (m, c, {"method": "linear"}), UnknownNameError, "bilinear"),
        (lambda m, c: (m, c, {"max_distance_km": -1}), ConfigError, "max_distance_km"),
        (lambda m, c: (m, c, {"match_igbp": True}), SchemaError, "pass an array"),
        (lambda m, c: (m, c, {"match_igbp": True, "method": "bilinear"}), ConfigError, "nearest"),
        (lambda m, c: (m, c, {"match_igbp": "GRA"}), ConfigError, "array of classes"),
        (lambda m, c: (m, c.drop_vars("latitude"), {}), SchemaError, "coordinate latitude"),
        (lambda m, c: (m, m, {}), SchemaError, "dimension site"),
        (lambda m, c: (fc.sample_at_sites(m, c), c, {}), SchemaError, "already"),
        (lambda m, c: (m.rename(latitude="y"), c, {}), SchemaError, "projected"),
        (lambda m, c: (m.drop_vars("latitude"), c, {}), SchemaError, "coordinate latitude"),
        (lambda m, c: (m.assign_coords(latitude=[1, 2, np.nan, 4, 5]), c, {}), SchemaError, "finite latitudes"),
        (lambda m, c: (m.NEE.values, c, {}), ConfigError, "ndarray"),
        (lambda m, c: (m.drop_vars("NEE"), c, {}), SchemaError, "expected variables"),
    ],
)
def test_what_cannot_be_sampled_is_named(change, error, words):
    maps, cube, options = change(grid(**REGION), INSIDE)
    with pytest.raises(error, match=words):
        fc.sample_at_sites(maps, cube, **options)
