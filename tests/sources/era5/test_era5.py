"""Readers of ERA5, tested on files with values computed by hand and on real files."""

from __future__ import annotations

import subprocess
import sys

import cloudpickle
import dask
import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import ConfigError, SourceError, UnknownNameError
from fluxcube.humidity import saturation_vapour_pressure
from fluxcube.solar import SOLAR_CONSTANT, potential_radiation
from fluxcube.sources.era5.files import read_files
from fluxcube.sources.era5.variables import open_era5, read_block

UNITS = {
    "t2m": "K",
    "d2m": "K",
    "sp": "Pa",
    "u10": "m s**-1",
    "v10": "m s**-1",
    "ssrd": "J m**-2",
    "strd": "J m**-2",
    "ssr": "J m**-2",
    "str": "J m**-2",
    "sshf": "J m**-2",
    "slhf": "J m**-2",
    "tp": "m",
    "zust": "m s**-1",
    "ishf": "W m**-2",
    "swvl1": "m**3 m**-3",
    "stl1": "K",
    "z": "m**2 s**-2",
    "lsm": "(0 - 1)",
    "fal": "(0 - 1)",
}


def write(path, fields, *, start="2019-07-01T00", latitude=(47.25, 47.0), longitude=(7.0, 7.25, 7.5), new=True, **kw):
    """Write parameters, numbers or arrays (time,) or (time, latitude, longitude), in the layout of the CDS."""
    hours = max([np.shape(values)[0] for values in fields.values() if np.ndim(values)] + [1])
    time = kw.pop("time", np.datetime64(start, "ns") + np.arange(hours) * np.timedelta64(1, "h"))
    shape = (len(time), len(latitude), len(longitude))
    dim = "valid_time" if new else "time"
    ds = xr.Dataset(
        coords={dim: time, "latitude": list(latitude), "longitude": list(longitude)}, attrs=kw.pop("attrs", {})
    )
    for name, values in fields.items():
        values = np.asarray(values, float)
        values = values.reshape(values.shape + (1,) * (3 - values.ndim)) if values.ndim else values
        ds[name] = ((dim, "latitude", "longitude"), np.broadcast_to(values, shape).copy(), {"units": UNITS[name]})
    if new:
        ds = ds.assign_coords(number=0, expver=(dim, np.full(len(time), "0001", object)))
    path.parent.mkdir(exist_ok=True, parents=True)
    ds.to_netcdf(path, **kw)
    return path


def running(amounts):
    """Totals since 00 UTC, as of ERA5-Land: at stamp 00 that of the whole day before."""
    return np.concatenate(
        [amounts[:1], *(np.cumsum(day) for day in np.split(amounts[1:], range(24, len(amounts), 24)))]
    )


def sunny(hours=72):
    """An hour's sunlight (J m-2) at each stamp: zero at night, a hump by day."""
    return 3.6e6 * np.maximum(0, np.sin(2 * np.pi * (np.arange(hours) - 6.5) / 24))


def test_accumulations_belong_to_the_hour_that_ends_at_the_stamp(tmp_path):
    ssrd, tp = np.zeros(49), np.zeros(49)
    ssrd[13] = ssrd[14 + 24] = 3.6e6  # the hour that ends at 13:00
    tp[1], tp[30] = 0.002, 0.0005
    ds = open_era5(write(tmp_path / "a.nc", {"ssrd": ssrd, "tp": tp}), accumulation="hour")
    assert ds.SW_IN.sel(time="2019-07-01T12").values == pytest.approx(1000.0)
    assert ds.SW_IN.sel(time="2019-07-01T13").values == pytest.approx(0.0)
    assert ds.SW_IN.sum() * 3600 == pytest.approx(6 * ssrd[1:].sum())
    assert ds.P.sel(time="2019-07-01T00").values == pytest.approx(2.0)
    assert ds.P.sum("time").values == pytest.approx(2.5)
    assert ds.sizes["time"] == 48 and ds.time.values[0] == np.datetime64("2019-07-01T00")


def test_instantaneous_values_are_the_mean_of_both_ends(tmp_path):
    fields = {
        "t2m": [273.15, 293.15, 283.15],
        "d2m": [273.15, 283.15, 283.15],
        "sp": [90000.0, 91000.0, 92000.0],
        "u10": [3.0, 0.0, 0.0],
        "v10": [4.0, -1.0, -1.0],
        "zust": [0.2, 0.4, 0.4],
        "swvl1": [0.2, 0.3, 0.3],
        "stl1": [280.15, 282.15, 282.15],
    }
    ds = open_era5(write(tmp_path / "a.nc", fields)).isel(latitude=0, longitude=0)
    hand = {"TA": 10.0, "PA": 90.5, "WS": 3.0, "USTAR": 0.3, "SWC_1": 25.0, "TS_1": 8.0}
    for name, value in hand.items():
        assert ds[name].values[0] == pytest.approx(value, rel=1e-5), name
    es = saturation_vapour_pressure
    dry = float(es(20.0) - es(10.0))  # hPa; the first stamp is saturated
    assert ds.VPD.values == pytest.approx([dry / 2, dry / 2], rel=1e-4)
    assert ds.RH.values == pytest.approx([(100 + 100 * es(10.0) / es(20.0)) / 2] * 2, rel=1e-4)
    assert float(ds.VPD[0]) != pytest.approx(float(es(10.0) - es(5.0)), rel=0.05)  # not the deficit of means


@pytest.mark.parametrize(
    "u, v, direction",
    [
        ((0, 0), (-1, -1), 0.0),  # blows southwards: from the north
        ((-2, -5), (0, 0), 90.0),
        ((0, 0), (3, 3), 180.0),
        ((1, 1), (0, 0), 270.0),
        ((0.1, -7), (-1, -70), 0.0),  # 354 and 6 degrees: the mean is north, whatever the speeds, not 180
    ],
)
def test_wind_direction_is_where_it_comes_from_averaged_as_a_unit_vector(tmp_path, u, v, direction):
    ds = open_era5(write(tmp_path / "a.nc", {"u10": np.array(u, float), "v10": np.array(v, float)}))
    found = float(ds.WD[0, 0, 0])
    assert 0 <= found < 360 and (found - direction + 180) % 360 - 180 == pytest.approx(0, abs=1e-3)


def test_calm_and_opposed_winds_have_no_direction(tmp_path):
    ds = open_era5(write(tmp_path / "a.nc", {"u10": [0.0, 0.0, 1.0, -1.0], "v10": [0.0, 0.0, 0.0, 0.0]}))
    assert np.isnan(ds.WD.values[[0, 2]]).all()
    assert ds.WD.values[1, 0, 0] == pytest.approx(270.0)


def test_fluxes_count_upwards_and_radiation_balances(tmp_path):
    fields = {"ssrd": 5e5, "ssr": 4e5, "strd": 9e5, "str": -2e5, "sshf": -3.6e5, "slhf": [0.0, 7.2e4, 7.2e4]}
    ds = open_era5(write(tmp_path / "a.nc", fields), accumulation="hour").isel(latitude=0, longitude=0)
    assert ds.H.values == pytest.approx(100.0) and ds.LE.values == pytest.approx(-20.0)
    balance = ds.SW_IN - ds.SW_OUT + ds.LW_IN - ds.LW_OUT
    assert ds.NETRAD.values == pytest.approx(balance.values, abs=1e-3)
    assert ds.NETRAD.values == pytest.approx(2e5 / 3600, rel=1e-5)
    # Ground heat: 55.56 W m-2 of net radiation, less 100 of sensible heat, plus 20 of dew in the second hour.
    assert ds.G.values == pytest.approx(55.5556 - 100.0 + 20.0, abs=1e-3)
    assert ds.G.values == pytest.approx((ds.NETRAD - ds.H - ds.LE).values, abs=1e-3)
    assert ds.PPFD_IN.values == pytest.approx(2.0 * 5e5 / 3600, rel=1e-6)


def test_sensible_heat_from_instantaneous_fluxes_where_there_is_no_sum(tmp_path):
    ds = open_era5(write(tmp_path / "a.nc", {"ishf": [20.0, -80.0, -80.0]}))
    assert ds.H.values[:, 0, 0] == pytest.approx([30.0, 80.0])
    both = open_era5(write(tmp_path / "b.nc", {"ishf": [20.0, -80.0], "sshf": -3.6e5}), accumulation="hour")
    assert both.H.values == pytest.approx(100.0)  # the sum over the hour, not the mean of the stamps at its ends


def test_the_deficit_below_freezing_by_hand(tmp_path):
    """-10 and -15 degC over water: 6.11 exp(17.269 x -10 / 227.29) = 2.858 hPa and 1.905; over ice 2.597 and 1.653."""
    ds = open_era5(write(tmp_path / "a.nc", {"t2m": [263.15, 263.15], "d2m": [258.15, 258.15]}))
    assert float(ds.VPD[0, 0, 0]) == pytest.approx(2.858 - 1.905, abs=1e-3)
    assert float(ds.RH[0, 0, 0]) == pytest.approx(100 * 1.905 / 2.858, abs=0.02)


def test_reflected_light_from_albedo_where_there_is_no_net_radiation(tmp_path):
    ds = open_era5(write(tmp_path / "a.nc", {"ssrd": [0.0, 3.6e6], "fal": [0.1, 0.3]}), accumulation="hour")
    assert ds.SW_OUT.values == pytest.approx(200.0)


def test_running_totals_restart_after_midnight(tmp_path):
    hourly = sunny(97)
    rain = np.where(np.arange(97) % 7 == 3, 0.0007, 0.0)
    total = {}
    for name, amount in {"ssrd": hourly, "tp": rain}.items():
        running = np.empty(97)
        for k in range(97):  # stamp k has the sum since the last 00 UTC, which at 00 UTC is the whole day before
            begin = (k - 1) // 24 * 24 + 1
            running[k] = amount[begin : k + 1].sum() if k else 0.0
        total[name] = running
    land = open_era5(write(tmp_path / "land.nc", total))
    same = open_era5(write(tmp_path / "era5.nc", {"ssrd": hourly, "tp": rain}))
    assert (land.attrs["accumulation"], same.attrs["accumulation"]) == ("day", "hour")
    for name in ("SW_IN", "P"):
        np.testing.assert_allclose(land[name].values, same[name].values, atol=2e-3)
    assert land.P.sum("time").values == pytest.approx(1000 * rain[1:].sum(), rel=1e-5)


def test_unclear_accumulation_is_refused_unless_the_caller_passes_it(tmp_path):
    dry = write(tmp_path / "dry.nc", {"tp": np.zeros(72)})
    short = write(tmp_path / "short.nc", {"ssrd": sunny(12)})
    for path in (dry, short):
        with pytest.raises(SourceError, match="accumulation='hour' or accumulation='day'"):
            open_era5(path)
        assert open_era5(path, accumulation="day").attrs["accumulation"] == "day"
    named = write(tmp_path / "named.nc", {"tp": np.zeros(72)}, attrs={"title": "reanalysis-era5-land"})
    assert open_era5(named).attrs["accumulation"] == "day"
    lying = write(tmp_path / "lying.nc", {"ssrd": sunny()}, attrs={"title": "ERA5-Land"})
    with pytest.raises(SourceError, match=r"ERA5-Land.*single hours"):
        open_era5(lying)
    with pytest.raises(ConfigError, match="'hour'"):
        open_era5(dry, accumulation="month")


def test_old_and_new_layout_packed_or_not_are_equal(tmp_path):
    fields = {"t2m": 280 + 5 * np.sin(np.arange(72)), "ssrd": sunny()}
    new = open_era5(write(tmp_path / "new.nc", fields))
    packing = {
        "t2m": {"dtype": "int16", "scale_factor": 5e-4, "add_offset": 280.0, "_FillValue": -32767},
        "ssrd": {"dtype": "int16", "scale_factor": 60.0, "add_offset": 1.8e6, "_FillValue": -32767},
    }
    old = open_era5(
        write(tmp_path / "old.nc", fields, new=False, encoding=packing, format="NETCDF3_64BIT", engine="netcdf4")
    )
    np.testing.assert_allclose(old.TA.values, new.TA.values, atol=3e-4)
    np.testing.assert_allclose(old.SW_IN.values, new.SW_IN.values, atol=30 / 3600 + 1e-3)
    assert float(old.SW_IN.min()) == 0.0  # packing leaves -30 J m-2 at night


def test_a_large_negative_stays_visible(tmp_path):
    ds = open_era5(write(tmp_path / "a.nc", {"ssrd": [0.0, -3e3, -3.6e6]}), accumulation="hour")
    assert ds.SW_IN.values[:, 0, 0] == pytest.approx([0.0, -1000.0])


def test_preliminary_months_fill_hours_without_final_values(tmp_path, monkeypatch):
    write(tmp_path / "plain.nc", {"t2m": 280 + np.arange(4.0)}, new=False)
    ds = xr.open_dataset(tmp_path / "plain.nc").load()
    late = ds.time > ds.time[1]
    both = xr.concat([ds.where(~late), ds.where(late)], dim=xr.IndexVariable("expver", [1, 5]))
    both["t2m"] = both.t2m.transpose("time", "expver", "latitude", "longitude").assign_attrs(units="K")
    both.to_netcdf(tmp_path / "era5t.nc")
    xr.testing.assert_equal(open_era5(tmp_path / "era5t.nc").TA, open_era5(tmp_path / "plain.nc").TA)
    # Only the requested part is read: filling one with the other must not take the whole file.
    files = read_files(tmp_path / "era5t.nc")
    sizes = []
    filled = xr.DataArray.fillna

    def counted(array, other):
        sizes.append(array.size)
        return filled(array, other)

    monkeypatch.setattr(xr.DataArray, "fillna", counted)
    files.read("t2m", slice(1, 3), slice(0, 1), slice(1, 3))
    assert sizes == [4]


def test_a_box_that_reaches_beyond_the_files_is_logged(tmp_path, caplog):
    path = write(tmp_path / "a.nc", {"t2m": np.full(3, 280.0)})
    open_era5(path, bbox=(6.9, 46.9, 7.6, 47.3))
    assert not caplog.text
    ds = open_era5(path, bbox=(5.0, 47.1, 7.3, 60.0))
    assert ds.sizes["latitude"] == 1 and "reaches beyond the files to the north, west" in caplog.text


def test_longitudes_run_from_minus_180_and_latitudes_stay(tmp_path):
    longitude = np.arange(0.0, 360.0, 30.0)
    values = np.broadcast_to(273.15 + longitude / 10, (3, 2, 12))
    ds = open_era5(write(tmp_path / "a.nc", {"t2m": values}, latitude=(-10.0, 10.0), longitude=longitude))
    assert ds.longitude.values.tolist() == np.arange(-180.0, 180.0, 30.0).tolist()
    assert ds.latitude.values.tolist() == [-10.0, 10.0]
    np.testing.assert_allclose(ds.TA[0, 0].values, ds.longitude.values % 360 / 10, rtol=1e-4)


def test_parameters_and_months_in_many_files_are_joined(tmp_path):
    t2m, d2m = 280 + np.arange(72.0) / 10, np.full(72, 275.0)
    whole = open_era5(write(tmp_path / "whole" / "a.nc", {"t2m": t2m, "d2m": d2m, "z": 9806.65, "lsm": 0.25}))
    folder = tmp_path / "parts"
    write(folder / "b.nc", {"t2m": t2m[48:]}, start="2019-07-03T00")
    write(folder / "c.nc", {"t2m": t2m[:49]})  # one stamp twice, with the same value
    write(folder / "d.nc", {"d2m": d2m})
    write(folder / "invariant.nc", {"z": 9806.65, "lsm": 0.25}, start="1979-01-01T00")
    parts = open_era5(folder)
    xr.testing.assert_equal(parts.drop_vars(()), whole)
    assert parts.elevation.values == pytest.approx(1000.0) and parts.land_fraction.values == pytest.approx(0.25)


def test_hours_that_two_files_share_must_agree(tmp_path):
    write(tmp_path / "a.nc", {"t2m": 280 + np.arange(30.0)})
    write(tmp_path / "b.nc", {"t2m": 281 + 24 + np.arange(30.0)}, start="2019-07-02T00")
    with pytest.raises(SourceError, match=r"a\.nc.*b\.nc.*t2m of 2019-07-02T00"):
        open_era5(tmp_path)


def test_a_gap_is_refused_unless_allowed_and_then_nothing_else_is_missing(tmp_path, caplog):
    t2m = 280 + np.arange(10.0)
    time = np.datetime64("2019-07-01", "ns") + np.array([0, 1, 2, 3, 4, 7, 8, 9, 10, 11]) * np.timedelta64(1, "h")
    path = write(tmp_path / "a.nc", {"t2m": t2m}, time=time)
    with pytest.raises(SourceError, match=r"t2m has no stamps from 2019-07-01T05 to 2019-07-01T06.*a\.nc.*allow_gaps"):
        open_era5(path)
    assert open_era5(path, time=("2019-07-01T07", None)).TA.notnull().all()  # the gap is not in these hours
    ds = open_era5(path, allow_gaps=True)
    missing = np.isnan(ds.TA.values).all(axis=(1, 2))
    assert missing.tolist() == [False] * 4 + [True] * 3 + [False] * 4  # hours next to 05 or 06 UTC
    assert (np.diff(ds.time.values) == np.timedelta64(1, "h")).all()
    assert "t2m has no stamps from 2019-07-01T05 to 2019-07-01T06" in caplog.text


def test_parameters_of_unequal_length_leave_a_gap_in_one_of_them(tmp_path):
    write(tmp_path / "a.nc", {"t2m": np.full(50, 280.0)})
    write(tmp_path / "b.nc", {"ssrd": sunny(40)})
    with pytest.raises(SourceError, match="ssrd has no stamps from 2019-07-02T16 to 2019-07-03T01"):
        open_era5(tmp_path, accumulation="hour")
    ds = open_era5(tmp_path, accumulation="hour", time=(None, "2019-07-02T14"))
    assert ds.SW_IN.notnull().all() and ds.sizes["time"] == 39


def test_opening_computes_nothing_and_reading_reads_one_block(tmp_path, monkeypatch):
    path = write(tmp_path / "a.nc", {"t2m": 240 + np.arange(96.0), "ssrd": sunny(96)})
    computes, blocks = [], []

    def scheduler(graph, keys, **kwargs):
        computes.append(keys)
        return dask.get(graph, keys, **kwargs)

    def counted(files, names, time, rows, cols):
        blocks.append((names, time, rows, cols))
        return read_block(files, names, time, rows, cols)

    monkeypatch.setattr("fluxcube.sources.era5.variables.read_block", counted)
    with dask.config.set(scheduler=scheduler):
        ds = open_era5(path, chunks={"time": 24, "longitude": 2})
        assert ds.TA.chunks == ((24, 24, 24, 23), (2,), (2, 1))
        assert not computes and not blocks
        part = ds.TA[24:48, :, :2].values
    assert len(computes) == 1
    assert blocks == [(("TA",), slice(24, 48), slice(0, 2), slice(0, 2))]
    np.testing.assert_allclose(part[:, 0, 0], 240 - 273.15 + np.arange(24, 48) + 0.5, rtol=1e-6)


def test_chunks_do_not_change_values_and_the_graph_can_travel(tmp_path):
    path = write(tmp_path / "a.nc", {"t2m": 240 + np.arange(96.0), "ssrd": running(sunny(96))})
    whole = open_era5(path, accumulation="day", chunks={"time": -1})
    parts = open_era5(path, accumulation="day", chunks={"time": 7, "latitude": 1, "longitude": 1})
    xr.testing.assert_equal(whole.compute(), parts.compute())
    xr.testing.assert_equal(whole.compute(), cloudpickle.loads(cloudpickle.dumps(parts)).compute())
    with pytest.raises(UnknownNameError, match="latitude"):
        open_era5(path, chunks={"lattitude": 1})
    with pytest.raises(ConfigError, match="at least 1"):
        open_era5(path, chunks={"time": 0})


def test_bad_files_are_refused_by_name_and_cause(tmp_path):
    def refused(match, name, change=None, **kw):
        path = write(tmp_path / f"{name}.nc", kw.pop("fields", {"t2m": 280 + np.arange(30.0)}), **kw)
        if change:
            ds = change(xr.open_dataset(path).load())
            ds.to_netcdf(path)
        with pytest.raises(SourceError, match=match) as caught:
            open_era5(path)
        assert str(path) in str(caught.value)

    hour = np.timedelta64(1, "h")
    begin = np.datetime64("2019-07-01", "ns")
    refused("must be in K, found units 'degC'", "units", lambda ds: ds.assign(t2m=ds.t2m.assign_attrs(units="degC")))
    refused("units 'none'", "nounits", lambda ds: ds.assign(t2m=ds.t2m.drop_attrs()))
    refused("1 hour, found 3", "three", time=begin + 3 * np.arange(30) * hour)
    refused(r"1 hour, found 24 hours \(daily", "daily", time=begin + 24 * np.arange(30) * hour)
    refused(r"30 minutes \(sub-hourly\)", "halves", time=begin + np.arange(30) * np.timedelta64(30, "m"))
    refused("2019-07-01T04:00 appears twice", "repeat", time=begin + np.r_[0:5, 4:29] * hour)
    refused("K .expected 150 to 350.: the file declares", "celsius", fields={"t2m": np.full(30, 12.0)})
    refused("tp is 7 at", "millimetres", fields={"tp": np.full(72, 7.0)})
    refused("sp is 950", "hectopascal", fields={"sp": np.full(30, 950.0)})
    refused("full hours", "half", time=begin + np.timedelta64(30, "m") + np.arange(30) * hour)
    refused("out of order", "unsorted", time=begin + np.r_[0:10, 8:28] * hour)
    refused("ensemble", "number", lambda ds: ds.drop_vars("number").expand_dims(number=3))
    refused("dims", "profile", lambda ds: ds.expand_dims(level=2))
    refused("only one stamp", "one", fields={"t2m": [280.0]})
    refused("appears twice", "circle", longitude=(0.0, 180.0, 360.0))


def test_other_files_are_named_in_the_error(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        open_era5(tmp_path / "none.nc")
    with pytest.raises(SourceError, match=r"no NetCDF file.*zip or Zarr"):
        open_era5(tmp_path)
    for name, start, match in (
        ("a", b"GRIB", "read as GRIB"),
        ("b", b"PK\x03\x04", "cut or broken"),
        ("c", b"no", "read as"),
    ):
        (tmp_path / f"{name}.nc").write_bytes(start + b"0" * 100)
        with pytest.raises(SourceError, match=match):
            open_era5(tmp_path / f"{name}.nc")
    xr.Dataset({"other": ("x", [1.0])}).to_netcdf(tmp_path / "d.nc")
    with pytest.raises(SourceError, match="nothing usable"):
        open_era5(tmp_path / "d.nc")
    only_static = write(tmp_path / "e.nc", {"z": 0.0})
    with pytest.raises(SourceError, match="nothing usable"):
        open_era5(only_static)


def test_variables_that_cannot_be_derived(tmp_path):
    path = write(tmp_path / "a.nc", {"t2m": [280.0, 281.0]})
    assert list(open_era5(path, variables="TA")) == ["TA"]
    with pytest.raises(UnknownNameError, match="did you mean 'SW_IN'"):
        open_era5(path, variables=["SW_INN"])
    with pytest.raises(ConfigError, match=r"VPD cannot be derived.*t2m and d2m.*found t2m"):
        open_era5(path, variables=["VPD"])
    with pytest.raises(ConfigError, match="no ERA5 parameter corresponds"):
        open_era5(path, variables=["CO2"])


def test_sea_cells_of_era5_land_are_not_land(tmp_path):
    t2m = np.full((4, 2, 3), 280.0)
    t2m[:, 0, 1] = np.nan
    ds = open_era5(write(tmp_path / "a.nc", {"t2m": t2m}))
    assert ds.land_fraction.values.tolist() == [[1, 0, 1], [1, 1, 1]] and "no lsm" in ds.land_fraction.comment


REAL = ["davos_2020-01", "finse_2018-10", "berlin_2017", "pixel_54.25N_9.0E_2019"]


@pytest.mark.parametrize("name", REAL)
def test_real_era5_is_in_phase_with_the_sun(shared_data, name):
    ds = open_era5(shared_data / "era5" / f"era5_{name}.nc")
    assert ds.attrs["accumulation"] == "hour"
    lat, lon = np.meshgrid(ds.latitude, ds.longitude, indexing="ij")
    sun = np.moveaxis(potential_radiation(ds.time.values, lat, lon), -1, 0)
    light = ds.SW_IN.values
    lagged = {k: np.corrcoef(light[2 + k : len(light) - 2 + k].ravel(), sun[2:-2].ravel())[0, 1] for k in range(-2, 3)}
    assert max(lagged, key=lagged.get) == 0
    # Off by an hour would put light before sunrise: ten times what the sun's disc and refraction leave here.
    assert light[sun == 0].max() < 4.0
    assert float((ds.SW_IN / xr.DataArray(sun, dims=ds.SW_IN.dims).where(lambda s: s > 100)).max()) < 0.9


def test_real_davos_by_hand(shared_data):
    path = shared_data / "era5" / "era5_davos_2020-01.nc"
    raw, ds = xr.open_dataset(path), open_era5(path)
    stamp = int(np.flatnonzero(raw.time.values == np.datetime64("2020-01-15T11"))[0])
    hour = ds.sel(time="2020-01-15T11")
    assert hour.SW_IN.values == pytest.approx(raw.ssrd.values[stamp + 1] / 3600, rel=1e-5)
    assert hour.P.values == pytest.approx(np.maximum(raw.tp.values[stamp + 1] * 1000, 0), rel=1e-4, abs=1e-6)
    assert hour.TA.values == pytest.approx((raw.t2m.values[stamp] + raw.t2m.values[stamp + 1]) / 2 - 273.15, abs=1e-4)
    assert float(ds.P.sum("time").mean()) == pytest.approx(1000 * float(raw.tp[1:].sum("time").mean()), rel=1e-3)
    assert ds.elevation.values == pytest.approx(raw.z.values[0] / 9.80665)
    # A standard atmosphere has the pressure of those heights within a few per cent.
    assert ds.PA.mean("time").values == pytest.approx(
        101.3 * (1 - 2.25577e-5 * ds.elevation.values) ** 5.2559, rel=0.03
    )
    assert not {"WS", "WD", "NETRAD"} & set(ds)


@pytest.mark.parametrize("name", REAL[:2])
def test_ecmwf_light_above_the_atmosphere_agrees_with_ours(shared_data, name):
    """`tisr` is an independent computation of SW_IN_POT, with another solar constant (about 1361 W m-2).

    ONEFlux keeps each day's first declination and ignores leap years: 0.4 degrees behind the sun in October,
    which is 2 % of the light at 61 N.
    """
    raw = xr.open_dataset(shared_data / "era5" / f"era5_{name}.nc")
    theirs = raw.tisr.values[1:] / 3600
    lat, lon = np.meshgrid(raw.latitude, raw.longitude, indexing="ij")
    ours = np.moveaxis(potential_radiation(raw.time.values[:-1], lat, lon), -1, 0) * 1361.0 / SOLAR_CONSTANT
    bright = theirs > 200
    assert np.median(ours[bright] / theirs[bright]) == pytest.approx(1.0, abs=0.022)
    assert np.abs(ours - theirs).max() < 10.0
    # An hour of misplaced time would be 90 W m-2 and more; six minutes would show here.
    centre = [np.average(np.arange(24.0), weights=x[:24].mean((1, 2))) for x in (ours, theirs)]
    assert centre[0] == pytest.approx(centre[1], abs=0.02)


_LAND = """
import sys
import numpy as np, xarray as xr
from fluxcube.sources.era5.variables import open_era5
path = sys.argv[1]
ds, raw = open_era5(path), xr.open_dataset(path)
assert ds.attrs["accumulation"] == "day" and set(ds) == {"TA", "P"}
assert abs(float(ds.land_fraction.mean()) - float(raw.t2m[0].notnull().mean())) < 1e-6
# Rain of the UTC day is the total at the following midnight.
day = ds.P.sel(time="2025-02-20").sum("time", min_count=24).values
np.testing.assert_allclose(day, 1000 * raw.tp.sel(valid_time="2025-02-21T00").values, atol=1e-3)
assert float(ds.P.min()) >= 0.0
wrong = open_era5(path, accumulation="hour")
assert float(wrong.P.sum()) > 5 * float(ds.P.sum())
"""


def test_real_era5_land_is_distinguished_from_era5(shared_data):
    """In a process of its own: after hundreds of other tests in one, the HDF5 library no longer opens this file."""
    path = shared_data / "era5" / "era5land_sierra-leone_2025-02.nc"
    subprocess.run([sys.executable, "-c", _LAND, str(path)], check=True)


def test_real_files_of_different_grids_are_not_mixed(shared_data):
    with pytest.raises(SourceError, match="different grids"):
        open_era5(shared_data / "era5")
