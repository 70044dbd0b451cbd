"""Noise ceiling: the score of a perfect model, from published and from estimated random errors."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, UnknownNameError
from fluxcube.evaluation.noise import noise_ceiling
from fluxcube.scores import nse, rmse
from fluxcube.simulation.example import example_cube

SIGMA = 2.0


@pytest.fixture(scope="module")
def truth():
    return example_cube(sites=6, days=60, gaps=0.0).drop_vars("modis")


@pytest.fixture(scope="module")
def noisy(truth):
    """Return the cube with Laplace noise of standard deviation 2 on every flux."""
    noise = np.random.default_rng(1).laplace(scale=SIGMA / np.sqrt(2), size=truth.fluxes.shape)
    return truth.assign(fluxes=truth.fluxes + noise.astype("float32"))


def with_uncertainty(cube, value=SIGMA):
    return cube.assign(fluxes_randunc=xr.full_like(cube.fluxes, value).where(cube.fluxes.notnull()))


def perfect(truth, noisy, **select):
    obs, pred = (ds.fluxes.sel(target="NEE", **select).values.ravel() for ds in (noisy, truth))
    ok = np.isfinite(obs)
    return nse(obs[ok], pred[ok]), rmse(obs[ok], pred[ok]), int(ok.sum())


def test_a_perfect_model_reaches_the_ceiling_of_the_published_uncertainty(truth, noisy):
    best, error, count = perfect(truth, noisy)
    row = noise_ceiling(with_uncertainty(noisy), "NEE").iloc[0]
    assert (row.target, row.group, row.scale, row.n, row.n_rows) == ("NEE", "all", "hourly", count, count)
    assert row.nse_ceiling == pytest.approx(best, abs=0.01) and row.noise_rmse == pytest.approx(error, abs=0.05)
    assert row.n_estimated == 0 and row.reason == "" and row.units == "umol m-2 s-1"


def test_pairs_of_days_estimate_the_same_ceiling(truth, noisy):
    """The noise of the example's fluxes without added noise is part of the truth, and small."""
    best, error, _ = perfect(truth, noisy)
    row = noise_ceiling(noisy, "NEE").iloc[0]
    assert row.n_estimated == row.n == row.n_rows
    assert row.noise_rmse == pytest.approx(error, rel=0.15) and row.nse_ceiling == pytest.approx(best, abs=0.04)
    without = noise_ceiling(noisy, "NEE", estimate=False).iloc[0]
    assert without.n == 0 and np.isnan(without.nse_ceiling) and "no random uncertainty of NEE" in without.reason


def test_daily_means_have_less_noise(truth, noisy):
    rows = noise_ceiling(with_uncertainty(noisy), "NEE", scale=("hourly", "daily")).set_index("scale")
    assert rows.noise_rmse["daily"] == pytest.approx(SIGMA / np.sqrt(24), rel=0.02)
    assert rows.n_rows["daily"] == pytest.approx(rows.n_rows["hourly"] / 24, rel=0.03)
    assert rows.nse_ceiling["daily"] > rows.nse_ceiling["hourly"]


def test_groups_pool_their_sites_and_all_are_read_once(noisy):
    cube = with_uncertainty(noisy)
    table = noise_ceiling(cube, "NEE", by=(None, "igbp", "site"))
    whole, classes, sites = (table[table.by == by] for by in ("all", "igbp", "site"))
    assert set(classes.group) == set(cube.igbp.values) and len(sites) == 6
    assert whole.n.iloc[0] == classes.n.sum() == sites.n.sum()
    one = noise_ceiling(cube.sel(site=cube.igbp == "DBF"), "NEE").iloc[0]
    row = classes.set_index("group").loc["DBF"]
    assert row.nse_ceiling == pytest.approx(one.nse_ceiling) and row.n_sites == one.n_sites


def test_rows_without_an_uncertainty_are_counted_and_left_out(noisy):
    cube = with_uncertainty(noisy)
    hole = cube.fluxes_randunc.copy()
    hole[:, 100:300] = np.nan
    row = noise_ceiling(cube.assign(fluxes_randunc=hole), "NEE").iloc[0]
    left = row.n_rows - row.n
    assert left == 1200 and row.reason == f"1200 of {row.n_rows} scored time steps have no uncertainty and are left out"
    assert row.noise_rmse == pytest.approx(SIGMA)


def test_only_scored_rows_count(noisy):
    cube = with_uncertainty(noisy)
    rows = xr.zeros_like(cube.fluxes.isel(target=0, drop=True), dtype=bool)
    rows[0, :50] = True
    table = noise_ceiling(cube, ["NEE", "LE"], by="site", rows=rows)
    counts = table.set_index(["target", "group"]).n_rows
    assert counts["NEE", "XX-S00"] == 50 and counts["NEE", "XX-S03"] == 0
    assert table.set_index(["target", "group"]).reason["NEE", "XX-S03"] == "no scored time step"
    filled = cube.assign(fluxes_qc=xr.full_like(cube.fluxes_qc, 1))
    assert noise_ceiling(filled, "NEE").n_rows[0] == 0 and noise_ceiling(filled, "NEE", max_qc=1).n_rows[0] > 0


def test_modelled_fluxes_and_towers_without_weather_have_no_ceiling(noisy):
    row = noise_ceiling(noisy, "GPP_NT").iloc[0]
    assert row.n == 0 and row.n_rows > 0 and row.reason.startswith("GPP_NT is modelled from NEE")
    dark = noisy.assign(predictors=noisy.predictors.where(noisy["variable"] != "SW_IN"))
    row = noise_ceiling(dark, "NEE").iloc[0]
    assert row.n == 0 and "too few pairs of hours" in row.reason
    filled = noisy.assign(
        predictors_qc=xr.where(noisy["variable"] == "VPD", 2, noisy.predictors_qc).transpose(*noisy.predictors.dims)
    )
    assert noise_ceiling(filled, "NEE").iloc[0].n > 0  # a reanalysis filled VPD throughout


def test_a_constant_observation_has_noise_but_no_ceiling(noisy):
    cube = with_uncertainty(noisy.assign(fluxes=xr.full_like(noisy.fluxes, 3.0)))
    row = noise_ceiling(cube, "NEE").iloc[0]
    assert row.noise_rmse == SIGMA and np.isnan(row.nse_ceiling)


def test_wrong_questions_are_refused(noisy):
    with pytest.raises(UnknownNameError, match="NEEE"):
        noise_ceiling(noisy, "NEEE")
    with pytest.raises(SchemaError, match=r"by='biome' must be a coordinate on site: expected one of .*igbp"):
        noise_ceiling(noisy, by="biome")
    with pytest.raises(UnknownNameError, match="weekly"):
        noise_ceiling(noisy, scale="weekly")
    with pytest.raises(ConfigError, match="min_quality"):
        noise_ceiling(noisy, min_quality=1)
    daily = noisy.rename(fluxes_qc="fluxes_quality").assign_attrs(resolution="daily")
    with pytest.raises(ConfigError, match="found a daily one"):
        noise_ceiling(daily, scale="hourly")


@pytest.mark.parametrize(("site", "published"), [("US-Wi7", 0.827), ("DK-Fou", 0.964)])
def test_estimate_agrees_with_the_published_uncertainty_of_real_towers(shared_data, site, published):
    pytest.importorskip("h5netcdf")
    files = [next((shared_data / "formats").glob(f"{site}_*_{kind}.nc")) for kind in ("Flux", "Met")]
    flux, met = (xr.open_dataset(file).squeeze(drop=True) for file in files)
    cube = _hourly(site, flux, met)
    known = noise_ceiling(cube, "NEE").iloc[0]
    pairs = noise_ceiling(cube.drop_vars("fluxes_randunc"), "NEE").iloc[0]
    assert known.n_estimated == 0 and pairs.n_estimated == pairs.n == known.n
    assert known.nse_ceiling == pytest.approx(published, abs=0.002)
    assert pairs.nse_ceiling == pytest.approx(known.nse_ceiling, abs=0.06)


def _hourly(site, flux, met):
    """Return a cube of one tower from half-hourly PLUMBER2 files; an hour needs two measured halves."""
    y = np.where(flux.NEE_qc == 0, flux.NEE, np.nan).reshape(-1, 2).mean(1)
    error = np.sqrt(np.square(flux.NEE_uc.values.reshape(-1, 2)).sum(1)) / 2
    weather = [w.values.reshape(-1, 2).mean(1) for w in (met.SWdown, met.Tair - 273.15, met.VPD)]
    time = flux.time.values[::2].astype("datetime64[h]").astype("datetime64[ns]")
    stack = np.stack(weather, -1)[None].astype("float32")
    return xr.Dataset(
        {
            "fluxes": (("site", "time", "target"), y[None, :, None].astype("float32")),
            "fluxes_qc": (("site", "time", "target"), np.where(np.isfinite(y), 0, -1)[None, :, None].astype("int8")),
            "fluxes_randunc": (("site", "time", "target"), error[None, :, None]),
            "predictors": (("site", "time", "variable"), stack),
        },
        {
            "site": [site],
            "time": time,
            "target": ["NEE"],
            "variable": ["SW_IN", "TA", "VPD"],
            "longitude": ("site", [0.0]),
            "time_start": ("site", time[:1]),
            "time_stop": ("site", time[-1:] + np.timedelta64(1, "h")),
        },
    )
