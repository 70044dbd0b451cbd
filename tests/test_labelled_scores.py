"""Scores of labelled data: equal to scikit-learn and xskillscore, lazy, with units, and errors that name the cause."""

from __future__ import annotations

import logging
import math

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import fluxcube as fc
from fluxcube import scores
from fluxcube.errors import ConfigError, SchemaError, UnknownNameError

PLAIN = {name: getattr(scores, name) for name in ("nse", "rmse", "mae", "bias", "corr2", "kge")}


@pytest.fixture(scope="module")
def data():
    """Observations, predictions, weights, members, standard deviations, and observations with gaps."""
    rng = np.random.default_rng(16)
    dims = ("site", "time")
    obs = xr.DataArray(rng.normal(-3, 8, (3, 200)), dims=dims, attrs={"units": "umol m-2 s-1"}, name="NEE")
    pred = 0.7 * obs + xr.DataArray(rng.normal(1, 3, (3, 200)), dims=dims)
    weights = xr.DataArray(rng.random((3, 200)), dims=dims)
    members = pred + xr.DataArray(rng.normal(0, 3, (3, 200, 7)), dims=(*dims, "member"))
    std = xr.DataArray(rng.uniform(0.5, 4, (3, 200)), dims=dims)
    gaps = obs.where(xr.DataArray(rng.random((3, 200)) > 0.2, dims=dims))
    return {"obs": obs, "pred": pred, "weights": weights, "members": members, "std": std, "gaps": gaps}


def test_equal_to_scikit_learn_and_xskillscore(data):
    """Numbers that scikit-learn 1.9.1 and xskillscore 0.0.29 compute from these arrays."""
    obs, pred, weights, gaps = (data[name] for name in ("obs", "pred", "weights", "gaps"))
    by_site = {
        "rmse": [4.044640804365555, 4.325831632601279, 4.270249567315116],
        "mae": [3.290303374612005, 3.4241741221941275, 3.4527938795640454],
        "bias": [1.8415678207917885, 2.216143554989927, 1.6630105057819968],
        "nse": [0.7554849133598063, 0.6757090794364964, 0.6859462773590695],
        "corr2": [0.8176358467155584, 0.7640991859277549, 0.7355397343175132],
    }
    for name, expected in by_site.items():
        np.testing.assert_allclose(PLAIN[name](obs, pred), expected, rtol=1e-12)
    weighted = {
        "rmse": 4.372844584078764,
        "mae": 3.51475977164285,
        "bias": 2.015332739157845,
        "nse": 0.6988628403001897,
        "corr2": 0.7698858380376628,
    }
    for name, expected in weighted.items():
        assert float(PLAIN[name](obs, pred, None, weights)) == pytest.approx(expected, rel=1e-12)
    weighted_with_gaps = {
        "rmse": 4.390227666051811,
        "mae": 3.5389436951581414,
        "bias": 1.9677249449690437,
        "nse": 0.7074597483461234,
        "corr2": 0.7735914694227659,
    }
    for name, expected in weighted_with_gaps.items():
        assert float(PLAIN[name](gaps, pred, ("time", "site"), weights)) == pytest.approx(expected, rel=1e-12)
    normal = scores.crps(obs, pred, std=data["std"])
    np.testing.assert_allclose(normal, [2.4966052700313384, 2.64416704390889, 2.6746888583846573], rtol=1e-12)
    ensemble = scores.crps(obs, data["members"])
    np.testing.assert_allclose(ensemble, [2.5733191003916396, 2.674764518721296, 2.7610361739666316], rtol=1e-12)
    assert float(scores.crps(obs, pred, None, weights, std=data["std"])) == pytest.approx(2.7132470145712797, rel=1e-12)


def test_equal_to_the_installed_packages(data):
    """The same comparison with the packages themselves, where they are installed."""
    metrics = pytest.importorskip("sklearn.metrics")
    xs = pytest.importorskip("xskillscore")
    obs, pred, weights, gaps = (data[name] for name in ("obs", "pred", "weights", "gaps"))
    flat, by = (obs.values.ravel(), pred.values.ravel()), {"sample_weight": weights.values.ravel()}
    assert float(scores.nse(obs, pred, None, weights)) == pytest.approx(metrics.r2_score(*flat, **by))
    assert float(scores.mae(obs, pred, None)) == pytest.approx(metrics.mean_absolute_error(*flat))
    for ours, theirs in (("rmse", xs.rmse), ("mae", xs.mae), ("nse", xs.r2)):
        np.testing.assert_allclose(PLAIN[ours](gaps, pred), theirs(gaps, pred, dim="time", skipna=True))
    np.testing.assert_allclose(scores.bias(obs, pred), xs.me(pred, obs, dim="time"))
    np.testing.assert_allclose(scores.crps(obs, data["members"]), xs.crps_ensemble(obs, data["members"], dim="time"))


@pytest.mark.parametrize("chunks", [{"site": 1, "time": 37}, {"time": 200}, {"site": 2}])
@pytest.mark.parametrize("dim", ["time", "site", None, ("time", "site")])
def test_lazy_scores_equal_eager_ones_and_nothing_is_computed(data, dim, chunks):
    gaps, pred, weights = data["gaps"], data["pred"], data["weights"]
    with dask.config.set(scheduler=_refuse):
        found = {n: f(gaps.chunk(chunks), pred, dim, weights) for n, f in PLAIN.items()}
        found["crps"] = scores.crps(gaps, data["members"].chunk(member=3), dim)
        found["coverage"] = scores.coverage(gaps, pred.chunk(chunks), dim, std=data["std"])
    assert all(isinstance(one.data, da.Array) for one in found.values())
    for name, function in PLAIN.items():
        xr.testing.assert_allclose(found[name].compute(), function(gaps, pred, dim, weights), rtol=1e-10)
        assert found[name].attrs == function(gaps, pred, dim, weights).attrs
    xr.testing.assert_allclose(found["crps"].compute(), scores.crps(gaps, data["members"], dim))
    xr.testing.assert_allclose(found["coverage"].compute(), scores.coverage(gaps, pred, dim, std=data["std"]))


def _refuse(*args, **kwargs):
    raise AssertionError("a lazy score was computed")


def test_dimensions_and_coordinates_that_are_kept(data):
    obs = data["obs"].assign_coords(site=["a", "b", "c"], igbp=("site", ["DBF", "GRA", "DBF"]), time=np.arange(200))
    several = xr.concat([data["pred"], data["obs"]], "model")
    found = scores.nse(obs, several)
    assert set(found.dims) == {"site", "model"} and found.igbp.values.tolist() == ["DBF", "GRA", "DBF"]
    assert "time" not in found.coords and (found.isel(model=1) == 1).all()
    assert scores.rmse(obs, several, ["time", "site"]).dims == ("model",)
    pointwise = scores.mae(obs, several.isel(model=0), [])
    np.testing.assert_allclose(pointwise, abs(data["pred"] - data["obs"]))
    assert scores.nse(obs, several, None).dims == () and fc.scores is scores


def test_units_and_names(data):
    obs, pred = data["obs"], data["pred"]
    assert scores.nse(obs, pred).attrs == {"long_name": "Nash-Sutcliffe efficiency of NEE", "units": "1"}
    error = scores.rmse(obs, pred)
    assert error.name == "NEE" and error.attrs["units"] == "umol m-2 s-1"
    carbon = (obs * 1.0377).assign_attrs(units="gC m-2 d-1")
    assert float(scores.rmse(obs, carbon, None)) < 1e-3, "12.011e-6 g x 86400 s"
    kelvin = (obs + 273.15).assign_attrs(units="K")
    assert float(scores.rmse(obs.assign_attrs(units="degC"), kelvin, None)) == pytest.approx(0, abs=1e-9)
    std = xr.full_like(obs, 2.0).assign_attrs(units="K")
    inside = scores.coverage(obs.assign_attrs(units="degC"), kelvin + 1, None, std=std)
    assert float(inside) == 1, "a standard deviation has no zero to shift"
    with pytest.raises(ConfigError, match="NEE"):
        scores.rmse(obs, pred.assign_attrs(units="W m-2"))


def test_datasets_are_scored_by_variable(data):
    obs = xr.Dataset({"NEE": data["obs"], "LE": data["gaps"], "NEE_QC": data["obs"] * 0})
    pred = xr.Dataset({"LE": data["pred"], "NEE": data["pred"], "NEE_std": data["std"], "LE_std": data["std"]})
    found = scores.nse(obs, pred)
    assert list(found) == ["NEE", "LE"]
    xr.testing.assert_identical(found.LE, scores.nse(obs.LE, pred.LE))
    xr.testing.assert_identical(scores.crps(obs, pred).NEE, scores.crps(obs.NEE, pred.NEE, std=data["std"]))
    with pytest.raises(SchemaError, match="LE in the observations alone"):
        scores.rmse(obs, pred[["NEE"]])
    with pytest.raises(SchemaError, match="standard deviations or members"):
        scores.crps(obs[["LE"]], pred[["LE"]])
    with pytest.raises(SchemaError, match="DataArray and Dataset"):
        scores.rmse(obs.NEE, pred)


def test_missing_values(data):
    gaps, pred = data["gaps"], data["pred"]
    kept = np.isfinite(gaps[0].values)
    alone = scores.nse(gaps[0, kept], pred[0, kept])
    assert float(scores.nse(gaps, pred)[0]) == pytest.approx(float(alone), rel=1e-12)
    assert float(scores.nse(data["obs"], pred.where(np.isfinite(gaps), np.inf))[0]) == pytest.approx(float(alone))
    assert scores.rmse(gaps, pred, skipna=False).isnull().all()
    some = xr.where(xr.DataArray([True, False, False], dims="site"), gaps, data["obs"])
    assert scores.rmse(some, pred, skipna=False).isnull().values.tolist() == [True, False, False]
    assert scores.rmse(some.chunk(time=50), pred, skipna=False).isnull().values.tolist() == [True, False, False]
    weights = data["weights"].where(np.isfinite(gaps))
    xr.testing.assert_allclose(scores.mae(data["obs"], pred, weights=weights), scores.mae(gaps, pred, weights=weights))


def test_weights(data):
    obs, pred = data["obs"], data["pred"]
    repeats = xr.DataArray([2.0, 1.0, 0.0], dims="site")
    twice = [xr.concat([x[0], x[0], x[1]], "time") for x in (obs, pred)]
    for function in PLAIN.values():
        assert float(function(obs, pred, None, repeats)) == pytest.approx(float(function(*twice, None)))
        assert function(obs, pred, weights=repeats).isnull().values.tolist() == [False, False, True]
    with pytest.raises(ConfigError, match="negative weight"):
        scores.rmse(obs, pred, weights=repeats - 1)


def test_undefined_scores_are_nan_without_a_warning(recwarn):
    constant, varying = (xr.DataArray(x, dims="time") for x in ([0.1] * 4, [1.0, 2.0, 3.0, 5.0]))
    assert np.isnan(scores.nse(constant, varying)) and float(scores.rmse(constant, constant)) == 0
    assert np.isnan(scores.corr2(varying, constant)) and not np.isnan(scores.nse(varying, constant))
    assert np.isnan(scores.kge(varying, constant)) and np.isnan(scores.kge(constant, varying))
    nothing = varying * np.nan
    for function in (*PLAIN.values(), lambda a, b: scores.crps(a, b, std=b), lambda a, b: scores.coverage(a, b, std=b)):
        assert np.isnan(function(nothing, varying)) and np.isnan(function(varying[:0], varying[:0]))
    assert not recwarn.list


def test_kling_gupta_by_hand_and_near_a_mean_of_zero(caplog):
    obs = xr.DataArray([1.0, 2.0, 3.0, 4.0], dims="time")
    pred = xr.DataArray([2.0, 2.0, 2.0, 6.0], dims="time")
    r, ratio = 6 / math.sqrt(60), math.sqrt(12 / 5)
    expected = 1 - math.sqrt((r - 1) ** 2 + (ratio - 1) ** 2 + (3 / 2.5 - 1) ** 2)
    assert float(scores.kge(obs, pred)) == pytest.approx(expected)
    level = 0.5 / math.sqrt(5 / 4)
    expected = 1 - math.sqrt((r - 1) ** 2 + (ratio - 1) ** 2 + level**2)
    assert float(scores.kge(obs, pred, variant="2021")) == pytest.approx(expected)
    assert float(scores.kge(-obs, -pred)) == pytest.approx(float(scores.kge(obs, pred)))
    assert not caplog.records
    anomalies = obs - 2.5 + 1e-3
    assert float(scores.kge(anomalies, anomalies + 1)) < -100
    assert "variant=" in caplog.text and "1 of 1" in caplog.text
    caplog.clear()
    assert float(scores.kge(anomalies, anomalies + 1, variant="2021")) == pytest.approx(1 - 1 / math.sqrt(5 / 4))
    assert np.isnan(scores.kge(obs - 2.5, obs, variant="2009")) and len(caplog.records) == 1
    with caplog.at_level(logging.ERROR), pytest.raises(UnknownNameError, match="2009, 2021"):
        scores.kge(obs, pred, variant="2012")


def test_crps_of_ensembles(data):
    obs, members = data["obs"].isel(time=slice(9)), data["members"].isel(time=slice(9))
    x, y = members.values, obs.values[..., None]
    apart = np.abs(x[..., :, None] - x[..., None, :]).sum((-1, -2))
    for fair, count in ((False, 49), (True, 42)):
        expected = np.abs(x - y).mean(-1) - apart / (2 * count)
        np.testing.assert_allclose(scores.crps(obs, members, [], fair=fair), expected)
    single = members.isel(member=[0])
    xr.testing.assert_allclose(scores.crps(obs, single), scores.mae(obs, single.isel(member=0)))
    assert scores.crps(obs, single, fair=True).isnull().all(), "one member has no spread"
    holes = members.where(members.member != 3) if "member" in members.coords else members.copy()
    holes[..., 3] = np.nan
    without = members.isel(member=[0, 1, 2, 4, 5, 6])
    xr.testing.assert_allclose(scores.crps(obs, holes), scores.crps(obs, without))
    assert scores.crps(obs, holes, skipna=False).isnull().all()


def test_coverage_of_the_three_kinds_of_intervals():
    rng = np.random.default_rng(0)
    obs = xr.DataArray(rng.normal(size=20_000), dims="time")
    zero, std = xr.zeros_like(obs), xr.ones_like(obs)
    members = xr.DataArray(rng.normal(size=(20_000, 99)), dims=("time", "member"))
    for level, z in ((0.5, 0.6744897501960817), (0.8, 1.2815515655446004), (0.95, 1.959963984540054)):
        normal = scores.coverage(obs, zero, level=level, std=std)
        assert float(normal) == float((abs(obs) <= z).mean()) and normal.attrs["level"] == level
        bounds = xr.DataArray([-z, z], dims="quantile", coords={"quantile": [(1 - level) / 2, (1 + level) / 2]})
        assert float(scores.coverage(obs, zero + bounds, level=level)) == float(normal)
        assert float(scores.coverage(obs, members, level=level)) == pytest.approx(level, abs=0.02)
    with pytest.raises(SchemaError, match=r"quantile 0\.1"):
        scores.coverage(obs, zero + bounds)
    for level in (0, 1, 80):
        with pytest.raises(ConfigError, match="level"):
            scores.coverage(obs, zero, level=level, std=std)


def test_errors_name_the_cause(data):
    obs = data["obs"].assign_coords(site=["a", "b", "c"])
    with pytest.raises(SchemaError, match="expected two DataArrays"):
        scores.nse(obs.values, obs)
    with pytest.raises(SchemaError, match=r"expected the dimension hour, found site, time"):
        scores.nse(obs, obs, "hour")
    with pytest.raises(SchemaError, match=r"same site in both, found 3 and 2, 2 of them in common.*xr\.align"):
        scores.nse(obs, obs.isel(site=[0, 2]))
    with pytest.raises(SchemaError, match=r"same site in both, found 3 and 3, 3 of them in common"):
        scores.nse(obs, obs.isel(site=[2, 1, 0]))
    with pytest.raises(SchemaError, match="same time"):
        scores.nse(obs, obs.isel(time=slice(9)))
    with pytest.raises(SchemaError, match=r"pass cube\.fluxes"):
        scores.nse(obs.to_dataset(name="fluxes"), obs.to_dataset(name="fluxes"))
    with pytest.raises(SchemaError, match="expected numbers, found"):
        scores.nse(obs.astype(str), obs)
    with pytest.raises(SchemaError, match="weights as a DataArray"):
        scores.nse(obs, obs, weights=np.ones(200))
