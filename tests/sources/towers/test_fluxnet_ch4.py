"""FLUXNET-CH4: measured where something was measured, filled elsewhere, and each step says which."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_japanflux import write

from fluxcube.errors import SourceError
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
