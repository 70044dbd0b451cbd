"""Real daily files, and real half-hours, to a daily cube and selections of it."""

from __future__ import annotations

import gzip
import shutil

import numpy as np
import pandas as pd
import pytest

import fluxcube as fc
from fluxcube.errors import ConfigError, SourceError, UnknownNameError
from fluxcube.normalisation import denormalise
from fluxcube.resolution import DAILY, resolution_of
from fluxcube.schema import validate_cube

PLACES = "meta/fluxnet_shuttle_snapshot_20260624.nocontacts.csv"
COLUMNS = {"TA": "TA_F", "SW_IN": "SW_IN_F", "P": "P_F", "NEE": "NEE_VUT_USTAR50", "GPP_NT": "GPP_NT_VUT_USTAR50"}
QUALITY = {
    "TA": "TA_F_QC",
    "SW_IN": "SW_IN_F_QC",
    "P": "P_F_QC",
    "NEE": "NEE_VUT_USTAR50_QC",
    "GPP_NT": "NEE_VUT_USTAR50_QC",
}


@pytest.fixture(scope="module")
def store(shared_data, tmp_path_factory):
    """The cube of the ten daily files."""
    path = tmp_path_factory.mktemp("daily") / "daily.zarr"
    raw = [shared_data / "daily", shared_data / PLACES, shared_data / "towers/sites.csv"]
    report = fc.build_carbonsense(raw, path, resolution="daily")
    assert len(report.sites) == 10 and not report.left_out
    return path


@pytest.fixture(scope="module")
def tables(shared_data):
    """The files as pandas reads them, by site."""
    files = (shared_data / "daily").glob("*FULLSET_DD*.csv.gz")
    return {
        file.name[4:10]: pd.read_csv(file, na_values=[-9999], parse_dates=["TIMESTAMP"], index_col="TIMESTAMP")
        for file in files
    }


@pytest.fixture(scope="module")
def wide(store):
    return validate_cube(fc.open_carbonsense(store)).fluxcube.to_variables().load()


def test_the_cube_holds_the_files_to_the_last_digit(wide, tables):
    assert sorted(wide.site.values) == sorted(tables)
    for site, table in tables.items():
        one = wide.sel(site=site, time=table.index)
        for name, column in COLUMNS.items():
            np.testing.assert_array_equal(one[name], np.float32(table[column]), err_msg=f"{site} {name}")
            shares = np.where(table[column].isna(), np.nan, table[QUALITY[name]])
            np.testing.assert_array_equal(one[f"{name}_QUALITY"], np.float32(shares), err_msg=f"{site} {name}")
        outside = wide.NEE.sel(site=site).drop_sel(time=table.index)
        assert outside.isnull().all(), "a site has values on its own days only"
        assert one.time_start == table.index[0] and one.time_stop == table.index[-1] + pd.Timedelta("1D")


def test_a_daily_cube_says_what_it_is(store, wide):
    cube = fc.open_carbonsense(store)
    assert resolution_of(cube) is DAILY and "TOD" not in cube["variable"].values
    assert (np.diff(cube.time.values) == np.timedelta64(1, "D")).all()
    assert cube.attrs["clock"] == "standard" and "standard time" in cube.time.attrs["long_name"]
    for name in ("elevation", "igbp", "koppen", "latitude"):
        assert cube[name].dims == ("site",)
    assert cube.koppen.sel(site="US-Wi7") == "Dfb" and float(cube.elevation.sel(site="US-Wi7")) > 100
    assert wide.NEE.attrs["units"] == "gC m-2 d-1" and wide.P.attrs["units"] == "mm d-1"
    days = wide.DOY.isel(site=0).dropna("time")
    np.testing.assert_array_equal(days, days.time.dt.dayofyear - 1)
    rest = np.abs(wide.NEE - (wide.RECO_NT - wide.GPP_NT))
    assert float(rest.max()) < 2e-4


def test_selections_by_site_time_name_and_quality(store, wide):
    cube = fc.open_carbonsense(
        store,
        sites=["FR-Tou", "BE-Lcr"],
        variables=["TA", "LE"],
        targets=["NEE", "RECO_NT"],
        time=("2019-03", "2019-04"),
        min_quality=0.75,
    )
    assert cube.site.values.tolist() == ["FR-Tou", "BE-Lcr"] and cube.sizes["time"] == 61
    masked = cube.fluxcube.to_variables().load()
    whole = wide.sel(site=["FR-Tou", "BE-Lcr"], time=slice("2019-03", "2019-04"))
    for name in ("TA", "NEE", "RECO_NT"):
        kept = whole[f"{name}_QUALITY"] >= 0.75
        np.testing.assert_array_equal(masked[name], whole[name].where(kept))
        assert kept.any() and not kept.all()
    # The file of BE-Lcr does not tell the quality of its latent heat: unknown is not good.
    assert whole.LE.sel(site="BE-Lcr").notnull().all() and masked.LE.sel(site="BE-Lcr").isnull().all()
    by_name = fc.open_carbonsense(store, sites="FR-Tou", min_quality={"NEE": 1.0}).fluxcube.to_variables().load()
    np.testing.assert_array_equal(by_name.TA, wide.TA.sel(site=["FR-Tou"], time=by_name.time))
    assert by_name.NEE.count() < wide.NEE.sel(site="FR-Tou").count()


def test_scaled_and_back(store, wide):
    cube = fc.open_carbonsense(store, sites="US-Wi7", normalized=True, targets=["NEE", "GPP_NT"])
    assert np.nanmax(np.abs(cube.predictors.sel(variable=["TA", "VPD", "P"]).values)) <= 0.5
    fluxes = denormalise(cube.fluxes.values, ["NEE", "GPP_NT"], resolution="daily")
    one = wide.sel(site=["US-Wi7"], time=cube.time)
    np.testing.assert_allclose(fluxes[..., 0], one.NEE, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"max_qc": 1}, ConfigError), ({"min_quality": 2.0}, ConfigError), ({"variables": ["TOD"]}, UnknownNameError)],
)
def test_what_only_hours_have_is_refused(store, options, error):
    with pytest.raises(error):
        fc.open_carbonsense(store, **options)


def test_days_of_half_hours_agree_with_the_daily_file(shared_data, tmp_path, wide):
    """US-Wi7 built from half-hours alone: as ONEFlux's daily file, and with the range of temperature that it lacks."""
    hours = shared_data / "towers/FLX_US-Wi7_FLUXNET2015_SUBSET_HH_2005-2005_1-4.zip"
    fc.build_carbonsense([hours, shared_data / "towers/sites.csv"], tmp_path / "d.zarr", resolution="daily")
    made = fc.open_carbonsense(tmp_path / "d.zarr").fluxcube.to_variables().load().isel(site=0)
    published = wide.sel(site="US-Wi7", time=made.time)
    assert made.sizes["time"] == 365
    for name, limit in {"TA": 1e-3, "SW_IN": 4e-3, "VPD": 1e-3, "NEE": 2e-3, "SW_IN_POT": 1e-6, "DOY": 0}.items():
        assert np.abs(made[name] - published[name]).max() <= limit, name
        np.testing.assert_allclose(made[f"{name}_QUALITY"], published[f"{name}_QUALITY"], atol=1e-6)
    assert made.TA_RANGE.notnull().all() and published.TA_RANGE.isnull().all()
    assert (made.TA_RANGE > 0).all() and float(made.TA_RANGE.mean()) == pytest.approx(10, abs=4)


def test_a_file_with_half_hourly_flags_is_left_out_and_named(shared_data, tmp_path):
    """Its quality counts the other way: the site is left out with file, column and line; one such column is not."""
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(shared_data / PLACES, raw)
    names = [f"FLX_{site}_FLUXNET2015_FULLSET_DD_2020-2020_beta-3.csv.gz" for site in ("GL-Dsk", "IE-Cra")]
    shutil.copy(shared_data / "daily" / names[0], raw)
    table = pd.read_csv(shared_data / "daily" / names[1], dtype=str)
    for name in table.columns[table.columns.str.endswith("_QC")]:
        table[name] = "2"
    (raw / names[1]).write_bytes(gzip.compress(table.to_csv(index=False).encode()))
    report = fc.build_carbonsense(raw, tmp_path / "one.zarr", resolution="daily")
    assert report.sites == ("GL-Dsk",) and list(report.left_out) == ["IE-Cra"]
    assert all(part in report.left_out["IE-Cra"] for part in (names[1], "TA_F_QC", "line 2", "fraction"))
    with pytest.raises(SourceError, match="TA_F_QC"):
        fc.build_carbonsense(raw, tmp_path / "two.zarr", resolution="daily", strict=True)
    assert not (tmp_path / "two.zarr").exists()


def test_the_report_tells_of_days(store):
    given = fc.open_report(store).set_index(["site", "variable"]).loc[("BE-Lcr", "NEE")]
    assert given["source"] == "ICOS Warm Winter 2020" and given["hours"] == 731
    assert (given["first"], given["last"]) == (pd.Timestamp("2019-01-01"), pd.Timestamp("2020-12-31"))
    quality = fc.open_report(store, "quality").set_index(["site", "stack", "variable"])
    assert quality.loc[("BE-Lcr", "fluxes", "LE"), "unknown"] == 1
    assert quality.loc[("IE-Cra", "predictors", "TA"), "remain2"] == 1
    notes = fc.open_report(store, "notes")
    assert notes[notes.site == "BE-Lcr"].text.str.contains("quality unknown.*LE 731").any()
    left = fc.open_report(store, "left_out")
    assert left.why.str.contains("ERAI contains no tower measurements").sum() == 9
