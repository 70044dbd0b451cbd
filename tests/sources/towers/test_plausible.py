"""Units that cannot be right and flags that count the wrong way are refused; real towers never are."""

from __future__ import annotations

import numpy as np
import pytest
from test_japanflux import write

from fluxcube.errors import SourceError
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.oneflux import read_oneflux
from fluxcube.sources.towers.plausible import ENOUGH, check_fills, check_flags, check_units
from fluxcube.sources.towers.readers import read_archive

NAME = "FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2005_1-4.csv"
RNG = np.random.default_rng(7)
N = 400
RIGHT = {
    "TA": RNG.normal(10, 8, N),
    "VPD": RNG.gamma(2, 3, N),
    "PA": RNG.normal(98, 1, N),
    "RH": RNG.uniform(20, 100, N),
    "SW_IN": np.maximum(RNG.normal(200, 300, N), 0),
    "TS_3": RNG.normal(8, 3, N),
}
WRONG = {
    "kelvin": ("TA", lambda v: v + 273.15, "degC", "kelvin"),
    "fahrenheit": ("TA", lambda v: v * 0 + 77, "degC", "Fahrenheit"),
    "soil in kelvin": ("TS_3", lambda v: v + 273.15, "degC", "kelvin"),
    "vpd in pascal": ("VPD", lambda v: v * 100, "hPa", "pascal"),
    "pressure in hectopascal": ("PA", lambda v: v * 10, "kPa", "hectopascal"),
    "pressure in pascal": ("PA", lambda v: v * 1000, "kPa", "pascal"),
    "pressure in bar": ("PA", lambda v: v / 100, "kPa", "bar"),
    "humidity as a fraction": ("RH", lambda v: v / 100, "%", "fraction"),
    "light in another unit": ("SW_IN", lambda v: v * 1800, "W m-2", "joules"),
}
COLUMN = {"TA": "TA_F", "VPD": "VPD_F", "PA": "PA_F", "RH": "RH", "SW_IN": "SW_IN_F", "TS_3": "TS_F_MDS_3"}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_unit_names_file_column_and_what_to_do(tmp_path, case):
    name, change, expected, looks = WRONG[case]
    check_units(name, RIGHT[name], "here")
    columns = {COLUMN[n]: values.astype(np.float32) for n, values in RIGHT.items()}
    columns[COLUMN[name]] = change(RIGHT[name]).astype(np.float32)
    with pytest.raises(SourceError) as raised:
        read_archive(write(tmp_path, columns, name=NAME), utc_offset=0)
    for part in (NAME, f"column {COLUMN[name]}", f"expected {expected}", looks, "onvert the column"):
        assert part in str(raised.value)


def test_right_units_pass_and_a_few_broken_values_are_no_wrong_unit(tmp_path):
    for name, values in RIGHT.items():
        broken = values.copy()
        broken[:3] = [6999, -6999, 1e5]
        check_units(name, broken, "here")
        check_units(name, np.full(N, np.nan), "here")
    for name, change, *_ in WRONG.values():
        check_units(name, change(RIGHT[name])[: ENOUGH - 1], "here")


def test_the_driest_coldest_and_highest_places_are_plausible():
    check_units("VPD", np.full(N, 90.0), "a desert at noon")
    check_units("TA", np.full(N, -70.0), "Vostok")
    check_units("PA", np.full(N, 54.0), "5,000 m")
    check_units("PA", np.full(N, 106.0), "the Dead Sea")
    check_units("RH", np.full(N, 3.0), "a desert")
    check_units("SW_IN", np.zeros(N), "a polar night")


@pytest.mark.parametrize(("measured", "filled"), [(0, 3), (0, 1)])
def test_flags_of_nee_that_count_the_wrong_way(tmp_path, measured, filled):
    """Half of a noisy flux is replaced by its mean course, as fills are."""
    steps = np.arange(2400)
    course = -8 * np.maximum(np.sin(2 * np.pi * (steps / 48 - 0.25)), 0) + 2
    gap = (steps // 120) % 2 == 0
    nee = np.where(gap, course, course + RNG.normal(0, 2, len(steps))).astype(np.float32)
    right = np.where(gap, filled, measured)
    columns = {"NEE_VUT_REF": nee, "NEE_VUT_REF_QC": right}
    assert (right == read_archive(write(tmp_path, columns, name=NAME), utc_offset=0).NEE_QC).all()
    columns["NEE_VUT_REF_QC"] = np.where(gap, measured, filled)
    with pytest.raises(SourceError, match=rf"{NAME}, column NEE_VUT_REF_QC: .* times as rough .* reversed"):
        read_archive(write(tmp_path, columns, name=NAME), utc_offset=0)


def test_flags_of_zero_on_gaps_alone(tmp_path):
    values = RIGHT["TA"].astype(np.float32)
    values[:100] = -9999
    flags = np.where(values == -9999, 0, RNG.integers(1, 4, N))
    with pytest.raises(SourceError, match=r"column TA_F_QC: flag 0 is on the 100 steps without a value"):
        read_archive(write(tmp_path, {"TA_F": values, "TA_F_QC": flags}, name=NAME), utc_offset=0)
    flags[200] = 0
    assert (
        read_archive(write(tmp_path, {"TA_F": values, "TA_F_QC": flags}, name=NAME), utc_offset=0).TA_QC == 0
    ).sum() == 1
    # A tower of which nothing was measured is one all the same.
    check_flags(np.full(N, 3.0), np.ones(N, bool), "here")
    check_flags(np.where(values == -9999, np.nan, 3), values != -9999, "here")


def test_no_real_tower_is_refused_and_their_flags_turned_round_are(shared_data):
    small = (shared_data / "towers" / "small.txt").read_text().split()
    seen = 0
    for archive in (archive for archive in discover(shared_data / "towers").archives if archive.site in small):
        found = read_oneflux(archive, utc_offset=0.0, variables=["NEE"])
        turned = np.where(found.NEE_QC < 0, -1, found.NEE_QC == 0)
        with pytest.raises(SourceError, match="reversed"):
            check_fills(found.NEE.values, turned, archive.site)
        seen += 1
    assert seen == len(small)


def test_uncertainties_are_read_and_negative_ones_are_missing(tmp_path):
    columns = {
        "NEE_VUT_REF": [1, 2, -9999],
        "NEE_VUT_REF_QC": [0, 1, 2],
        "NEE_VUT_REF_RANDUNC": [0.5, -9999, 0.25],
        "NEE_VUT_REF_JOINTUNC": [0.75, 1.5, -9999],
        "LE_F_MDS": [1, 2, 3],
        "LE_RANDUNC": [-9999, -9999, -9999],
    }
    found = read_archive(write(tmp_path, columns, name=NAME), utc_offset=0)
    np.testing.assert_array_equal(found.NEE_RANDUNC, np.float32([0.5, np.nan, 0.25]))
    np.testing.assert_array_equal(found.NEE_JOINTUNC, np.float32([0.75, 1.5, np.nan]))
    assert "LE_RANDUNC" not in found and found.NEE_RANDUNC.attrs["units"] == "umol m-2 s-1"
    assert "NEE_RANDUNC" not in read_archive(write(tmp_path, columns, name=NAME), utc_offset=0, variables=["LE"])
    columns["NEE_VUT_REF_RANDUNC"] = [0.5, -0.5, 0.25]
    found = read_archive(write(tmp_path, columns, name=NAME), utc_offset=0)
    np.testing.assert_array_equal(found.NEE_RANDUNC, np.float32([0.5, np.nan, 0.25]))
    np.testing.assert_array_equal(found.NEE, np.float32([1, 2, np.nan]))
    assert "column NEE_VUT_REF_RANDUNC: 1 negative" in found.attrs["doubts"]
