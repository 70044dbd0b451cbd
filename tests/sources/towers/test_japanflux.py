"""JapanFlux2024 in its own column names: what they mean, where they differ, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fluxcube.errors import SourceError
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.oneflux import read_oneflux
from fluxcube.sources.towers.readers import place_of, read_archive, read_daily_archive

NAME = "FLX_JP-Tak_JapanFLUX2024_ALLVARS_HH_2005-2005_1-3.csv"
START = np.datetime64("2005-01-01T00:00", "m")


def write(tmp_path, columns, *, name=NAME, end=True, step=30):
    """Write a table whose column `name` has the texts `columns[name]`."""
    n = len(next(iter(columns.values())))
    times = [str(START + i * np.timedelta64(step, "m")).translate(str.maketrans("", "", "-T:")) for i in range(n + 1)]
    head = {"TIMESTAMP_START": times[:-1], **({"TIMESTAMP_END": times[1:]} if end else {}), **columns}
    rows = zip(*head.values(), strict=True)
    (tmp_path / name).write_text("\n".join([",".join(head), *(",".join(map(str, row)) for row in rows)]) + "\n")
    (archive,) = discover(tmp_path / name).archives
    return archive


def read(tmp_path, columns, **options):
    return read_archive(write(tmp_path, columns, **options), utc_offset=9.0)


def test_own_names_flags_and_clock(tmp_path):
    found = read(
        tmp_path,
        {
            "TA_F": [1, 2, 3],
            "TA_F_QC": [0, 2, 0],
            "NEE_vUT": [-1, -2, -9999],
            "NEE_vUT_QC": [0, 3, 1],
            "GPP_DT_vUT": [5, 6, 7],
            "RECO_NT_vUT": [1, 1, -9999],
            "TS_F_MDS": [4, 5, 6],
            "TS_F_MDS_QC": [0, 1, 2],
            "SWC_F_MDS": [30, 31, 32],
            "H_F_MDS": [1, 2, 3],
        },
    )
    assert json.loads(found.columns) == {
        "TA": "TA_F",
        "NEE": "NEE_VUT",
        "GPP_DT": "GPP_DT_VUT",
        "RECO_NT": "RECO_NT_VUT",
        "TS_1": "TS_F_MDS",
        "SWC_1": "SWC_F_MDS",
        "H": "H_F_MDS",
    }
    np.testing.assert_array_equal(found.NEE, np.float32([-1, -2, np.nan]))
    np.testing.assert_array_equal(found.NEE_QC, [0, 3, -1])
    np.testing.assert_array_equal(found.GPP_DT_QC, [0, 3, 1])
    np.testing.assert_array_equal(found.RECO_NT_QC, [0, 3, -1])
    np.testing.assert_array_equal(found.TS_1_QC, [0, 1, 2])
    np.testing.assert_array_equal(found.H_QC, [3, 3, 3])
    assert found.time.values[0] == np.datetime64("2004-12-31T15:00")
    assert (found.site, found.network, found.step_minutes) == ("JP-Tak", "JapanFlux2024", 30)


def test_the_reference_comes_before_a_percentile_which_brings_its_own_flag(tmp_path):
    both = {"NEE_vUT_USTAR50": [7, 8], "NEE_vUT_USTAR50_QC": [2, 2], "NEE_vUT": [1, 2], "NEE_vUT_QC": [0, 1]}
    np.testing.assert_array_equal(read(tmp_path, both).NEE, [1, 2])
    both["NEE_vUT"] = [-9999, 2]  # of another threshold, a percentile fills no gap of the reference
    np.testing.assert_array_equal(read(tmp_path, both).NEE, [np.nan, 2])
    only = {"NEE_vUT_USTAR50": [7, 8], "NEE_vUT_USTAR50_QC": [2, 0], "GPP_NT_vUT_USTAR50": [3, 4]}
    found = read(tmp_path, only)
    np.testing.assert_array_equal(found.NEE, [7, 8])
    np.testing.assert_array_equal(found.GPP_NT_QC, [2, 0])


@pytest.mark.parametrize("step", [30, 60])
def test_the_end_of_a_period_may_be_missing(tmp_path, step):
    columns = {"TA_F": [1, 2, 3], "TA_F_QC": [0, 0, 0]}
    with_end, without = (read(tmp_path, columns, end=end, step=step) for end in (True, False))
    assert with_end.identical(without) and without.step_minutes == step


def test_case_does_not_matter_unless_it_tells_two_columns_apart(tmp_path):
    lower = read(tmp_path, {"nee_vut": [1, 2], "NEE_VUT_qc": [0, 1]})
    np.testing.assert_array_equal(lower.NEE_QC, [0, 1])
    with pytest.raises(SourceError, match=r"columns NEE_vUT and NEE_VUT, which differ by case"):
        read(tmp_path, {"NEE_vUT": [1, 2], "NEE_VUT": [1, 2]})


@pytest.mark.parametrize("flag", [0.5, 4, -1])
def test_another_scale_of_flags_is_refused_by_the_files_own_name_of_the_column(tmp_path, flag):
    with pytest.raises(SourceError, match=rf"{NAME}, line 3, column NEE_vUT_QC: found '{flag}'"):
        read(tmp_path, {"NEE_vUT": [1, 2], "NEE_vUT_QC": [0, flag]})


def test_a_daily_file_in_disguise_is_refused(tmp_path):
    (tmp_path / NAME).write_text("TIMESTAMP,NEE_vUT,NEE_vUT_QC\n20050101,1,0.5\n")
    (archive,) = discover(tmp_path).archives
    with pytest.raises(SourceError, match="TIMESTAMP, as daily"):
        read_archive(archive, utc_offset=9)
    (tmp_path / NAME).write_text("TIMESTAMP_START,FOO\n200501010000,1\n")
    with pytest.raises(SourceError, match="none of JapanFlux2024's variables"):
        read_archive(archive, utc_offset=9)


def test_an_archive_tells_its_clock_and_has_no_days(tmp_path):
    archive = write(tmp_path, {"TA_F": [1, 2]})
    assert (place_of(archive).site, place_of(archive).utc_offset, place_of(archive).latitude) == ("JP-Tak", 9.0, None)
    assert read_daily_archive(archive) is None


def test_the_reader_of_another_dialect_refuses_it_rather_than_lose_its_fluxes(tmp_path):
    archive = write(tmp_path, {"TA_F": [1, 2], "NEE_vUT": [1, 2]})
    for given in (archive, archive.path):
        with pytest.raises(SourceError, match=r"of JapanFlux2024, .*read_archive"):
            read_oneflux(given, utc_offset=9)
