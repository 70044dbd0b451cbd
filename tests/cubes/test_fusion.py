"""Fusion takes each value from one publication, according to its rule, and counts what each supplied."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.cubes.fusion import CARBON_UNIT, fuse
from fluxcube.errors import ConfigError

HOUR = np.timedelta64(1, "h")
ORIGIN = np.datetime64("2010-01-01T00", "ns")


def record(start: int, **columns: tuple[list[float], list[int]]) -> xr.Dataset:
    """An hourly record from hour `start` on; each column is (values, flags)."""
    arrays = {}
    for name, (values, flags) in columns.items():
        values = np.asarray(values, np.float32)
        missing = np.isnan(values)
        arrays[name] = ("time", values)
        arrays[f"{name}_QC"] = ("time", np.where(missing, -1, flags).astype(np.int8))
        arrays[f"{name}_COVERAGE"] = ("time", np.where(missing, 0, 1).astype(np.float32))
        if name == "NEE":  # tells its value, so that it cannot be another's
            arrays[f"{name}_RANDUNC"] = ("time", values / np.float32(2))
    n = len(next(iter(columns.values()))[0])
    return xr.Dataset(arrays, coords={"time": ORIGIN + (start + np.arange(n)) * HOUR})


@st.composite
def publications(draw, names=("TA", "P", *CARBON_UNIT)):
    """One to three records whose values tell which source they are from: source i holds i * 1000 and up."""
    sources = []
    for i in range(draw(st.integers(1, 3))):
        n = draw(st.integers(1, 6))
        held = draw(st.sets(st.sampled_from(names), min_size=1))
        columns = {}
        for name in sorted(held):
            present = draw(st.lists(st.booleans(), min_size=n, max_size=n))
            flags = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
            columns[name] = ([1000 * i + t if p else np.nan for t, p in enumerate(present)], flags)
        sources.append((draw(st.integers(0, 2)), f"source {i}", record(draw(st.integers(0, 4)), **columns)))
    return sources


def origin(values: np.ndarray) -> np.ndarray:
    """Which source each value is from; NaN where there is none."""
    return np.floor(values / 1000)


def aligned(source: xr.Dataset, name: str, time: np.ndarray) -> np.ndarray:
    if name not in source:
        return np.full(len(time), np.nan)
    return source[name].reindex(time=time).values


@settings(deadline=None, max_examples=30)
@given(publications(), st.sampled_from(["newest", "quality"]))
def test_no_value_comes_from_nowhere_and_flags_travel_with_values(sources, rule):
    fused, _ = fuse(sources, rule=rule)
    for name in {n for _, _, ds in sources for n in ds.data_vars if n in ("TA", "P", *CARBON_UNIT)}:
        values = fused[name].values
        for t in np.flatnonzero(np.isfinite(values)):
            _, _, ds = sources[int(values[t] // 1000)]
            at = ds.sel(time=fused.time[t])
            assert float(at[name]) == values[t]
            assert int(at[f"{name}_QC"]) == int(fused[f"{name}_QC"][t])
            assert float(fused[f"{name}_COVERAGE"][t]) == 1
            if name == "NEE":
                assert float(fused.NEE_RANDUNC[t]) == values[t] / 2
        missing = ~np.isfinite(values)
        assert name != "NEE" or np.isnan(fused.NEE_RANDUNC.values[missing]).all()
        assert (fused[f"{name}_QC"].values[missing] == -1).all()


@settings(deadline=None, max_examples=30)
@given(publications(names=("TA", "P")))
def test_the_newest_that_has_a_value_wins(sources):
    fused, _ = fuse(sources)
    newest_first = sorted(sources, key=lambda s: s[:2])
    for name in set(fused.data_vars) & {"TA", "P"}:
        expected = np.full(fused.sizes["time"], np.nan)
        for _, _, ds in reversed(newest_first):
            values = aligned(ds, name, fused.time.values)
            expected = np.where(np.isfinite(values), values, expected)
        np.testing.assert_array_equal(fused[name], expected)


@settings(deadline=None, max_examples=20)
@given(publications(names=("TA", "P")))
def test_by_quality_no_source_has_a_better_flag(sources):
    fused, _ = fuse(sources, rule="quality")
    for name in set(fused.data_vars) & {"TA", "P"}:
        flags = [aligned(ds, f"{name}_QC", fused.time.values) for _, _, ds in sources if name in ds]
        best = np.min([np.where(np.isnan(f) | (f < 0), 9, f) for f in flags], 0)
        np.testing.assert_array_equal(fused[f"{name}_QC"], np.where(best == 9, -1, best))


@settings(deadline=None, max_examples=30)
@given(publications(), st.sampled_from(["newest", "quality"]))
def test_the_order_of_sources_does_not_matter(sources, rule):
    expected, report = fuse(sources, rule=rule)
    for shuffled in itertools.permutations(sources):
        fused, again = fuse(shuffled, rule=rule)
        xr.testing.assert_identical(fused, expected)
        assert again == report


@settings(deadline=None, max_examples=40)
@given(publications(names=CARBON_UNIT), st.sampled_from(["newest", "quality"]))
def test_nee_and_its_partitions_are_never_of_two_sources(sources, rule):
    fused, _ = fuse(sources, rule=rule)
    found = [origin(fused[name].values) for name in CARBON_UNIT if name in fused]
    stacked = np.where(np.isnan(found), np.nan, found)
    low, high = np.fmin.reduce(stacked), np.fmax.reduce(stacked)
    known = np.isfinite(low)
    assert (low[known] == high[known]).all()
    # Where any source has any of them, one is given: the hour is not lost to a source that has none.
    held = [aligned(ds, name, fused.time.values) for _, _, ds in sources for name in CARBON_UNIT]
    np.testing.assert_array_equal(known, np.isfinite(held).any(0))
    if "NEE" in fused:  # and NEE itself is never given up for a partition
        anywhere = np.any([np.isfinite(aligned(ds, "NEE", fused.time.values)) for _, _, ds in sources], 0)
        assert (np.isfinite(fused.NEE.values) == anywhere).all()


@settings(deadline=None, max_examples=20)
@given(publications(), st.sampled_from(["newest", "quality"]))
def test_the_report_counts_every_value(sources, rule):
    fused, report = fuse(sources, rule=rule)
    for name, given_ in report.items():
        values = fused[name].values
        labels = [f"source {i}" for i in range(3)]
        counts = {label: int((origin(values) == i).sum()) for i, label in enumerate(labels)}
        assert {k: n for k, n in counts.items() if n} == {k: part["hours"] for k, part in given_.items()}
        for label, part in given_.items():
            mine = fused.time.values[origin(values) == labels.index(label)]
            assert sum(part["flags"]) == part["hours"] == len(mine)
            assert part["first"] == str(mine[0].astype("datetime64[h]"))
            assert part["last"] == str(mine[-1].astype("datetime64[h]"))


def test_the_balance_holds_after_fusion():
    rng = np.random.default_rng(0)
    sources = []
    for rank in (0, 1):
        gpp, reco = rng.gamma(2, 3, 200), rng.gamma(2, 2, 200)
        gpp[rng.random(200) < 0.3] = np.nan
        nee = np.where(rng.random(200) < 0.3, np.nan, reco - gpp)
        flags = np.zeros(200)
        columns = {
            "NEE": (nee, flags),
            "GPP_NT": (gpp, flags),
            "RECO_NT": (np.where(np.isnan(gpp), np.nan, reco), flags),
        }
        sources.append((rank, str(rank), record(50 * rank, **columns)))
    fused, _ = fuse(sources)
    all_three = np.isfinite(fused.NEE + fused.GPP_NT + fused.RECO_NT)
    assert all_three.sum() > 100
    np.testing.assert_allclose((fused.NEE - (fused.RECO_NT - fused.GPP_NT))[all_three], 0, atol=1e-5)


def test_a_value_without_uncertainty_does_not_borrow_one():
    one, two = record(0, NEE=([1, np.nan], [0, 0])).drop_vars("NEE_RANDUNC"), record(0, NEE=([8, 8], [0, 0]))
    fused, _ = fuse([(0, "a", one), (1, "b", two)])
    np.testing.assert_array_equal(fused.NEE, [1, 8])
    np.testing.assert_array_equal(fused.NEE_RANDUNC, [np.nan, 4])


def test_sources_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="different names, found a, a"):
        fuse([(0, "a", record(0, TA=([1], [0]))), (1, "a", record(0, TA=([2], [0])))])


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 99), st.sampled_from(["newest", "quality"]), st.permutations([30, 60]))
def test_sources_of_different_steps_are_not_interpolated(seed, rule, steps):
    """Half-hours and hours of one site: each hour of the result is the hour of one of them."""
    from fluxcube.cubes.hourly import to_hourly

    rng, sources = np.random.default_rng(seed), []
    for rank, step in enumerate(steps):
        n = 24 * 60 // step
        values = np.where(rng.random(n) < 0.4, np.nan, rng.normal(size=n)).astype(np.float32)
        flags = np.where(np.isnan(values), -1, rng.integers(0, 4, n)).astype(np.int8)
        native = xr.Dataset(
            {"TA": ("time", values), "TA_QC": ("time", flags)},
            coords={"time": ORIGIN + np.arange(n) * np.timedelta64(step, "m")},
            attrs={"step_minutes": step},
        )
        sources.append((rank, f"source {rank}", to_hourly(native)))
    fused, report = fuse(sources, rule=rule)
    offered = np.stack([ds.TA.values for _, _, ds in sources])
    given_ = np.isfinite(fused.TA.values)
    np.testing.assert_array_equal(given_, np.isfinite(offered).any(0))
    assert (offered == fused.TA.values)[:, given_].any(0).all()
    assert sum(part["hours"] for part in report.get("TA", {}).values()) == given_.sum()


def test_records_apart_leave_missing_hours_between():
    one, two = record(0, TA=([1], [0])), record(5, TA=([2], [1]))
    fused, _ = fuse([(0, "a", one), (1, "b", two)])
    assert fused.sizes["time"] == 6
    np.testing.assert_array_equal(fused.TA, [1, np.nan, np.nan, np.nan, np.nan, 2])
    assert fused.TA_QC.values.tolist() == [0, -1, -1, -1, -1, 1]


def test_an_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match="newest, quality"):
        fuse([(0, "a", record(0, TA=([1], [0])))], rule="oldest")
