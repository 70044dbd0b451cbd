"""Means of maps: weighted as calendars are, whole periods only, lazy, and by the sun where asked."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError
from fluxcube.maps.means import mean_cycle, mean_maps
from fluxcube.maps.totals import totals
from fluxcube.simulation.example import example_maps
from fluxcube.timestamps import local_clock


def maps_of(values, start="2018-01-01", longitude=(0.0, 60.0, 127.0, -100.0), step="h", name="NEE"):
    """Maps of (time,) or (time, latitude, longitude) values on two rows."""
    values = np.asarray(values, "float32")
    values = np.broadcast_to(
        values.reshape(len(values), *(values.shape[1:] or (1, 1))), (len(values), 2, len(longitude))
    )
    time = np.datetime64(start, "s") + np.arange(len(values)) * np.timedelta64(1, step)
    cells = ("latitude", "longitude")
    return xr.Dataset(
        {name: (("time", *cells), values, {"units": "umol m-2 s-1"})},
        coords={
            "time": time.astype("datetime64[ns]"),
            "latitude": [10.0, 9.0],
            "longitude": list(longitude),
            "land_fraction": (cells, np.ones(values.shape[1:])),
        },
    )


def noisy(hours, **options):
    return maps_of(np.random.default_rng(0).normal(0, 1, (hours, 2, 4)), **options)


def test_days_and_months_are_those_of_xarray():
    maps = noisy(24 * 59)
    for every, rule in (("day", "D"), ("month", "MS"), ("year", "YS")):
        told = mean_maps(maps, every, min_coverage=0)
        expected = maps.NEE.resample(time=rule).mean()
        np.testing.assert_array_equal(told.time, expected.time)
        np.testing.assert_allclose(told.NEE, expected, atol=1e-6)
    np.testing.assert_allclose(mean_maps(maps, None).NEE, maps.NEE.mean("time"), atol=1e-6)
    assert told.time_bnds.values.astype("datetime64[D]").astype(str).tolist() == [["2018-01-01", "2019-01-01"]]


def test_longer_means_are_means_of_shorter_ones_with_their_lengths():
    maps = noisy(366, start="2020-01-01", step="D")
    months, year = mean_maps(maps, "month"), mean_maps(maps, "year")
    lengths = months.time.dt.days_in_month
    np.testing.assert_allclose((months.NEE * lengths).sum("time") / 366, year.NEE[0], atol=1e-6)
    assert not np.allclose(months.NEE.mean("time"), year.NEE[0], atol=1e-6)
    hours = noisy(24 * 31)
    month = mean_maps(hours, "month").NEE
    np.testing.assert_allclose(mean_cycle(hours, "month", clock="utc").NEE.mean("hour"), month, atol=1e-6)
    np.testing.assert_allclose(mean_maps(mean_maps(hours, "day"), "month").NEE, month, atol=1e-6)


def test_totals_of_means_are_totals_of_hours():
    maps = noisy(24 * 59, longitude=(0.0, 60.0, 120.0, 180.0))
    one, other = totals(maps, every="month"), totals(mean_maps(maps, "month"))
    np.testing.assert_allclose((one.NEE * one.years).sum() / one.years.sum(), other.NEE, rtol=1e-5)


def test_a_day_with_a_missing_hour_has_no_mean():
    maps = noisy(72)
    maps["NEE"] = maps.NEE.copy(
        data=np.where((np.arange(72) == 30)[:, None, None] & (np.arange(4) == 1), np.nan, maps.NEE)
    )
    told = mean_maps(maps, "day").NEE
    assert np.isnan(told[1, :, 1]).all() and int(told.isnull().sum()) == 2
    lenient = mean_maps(maps, "day", min_coverage=0.95).NEE
    assert lenient.notnull().all()
    np.testing.assert_allclose(lenient[1, 0, 1], maps.NEE[24:48, 0, 1].mean(), rtol=1e-5)


def test_a_missing_night_does_not_shift_a_month():
    hour = np.arange(24 * 31) % 24
    flux = np.where((hour > 5) & (hour < 18), -10.0, 5.0)
    gaps = np.where((flux > 0) & (np.arange(24 * 31) < 48), np.nan, flux)
    full, told = mean_maps(maps_of(flux), "month"), mean_maps(maps_of(gaps), "month")
    np.testing.assert_allclose(told.NEE, full.NEE, rtol=1e-6)
    assert np.nanmean(gaps) < flux.mean() - 0.1
    never = mean_maps(maps_of(np.where(hour == 4, np.nan, flux)), "month")
    assert never.NEE.isnull().all()


def test_periods_that_maps_do_not_cover_are_left_out():
    maps = noisy(24 * 45, start="2018-01-03T06:00")
    assert mean_maps(maps, "month", min_coverage=0.9).time.dt.month.values.tolist() == [1]
    assert mean_maps(maps, "day").sizes["time"] == 44
    with pytest.raises(SchemaError, match="no whole year"):
        mean_maps(maps, "year")
    assert mean_maps(maps, "year", min_coverage=0).NEE.notnull().all()


@pytest.mark.parametrize("step", ["day", "month"])
def test_solar_days_begin_at_each_columns_midnight(step):
    maps = noisy(24 * 33, start="2018-05-31", longitude=(0.0, 61.0, 127.0, -100.0))
    told = mean_maps(maps, step, clock="solar", min_coverage=0.9)
    for j, east in enumerate(maps.longitude.values):
        shift = np.round(east / 15 * 3600).astype("timedelta64[s]")
        local = maps.time.values.astype("datetime64[s]") + shift
        for i, first in enumerate(told.time.values):
            unit = f"datetime64[{step[0].upper()}]"
            hours = local.astype(unit) == first.astype(unit)
            if hours.sum() < 24 * (1 if step == "day" else 30):
                assert step == "month" or np.isnan(told.NEE[i, :, j]).all()
                continue
            np.testing.assert_allclose(told.NEE[i, :, j], maps.NEE.values[hours, :, j].mean(0), atol=1e-6)
    assert np.isfinite(told.NEE).sum("time").min() >= (31 if step == "day" else 1)


def test_the_sun_stands_highest_at_noon_everywhere_on_the_solar_clock():
    maps = noisy(24 * 12)
    tod = np.stack([local_clock(maps.time.values, east / 15)[1] for east in maps.longitude.values], 1)
    maps["NEE"] = maps.NEE.copy(data=np.broadcast_to(-np.cos((tod - 12) / 12 * np.pi)[:, None], maps.NEE.shape))
    cycle = mean_cycle(maps, clock="solar")
    assert set(np.unique(cycle.NEE.idxmin("hour"))) <= {11.0, 12.0}
    utc = mean_cycle(maps, clock="utc").NEE.idxmin("hour")
    np.testing.assert_array_equal(utc[0], [12, 8, 4, 19])
    np.testing.assert_allclose(cycle.NEE.mean("hour"), 0, atol=1e-6)
    assert cycle.hour_bnds.values[-1].tolist() == [23, 24] and "solar" in cycle.hour.attrs["long_name"]


@pytest.mark.parametrize(
    "chunks", [{"time": 41, "latitude": 1, "longitude": 3}, {"time": 500}, {"time": 24, "longitude": 1}]
)
def test_chunks_do_not_matter_and_lazy_stays_lazy(chunks):
    maps = noisy(24 * 9, start="2018-06-01T05:00")
    for make in (
        lambda m: mean_maps(m, "day", clock="solar"),
        lambda m: mean_maps(m, None),
        lambda m: mean_cycle(m, "month", min_coverage=0.2),
    ):
        lazy = make(maps.chunk(chunks))
        assert lazy.NEE.chunks is not None and make(maps).NEE.chunks is None
        np.testing.assert_allclose(lazy.NEE, make(maps).NEE, rtol=1e-6, atol=1e-7)


def test_layers_are_averaged_as_what_they_are():
    maps = example_maps(days=3)
    maps["NEE_std"], maps["NEE_spread"] = abs(maps.NEE), abs(maps.NEE)
    maps["applicable"] = (maps.NEE > 0).astype("float32").assign_attrs(flag_values=[0, 1])
    told = mean_maps(maps)
    for names in (["NEE_std"], ["NEE_std", "GPP_NT_std"]):
        only = maps.assign(GPP_NT_std=maps.NEE_std).drop_vars([n for n in maps.data_vars if n not in names])
        with pytest.raises(ConfigError, match=r"NEE_std is the standard deviation.*NEE_spread"):
            mean_maps(only, "month", min_coverage=0)
        with pytest.raises(ConfigError, match=r"NEE_std is the standard deviation"):
            mean_cycle(only, min_coverage=0)
    with pytest.raises(ConfigError, match=r"NEE_std is the standard deviation.*NEE_spread"):
        totals(maps, targets=["NEE_std"])
    assert "NEE_std" not in told and {"NEE_spread", "applicable"} <= set(told)
    assert 0 < float(told.applicable.mean()) < 1 and "flag_values" not in told.applicable.attrs
    assert told.land_fraction.equals(maps.land_fraction) and "kind" not in told.attrs
    assert told.NEE.attrs["units"] == "umol m-2 s-1" and told.NEE.attrs["cell_methods"] == "time: mean"


def test_daily_maps_have_months_and_no_hours():
    maps = noisy(59, step="D")
    np.testing.assert_allclose(mean_maps(maps, "month").NEE, maps.NEE.resample(time="MS").mean(), atol=1e-6)
    with pytest.raises(SchemaError, match="maps of hours"):
        mean_cycle(maps, clock="utc")
    with pytest.raises(ConfigError, match="cannot be divided"):
        mean_maps(maps, "month", clock="solar")


def test_what_cannot_be_averaged_is_refused():
    maps = noisy(48)
    with pytest.raises(SchemaError, match="without holes"):
        mean_maps(maps.isel(time=[0, 1, 2, 4, 5]))
    with pytest.raises(ConfigError, match="every: expected"):
        mean_maps(maps, "week")
    with pytest.raises(ConfigError, match="clock: expected"):
        mean_maps(maps, clock="standard")
    with pytest.raises(ConfigError, match="min_coverage"):
        mean_maps(maps, min_coverage=90)
    with pytest.raises(SchemaError, match="no whole day"):
        mean_maps(maps.isel(time=slice(0, 20)))
    with pytest.raises(SchemaError, match="no array"):
        mean_maps(maps.drop_vars("NEE"))
