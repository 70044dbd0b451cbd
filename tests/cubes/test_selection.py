"""A part of a cube is found by place, class, time, name and flag, without computing anything."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import dask
import numpy as np
import pytest
import xarray as xr

from fluxcube import stores
from fluxcube.cubes.carbonsense import open_carbonsense
from fluxcube.errors import ConfigError, StoreError, UnknownNameError
from fluxcube.normalisation import denormalise, normalise
from fluxcube.schema import validate_cube
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
        arrays[name] = stores.ArraySpec(
            dims=array.dims, shape=array.shape, dtype=array.dtype, chunks=(1, *array.shape[1:]), fill_value=empty
        )
    with stores.staging(path) as building:
        stores.create(building, ds.coords.to_dataset(), arrays, {"kind": "cube", "clock": "solar"})
        for name, array in ds.data_vars.items():
            stores.write_region(building, name, tuple(slice(0, n) for n in array.shape), array.values)
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
        ({"max_qc": 4}, ConfigError, "whole numbers from 0"),
        ({"max_qc": True}, ConfigError, "whole numbers from 0"),
        ({"max_qc": {"NEE": 0.5}}, ConfigError, "whole numbers from 0"),
        ({"max_qc": {"NEEE": 1}}, UnknownNameError, "did you mean 'NEE'"),
    ],
)  # fmt: skip
def test_what_cannot_be_selected_is_told(store, options, error, message):
    with pytest.raises(error, match=message):
        open_carbonsense(store, **options)


def test_a_store_of_another_kind_is_refused(tmp_path):
    stores.create(tmp_path / "m", xr.Dataset(), {}, {"kind": "maps"})
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
        store, sites=["US-Aaa"], time=slice("2010-01-03", "2010-01-05"), variables=["TA", "P"], max_qc={"TA": 1},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds.to_netcdf(tmp_path / "part.nc")
        ds.to_zarr(tmp_path / "part.zarr", consolidated=False)
    with xr.open_dataset(tmp_path / "part.nc") as back:
        np.testing.assert_array_equal(back.predictors, ds.predictors)
        np.testing.assert_array_equal(back.time, ds.time)
