"""Totals of methane: weighted by the wetland fraction, refused without one, and with gaps filled by other wetlands."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

import fluxcube as fc
from fluxcube.cli import app
from fluxcube.errors import ConfigError, SchemaError
from fluxcube.maps.totals import totals
from fluxcube.maps.wetland import weight_by_wetland

CELLS = ("latitude", "longitude")


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    time = pd.date_range("2018-01-01", "2018-12-31", freq="D")
    latitude, longitude = 60 - 0.5 * np.arange(4.0), 5 + 0.5 * np.arange(5.0)
    shape = (len(time), 4, 5)
    land = rng.uniform(0.3, 1, shape[1:])
    land[0, 0] = 0
    flux = np.where(land > 0, rng.uniform(10, 90, shape), np.nan).astype("float32")
    attrs = {"units": "nmol m-2 s-1", "long_name": "methane flux"}
    dims = ("time", *CELLS)
    return xr.Dataset(
        {
            "FCH4": (dims, flux, attrs),
            "FCH4_spread": (dims, flux / 10, attrs),
            "NEE": (dims, flux / 50, {"units": "gC m-2 d-1"}),
        },
        {"time": time, "latitude": latitude, "longitude": longitude, "land_fraction": (CELLS, land)},
    )


@pytest.fixture(scope="module")
def wetland(maps):
    share = np.random.default_rng(1).uniform(0, 0.3, (4, 5))
    share[1:3, 2] = 0
    return xr.DataArray(share, {dim: maps[dim] for dim in CELLS}, CELLS, attrs={"units": "1"})


def by_hand(maps, share):
    """Total in TgCH4 yr-1 of a plain sum; `share` (latitude, longitude) or (time, latitude, longitude)."""
    area = totals(maps.assign_coords(land_fraction=xr.ones_like(maps.land_fraction)), by=None, targets=["NEE"]).area
    rows = np.cos(np.deg2rad(maps.latitude))  # for a comparison to 0.1 %
    cell = float(area) * rows / (rows.sum() * maps.sizes["longitude"])
    return float((maps.FCH4.fillna(0) * share * cell).sum() * 86400 * 1e-9 * 16.043 * 1e-12)


def test_the_total_is_flux_times_wetland(maps, wetland):
    out = totals(maps, wetland=wetland)
    assert float(out.FCH4) == pytest.approx(by_hand(maps, wetland), rel=1e-3)
    assert float(out.FCH4_spread) == pytest.approx(float(out.FCH4) / 10, rel=1e-5)
    assert out.FCH4.attrs["units"] == "TgCH4 yr-1" and 0 < float(out.wetland_area) < 0.3 * float(out.area)
    assert float(out.NEE) == float(totals(maps, targets=["NEE"]).NEE), "other fluxes are per area of land"
    assert float(totals(maps, wetland=wetland / 2).FCH4) == pytest.approx(float(out.FCH4) / 2)
    land = maps.assign_coords(land_fraction=maps.land_fraction / 2)
    assert float(totals(land, wetland=wetland).FCH4) == pytest.approx(float(out.FCH4)), "not a share of the land"


def test_weighted_maps_have_the_same_total_and_say_so(maps, wetland):
    weighted = weight_by_wetland(maps.chunk(time=100), wetland.rename("WAD2M"))
    assert (
        weighted.FCH4.chunks and weighted.FCH4.attrs["weighted_by"] == "WAD2M" and "weighted_by" not in maps.FCH4.attrs
    )
    expected = maps.FCH4 * wetland / maps.land_fraction
    np.testing.assert_allclose(weighted.FCH4, expected.where(maps.land_fraction > 0), rtol=1e-5)
    assert weighted.NEE.equals(maps.NEE)
    assert float(totals(weighted).FCH4) == pytest.approx(float(totals(maps, wetland=wetland).FCH4), rel=1e-5)
    for repeat in (lambda: totals(weighted, wetland=wetland), lambda: weight_by_wetland(weighted, wetland)):
        with pytest.raises(ConfigError, match="already weighted"):
            repeat()


def test_without_a_wetland_fraction_a_total_is_refused(maps):
    with pytest.raises(ConfigError, match=r"pass wetland=.*or targets=\['NEE'\]"):
        totals(maps)
    with pytest.raises(ConfigError, match="area of wetland"):
        totals(maps, targets=["FCH4"])
    assert "FCH4" not in totals(maps, targets=["NEE"])


def test_a_wetland_that_varies_weighs_each_month(maps, wetland):
    month = xr.DataArray(np.linspace(0.2, 1.0, 12), {"month": np.arange(1, 13)}, ("month",))
    cycle = (wetland * month).transpose("month", ...)
    share = wetland * month.sel(month=maps.time.dt.month)
    expected = by_hand(maps, share)
    dates = pd.date_range("2017-12-15", periods=14, freq="MS") + pd.Timedelta(14, "D")
    dated = cycle.sel(month=xr.DataArray(dates.month, dims="time")).drop_vars("month").assign_coords(time=dates)
    for given in (cycle, dated, dated.isel(time=slice(None, None, -1))):
        assert float(totals(maps, wetland=given).FCH4) == pytest.approx(expected, rel=1e-3)
    weighted = weight_by_wetland(maps, dated)
    assert weighted.FCH4.dims == maps.FCH4.dims
    assert float(totals(weighted).FCH4) == pytest.approx(float(totals(maps, wetland=cycle).FCH4), rel=1e-4)
    with pytest.raises(ConfigError, match="no map of 2018-06"):
        totals(maps, wetland=dated.sel(time=dated.time.dt.month != 6))
    with pytest.raises(SchemaError, match="months 1 to 12"):
        totals(maps, wetland=cycle.isel(month=slice(3)))


def test_gaps_in_wetlands_are_not_filled_with_dry_land(maps, wetland):
    """A cell without wetland needs no value, and a wetland without one has the mean of the others."""
    dry = maps.assign(FCH4=maps.FCH4.where(wetland > 0))
    assert float(totals(dry, wetland=wetland).FCH4) == pytest.approx(float(totals(maps, wetland=wetland).FCH4))
    assert float(totals(dry, wetland=wetland).FCH4_coverage) == pytest.approx(1)
    constant = maps.assign(FCH4=(maps.FCH4 * 0 + 50).where(maps.longitude > 5.2))
    whole = totals(maps.assign(FCH4=maps.FCH4 * 0 + 50), wetland=wetland)
    gappy = totals(constant, wetland=wetland, min_coverage=0)
    assert float(gappy.FCH4) == pytest.approx(float(whole.FCH4)) and float(gappy.FCH4_coverage) < 0.9
    with pytest.raises(SchemaError, match="coverage"):
        totals(constant, wetland=wetland)


def test_groups_without_wetland_emit_nothing(maps, wetland):
    igbp = xr.where(maps.longitude == 6.0, "ENF", "WET").broadcast_like(maps.land_fraction)
    share = wetland.where(maps.longitude != 6.0, 0.0)
    out = totals(maps.assign_coords(igbp=igbp), by="igbp", wetland=share)
    assert float(out.FCH4.sel(igbp="ENF")) == 0
    assert float(out.FCH4.sum()) == pytest.approx(float(totals(maps, wetland=share).FCH4), rel=1e-9)


def test_percent_is_converted_and_the_grid_may_be_larger_or_turned(maps, wetland):
    expected = float(totals(maps, wetland=wetland).FCH4)
    percent = (wetland * 100).assign_attrs(units="%")
    shifted = wetland.assign_coords(longitude=wetland.longitude + 360)
    rounded = wetland.assign_coords({dim: wetland[dim].astype("float32") + 1e-6 for dim in CELLS})
    larger = wetland.pad(latitude=1, longitude=2, mode="edge").assign_coords(
        latitude=60.5 - 0.5 * np.arange(6), longitude=4 + 0.5 * np.arange(9)
    )
    for other in (percent, shifted, rounded, larger, wetland[::-1, ::-1], wetland.drop_attrs(), wetland.T):
        assert float(totals(maps, wetland=other).FCH4) == pytest.approx(expected, rel=1e-6)


def test_a_wetland_that_does_not_fit_is_refused_with_what_to_do(maps, wetland, caplog):
    unknown = wetland.where(wetland.longitude < 6.6)
    for other, error, why in (
        (wetland.assign_coords(latitude=wetland.latitude + 0.25), SchemaError, "mean wetland fraction of each cell"),
        (wetland.isel(latitude=slice(2)), SchemaError, "no cell at latitude"),
        (wetland.interp(longitude=np.arange(5, 7.1, 0.1)), None, ""),
        (wetland * 100, ConfigError, "percent"),
        (wetland.assign_attrs(units="km2"), ConfigError, "different quantities"),
        (wetland.where(wetland > 0.01, -9999), ConfigError, "missing values"),
        (unknown, ConfigError, r"fillna\(0\)"),
        (wetland * np.nan, ConfigError, r"every value is missing \(NaN\) at the cells of the maps"),
        ((wetland * np.nan).expand_dims(month=range(1, 13)), ConfigError, "every value is missing"),
        (wetland.expand_dims(month=range(1, 13)).where(lambda w: w.month != 3), ConfigError, "100.0% of the land"),
        (wetland.rename(latitude="lat"), SchemaError, "dimensions"),
        (wetland.expand_dims(year=[2018]), SchemaError, "dimensions"),
        (wetland.to_dataset(name="w"), SchemaError, "DataArray"),
        (0.2, SchemaError, "DataArray"),
    ):
        if error is None:
            totals(maps, wetland=other)
            continue
        with pytest.raises(error, match=why):
            totals(maps, wetland=other)
    with pytest.raises(ConfigError, match="leave it out"):
        totals(maps, targets=["NEE"], wetland=wetland)
    totals(maps, wetland=unknown.fillna(0))
    totals(maps, wetland=wetland.where(maps.land_fraction > 0, 1.0))
    assert "without land" in caplog.text and "counts as no wetland" not in caplog.text
    totals(maps, wetland=wetland.where((wetland.longitude < 6.9) | (wetland.latitude < 59.9)))  # one cell of twenty
    assert "counts as no wetland" in caplog.text


def test_the_command_reads_a_wetland_fraction(maps, wetland, tmp_path):
    fc.write_maps(maps[["FCH4", "NEE"]].assign_attrs(kind="maps").chunk(time=365), tmp_path / "maps.zarr")
    wetland.rename("fraction").to_netcdf(tmp_path / "wetland.nc")
    table = tmp_path / "totals.csv"
    given = ["totals", str(tmp_path / "maps.zarr"), "--wetland", str(tmp_path / "wetland.nc"), "--out", str(table)]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert "TgCH4" in done.stdout
    assert float(pd.read_csv(table).FCH4[0]) == pytest.approx(float(totals(maps, wetland=wetland).FCH4), rel=1e-5)
    exported = ["export", given[1], str(tmp_path / "all.nc"), "--every", "all", "--wetland", given[3]]
    done = CliRunner().invoke(app, exported)
    assert done.exit_code == 0, done.output
    mean = weight_by_wetland(maps, wetland).FCH4.mean("time")
    with xr.open_dataset(tmp_path / "all.nc") as out:
        np.testing.assert_allclose(out.FCH4.squeeze().sortby("lat"), mean.sortby("latitude"), rtol=1e-4)
    for other, why in ((tmp_path / "absent.nc", "no file"), (None, "pass wetland=")):
        wrong = given[:2] + ([] if other is None else ["--wetland", str(other)])
        assert why in str(CliRunner().invoke(app, wrong).exception)


def test_sensible_heat_has_a_total(maps):
    heat = maps[["NEE"]].rename(NEE="H")
    heat.H.attrs["units"] = "W m-2"
    out = totals(heat)
    assert out.H.attrs["units"] == "W" and "ET" not in out
