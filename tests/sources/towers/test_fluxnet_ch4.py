"""FLUXNET-CH4: measured where something was measured, filled elsewhere, and each step says which."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from test_japanflux import write

from fluxcube.cubes.localdays import GRAMS_OF_CARBON
from fluxcube.errors import SourceError
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.readers import place_of, read_archive, read_daily_archive

NAME = "FLX_FI-Sii_FLUXNET-CH4_HH_2013-2018_1-1.csv"
NONE = -9999


def read(tmp_path, columns, **options):
    return read_archive(write(tmp_path, columns, name=NAME), utc_offset=2.0, **options)


def test_measured_values_come_first_and_fills_where_there_is_none(tmp_path):
    found = read(
        tmp_path,
        {
            "FCH4": [10, NONE, NONE, 40, NONE],
            "FCH4_F": [99, 20, 30, 99, NONE],
            "FCH4_F_ANNOPTLM": [88, 88, 88, 88, 50],
            "FCH4_F_ANNOPTLM_QC": [1, 1, 3, 3, 3],
            "FCH4_F_RANDUNC": [1, 2, 3, NONE, 5],
        },
    )
    np.testing.assert_array_equal(found.FCH4, [10, 20, 30, 40, 50])
    # A measured step is measured whatever the gap's flag says; a gap of more than two months is the poorest fill.
    np.testing.assert_array_equal(found.FCH4_QC, [0, 2, 3, 0, 3])
    np.testing.assert_array_equal(found.FCH4_RANDUNC, np.float32([1, 2, 3, np.nan, 5]))
    assert json.loads(found.columns) == {"FCH4": "FCH4, FCH4_F, FCH4_F_ANNOPTLM"}
    assert found.FCH4.attrs["units"] == "nmol m-2 s-1" and found.FCH4_RANDUNC.attrs["units"] == "nmol m-2 s-1"


def test_no_value_comes_from_nowhere_and_no_flag_without_a_value(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(20):
        columns = {name: np.where(rng.random(40) < 0.5, NONE, rng.integers(1, 99, 40)) for name in ("TA", "TA_F")}
        found = read(tmp_path, columns)
        measured, filled = columns["TA"], columns["TA_F"]
        expected = np.where(measured != NONE, measured, filled).astype(np.float32)
        if (measured != NONE).any() or (filled != NONE).any():
            np.testing.assert_array_equal(found.TA, np.where(expected == NONE, np.nan, expected))
            np.testing.assert_array_equal(found.TA_QC, np.where(measured != NONE, 0, np.where(filled != NONE, 2, -1)))


def test_partitions_have_the_flag_of_nee_even_where_nee_is_not_asked_for(tmp_path):
    columns = {"NEE": [1, NONE, NONE], "NEE_F": [1, 2, NONE], "GPP_DT": [3, 4, 5], "RECO_NT": [NONE, 4, 5]}
    found = read(tmp_path, columns)
    np.testing.assert_array_equal(found.NEE_QC, [0, 2, -1])
    np.testing.assert_array_equal(found.GPP_DT_QC, [0, 2, 2])
    np.testing.assert_array_equal(found.RECO_NT_QC, [-1, 2, 2])
    alone = read(tmp_path, columns, variables=["GPP_DT"])
    assert set(alone.data_vars) == {"GPP_DT", "GPP_DT_QC"}
    np.testing.assert_array_equal(alone.GPP_DT_QC, found.GPP_DT_QC)


def test_the_header_that_its_users_list_is_read(tmp_path):
    weather = ["USTAR", "SW_OUT", "LW_IN", "LW_OUT", "NETRAD", "PPFD_IN", "TS_1", "WD"]
    both = ["NEE", "H", "LE", "SW_IN", "VPD", "RH", "PA", "TA", "P", "G", "SWC", "WTD", "WS"]
    measured, filled = ["FCH4", *weather, *both], ["TS", *both]
    partitions = ["GPP_NT", "RECO_NT", "GPP_DT", "RECO_DT"]
    networks = [f"{name}_F_ANNOPTLM" for name in ("LE", "NEE", "FCH4")]
    names = [*measured, *partitions, *(f"{name}_F" for name in filled), *networks]
    found = read(tmp_path, {name: [1 + i % 3, NONE] for i, name in enumerate(names)})
    expected = {*measured, *partitions, "SWC_1"} - {"SWC"}
    assert {name for name in found.data_vars if not name.endswith("_QC")} == expected
    assert all((found[f"{name}_QC"].values == [0, -1]).all() for name in expected)


@pytest.mark.parametrize("flag", [4, 0.25])
def test_a_flag_of_another_scale_is_refused(tmp_path, flag):
    with pytest.raises(SourceError, match=r"column FCH4_F_ANNOPTLM_QC"):
        read(tmp_path, {"FCH4_F": [1, 2], "FCH4_F_ANNOPTLM_QC": [1, flag]})


def test_other_tables_are_refused(tmp_path):
    with pytest.raises(SourceError, match="none of FLUXNET-CH4's variables"):
        read(tmp_path, {"FOO": [1, 2]})
    archive = write(tmp_path, {"FCH4": [1, 2]}, name=NAME)
    assert read_daily_archive(archive) is None and place_of(archive) is None


# ---- days

DAYS = NAME.replace("_HH_", "_DD_")


def read_days(folder, columns, name=DAYS, **options):
    """Write a daily table and read it."""
    dates = np.datetime64("2014-02-27") + np.arange(len(next(iter(columns.values()))))
    rows = zip([str(date).replace("-", "") for date in dates], *columns.values(), strict=True)
    lines = [",".join(("TIMESTAMP", *columns)), *(",".join(map(str, row)) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")
    (archive,) = discover(folder, resolution="daily").archives
    return read_daily_archive(archive, **options)


def test_daily_values_are_filled_ones_of_unknown_quality(tmp_path):
    found = read_days(
        tmp_path,
        {
            "NEE": [9, 9, NONE],
            "NEE_F": [-1, NONE, 2],
            "NEE_F_ANNOPTLM": [8, 3, 8],
            "RECO_NT": [1, 2, 4],
            "GPP_NT": [2, NONE, 2],
            "TA": [5, 5, 5],
            "TA_F": [1, 2, 3],
            "P": [0, 0, 0],
            "P_F": [4, 5, NONE],
            "USTAR": [1, 1, 1],
            "TS_1": [7, NONE, 7],
            "FCH4": [1, 1, 1],
            "FCH4_F": [10, NONE, NONE],
            "FCH4_F_ANNOPTLM": [11, 12, 13],
            "FCH4_F_ANNOPTLM_QC": [1.0, 1.0, 3.0],
        },
    )
    assert [str(day) for day in found.time.values.astype("datetime64[D]")] == ["2014-02-27", "2014-02-28", "2014-03-01"]
    np.testing.assert_allclose(found.NEE, np.array([-1, 3, 2]) * GRAMS_OF_CARBON, rtol=1e-6)
    np.testing.assert_allclose(found.NEE[[0, 2]], (found.RECO_NT - found.GPP_NT)[[0, 2]], rtol=1e-6)
    assert found.NEE.attrs["units"] == "gC m-2 d-1" and found.FCH4.attrs["units"] == "nmol m-2 s-1"
    np.testing.assert_array_equal(found.TA, [1, 2, 3])
    np.testing.assert_array_equal(found.P, np.float32([4, 5, np.nan]))
    np.testing.assert_array_equal(found.TS_1, np.float32([7, np.nan, 7]))
    np.testing.assert_array_equal(found.FCH4, [10, 12, 13])
    np.testing.assert_array_equal(found.FCH4_QUALITY, np.float32([np.nan, np.nan, 0]))
    assert np.isnan(found.NEE_QUALITY).all() and np.isnan(found.TA_QUALITY).all()
    assert "USTAR" not in found  # a mean of whatever hours had wind
    assert json.loads(found.flags_assumed)["FCH4"] == 2 and json.loads(found.columns)["NEE"] == "NEE_F, NEE_F_ANNOPTLM"


def test_codes_of_daily_values_are_missing_and_counted(tmp_path):
    columns = {"NEE_F": [-1, -6999, 1e20], "NEE_F_ANNOPTLM": [NONE, 4, NONE], "GPP_DT": [2, 1500, 3], "TA_F": [1, 2, 3]}
    found = read_days(tmp_path, columns)
    np.testing.assert_allclose(found.NEE, np.array([-1, 4, np.nan]) * GRAMS_OF_CARBON, rtol=1e-6)
    np.testing.assert_allclose(found.GPP_DT, np.array([2, np.nan, 3]) * GRAMS_OF_CARBON, rtol=1e-6)
    assert json.loads(found.missing_codes) == {"NEE": {"-6999": 1, "1e+20": 1}, "GPP_DT": {"1500": 1}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("TIMESTAMP_START,TA_F\n201401010000,1\n", "expected a column TIMESTAMP"),
        ("TIMESTAMP,XYZ\n20140101,1\n", "none of FLUXNET-CH4's daily variables"),
        ("TIMESTAMP,TA_F\n20140101,1\n20140101,2\n", "line 3, column TIMESTAMP: expected dates in order"),
        ("TIMESTAMP,TA_F\n20140101,1\n20130101,2\n", "line 3, column TIMESTAMP: expected dates in order"),
        ("TIMESTAMP,TA_F\n20140101,1\n20140230,2\n", "line 3, column TIMESTAMP: expected a date as YYYYMMDD"),
        ("TIMESTAMP,TA_F\n201401,1\n", "expected a date as YYYYMMDD"),
        ("TIMESTAMP,TA_F\n201401010030,1\n", "expected a date as YYYYMMDD"),
        ("TIMESTAMP,TA_F\n20140101,1\n20140102,inf\n", "column TA_F"),
    ],
)
def test_faults_of_daily_tables_are_located(tmp_path, text, why):
    (tmp_path / DAYS).write_text(text)
    (archive,) = discover(tmp_path, resolution="daily").archives
    with pytest.raises(SourceError, match=why):
        read_daily_archive(archive)


def test_published_daily_values_are_means_of_half_hours_in_their_units(shared_data):
    """48 times a daily mean has few decimals, as a sum of 48 published values, and not after a conversion to gC."""
    for archive in discover(shared_data / "formats" / "fluxnet_ch4_dd", resolution="daily").archives:
        found = read_daily_archive(archive)
        columns = pd.read_csv(archive.path).replace(NONE, np.nan)
        for name in ("NEE_F", "RECO_NT", "GPP_NT", "FCH4_F"):
            values = columns[name].dropna().to_numpy()
            values = values[np.abs(values) > 1e-3]
            whole = [48e8 * values, 48e8 * values / GRAMS_OF_CARBON]
            published, converted = (float((np.abs(x - np.round(x)) < 0.01).mean()) for x in whole)
            assert published > 0.9 and converted < 0.1
        balance = found.NEE - (found.RECO_NT - found.GPP_NT)
        assert float(np.abs(balance).median()) < 1e-4
        assert 250 < float(found.P.groupby("time.year").sum().mean()) < 1100
        assert int((found.FCH4_QUALITY == 0).sum()) == int((columns.FCH4_F_ANNOPTLM_QC == 3).sum())


def test_published_days_agree_with_the_half_hours_of_another_publication(shared_data):
    (archive,) = (a for a in discover(shared_data / "towers").archives if a.site == "DE-SfN")
    hours = read_archive(archive, utc_offset=0.0, variables=("TA", "SW_IN"))
    daily = discover(shared_data / "formats" / "fluxnet_ch4_dd", resolution="daily").archives
    days = read_daily_archive(next(a for a in daily if a.site == "DE-SfN"))
    for name in ("TA", "SW_IN"):
        measured = hours[name].where(hours[f"{name}_QC"] == 0).resample(time="D")
        mean, count = measured.mean(), measured.count()
        difference = (days[name] - mean.where(count == 48)).dropna("time")
        assert difference.sizes["time"] > 800 and float(np.abs(difference).median()) < 0.05
