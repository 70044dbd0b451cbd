"""Aggregation of half-hours to UTC hours equals averaging every minute; no value is added or lost."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.cubes.hourly import to_hourly

VARIABLES = {"TA": "mean", "P": "sum", "WD": "vector"}


def record(start: str, step: int, steps: np.ndarray, **columns: np.ndarray) -> xr.Dataset:
    """A tower record of the steps with these numbers after `start`; every value measured unless flags are given."""
    time = np.datetime64(start, "m") + np.asarray(steps) * np.timedelta64(step, "m")
    arrays = {}
    for name, values in columns.items():
        if name.endswith("UNC"):
            arrays[name] = ("time", np.asarray(values, np.float32))
        elif not name.endswith("_QC"):
            values = np.asarray(values, np.float32)
            flags = np.asarray(columns.get(f"{name}_QC", np.zeros(len(values))), np.int8)
            arrays |= {
                name: ("time", values),
                f"{name}_QC": ("time", np.where(np.isnan(values), -1, flags).astype("i1")),
            }
    return xr.Dataset(arrays, coords={"time": time.astype("datetime64[ns]")}, attrs={"step_minutes": step, "site": "X"})


def minute_by_minute(ds: xr.Dataset, name: str, how: str) -> dict[np.datetime64, tuple[float, int, float]]:
    """Value, flag and coverage of each hour, by spreading every step over its minutes."""
    step = ds.attrs["step_minutes"]
    hours: dict[np.datetime64, list[tuple[float, int]]] = {}
    for at, value, flag in zip(ds.time.values, ds[name].values, ds[f"{name}_QC"].values, strict=True):
        for minute in range(step):
            hour = (at.astype("datetime64[m]") + minute).astype("datetime64[h]")
            share = float(value) / step if how == "sum" else float(value)
            hours.setdefault(hour, []).extend([] if np.isnan(value) else [(share, int(flag))])
    out = {}
    for hour, minutes in hours.items():
        values = np.array([value for value, _ in minutes])
        missing = len(minutes) < (60 if how == "sum" else 30)
        if missing:
            value = np.nan
        elif how == "vector":
            mean = np.exp(1j * np.deg2rad(values)).mean()
            value = np.rad2deg(np.angle(mean)) % 360 if abs(mean) > 1e-6 else np.nan
        else:
            value = values.sum() if how == "sum" else values.mean()
        out[hour] = value, -1 if np.isnan(value) else max(flag for _, flag in minutes), len(minutes) / 60
    return out


@st.composite
def records(draw):
    step = draw(st.sampled_from([30, 60]))
    n = draw(st.integers(1, 30))
    held = draw(st.lists(st.booleans(), min_size=n, max_size=n)) or [True]
    steps = np.flatnonzero(held) if any(held) else np.array([0])
    minute = draw(st.sampled_from([0, 15, 30, 45]))
    columns = {}
    for name, high in (("TA", 40), ("P", 9), ("WD", 360)):
        whole = st.one_of(st.just(np.nan), st.integers(0, high).map(float))
        columns[name] = draw(st.lists(whole, min_size=len(steps), max_size=len(steps)))
        columns[f"{name}_QC"] = draw(st.lists(st.integers(0, 3), min_size=len(steps), max_size=len(steps)))
    return record(f"2020-02-28T23:{minute:02d}", step, steps, **columns)


@settings(deadline=None, max_examples=40)
@given(records())
def test_is_what_averaging_each_minute_gives(ds):
    hourly = to_hourly(ds)
    assert (np.diff(hourly.time.values) == np.timedelta64(1, "h")).all()
    for name, how in VARIABLES.items():
        expected = minute_by_minute(ds, name, how)
        assert hourly.time.values[0].astype("datetime64[h]") == min(expected)
        assert hourly.time.values[-1].astype("datetime64[h]") == max(expected)
        for i, hour in enumerate(hourly.time.values.astype("datetime64[h]")):
            value, flag, coverage = expected.get(hour, (np.nan, -1, 0.0))
            found = float(hourly[name][i])
            if name == "WD" and not np.isnan(found + value):
                found = value + (found - value + 180) % 360 - 180
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-3 if name == "WD" else 1e-5)
            assert int(hourly[f"{name}_QC"][i]) == flag
            assert float(hourly[f"{name}_COVERAGE"][i]) == pytest.approx(coverage, abs=1e-6)


@pytest.mark.parametrize(("minute", "step"), [(0, 30), (30, 30), (15, 30), (45, 60), (30, 60)])
def test_rain_and_warmth_are_conserved(minute, step):
    rng = np.random.default_rng(0)
    n = 48 * 60 // step
    ds = record("2020-01-01T00:00", step, np.arange(n), P=rng.gamma(0.3, 2, n), TA=rng.normal(10, 5, n))
    # Dry and mild before and after, so that what straddles an edge of the record is known on both sides.
    pad = 120 // step
    values = {k: np.pad(ds[k].values, pad, constant_values=10.0 if k == "TA" else 0.0) for k in ("P", "TA")}
    shifted = record(f"2019-12-31T22:{minute:02d}", step, np.arange(n + 2 * pad), **values)
    hourly = to_hourly(shifted)
    assert float(hourly.P.sum()) == pytest.approx(float(ds.P.sum()), rel=1e-6)
    assert float((hourly.TA - 10).sum()) * 60 / step == pytest.approx(float((ds.TA - 10).sum()), rel=1e-4)


def test_hours_that_are_hours_already_pass_bit_by_bit():
    rng = np.random.default_rng(3)
    steps = np.sort(rng.choice(500, 400, replace=False))
    columns = {name: rng.normal(180, 77, 400).astype("float32") for name in VARIABLES}
    columns["TA"][::7] = np.nan
    columns["WD"][:3] = 0, 360, 359.9999
    flags = {f"{name}_QC": rng.integers(0, 4, 400) for name in VARIABLES}
    ds = record("2020-01-01T00:00", 60, steps, **columns, **flags)
    hourly = to_hourly(ds)
    for name in ds.data_vars:
        np.testing.assert_array_equal(hourly[name].sel(time=ds.time), ds[name])
        assert hourly[name].dtype == ds[name].dtype
    absent = ~np.isin(hourly.time, ds.time)
    assert hourly.TA[absent].isnull().all() and (hourly.TA_QC[absent] == -1).all()
    assert not hourly.TA_COVERAGE[absent].any() and hourly.WD_COVERAGE[~absent].all()


def test_hourly_file_at_half_past_is_neither_doubled_nor_dropped():
    hourly = to_hourly(record("2020-01-01T00:30", 60, np.arange(4), P=[2, 4, 6, 8], TA=[2, 4, 6, 8]))
    assert hourly.sizes["time"] == 5
    np.testing.assert_allclose(hourly.P, [np.nan, 3, 5, 7, np.nan])
    np.testing.assert_allclose(hourly.TA, [2, 3, 5, 7, 8])  # half of the first and last hour was observed


def test_a_missing_half_is_not_what_the_flag_is_taken_from():
    hourly = to_hourly(record("2020-01-01T00:00", 30, np.arange(4), TA=[1, np.nan, 3, 5], TA_QC=[1, 3, 0, 2]))
    assert hourly.TA.values.tolist() == [1, 4] and hourly.TA_QC.values.tolist() == [1, 2]
    assert hourly.TA_COVERAGE.values.tolist() == [0.5, 1]


def uncertain(minute: int, step: int, n: int = 400, seed: int = 0) -> xr.Dataset:
    """A record of NEE with gaps and an uncertainty for nearly every value."""
    rng = np.random.default_rng(seed)
    nee = np.where(rng.random(n) < 0.2, np.nan, rng.normal(0, 5, n))
    spread = {f"NEE_{k}UNC": np.where(rng.random(n) < 0.05, np.nan, rng.gamma(4, 0.3, n)) for k in ("RAND", "JOINT")}
    return record(f"2020-01-01T00:{minute:02d}", step, np.arange(n), NEE=nee, **spread)


@pytest.mark.parametrize(("minute", "step"), [(0, 30), (15, 30), (30, 60), (45, 60)])
def test_random_errors_are_independent_and_joint_ones_are_not(minute, step):
    """By hand, hour by hour: what each step gives in minutes, its share of the mean, and its part of the error."""
    ds = uncertain(minute, step)
    hourly, start = to_hourly(ds), ds.time.values.astype("datetime64[m]")
    checked = 0
    for i, hour in enumerate(hourly.time.values.astype("datetime64[m]")):
        overlap = np.minimum(start + step, hour + 60) - np.maximum(start, hour)
        used = (overlap.astype(int) > 0) & np.isfinite(ds.NEE.values)
        minutes = overlap[used].astype(int)
        for ending, of in (("RANDUNC", lambda w, u: np.sqrt(((w * u) ** 2).sum())), ("JOINTUNC", np.dot)):
            expected = of(minutes / max(minutes.sum(), 1), ds[f"NEE_{ending}"].values[used].astype(float))
            found = float(hourly[f"NEE_{ending}"][i])
            if minutes.sum() < 30:
                assert np.isnan(found) and np.isnan(hourly.NEE[i])
            else:
                np.testing.assert_allclose(found, expected, rtol=1e-5)  # NaN where a value of the hour has none
                checked += np.isfinite(found)
    assert checked > 200


def test_the_random_error_of_an_hour_is_that_of_simulated_means():
    rng = np.random.default_rng(1)
    spread = np.array([1.0, 3.0])
    means = (rng.normal(0, spread, (200_000, 2)) @ [1, 2]) / 3
    ds = record("2020-01-01T00:15", 30, np.array([1, 2]), NEE=[0, 0], NEE_RANDUNC=spread)
    ds = ds.assign_coords(time=np.array(["2020-01-01T00:45", "2020-01-01T01:15"], "datetime64[ns]"))
    hourly = to_hourly(ds)  # 01:00 has 15 minutes of the first and 30 of the second
    assert float(hourly.NEE_RANDUNC[1]) == pytest.approx(means.std(), rel=0.01)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([0, 15, 30, 45]), st.sampled_from([30, 60]), st.integers(0, 99), st.floats(0.1, 10))
def test_uncertainties_scale_and_the_joint_one_is_never_the_smaller(minute, step, seed, factor):
    ds = uncertain(minute, step, 60, seed)
    ds["NEE_JOINTUNC"] = ds.NEE_RANDUNC
    hourly = to_hourly(ds)
    both = np.isfinite(hourly.NEE_RANDUNC.values)
    np.testing.assert_array_equal(both, np.isfinite(hourly.NEE_JOINTUNC))
    assert (hourly.NEE_RANDUNC.values[both] <= hourly.NEE_JOINTUNC.values[both] * (1 + 1e-6)).all()
    scaled = to_hourly(ds.assign({f"NEE_{k}UNC": ds[f"NEE_{k}UNC"] * np.float32(factor) for k in ("RAND", "JOINT")}))
    for ending in ("RANDUNC", "JOINTUNC"):
        np.testing.assert_allclose(scaled[f"NEE_{ending}"], hourly[f"NEE_{ending}"] * factor, rtol=1e-5)
    np.testing.assert_array_equal(scaled.NEE, hourly.NEE)


def test_a_value_that_is_missing_takes_its_uncertainty_along():
    ds = record("2020-01-01T00:00", 60, np.arange(3), NEE=[1, np.nan, 3], NEE_RANDUNC=[0.1, 0.2, np.nan])
    np.testing.assert_allclose(to_hourly(ds).NEE_RANDUNC, [0.1, np.nan, np.nan])
    assert "NEE_JOINTUNC" not in to_hourly(ds) and "TA_RANDUNC" not in to_hourly(ds)


@settings(deadline=None, max_examples=30)
@given(records())
def test_every_native_value_is_kept_or_counted_as_lost(ds):
    hourly, step = to_hourly(ds), ds.attrs["step_minutes"]
    for name in VARIABLES:
        told = hourly[name].attrs
        assert told["values"] == int(ds[name].notnull().sum())
        kept = hourly[f"{name}_COVERAGE"].values[np.isfinite(hourly[name].values)].sum(dtype=float) * 60 / step
        assert told["steps_lost"] == pytest.approx(told["values"] - kept, abs=1e-4)
        straddles = (ds.time.values.astype("datetime64[m]").astype(int) % 60 + step) > 60
        assert told["steps_split"] == int((ds[name].notnull().values & straddles).sum())


def test_wind_is_a_vector():
    hourly = to_hourly(record("2020-01-01T00:00", 30, np.arange(6), WD=[350, 10, 90, 270, 80, 100]))
    assert abs((float(hourly.WD[0]) + 180) % 360 - 180) < 1e-4
    assert np.isnan(hourly.WD[1]) and hourly.WD_QC[1] == -1  # opposite winds have no mean direction
    assert float(hourly.WD[2]) == pytest.approx(90)


def test_nothing_but_the_table_s_names_and_no_name_at_all():
    assert not to_hourly(record("2020-01-01T00:00", 30, np.arange(4))).data_vars


@pytest.mark.parametrize("site", ["AU-ASM", "US-Ne2"])
def test_real_towers_agree_with_pandas(shared_data, site):
    from fluxcube.sources.towers.discovery import discover
    from fluxcube.sources.towers.oneflux import read_oneflux

    (archive,) = (a for a in discover(shared_data / "towers").archives if a.site == site)
    native = read_oneflux(archive, utc_offset={"AU-ASM": 9.5, "US-Ne2": -6}[site])
    hourly = to_hourly(native)
    frame = native[["TA", "NEE", "VPD"]].to_dataframe().resample("1h")
    mean, n = frame.mean(), frame.count()
    whole = (n == 60 // native.attrs["step_minutes"]).reindex(hourly.time.values)
    for name in ("TA", "NEE", "VPD"):
        ok = whole[name].to_numpy()
        assert ok.sum() > 10_000
        np.testing.assert_allclose(hourly[name].values[ok], mean[name].to_numpy()[ok], rtol=1e-5, atol=1e-5)
