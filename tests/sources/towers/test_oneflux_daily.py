"""Daily files: as published, and with one thing wrong that must be named."""

from __future__ import annotations

import gzip
import json
import zipfile

import numpy as np
import pandas as pd
import pytest

from fluxcube.errors import SourceError, UnknownNameError
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.oneflux_daily import read_oneflux_daily, summarise_oneflux_daily
from fluxcube.variables import table

STEM = "FLX_US-Aaa_FLUXNET2015_FULLSET_DD_2010-2010_1-4"
CARBON = ("NEE", "GPP_NT", "RECO_NT", "GPP_DT", "RECO_DT")


def columns(days: int = 5) -> dict[str, list]:
    """Columns of a daily file in which every value tells its column, and thresholds differ."""
    day = np.arange(days)
    made = {"TIMESTAMP": [f"201001{d + 1:02d}" for d in day], "TA_F": day + 0.5, "TA_F_QC": np.linspace(0, 1, days)}
    made |= {"P_F": day * 2.0, "P_F_QC": np.full(days, 0.75), "NETRAD": day + 7.0}
    for at, ending in enumerate(("VUT_USTAR50", "VUT_REF")):
        gpp, reco = 5.0 + at + day, 3.0 + 2 * at + day
        made |= {f"NEE_{ending}": reco - gpp, f"NEE_{ending}_QC": np.full(days, 0.5 + at / 4)}
        made |= {f"GPP_NT_{ending}": gpp, f"RECO_NT_{ending}": reco}
        made |= {f"NEE_{ending}_RANDUNC": np.full(days, 0.1 + at), f"NEE_{ending}_JOINTUNC": np.full(days, 0.3 + at)}
    return made


def write(folder, data: dict, name: str = f"{STEM}.csv"):
    path = folder / name
    pd.DataFrame(data).to_csv(path, index=False)
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path, columns())


def test_values_and_quality_are_those_of_the_file(file):
    days = read_oneflux_daily(file)
    assert days.attrs["site"] == "US-Aaa" and days.attrs["network"] == "FLUXNET2015"
    assert (days.time.values == np.datetime64("2010-01-01") + np.arange(5)).all()
    np.testing.assert_allclose(days.TA, np.arange(5) + 0.5)
    np.testing.assert_allclose(days.TA_QUALITY, np.linspace(0, 1, 5), rtol=1e-6)
    assert days.P.attrs["units"] == "mm d-1" and days.NEE.attrs["units"] == "gC m-2 d-1"
    assert {array.dtype.name for array in days.data_vars.values()} == {"float32"}
    # A column without a flag is of unknown quality, and that is counted.
    assert np.isnan(days.NETRAD_QUALITY).all() and np.isfinite(days.NETRAD).all()
    assert json.loads(days.attrs["flags_assumed"]) == {"NETRAD": 5}


@pytest.mark.parametrize(
    ("lost", "ending"),
    [
        ((), "VUT_USTAR50"),
        (("NEE_VUT_USTAR50",), "VUT_REF"),
        (("GPP_NT_VUT_USTAR50", "RECO_NT_VUT_USTAR50"), "VUT_REF"),
        (("GPP_NT_VUT_REF",), "VUT_USTAR50"),
    ],
)
@pytest.mark.parametrize("how", ["absent", "missing"])
def test_carbon_is_of_one_threshold(tmp_path, lost, ending, how):
    """Whatever column is lost, NEE = RECO - GPP, and quality and uncertainty are the same threshold's."""
    data = columns()
    for name in lost:
        data[name] = np.full(5, -9999)
    if how == "absent":
        data = {name: column for name, column in data.items() if name not in lost}
    days = read_oneflux_daily(write(tmp_path, data))
    used = json.loads(days.attrs["columns"])
    assert {name: used[name] for name in CARBON if name in used} == {
        name: f"{name}_{ending}" for name in CARBON if name in used
    }
    assert "GPP_NT" in used and "GPP_DT" not in used
    np.testing.assert_allclose(days.NEE, days.RECO_NT - days.GPP_NT, atol=1e-6)
    np.testing.assert_array_equal(days.NEE_QUALITY, np.float32(data[f"NEE_{ending}_QC"]))
    np.testing.assert_array_equal(days.GPP_NT_QUALITY, days.NEE_QUALITY)
    np.testing.assert_array_equal(days.NEE_RANDUNC, np.float32(data[f"NEE_{ending}_RANDUNC"]))
    np.testing.assert_array_equal(days.NEE_JOINTUNC, np.float32(data[f"NEE_{ending}_JOINTUNC"]))


def test_the_threshold_does_not_depend_on_what_is_asked_for(tmp_path):
    data = columns() | {"NEE_VUT_USTAR50": np.full(5, -9999)}
    path = write(tmp_path, data)
    alone, whole = read_oneflux_daily(path, variables=["GPP_NT"]), read_oneflux_daily(path)
    assert list(alone.data_vars) == ["GPP_NT", "GPP_NT_QUALITY"]
    assert alone.identical(whole[list(alone.data_vars)].assign_attrs(alone.attrs))


def test_missing_values_have_no_quality(tmp_path):
    data = columns()
    data["TA_F"] = [-9999, 1, 2, 3, 4]
    data["P_F_QC"] = [0.5, -9999, 0.5, 0.5, 0.5]
    days = read_oneflux_daily(write(tmp_path, data))
    assert np.isnan(days.TA[0]) and np.isnan(days.TA_QUALITY[0]) and np.isfinite(days.TA_QUALITY[1:]).all()
    assert np.isfinite(days.P).all() and np.isnan(days.P_QUALITY[1]), "a blank fraction is unknown, not good"
    assert json.loads(days.attrs["flags_assumed"])["P"] == 1


def test_zip_gz_and_csv_are_one(file):
    gz = file.with_suffix(".csv.gz")
    gz.write_bytes(gzip.compress(file.read_bytes()))
    packed = file.parent / "FLX_US-Aaa_FLUXNET2015_FULLSET_2010-2010_1-4.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(file, file.name)
        for other in ("HH", "WW", "MM"):
            archive.writestr(file.name.replace("DD", other), "TIMESTAMP,TA_F\n")
        archive.writestr(file.name.replace("FULLSET", "ERAI"), "TIMESTAMP,TA_ERA\n")
    first = read_oneflux_daily(file)
    for path in (gz, packed):
        assert read_oneflux_daily(path).equals(first)


def test_gaps_in_the_days_are_left(tmp_path):
    data = {name: np.delete(column, [2]) for name, column in columns().items()}
    days = read_oneflux_daily(write(tmp_path, data))
    assert days.sizes["time"] == 4 and np.diff(days.time.values).max() == np.timedelta64(2, "D")


WRONG = {
    "flags 0 to 3": (lambda d: d | {n: [0, 1, 2, 3, 0] for n in d if n.endswith("QC")}, r"line 4, .*_QC.*fraction"),
    "flags 0 to 3 alone": (
        lambda d: {"TIMESTAMP": d["TIMESTAMP"], "TA_F": d["TA_F"], "TA_F_QC": [0, 1, 2, 3, 0]},
        r"line 4, column TA_F_QC: found '2'.*fraction",
    ),
    "twice a day": (lambda d: d | {"TIMESTAMP": [20100101, 20100102, 20100102, 20100103, 20100104]}, "line 4.*twice"),
    "back in time": (
        lambda d: d | {"TIMESTAMP": [20100101, 20100103, 20100102, 20100104, 20100105]},
        "line 4.*earlier",
    ),
    "no date": (lambda d: d | {"TIMESTAMP": [20100101, 20100230, 20100301, 20100302, 20100303]}, "line 3.*YYYYMMDD"),
    "months": (lambda d: d | {"TIMESTAMP": [201001, 201002, 201003, 201004, 201005]}, "monthly.*DD"),
    "years": (lambda d: d | {"TIMESTAMP": [2010, 2011, 2012, 2013, 2014]}, "yearly.*DD"),
    "half-hours": (lambda d: d | {"TIMESTAMP": np.arange(5) + 201001010000}, "half-hourly.*DD"),
    "text": (lambda d: d | {"TA_F": [1, 2, "warm", 4, 5]}, "line 4, column TA_F.*'warm'"),
    "infinite": (lambda d: d | {"TA_F": [1, 2, "1e99", 4, 5]}, "line 4, column TA_F"),
    "weeks": (
        lambda d: {"TIMESTAMP_START": d["TIMESTAMP"], "TIMESTAMP_END": d["TIMESTAMP"]} | {"TA_F": d["TA_F"]},
        "TIMESTAMP_START.*DD",
    ),
    "another unit": (
        lambda d: (
            {"TIMESTAMP": [20100101 + i for i in range(31)] + [20100201 + i for i in range(28)]}
            | {"PA_F": np.full(59, 101325.0)}
        ),
        "column PA_F.*kPa.*pascal",
    ),
    "reanalysis": (lambda d: {"TIMESTAMP": d["TIMESTAMP"], "TA_ERA": d["TA_F"]}, "none of ONEFlux's daily variables"),
    "no rows": (lambda d: {name: [] for name in d}, "no rows"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_named(tmp_path, fault):
    change, message = WRONG[fault]
    path = write(tmp_path, change(columns()))
    with pytest.raises(SourceError, match=rf"(?s){path.name}.*{message}"):
        read_oneflux_daily(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("_DD_", "_WW_", "weekly"),
        ("_DD_", "_MM_", "monthly"),
        ("_DD_", "_YY_", "yearly"),
        ("_DD_", "_HH_", "half-hourly.*to_daily"),
        ("FULLSET", "ERAI", "no tower measurements"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, old, new, message):
    path = write(tmp_path, columns(), f"{STEM}.csv".replace(old, new))
    with pytest.raises(SourceError, match=message):
        read_oneflux_daily(path)


def test_a_zip_without_days_says_what_it_holds(tmp_path):
    path = tmp_path / "FLX_US-Aaa_FLUXNET2015_FULLSET_2010-2010_1-4.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{STEM}.csv".replace("DD", "HH"), "TIMESTAMP_START\n")
    with pytest.raises(SourceError, match="no daily"):
        read_oneflux_daily(path)


def test_unknown_names_are_named(file):
    with pytest.raises(UnknownNameError, match="TOD"):
        read_oneflux_daily(file, variables=["TOD"])


@pytest.fixture(scope="module")
def published(shared_data):
    """Every real daily file: its record, and its table as pandas reads it."""
    files = sorted((shared_data / "daily").glob("*FULLSET_DD*.csv.gz"))
    return {file.name: (read_oneflux_daily(file), pd.read_csv(file, na_values=[-9999])) for file in files}


def test_real_files_hold_their_own_balance(published):
    """Every value is its column's; the night-time partition closes; quality is a share; days are all there."""
    assert len(published) == 10
    for days, raw in published.values():
        assert days.sizes["time"] == len(raw)
        for name, column in json.loads(days.attrs["columns"]).items():
            np.testing.assert_array_equal(days[name], np.float32(raw[column]))
            quality = days[f"{name}_QUALITY"].values
            assert (np.isnan(quality) | ((quality >= 0) & (quality <= 1))).all()
            assert not np.isfinite(quality[np.isnan(days[name])]).any()
        rest = (days.NEE - (days.RECO_NT - days.GPP_NT)).values
        assert np.abs(rest[np.isfinite(rest)]).max(initial=0) < 2e-4
        random, joint = days.NEE_RANDUNC.values, days.NEE_JOINTUNC.values
        both = np.isfinite(random) & np.isfinite(joint)
        assert both.any() and (joint[both] >= random[both] - 1e-4).all()


def test_real_files_of_reanalysis_are_refused(shared_data):
    for file in sorted((shared_data / "daily").glob("*_ERAI_DD_*"))[:2]:
        with pytest.raises(SourceError, match="no tower measurements"):
            read_oneflux_daily(file)


def test_daily_aliases_and_units_are_oneflux_s(shared_data):
    """Against ONEFlux's own list of daily variables."""
    text = (shared_data / "meta/ONEFlux_var_info_definitions_dd.txt").read_text("latin-1")
    listed = dict(line.split("||")[:2] for line in text.splitlines() if line.count("||") >= 2)
    units = {"deg C": "degC", "adimensional": "1", "W m-2": "W m-2", "nd": "1"}
    for name in ("TA", "SW_IN", "VPD", "PA", "P", "WS", "USTAR", "NETRAD", "LE", "H", "G", *CARBON):
        row = table("daily")[name]
        found = [listed[alias] for alias in row.aliases if alias in listed]
        assert found and {units.get(unit, unit) for unit in found} == {row.units}, name
    for name in (*table("daily")["NEE"].randunc, *table("daily")["NEE"].jointunc):
        assert listed[name] == "gC m-2 d-1"


@pytest.mark.parametrize("flags", [[3, 3, 3, 3, 3], [0, 1, 2, 3, 0], [0, 0, -1, 0, 0], [50, 60, 70, 80, 85]])
@pytest.mark.parametrize("name", ["TA_F_QC", "NEE_VUT_USTAR50_QC"])
def test_one_column_without_fractions_costs_its_variable_alone_its_quality(tmp_path, flags, name):
    """As G_F_MDS_QC of DE-Seh in a public copy of FLUXNET2015, 3 on all days."""
    right = read_oneflux_daily(write(tmp_path, columns()))
    path = write(tmp_path, columns() | {name: flags})
    found = read_oneflux_daily(path)
    lost = ["TA"] if name == "TA_F_QC" else [name for name in CARBON if name in found]
    qualities = [f"{name}_QUALITY" for name in lost]
    assert all(np.isnan(found[quality]).all() for quality in qualities)
    assert found.drop_vars(qualities).drop_attrs().identical(right.drop_vars(qualities).drop_attrs())
    (note,) = json.loads(found.attrs["doubts"])
    assert f"column {name}: found" in note and "expected a fraction" in note
    (archive,) = discover(path, resolution="daily").archives
    assert summarise_oneflux_daily(archive).notes == (note,)


@pytest.mark.parametrize("ending", ["CUT_USTAR50", "CUT_REF"])
def test_a_constant_threshold_is_read_where_no_variable_one_has_nee(tmp_path, ending):
    data = columns()
    variable = {name: column for name, column in data.items() if "VUT" in name}
    other = {name.replace("VUT_REF", ending): column for name, column in variable.items() if "VUT_REF" in name}
    rest = {name: column for name, column in data.items() if name not in variable}
    days = read_oneflux_daily(write(tmp_path, rest | other))
    used = json.loads(days.attrs["columns"])
    assert used["NEE"] == f"NEE_{ending}" and used["GPP_NT"] == f"GPP_NT_{ending}"
    np.testing.assert_array_equal(days.NEE_RANDUNC, np.float32(other[f"NEE_{ending}_RANDUNC"]))
    assert f"NEE is read from NEE_{ending}" in days.attrs["doubts"]
    assert read_oneflux_daily(write(tmp_path, data | other)).identical(read_oneflux_daily(write(tmp_path, data)))


def test_negative_uncertainties_are_missing(tmp_path):
    days = read_oneflux_daily(write(tmp_path, columns() | {"NEE_VUT_USTAR50_RANDUNC": [1, -1, 1, 9999, 1]}))
    np.testing.assert_array_equal(days.NEE_RANDUNC, np.float32([1, np.nan, 1, np.nan, 1]))
    assert np.isfinite(days.NEE).all() and "2 negative or impossible" in days.attrs["doubts"]


@pytest.mark.parametrize("flag", [9, -1, 3])
def test_one_odd_number_among_fractions_concerns_its_days_alone(tmp_path, flag):
    data = columns()
    quality = [0.9, flag, 0.25, 1, 0]
    ds = read_oneflux_daily(write(tmp_path, data | {"NEE_VUT_REF_QC": quality}))
    column = json.loads(ds.attrs["columns"])["NEE"]
    if column != "NEE_VUT_REF":
        ds = read_oneflux_daily(write(tmp_path, data | {f"{column}_QC": quality}))
    np.testing.assert_allclose(ds.NEE_QUALITY, [0.9, np.nan, 0.25, 1, 0], rtol=1e-6)
    assert "these values of NEE" in ds.attrs["doubts"]
