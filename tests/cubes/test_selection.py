"""Selecting a part of a cube by place, class, time, name and flag, without computing anything."""

from __future__ import annotations

import inspect
import re
import warnings
from contextlib import contextmanager

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from tower_files import columns, write_archive, write_places

from fluxcube.catalog import open_carbonsense
from fluxcube.cubes.carbonsense import build_carbonsense
from fluxcube.cubes.masks import in_long_fills
from fluxcube.cubes.selection import Selection
from fluxcube.errors import ConfigError, StoreError, UnknownNameError
from fluxcube.normalisation import denormalise, normalise
from fluxcube.schema import validate_cube
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.building import staging
from fluxcube.stores.shards import write_region
from fluxcube.variables import table

HOUR = np.timedelta64(1, "h")


@contextmanager
def counted():
    """Count what Dask computes."""
    calls = []

    def get(graph, keys, **kwargs):
        calls.append(keys)
        return dask.get(graph, keys, **kwargs)

    with dask.config.set(scheduler=get):
        yield calls


@pytest.fixture(scope="session")
def with_chips(tmp_path_factory) -> xr.Dataset:
    """A store with chips every eight days, as it opens."""
    from fluxcube.simulation.example import example_cube

    ds = example_cube(sites=4, days=60)
    path = tmp_path_factory.mktemp("chips") / "c.zarr"
    arrays = {}
    for name, array in ds.data_vars.items():
        empty = {"f": np.nan, "i": -1}[array.dtype.kind]
        arrays[name] = ArraySpec(
            dims=array.dims, shape=array.shape, dtype=array.dtype, chunks=(1, *array.shape[1:]), fill_value=empty
        )
    with staging(path) as building:
        create(building, ds.coords.to_dataset(), arrays, {"kind": "cube", "clock": "solar"})
        for name, array in ds.data_vars.items():
            write_region(building, name, tuple(slice(0, n) for n in array.shape), array.values)
    return path


def test_everything_is_lazy(store, with_chips):
    with counted() as calls, warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in (
            {},
            {"sites": ["US-Aaa", "NP-Ccc"], "time": slice("2010-02", "2010-03"), "max_qc": 1, "normalized": True},
            {"igbp": "DBF", "variables": ["TA", "LE"], "targets": "LE", "max_qc": {"LE": 0}},
            {"bbox": (170, -90, -80, 90)},
        ):
            ds = open_carbonsense(store, **options)
            assert all(array.chunks for array in ds.data_vars.values())
            ds.fluxcube.to_variables()
        assert open_carbonsense(with_chips, time="2018-06-20").modis.chunks
        assert not calls
        ds.predictors[0, 0].compute()
        assert len(calls) == 1


def test_sites_come_in_the_order_asked(store):
    ds = open_carbonsense(store, sites=["US-Aaa", "IN-Bbb", "US-Aaa"])
    assert ds.site.values.tolist() == ["US-Aaa", "IN-Bbb"] and ds.igbp.values.tolist() == ["DBF", "CRO"]
    whole = open_carbonsense(store).sel(site=["US-Aaa", "IN-Bbb"])
    span = (whole.time >= whole.time_start.min()) & (whole.time < whole.time_stop.max())
    xr.testing.assert_identical(ds.load(), whole.isel(time=span.values).load())


@pytest.mark.parametrize(
    ("bbox", "found"),
    [
        ((-180, -90, 180, 90), ["FJ-Ddd", "IN-Bbb", "NP-Ccc", "US-Aaa"]),
        ((0, -90, 360, 90), ["FJ-Ddd", "IN-Bbb", "NP-Ccc", "US-Aaa"]),
        ((170, -90, -80, 90), ["FJ-Ddd", "US-Aaa"]),
        ((-100, 30, -80, 50), ["US-Aaa"]),
        ((260, 30, 280, 50), ["US-Aaa"]),
        ((80, 20, 84, 28), ["IN-Bbb", "NP-Ccc"]),
    ],
)
def test_a_box_may_cross_the_antimeridian(store, bbox, found):
    assert open_carbonsense(store, bbox=bbox).site.values.tolist() == found


def test_filters_of_sites_meet(store):
    assert open_carbonsense(store, igbp="DBF", bbox=(-100, 30, -80, 50)).site.values.tolist() == ["US-Aaa"]
    assert open_carbonsense(store, igbp=["DBF", "CRO", "WET"], sites=["IN-Bbb", "NP-Ccc"]).site.values == ["IN-Bbb"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sites": "US-Aab"}, UnknownNameError, "did you mean 'US-Aaa'"),
        ({"sites": []}, ConfigError, "selects no site"),
        ({"igbp": "DBB"}, UnknownNameError, "did you mean 'DBF'"),
        ({"igbp": "WET"}, ConfigError, r"igbp='WET' leaves no site.*CRO, DBF, GRA"),
        ({"sites": "US-Aaa", "igbp": "CRO"}, ConfigError, "the 1 sites so far: they are DBF"),
        ({"igbp": "DBF", "bbox": (0, 0, 100, 80)}, ConfigError, r"bbox=\(0, 0, 100, 80\) leaves no site"),
        ({"bbox": (0, 50, 10, 40)}, ConfigError, "west, south, east, north"),
        ({"bbox": (40, -100, 50, -80)}, ConfigError, "west, south, east, north"),
        ({"bbox": (1, 2, 3)}, ConfigError, "four numbers"),
        ({"time": slice("1999", "2001")}, ConfigError, "leaves no hour: the cube has 2010-01-01 to 2010-04-20"),
        ({"time": slice("2010-03", "2010-02")}, ConfigError, "leaves no hour"),
        ({"time": slice("soon", None)}, ConfigError, "expected dates"),
        ({"time": slice("2010", "2011", 2)}, ConfigError, "cannot be skipped"),
        ({"time": 2010}, ConfigError, "expected slice"),
        ({"variables": ["TA", "SW_INN"]}, UnknownNameError, "did you mean 'SW_IN'"),
        ({"variables": ["NEE"]}, UnknownNameError, "unknown variable 'NEE'"),
        ({"variables": []}, ConfigError, "selects no variable"),
        ({"targets": "TA"}, UnknownNameError, "unknown target 'TA'"),
        ({"max_qc": 4}, ConfigError, "a whole number from 0"),
        ({"max_qc": True}, ConfigError, "a whole number from 0"),
        ({"max_qc": {"NEE": 0.5}}, ConfigError, "a whole number from 0"),
        ({"max_qc": {"NEEE": 1}}, UnknownNameError, "did you mean 'NEE'"),
    ],
)
def test_what_cannot_be_selected_is_told(store, options, error, message):
    with pytest.raises(error, match=message):
        open_carbonsense(store, **options)


def test_a_store_of_another_kind_is_refused(tmp_path):
    create(tmp_path / "m", xr.Dataset(), {}, {"kind": "maps"})
    with pytest.raises(StoreError, match="expected a store of kind 'cube', found 'maps'"):
        open_carbonsense(tmp_path / "m")
    with pytest.raises(StoreError, match="no store there"):
        open_carbonsense(tmp_path / "none")


@pytest.mark.parametrize("time", [slice("2010-02", "2010-03"), ("2010-02", "2010-03")])
def test_both_ends_of_a_time_are_in_it(store, time):
    ds = validate_cube(open_carbonsense(store, time=time))
    assert ds.time.values[0] == np.datetime64("2010-02-01T00") and ds.time.values[-1] == np.datetime64("2010-03-31T23")
    xr.testing.assert_identical(ds.load(), open_carbonsense(store).sel(time=slice("2010-02", "2010-03")).load())
    assert ds.sizes["site"] == 4  # sites without a value then keep their place


def test_one_text_is_one_period(store):
    assert open_carbonsense(store, time="2010-02-03").sizes["time"] == 24
    everything = open_carbonsense(store)
    assert open_carbonsense(store, time=slice(None)).sizes == everything.sizes
    assert open_carbonsense(store, time="2010-02-03T05").time.values == [np.datetime64("2010-02-03T05")]


def test_chips_are_cut_to_the_same_days_and_the_last_one_before_is_kept(with_chips):
    every = open_carbonsense(with_chips)
    days = every.day.values
    for start, stop in (("2018-06-18", "2018-06-30"), ("2018-06-17", "2018-06-17"), ("2018-06-01", "2018-06-03")):
        ds = open_carbonsense(with_chips, time=slice(start, stop))
        within = (days >= np.datetime64(start)) & (days <= np.datetime64(stop))
        before = np.flatnonzero(days < np.datetime64(start))[-1:]
        expected = np.sort(np.concatenate([before, np.flatnonzero(within)]))
        np.testing.assert_array_equal(ds.day.values, days[expected])
        xr.testing.assert_identical(ds.modis.load(), every.modis.isel(day=expected).load())


def test_the_chip_of_every_hour_survives_the_cut(with_chips):
    """The latest chip whose local noon has passed is the same with and without a selection of time."""
    every = open_carbonsense(with_chips)

    def latest(days: np.ndarray, hour: np.datetime64, longitude: float) -> np.datetime64:
        noon = days + np.timedelta64(round((12 - longitude / 15) * 60), "m")
        return days[noon <= hour][-1]

    rng = np.random.default_rng(0)
    for at in rng.choice(np.arange(24 * 20, 24 * 50), 6):
        hour = every.time.values[at]
        days = open_carbonsense(with_chips, time=slice(hour, hour + 30 * HOUR)).day.values
        for longitude in (-179.9, -90, 0, 90, 179.9):
            assert latest(days, hour, longitude) == latest(every.day.values, hour, longitude)
            later = hour + 30 * HOUR
            assert latest(days, later, longitude) == latest(every.day.values, later, longitude)


def test_names_come_in_the_order_asked_with_their_units(store):
    ds = open_carbonsense(store, variables=["LE", "TA"], targets=["LE", "NEE"])
    assert ds["variable"].values.tolist() == ["LE", "TA"] and ds.units.values.tolist() == ["W m-2", "degC"]
    assert ds.target_units.values.tolist() == ["W m-2", "umol m-2 s-1"]
    np.testing.assert_array_equal(ds.predictors, open_carbonsense(store).predictors.sel(variable=["LE", "TA"]))


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_flags_mask_each_variable_by_its_own(store, limit):
    plain, masked = open_carbonsense(store).load(), open_carbonsense(store, max_qc=limit).load()
    for stack in ("predictors", "fluxes"):
        keep = (plain[f"{stack}_qc"] >= 0) & (plain[f"{stack}_qc"] <= limit)
        np.testing.assert_array_equal(masked[stack], plain[stack].where(keep))
        xr.testing.assert_identical(masked[f"{stack}_qc"], plain[f"{stack}_qc"])
        assert masked[stack].dtype == plain[stack].dtype
    assert masked.attrs["max_qc"] == limit
    if limit == 3:
        xr.testing.assert_identical(masked.drop_attrs(), plain.drop_attrs())
    else:
        assert masked.fluxes.notnull().sum() < plain.fluxes.notnull().sum()


def test_a_mapping_of_limits_masks_only_what_it_names(store):
    plain, masked = open_carbonsense(store).load(), open_carbonsense(store, max_qc={"NEE": 0, "LE": 1}).load()
    for name, limit in (("NEE", 0), ("LE", 1), ("GPP_NT", 3)):
        flux, flags = plain.fluxes.sel(target=name), plain.fluxes_qc.sel(target=name)
        np.testing.assert_array_equal(masked.fluxes.sel(target=name), flux.where(flags <= limit))
    le, flags = (plain[stack].sel(variable="LE") for stack in ("predictors", "predictors_qc"))
    np.testing.assert_array_equal(masked.predictors.sel(variable="LE"), le.where(flags <= 1))
    np.testing.assert_array_equal(masked.predictors.sel(variable="TA"), plain.predictors.sel(variable="TA"))


def test_normalized_is_a_view_that_can_be_undone(store):
    plain, scaled = open_carbonsense(store).load(), open_carbonsense(store, normalized=True).load()
    for stack, dim in (("predictors", "variable"), ("fluxes", "target")):
        names = plain[dim].values.tolist()
        np.testing.assert_array_equal(scaled[stack], normalise(plain[stack].values, names, mask=stack == "predictors"))
        width = np.array([table()[n].bounds[1] - table()[n].bounds[0] for n in names])
        error = np.abs(denormalise(scaled[stack].values, names) - plain[stack].values)
        assert np.nanmax(error / width) < 3e-7
        assert scaled[stack].dtype == np.float32
    assert set(scaled.units.values) == set(scaled.target_units.values) == {"1"}
    assert open_carbonsense(store).units.values[2] == "degC"


def test_one_data_variable_a_name(store):
    ds = open_carbonsense(store).fluxcube.to_variables()
    assert ds.TA.dims == ("site", "time") and ds.TA.attrs["units"] == "degC"
    np.testing.assert_array_equal(ds.NEE, open_carbonsense(store).fluxes.sel(target="NEE"))
    np.testing.assert_array_equal(ds.NEE_QC, open_carbonsense(store).fluxes_qc.sel(target="NEE"))


def test_a_part_can_be_written_and_read_elsewhere(store, tmp_path):
    pytest.importorskip("netCDF4")
    ds = open_carbonsense(
        store,
        sites=["US-Aaa"],
        time=slice("2010-01-03", "2010-01-05"),
        variables=["TA", "P"],
        max_qc={"TA": 1},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds.to_netcdf(tmp_path / "part.nc")
        ds.to_zarr(tmp_path / "part.zarr", consolidated=False)
    with xr.open_dataset(tmp_path / "part.nc") as back:
        np.testing.assert_array_equal(back.predictors, ds.predictors)
        np.testing.assert_array_equal(back.time, ds.time)


def runs_by_hand(flags: np.ndarray, days: float) -> np.ndarray:
    """`in_long_fills` of one record, hour by hour."""
    out, gap = np.zeros(len(flags), bool), []
    for i, flag in enumerate([*flags, 0]):
        if flag != 0:
            gap.append(i)
            continue
        while gap and flags[gap[0]] < 0:
            gap.pop(0)
        while gap and flags[gap[-1]] < 0:
            gap.pop()
        if len(gap) > days * 24:
            out[gap] = True
        gap = []
    return out


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([0, 0, 1, 2, 3, -1]), min_size=1, max_size=60), st.integers(0, 8), st.integers(0, 30))
def test_long_gaps_are_found_as_by_hand(flags, hours, pad):
    flags = np.int8(flags)
    expected = runs_by_hand(flags, hours / 24)
    np.testing.assert_array_equal(in_long_fills(flags, hours / 24), expected)
    around = np.pad(flags, pad, constant_values=-1)  # how long the axis is does not matter
    np.testing.assert_array_equal(in_long_fills(around, hours / 24)[pad : len(flags) + pad], expected)
    np.testing.assert_array_equal(in_long_fills(np.stack([flags, flags]), hours / 24), [expected, expected])


@pytest.fixture(scope="session")
def gappy(tmp_path_factory):
    """A cube of two sites and 200 days with gaps of 1, 5 and 40 days, the longest about 1 May; and uncertainties."""
    folder, n = tmp_path_factory.mktemp("gappy"), 200 * 24
    for i, site in enumerate(("US-Aaa", "IN-Bbb")):
        data = columns(n, i)
        for name in ("NEE_VUT_REF", "LE_F_MDS", "TA_F"):
            data[f"{name}_QC"] = np.where(data[name] == -9999, -9999, 0)
        for start, days, flag in ((20, 1, 1), (40, 5, 2), (100, 40, 3)):
            data["NEE_VUT_REF_QC"][start * 24 : (start + days) * 24] = flag
            data["LE_F_MDS_QC"][(start + 10) * 24 : (start + 10 + days) * 24] = flag
        data["NEE_VUT_REF_QC"][110 * 24] = -9999  # one value without a flag does not end a gap
        data["NEE_VUT_REF_RANDUNC"] = np.linspace(0.1, 2, n)
        data["NEE_VUT_REF_JOINTUNC"] = np.linspace(0.2, 4, n)
        data["LE_RANDUNC"] = np.linspace(10, 50, n)
        write_archive(folder / "raw", site, data, step=60)
    write_places(folder / "raw", {"US-Aaa": (40.0, -90.0, -6, "DBF"), "IN-Bbb": (20.0, 80.0, 5, "CRO")})
    build_carbonsense(folder / "raw", folder / "c.zarr")
    build_carbonsense(folder / "raw", folder / "d.zarr", resolution="daily")
    return folder


@pytest.mark.parametrize(
    ("limit", "left"), [(0, (0, 0, 0)), (1, (1, 0, 0)), (5, (1, 5, 0)), (39.9, (1, 5, 0)), (40, (1, 5, 40))]
)
def test_long_gap_fills_become_missing(gappy, limit, left):
    plain = open_carbonsense(gappy / "c.zarr").load()
    masked = open_carbonsense(gappy / "c.zarr", max_fill_days=limit).load()
    assert masked.attrs["max_fill_days"] == limit
    nee, flags = masked.fluxes.sel(target="NEE"), plain.fluxes_qc.sel(target="NEE")
    for flag, days in zip((1, 2, 3), left, strict=True):
        kept = (nee.notnull() & (flags == flag)).sum("time")
        assert (kept == days * 24).all(), flag
    assert (nee.notnull() | (flags != 0)).all()  # what is measured stays
    for stack, dim in (("predictors", "variable"), ("fluxes", "target")):
        xr.testing.assert_identical(masked[f"{stack}_qc"], plain[f"{stack}_qc"])
        assert masked[stack].dtype == np.float32
        for site in plain.site.values:
            for name in plain[dim].values:
                one = {"site": site, dim: name}
                drop = runs_by_hand(plain[f"{stack}_qc"].sel(one).values, limit)
                np.testing.assert_array_equal(masked[stack].sel(one), plain[stack].sel(one).where(~drop))
    gone = masked.fluxes.isnull()
    assert masked.fluxes_randunc.where(gone).isnull().all() and masked.fluxes_jointunc.where(gone).isnull().all()


def test_a_gap_that_a_selection_cuts_keeps_its_length(gappy):
    whole = open_carbonsense(gappy / "c.zarr", max_fill_days=30, targets=["LE", "NEE"])
    for time in (slice("2010-04-15", "2010-04-20"), slice("2010-05-18", "2010-05-25"), "2010-04-11"):
        part = open_carbonsense(gappy / "c.zarr", max_fill_days=30, targets=["LE", "NEE"], time=time)
        xr.testing.assert_identical(part.fluxes.load(), whole.fluxes.sel(time=part.time).load())
        in_gap = (part.fluxes_qc.sel(target="NEE") == 3).values
        assert 0 < in_gap.sum() < 30 * 24  # what is selected of it is shorter than the limit
        assert part.fluxes.sel(target="NEE").isnull().values[in_gap].all()


def test_a_mapping_of_days_masks_only_what_it_names(gappy):
    plain = open_carbonsense(gappy / "c.zarr").load()
    masked = open_carbonsense(gappy / "c.zarr", max_fill_days={"NEE": 3}).load()
    assert masked.attrs["max_fill_days"] == '{"NEE": 3}'
    xr.testing.assert_identical(masked.predictors, plain.predictors)
    others = [name for name in plain.target.values if name != "NEE"]
    xr.testing.assert_identical(masked.fluxes.sel(target=others), plain.fluxes.sel(target=others))
    assert (plain.fluxes.notnull() & masked.fluxes.isnull()).sum() == 2 * 45 * 24
    both = open_carbonsense(gappy / "c.zarr", max_fill_days={"NEE": 3}, max_qc={"NEE": 0}).load()
    xr.testing.assert_equal(both.fluxes, open_carbonsense(gappy / "c.zarr", max_qc={"NEE": 0}).fluxes.load())


def test_masks_are_lazy_and_read_one_site(gappy):
    with counted() as calls:
        ds = open_carbonsense(gappy / "c.zarr", max_fill_days=2, max_qc=2, normalized=True, sites="IN-Bbb")
        daily = open_carbonsense(gappy / "d.zarr", min_quality=0.5, normalized=True)
        daily.fluxcube.to_variables(), ds.fluxcube.to_variables()
        assert not calls and all(array.chunks for array in (*ds.data_vars.values(), *daily.data_vars.values()))


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("d.zarr", {"max_qc": 1}, "these data are daily.*pass min_quality="),
        ("d.zarr", {"max_fill_days": 5}, "the cube is daily: pass min_quality="),
        ("c.zarr", {"min_quality": 0.5}, "these data are hourly.*pass max_qc="),
        ("d.zarr", {"min_quality": 1.5}, "a share of the day from 0 to 1"),
        ("d.zarr", {"min_quality": {"NEE": True}}, "a share of the day from 0 to 1"),
        ("c.zarr", {"max_fill_days": -1}, "a number of days, 0 or more"),
        ("c.zarr", {"max_fill_days": float("nan")}, "a number of days, 0 or more"),
        ("c.zarr", {"max_fill_days": "long"}, "a number of days, 0 or more"),
    ],
)
def test_limits_that_a_cube_does_not_have_are_refused(gappy, path, options, message):
    with pytest.raises(ConfigError, match=message):
        open_carbonsense(gappy / path, **options)


@pytest.mark.parametrize(
    ("path", "limit"), [("c.zarr", "max_qc"), ("c.zarr", "max_fill_days"), ("d.zarr", "min_quality")]
)
def test_limits_of_names_that_are_not_there_are_refused(gappy, path, limit):
    with pytest.raises(UnknownNameError, match="did you mean 'NEE'"):
        open_carbonsense(gappy / path, **{limit: {"NEF": 1}})


def test_days_of_low_quality_become_missing(gappy):
    plain = open_carbonsense(gappy / "d.zarr").load()
    for limit in (0, 0.5, 1):
        masked = open_carbonsense(gappy / "d.zarr", min_quality=limit).load()
        assert masked.attrs["min_quality"] == limit and masked.attrs["resolution"] == "daily"
        for stack in ("predictors", "fluxes"):
            np.testing.assert_array_equal(masked[stack], plain[stack].where(plain[f"{stack}_quality"] >= limit))
            xr.testing.assert_identical(masked[f"{stack}_quality"], plain[f"{stack}_quality"])
    assert 0 < masked.fluxes.notnull().sum() < plain.fluxes.notnull().sum()
    only = open_carbonsense(gappy / "d.zarr", min_quality={"NEE": 1}).load()
    xr.testing.assert_equal(only.fluxes.sel(target="NEE"), masked.fluxes.sel(target="NEE"))
    xr.testing.assert_identical(only.predictors, plain.predictors)


def test_one_data_variable_a_name_of_a_daily_cube(gappy):
    ds = open_carbonsense(gappy / "d.zarr")
    wide = ds.fluxcube.to_variables()
    assert wide.NEE.attrs["units"] == "gC m-2 d-1" and wide.NEE.dims == ("site", "time")
    np.testing.assert_array_equal(wide.NEE_QUALITY, ds.fluxes_quality.sel(target="NEE"))
    assert (
        "share of the day" in wide.TA_QUALITY.attrs["long_name"] and "NEE_QC" not in wide and "TA_COVERAGE" not in wide
    )
    hourly = open_carbonsense(gappy / "c.zarr").fluxcube.to_variables()
    assert hourly.NEE_RANDUNC.attrs["units"] == "umol m-2 s-1" and "TA_RANDUNC" not in hourly
    np.testing.assert_array_equal(
        hourly.TA_COVERAGE, open_carbonsense(gappy / "c.zarr").predictors_coverage.sel(variable="TA")
    )
    scaled = open_carbonsense(gappy / "c.zarr", normalized=True).fluxcube.to_variables()
    assert scaled.NEE.attrs["units"] == scaled.NEE_RANDUNC.attrs["units"] == scaled.TA.attrs["units"] == "1"


@pytest.mark.parametrize("path", ["c.zarr", "d.zarr"])
def test_stacks_and_variables_are_two_views_of_the_same(gappy, path):
    ds = open_carbonsense(gappy / path).load()
    for stack, dim in (("predictors", "variable"), ("fluxes", "target")):
        back = ds[stack].to_dataset(dim=dim).to_dataarray(dim=dim).transpose(*ds[stack].dims)
        np.testing.assert_array_equal(back, ds[stack])
        assert back[dim].values.tolist() == ds[dim].values.tolist()
        wide = ds.drop_vars([name for name in ds.data_vars if not name.startswith(stack)]).fluxcube.to_variables()
        for name in ds[dim].values:
            np.testing.assert_array_equal(wide[name], ds[stack].sel({dim: name}))


@pytest.mark.parametrize(("path", "resolution"), [("c.zarr", "hourly"), ("d.zarr", "daily")])
def test_scaled_values_and_uncertainties_are_undone(gappy, path, resolution):
    plain, scaled = (open_carbonsense(gappy / path, normalized=n).load() for n in (False, True))
    assert scaled.attrs["normalized"].startswith("by bounds") and "normalized" not in plain.attrs
    for stack, dim in (("predictors", "variable"), ("fluxes", "target")):
        names = plain[dim].values.tolist()
        bounds = np.array([table(resolution)[name].bounds for name in names])
        undone = denormalise(scaled[stack].values, names, resolution=resolution)
        assert np.nanmax(np.abs(undone - plain[stack].values) / np.ptp(bounds, axis=1)) < 3e-7
        np.testing.assert_array_equal(np.isnan(undone), plain[stack].isnull())
    for part in ("randunc", "jointunc") if path == "c.zarr" else ():
        width = np.ptp(np.array([table()[name].bounds for name in plain.target.values]), axis=1)
        np.testing.assert_allclose(scaled[f"fluxes_{part}"] * width, plain[f"fluxes_{part}"], rtol=1e-5)
        assert scaled[f"fluxes_{part}"].notnull().any() and scaled[f"fluxes_{part}"].dtype == np.float32


@contextmanager
def reads(monkeypatch):
    """Note which files of a store are read, and how many reads each takes."""
    found: dict[str, int] = {}
    get = zarr.storage.LocalStore.get

    async def noted(self, key, *args, **kwargs):
        if key.startswith(("predictors", "fluxes")) and "/c/" in key:
            found[key] = found.get(key, 0) + 1
        return await get(self, key, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.storage.LocalStore, "get", noted)
        yield found


def test_a_selection_reads_no_more_than_it_must(gappy, monkeypatch):
    """Chunks are of one site and two months of hours (1461): 200 days are four, or five where they straddle."""
    with reads(monkeypatch) as found:
        open_carbonsense(gappy / "c.zarr", max_fill_days=3, max_qc=1, normalized=True)
    assert not found

    def of_data(**selection) -> dict[str, int]:
        ds = open_carbonsense(gappy / "c.zarr", **selection)
        with reads(monkeypatch) as found:
            ds.fluxes.compute()
        return found

    everything = of_data()
    assert set(everything) == {"fluxes/c/0/0/0", "fluxes/c/1/0/0"}
    one = of_data(sites="US-Aaa")
    assert list(one) == ["fluxes/c/1/0/0"] and one["fluxes/c/1/0/0"] == everything["fluxes/c/1/0/0"]
    day = of_data(sites="US-Aaa", time="2010-03-03")
    assert list(day) == list(one) and day["fluxes/c/1/0/0"] < one["fluxes/c/1/0/0"]
    # The index of the file, and one chunk.
    assert day["fluxes/c/1/0/0"] == 2
    masked = of_data(sites="US-Aaa", time="2010-03-03", max_fill_days={"NEE": 3})
    assert set(masked) == {"fluxes/c/1/0/0", "fluxes_qc/c/1/0/0"} and masked["fluxes/c/1/0/0"] == 2
    flagged = of_data(sites="US-Aaa", time="2010-03-03", max_qc=1)
    assert flagged == {"fluxes/c/1/0/0": 2, "fluxes_qc/c/1/0/0": 2}
    assert of_data(igbp="DBF") == of_data(bbox=(-100, 30, -80, 50)) == one


def test_the_axis_is_that_of_the_selected_sites(tmp_path):
    """Sites of different years: each alone has its own span, together both; no time is lost or made."""
    for site, start in (("US-Aaa", "2005-03-01T00:00"), ("IN-Bbb", "2012-07-01T00:00")):
        write_archive(tmp_path / "raw", site, columns(240), step=60, start=start)
    write_places(tmp_path / "raw", {"US-Aaa": (40.0, -90.0, -6, "DBF"), "IN-Bbb": (20.0, 80.0, 5, "CRO")})
    build_carbonsense(tmp_path / "raw", tmp_path / "c")
    both = open_carbonsense(tmp_path / "c")
    for site in ("US-Aaa", "IN-Bbb"):
        one = open_carbonsense(tmp_path / "c", sites=site)
        assert one.time.values[0] == one.time_start.values[0] and one.time.values[-1] + HOUR == one.time_stop.values[0]
        held = one.fluxes.notnull().any(["site", "target"]) | one.predictors.sel(variable="TA").notnull().any("site")
        assert held[0] and held[-1]
        xr.testing.assert_identical(one.load(), both.sel(site=[site], time=one.time).load())
    assert (
        both.time.values[0] == both.time_start.values.min()
        and both.time.values[-1] + HOUR == both.time_stop.values.max()
    )
    with pytest.raises(ConfigError, match="2005"):
        open_carbonsense(tmp_path / "c", sites="US-Aaa", time="2012")


def test_every_parameter_of_the_first_call_is_documented():
    documented = set(re.findall(r"^    ([a-z_, ]+) : ", open_carbonsense.__doc__.partition("Returns")[0], re.M))
    names = {name.strip() for line in documented for name in line.split(",")}
    assert names == set(inspect.signature(open_carbonsense).parameters)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"bbox": (1, 2)}, ConfigError), ({"time": 2004.5}, ConfigError), ({"igbp": "XXX"}, UnknownNameError)],
)
def test_a_malformed_selection_is_refused_before_a_store_is_opened(options, error):
    with pytest.raises(error):
        Selection(**options)
