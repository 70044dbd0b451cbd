"""Hourly towers: values within bounds, checks of clock and location, and the report of what was removed."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checks import flagged, light
from tower_files import columns, write_archive, write_places

from fluxcube.cubes.hourly import to_hourly
from fluxcube.cubes.tower import read_tower, tower_of
from fluxcube.cubes.tower_data import Tower, TowerOptions
from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.towers.badm import SiteInfo, read_badm
from fluxcube.sources.towers.discovery import discover
from fluxcube.variables import COMPUTED, table

INFO = SiteInfo(site="US-Aaa", latitude=40.0, longitude=-90.0, utc_offset=-6.0, utc_offsets=((None, -6.0),))
ORIGIN = np.datetime64("2010-01-01T06", "ns")
HALF_HOUR = np.timedelta64(30, "m")


def native(step: int = 30, minute: int = 0, network: str = "Mine", **arrays: np.ndarray) -> xr.Dataset:
    """A native record; a variable without flags is measured."""
    n = len(next(iter(arrays.values())))
    held = {}
    for name, values in arrays.items():
        held[name] = ("time", np.asarray(values, np.int8 if name.endswith("_QC") else np.float32))
        if f"{name}_QC" not in arrays and not name.endswith(("_QC", "UNC")):
            held[f"{name}_QC"] = ("time", np.where(np.isnan(held[name][1]), -1, 0).astype(np.int8))
    time = ORIGIN + np.timedelta64(minute, "m") + np.arange(n) * np.timedelta64(step, "m")
    attrs = {"step_minutes": step, "source_file": f"{network}.csv", "site": "US-Aaa", "network": network}
    return xr.Dataset(held, {"time": time}, {**attrs, "flags_assumed": "{}", "clock_repeats": 0})


def made(*records: xr.Dataset, predictors=("TA", "P", "LE"), targets=("NEE", "LE"), info=INFO, **options) -> Tower:
    labelled = [(rank, ds.attrs["network"], ds) for rank, ds in enumerate(records)]
    places = options.pop("places", None)
    options = TowerOptions(predictors=predictors, targets=targets, **options)
    return tower_of(iter(labelled), info, options, places=places)


def column(tower: Tower, stack: str, name: str, part: str = "") -> np.ndarray:
    held = getattr(tower, stack)
    return held.parts[part][:, held.names.index(name)]


def test_one_impossible_half_hour_neither_spoils_its_hour_nor_hides_in_it():
    ta = [10, 900, 20, 22, -90, 99, 5, 5]
    tower = made(native(TA=ta, P=[1, 2, 1, 120, 60, 60, 0, 0]), targets=())
    np.testing.assert_array_equal(column(tower, "predictors", "TA"), [10, 21, np.nan, 5])  # not 455; not 4.5
    assert column(tower, "predictors", "TA", "_qc").tolist() == [0, 0, -1, 0]
    assert column(tower, "predictors", "TA", "_coverage").tolist() == [0.5, 1, 0, 1]
    # Of rain, an hour of which half is unknown is unknown; and two halves that can be may make an hour that cannot.
    np.testing.assert_array_equal(column(tower, "predictors", "P"), [3, np.nan, np.nan, 0])
    assert tower.out_of_bounds == {"TA": 3, "P": 2}
    rain = tower.quality["predictors"]["P"]
    assert (rain["out_of_bounds"], rain["hour_incomplete"], rain["hours"]) == (1 / 8, 1 / 8, 2)
    assert rain["sum_out_of_bounds"] == round(1 / 3, 6) and rain["values"] == 8
    assert any("TA: 38 % of its values were out of bounds" in text for text in tower.warnings)


def test_a_flux_is_never_censored_and_the_predictor_of_its_name_is():
    le, nee = [2000, 100, 50, 60], [-90, 2, 300, 1]
    tower = made(native(LE=le, NEE=nee, LE_RANDUNC=[1, 1, 2, 2]), predictors=("LE",))
    np.testing.assert_array_equal(column(tower, "fluxes", "LE"), [1050, 55])
    np.testing.assert_array_equal(column(tower, "fluxes", "NEE"), [-44, 150.5])
    np.testing.assert_array_equal(column(tower, "predictors", "LE"), [100, 55])
    np.testing.assert_allclose(column(tower, "fluxes", "LE", "_randunc"), [np.sqrt(0.5), np.sqrt(2)], rtol=1e-6)
    assert np.isnan(column(tower, "fluxes", "NEE", "_randunc")).all()
    assert "_randunc" not in tower.predictors.parts and "_jointunc" not in tower.fluxes.parts
    assert tower.out_of_bounds == {"LE": 1}
    assert (
        tower.quality["predictors"]["LE"]["out_of_bounds"] == 0.25 and tower.quality["predictors"]["LE"]["values"] == 4
    )
    assert "out_of_bounds" not in tower.quality["fluxes"]["LE"]


def test_an_impossible_value_gives_way_to_another_publication_s():
    """The older publication knows the hour; the flux is still the newest's, whatever it says."""
    new, old = native(network="New", LE=[1900, 1900, 5, 5], TA=[1] * 4), native(network="Old", LE=[7] * 4, TA=[2] * 4)
    tower = made(new, old)
    np.testing.assert_array_equal(column(tower, "predictors", "LE"), [7, 5])
    np.testing.assert_array_equal(column(tower, "fluxes", "LE"), [1900, 5])
    np.testing.assert_array_equal(column(tower, "predictors", "TA"), [1, 1])
    assert tower.out_of_bounds == {"LE": 2} and tower.networks == ("New",)


@st.composite
def records(draw):
    step, n = draw(st.sampled_from([30, 60])), draw(st.integers(4, 40))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    arrays = {}
    for name, spread in (("TA", 60), ("P", 80), ("LE", 600), ("NEE", 60)):
        values = np.where(rng.random(n) < 0.3, np.nan, rng.normal(0, spread, n)).astype(np.float32)
        arrays |= {name: np.abs(values) if name == "P" else values}
        arrays[f"{name}_QC"] = np.where(np.isnan(values), -1, rng.integers(0, 4, n))
    return native(step, draw(st.sampled_from([0, 15, 30])), f"Source {draw(st.integers(0, 99))}", **arrays)


def held_any(found: list[xr.Dataset]) -> bool:
    return any(np.isfinite(to_hourly(ds)[name]).any() for ds in found for name in ("TA", "NEE"))


@settings(deadline=None, max_examples=20)
@given(st.lists(records(), min_size=1, max_size=3, unique_by=lambda ds: ds.attrs["network"]))
def test_the_report_adds_up(found):
    """Every native value is in the report once: removed by a rule, or in an hour of its publication."""
    if not held_any(found):
        return
    tower = made(*found)
    assert json.loads(json.dumps(tower.quality)) == tower.quality
    for stack in ("predictors", "fluxes"):
        for name, told in tower.quality[stack].items():
            values = sum(int(ds[name].notnull().sum()) for ds in found)
            flags = column(tower, stack, name, "_qc")
            assert told["values"] == values and told["hours"] == (flags >= 0).sum()
            shares = [
                told.get(rule, 0) for rule in ("out_of_bounds", "hour_incomplete", "superseded", "no_flag", "split")
            ]
            assert all(0 <= share <= 1 for share in shares) and shares[0] + shares[1] <= 1 + 1e-6
            low, high = table()[name].limits
            bad = sum(int(((ds[name] < low) | (ds[name] > high)).sum()) for ds in found)
            if stack == "fluxes":
                assert "out_of_bounds" not in told
            elif name != "P":  # of which hours are checked, too
                assert (
                    shares[0] * max(values, 1) == pytest.approx(bad, abs=1e-3)
                    and tower.out_of_bounds.get(name, 0) == bad
                )
            good = [((flags >= 0) & (flags <= limit)).sum() / max(told["hours"], 1) for limit in (0, 1, 2)]
            np.testing.assert_allclose(told["remain"], good, atol=1e-6)
            shown = getattr(tower, stack).values[:, getattr(tower, stack).names.index(name)]
            if stack == "predictors":
                assert not ((shown < low) | (shown > high)).any()
    for name, sources in tower.fusion.items():
        stack = "fluxes" if name in tower.fluxes.names else "predictors"
        assert sum(part["hours"] for part in sources.values()) == tower.quality[stack][name]["hours"]


@settings(deadline=None, max_examples=15)
@given(st.lists(records(), min_size=2, max_size=3, unique_by=lambda ds: ds.attrs["network"]), st.randoms())
def test_the_order_of_records_does_not_matter(found, random):
    if not held_any(found):
        return
    labelled = [(i, ds.attrs["network"], ds) for i, ds in enumerate(found)]
    options = TowerOptions(predictors=("TA", "LE"), targets=("NEE", "LE"))
    one = tower_of(labelled, INFO, options)
    random.shuffle(labelled)
    two = tower_of(labelled, INFO, options)
    for stack in ("predictors", "fluxes"):
        for part, values in getattr(one, stack).parts.items():
            np.testing.assert_array_equal(values, getattr(two, stack).parts[part])
    assert (one.fusion, one.quality, one.networks) == (two.fusion, two.quality, two.networks)


def test_each_rule_s_share_by_hand():
    record = native(minute=15, TA=[1, 999, 3, 4, np.nan, 6, 7, 8], TA_QC=[0, 0, 1, 1, -1, 2, 3, 0])
    record.attrs |= {"flags_assumed": json.dumps({"TA": 2, "WS": 9}), "clock_repeats": 3, "lost": '["was clipped"]'}
    tower = made(record, targets=())
    told = tower.quality["predictors"]["TA"]
    # 06:15 1 | 06:45 - | 07:15 3 | 07:45 4 | 08:15 - | 08:45 6 | 09:15 7 | 09:45 8 to 10:15
    # 06 has 30 minutes of 1; 07 has 30 of 3 and 15 of 4; 08 has 15 of 4 and 15 of 6; 09 15 of 6, 30 of 7 and 15 of 8;
    # 10 has 15 of 8 only, half of a step of the 7 values that there were.
    np.testing.assert_allclose(column(tower, "predictors", "TA"), [1, 10 / 3, 5, 7], rtol=1e-6)
    assert column(tower, "predictors", "TA", "_qc").tolist() == [0, 1, 2, 3]
    assert told == {
        "values": 7,
        "hours": 4,
        "out_of_bounds": round(1 / 7, 6),
        "hour_incomplete": round(0.5 / 7, 6),
        "split": round(3 / 7, 6),
        "no_flag": round(2 / 7, 6),
        "remain": [0.25, 0.5, 0.75],
    }
    assert tower.flags_assumed == {"TA": 2}
    assert tower.lost == ("Mine: was clipped",)
    assert tower.warnings[0] == "Mine: 3 rows left out where the clock was set back"
    assert not any("clipped" in text for text in tower.warnings)


def test_what_gave_way_to_a_newer_publication_is_counted():
    new, old = native(network="New", TA=[1, 1, np.nan, np.nan]), native(network="Old", TA=[2, 2, 2, 2])
    told = made(new, old, targets=()).quality["predictors"]["TA"]
    assert told["hours"] == 2 and told["superseded"] == round(1 / 3, 6) and told["values"] == 6


def test_a_wrong_clock_is_a_warning_and_strict_refuses(caplog):
    for shift in (1, -5, 12):
        ds = light(40, -90, days=120, shift=shift)
        ds = ds.assign_attrs(native(TA=[1]).attrs).assign_attrs(step_minutes=30)
        with caplog.at_level(logging.WARNING):
            tower = made(ds, predictors=("SW_IN",), targets=())
        (text,) = tower.warnings
        assert text.startswith("Mine: its light is") and "UTC_OFFSET" in text and f"US-Aaa: {text}" in caplog.text
        assert abs((tower.sun_lag["Mine"] - shift + 12) % 24 - 12) < 0.15
        with pytest.raises(SourceError, match=r"Mine\.csv: its light is"):
            made(ds, predictors=("SW_IN",), targets=(), strict=True)
    right = light(40, -90, days=120).assign_attrs(ds.attrs)
    tower = made(right, predictors=("SW_IN",), targets=(), strict=True)
    assert not tower.warnings and abs(tower.sun_lag["Mine"]) < 0.15


def test_reversed_flags_are_a_warning_and_strict_refuses():
    right = flagged().assign_attrs(native(NEE=[1]).attrs)
    wrong = right.assign(NEE_QC=np.int8(3) - right.NEE_QC)
    assert not made(right, strict=True).warnings
    assert made(wrong).warnings[0].startswith("Mine: the flags of NEE look reversed")
    with pytest.raises(SourceError, match=r"Mine\.csv: the flags of NEE"):
        made(wrong, strict=True)


def raw_light(folder, offset: float) -> None:
    """An archive of a tower whose metadata say another offset than its stamps have."""
    ds = light(40, -90, days=40)
    n = ds.sizes["time"]
    start = str(ds.time.values[0].astype("datetime64[m]") + np.timedelta64(-360, "m"))
    write_archive(folder, "US-Aaa", columns(n) | {"SW_IN_F": ds.SW_IN.values, "SW_IN_F_QC": np.zeros(n)}, start=start)
    write_places(folder, {"US-Aaa": (40.0, -90.0, offset, "DBF")})


def from_files(folder, **options) -> Tower:
    found = discover(folder)
    info = read_badm(found.badm)["US-Aaa"]
    options = {"predictors": ("TA", "VPD"), "targets": ("NEE",)} | options
    return read_tower(found.archives, info, TowerOptions(**options))


def test_the_clock_is_checked_whatever_was_asked_for(tmp_path):
    raw_light(tmp_path / "right", -6)
    raw_light(tmp_path / "wrong", -8)
    right, wrong = from_files(tmp_path / "right", strict=True), from_files(tmp_path / "wrong")
    assert not right.warnings and right.predictors.names == (*COMPUTED, "TA")
    (text,) = wrong.warnings
    assert "2.0 h behind the sun" in text and "+2.0 h from the one they were decoded with" in text
    with pytest.raises(SourceError, match=r"2010-2010_1-4.*behind the sun"):
        from_files(tmp_path / "wrong", strict=True)


def test_a_site_in_two_places_is_named_and_strict_refuses(tmp_path):
    raw_light(tmp_path, -6)
    write_archive(tmp_path, "US-Aaa", columns(96), name="AMF_{site}_FLUXNET_FULLSET_{res}_2010-2010_3-5")
    header = "SITE_ID,GROUP_ID,VARIABLE_GROUP,VARIABLE,DATAVALUE\n"
    for file, latitude in (("AMF_AA-Net_BIF_20200101.csv", 40.0), ("FLX_AA-Flx_BIF_20200101.csv", 40.2)):
        rows = (("LOCATION_LAT", latitude), ("LOCATION_LONG", -90), ("UTC_OFFSET", -6))
        lines = (f"US-Aaa,1,GRP_LOCATION,{name},{value}" for name, value in rows)
        (tmp_path / file).write_text(header + "\n".join(lines) + "\n")
    tower = from_files(tmp_path)
    (text,) = (text for text in tower.warnings if "km from" in text)
    assert "FLX_AA-Flx_BIF_20200101.csv has US-Aaa at 40.2, -90, 22 km from 40, -90" in text
    with pytest.raises(SourceError, match=r"US-Aaa: FLX_AA.*22 km"):
        from_files(tmp_path, strict=True)


def test_a_place_that_a_publication_tells_itself_is_compared_too():
    far = {"Other": SiteInfo(site="US-Aaa", latitude=41.0, longitude=-90.0), "Same": INFO}
    (text,) = made(native(TA=[1, 2]), targets=(), places=far).warnings
    assert text.startswith("Other has US-Aaa at 41")
    with pytest.raises(SourceError, match="Other has US-Aaa"):
        made(native(TA=[1, 2]), targets=(), places=far, strict=True)


def test_a_few_values_in_another_unit_are_counted_and_hide_no_fill(tmp_path):
    """Forty values are too few to tell hPa by; none is a pressure in kPa, and the other steps have what was filled."""
    stamps = (np.datetime64("2010-01-01T00:00") + np.arange(201) * HALF_HOUR).astype(str)
    times = [stamp.translate(str.maketrans("", "", "-T:")) for stamp in stamps]
    rows = [f"{a},{b},{1013 if i < 40 else -9999},99.5,2" for i, (a, b) in enumerate(itertools.pairwise(times))]
    path = tmp_path / "FLX_US-Aaa_FLUXNET2015_FULLSET_HH_2010-2010_1-4.csv"
    path.write_text("\n".join(["TIMESTAMP_START,TIMESTAMP_END,PA,PA_F,PA_F_QC", *rows]) + "\n")
    tower = read_tower(discover(tmp_path).archives, INFO, TowerOptions(predictors=("PA",), targets=()))
    assert tower.out_of_bounds == {"PA": 40}
    assert tower.warnings == ("PA: 20 % of its values were out of bounds and became missing",)
    np.testing.assert_array_equal(column(tower, "predictors", "PA"), np.full(80, np.float32(99.5)))
    assert tower.time[0] == ORIGIN + 40 * HALF_HOUR and (column(tower, "predictors", "PA", "_qc") == 2).all()
    assert tower.quality["predictors"]["PA"]["out_of_bounds"] == 0.2


def test_records_that_cannot_be_told_apart_or_have_nothing_are_refused():
    with pytest.raises(ConfigError, match="different names"):
        made(native(TA=[1, 2]), native(TA=[1, 2]))
    with pytest.raises(SourceError, match="no value in any of the variables"):
        made(native(TA=[np.nan, np.nan]))
    with pytest.raises(SourceError, match="US-Aaa: no record"):
        made()


def test_uncertainties_are_those_of_the_source_of_the_value():
    new = native(network="New", NEE=[1, 1, np.nan, np.nan], NEE_RANDUNC=[3, 4, np.nan, np.nan])
    old = native(network="Old", NEE=[2, 2, 2, 2], NEE_RANDUNC=[9, 9, 6, 8], NEE_JOINTUNC=[9, 9, 6, 8])
    tower = made(new, old, predictors=("TA",), targets=("NEE",))
    np.testing.assert_allclose(column(tower, "fluxes", "NEE", "_randunc"), [2.5, 5])
    np.testing.assert_allclose(column(tower, "fluxes", "NEE", "_jointunc"), [np.nan, 7])


def test_an_archive_that_tells_its_own_clock_is_decoded_with_it(tmp_path, monkeypatch):
    raw_light(tmp_path / "right", -6)
    raw_light(tmp_path / "wrong", -8)
    right = from_files(tmp_path / "right")
    own = SiteInfo(site="US-Aaa", utc_offset=-6.0, utc_offsets=((None, -6.0),))
    monkeypatch.setattr("fluxcube.sources.towers.archive_metadata.place_of", lambda archive: own)
    told = from_files(tmp_path / "wrong")
    np.testing.assert_array_equal(told.time, right.time)
    assert not told.warnings and told.utc_offset == -8  # which the site's other publications have
    alone = from_files(tmp_path / "wrong", strict=True)
    np.testing.assert_array_equal(alone.predictors.values, right.predictors.values)


def test_a_site_without_an_offset_takes_its_archive_s(tmp_path, monkeypatch):
    raw_light(tmp_path, -6)
    found = discover(tmp_path)
    bare = SiteInfo(site="US-Aaa", latitude=40.0, longitude=-90.0)
    estimated = read_tower(found.archives, bare, TowerOptions(predictors=("TA",), targets=()))
    assert "-6 h was estimated from the light" in estimated.warnings[0] and estimated.utc_offset == -6
    own = SiteInfo(site="US-Aaa", utc_offset=-6.0, utc_offsets=((None, -6.0),))
    monkeypatch.setattr("fluxcube.sources.towers.archive_metadata.place_of", lambda archive: own)
    tower = read_tower(found.archives, bare, TowerOptions(predictors=("TA",), targets=()))
    assert tower.utc_offset == -6 and not tower.warnings


def test_an_archive_tells_what_the_metadata_do_not(tmp_path, monkeypatch):
    raw_light(tmp_path, -6)
    archives = discover(tmp_path).archives
    told = SiteInfo(site="US-Aaa", latitude=1.0, igbp="GRA", koppen="Dfb", elevation=9.0, utc_offset=-7.0)
    monkeypatch.setattr("fluxcube.sources.towers.archive_metadata.place_of", lambda archive: told)
    known = replace(INFO, igbp="CRO")
    info = read_tower(archives, known, TowerOptions(predictors=("TA",), targets=())).info
    assert info == replace(known, koppen="Dfb", elevation=9.0)
