"""Common rows of sites, and the tables of the report that are computed from them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxcube.errors import ConfigError, FluxcubeError, SchemaError
from fluxcube.evaluation.applicability_error import applicability_error
from fluxcube.evaluation.carbon import carbon_closure
from fluxcube.evaluation.common_rows import CommonRows, daily_means, groups_of, rows_in_common
from fluxcube.evaluation.cycles import mean_cycles
from fluxcube.evaluation.density import density
from fluxcube.evaluation.interannual import interannual, interannual_summary, theil_sen
from fluxcube.evaluation.neighbours import error_by_distance, nearest_training_tower
from fluxcube.evaluation.reliability import reliability
from fluxcube.evaluation.series import series_json, site_series, worst_sites
from fluxcube.evaluation.skill import compare
from fluxcube.evaluation.sums import common_rows
from fluxcube.scores import normal_crps
from fluxcube.simulation.example import example_cube

SITES, LONGITUDE, LATITUDE = ("A", "B", "C"), (-120.0, 0.0, 150.0), (40.0, 10.0, -35.0)
ANY = {"max_qc": None}


def towers(values, time, name="NEE"):
    coords = {
        "site": list(SITES),
        "time": time,
        "longitude": ("site", list(LONGITUDE)),
        "latitude": ("site", list(LATITUDE)),
        "igbp": ("site", ["ENF", "ENF", "GRA"]),
    }
    return xr.DataArray(values, coords, ("site", "time"), name=name, attrs={"units": "umol m-2 s-1"})


@pytest.fixture(scope="module")
def obs():
    """Hourly fluxes of three years: a cycle of the local solar day, a seasonal cycle, and a year with more uptake."""
    time = np.arange("2003-01-01", "2006-01-01", dtype="datetime64[h]").astype("datetime64[ns]")
    hour = np.arange(len(time))
    local = (hour[None] % 24 + 0.5 + np.array(LONGITUDE)[:, None] / 15) % 24
    summer = -np.cos(2 * np.pi * hour / 8766) * np.sign(LATITUDE)[:, None]
    year = time.astype("datetime64[Y]").astype(int) - 33
    values = -4 * np.cos(2 * np.pi * (local - 12) / 24) - 2 * summer - np.where(year == 1, 0.5, 0.0)
    return towers(values, time)


@pytest.fixture(scope="module")
def rows(obs):
    return rows_in_common(obs, {"same": obs, "half": obs * 0.5}, **ANY)


def test_rows_are_those_of_the_common_mask_in_local_time(obs):
    gaps = obs.where(np.arange(obs.sizes["time"]) % 3 > 0)
    late = obs.isel(site=[2, 0], time=slice(100, None))
    found = rows_in_common(gaps, {"a": obs, "late": late}, **ANY)
    one = found.targets["NEE"]
    mask = common_rows(*xr.align(gaps, obs, late, join="inner"))
    assert len(one.site) == int(mask.sum()) and sorted(one.sites) == ["A", "C"]
    at = int(np.argmax(one.site == list(one.sites).index("C")))
    first = mask.sel(site="C").time[mask.sel(site="C").values][0].values
    assert one.time[at] == (first + np.timedelta64(10, "h") + np.timedelta64(30, "m")).astype("datetime64[s]")
    assert np.array_equal(one.values[:, 0], one.values[:, 1])
    assert rows_in_common(found) is found


def test_lazy_predictions_give_the_same_rows(obs, rows):
    lazy = rows_in_common(obs.chunk({"site": 1, "time": 5000}), {"same": obs.chunk(), "half": obs * 0.5}, **ANY)
    assert np.array_equal(lazy.targets["NEE"].values, rows.targets["NEE"].values)
    assert np.array_equal(lazy.targets["NEE"].time, rows.targets["NEE"].time)


def test_predictions_and_their_standard_deviation_are_converted(obs):
    std = (obs * 0 + 2000).rename("NEE_std").assign_attrs(units="nmol m-2 s-1")
    other = xr.Dataset({"NEE": (obs * 1000).assign_attrs(units="nmol m-2 s-1"), "NEE_std": std})
    one = rows_in_common(obs, {"other": other}, **ANY).targets["NEE"]
    assert np.allclose(one.values[:, 0], one.values[:, 1], atol=1e-5)
    assert np.allclose(one.std["other"], 2.0) and one.units == "umol m-2 s-1"


def test_hourly_data_without_longitude_are_refused(obs):
    with pytest.raises(SchemaError, match="longitude"):
        rows_in_common(obs.drop_vars("longitude"), {"same": obs}, **ANY)
    with pytest.raises(ConfigError, match="at least one prediction"):
        rows_in_common(obs, {}, **ANY)
    with pytest.raises(ConfigError, match="rename it"):
        rows_in_common(obs, {"observed": obs}, **ANY)


def test_a_day_needs_half_of_its_hours(rows):
    one = rows.targets["NEE"]
    days = daily_means(one, rows.resolution)
    assert 3 * 1096 - 2 <= len(days.site) <= 3 * 1096 + 2
    assert groups_of(one.places, "igbp")["ENF"].sum() == 2
    with pytest.raises(SchemaError, match="continent"):
        groups_of(one.places, "continent")


def test_diurnal_cycles_follow_the_local_sun(rows):
    table = mean_cycles(rows, by="igbp")
    assert set(table.group) == {"all", "ENF", "GRA"} and set(table.model) == {"observed", "same", "half"}
    for _, one in table[table.model == "observed"].groupby("group"):
        assert len(one) == 24 and one.x[one["mean"].idxmin()] in (11, 12)
    wide = table[table.group == "all"].pivot(index="x", columns="model", values="mean")
    assert np.allclose(wide.half, wide.observed / 2, atol=1e-5) and np.allclose(wide.same, wide.observed)


def test_seasonal_cycles_have_their_summer_in_the_seventh_month(rows):
    table = mean_cycles(rows, kind="seasonal")
    for _, one in table[table.model == "observed"].groupby("group"):
        assert one.x.tolist() == list(range(1, 13)) and one.x[one["mean"].idxmin()] in (6, 7)


def test_sites_without_nights_have_no_diurnal_cycle(obs):
    hour = obs.time.dt.hour
    one = mean_cycles(obs.where((hour > 6) & (hour < 18)), {"a": obs}, limits=ANY)
    assert list(one) == ["target", "units", "group", "model", "x", "mean", "low", "high", "n_sites"] and one.empty
    # Seasonal means weigh every local hour alike: a site that is mostly measured by day is not biased.
    rare = obs.where((hour > 6) | (obs.time.dt.day < 15))
    both = [mean_cycles(x, {"a": x}, kind="seasonal", by=None, limits=ANY)["mean"] for x in (obs, rare)]
    assert np.allclose(*both, atol=0.35)


def test_daily_data_have_seasonal_cycles_only(obs):
    daily = obs.resample(time="D").mean().assign_attrs(resolution="daily")
    limits = {"min_quality": None}
    assert len(mean_cycles(daily, {"same": daily}, kind="seasonal", by=None, limits=limits)) == 24
    with pytest.raises(ConfigError, match="hourly"):
        mean_cycles(daily, {"same": daily}, limits=limits)
    with pytest.raises(FluxcubeError, match="weekly"):
        mean_cycles(daily, {"same": daily}, kind="weekly", limits=limits)


def test_intervals_of_the_right_width_are_reliable(obs):
    rng = np.random.default_rng(0)
    fair = obs + 2 * rng.standard_normal(obs.shape)
    std = xr.full_like(obs, 2.0).rename("NEE_std")
    bare = (obs + 0.0).to_dataset(name="NEE")
    predictions = {
        "fair": xr.Dataset({"NEE": fair, "NEE_std": std}),
        "sure": xr.Dataset({"NEE": fair, "NEE_std": std / 4}),
    }
    table = reliability(obs, predictions | {"bare": bare}, limits=ANY)
    assert set(table.model) == {"fair", "sure"}
    one = table[table.model == "fair"]
    assert np.allclose(one.coverage, one.level, atol=0.01)
    assert np.allclose(one.crps, 2 / np.sqrt(np.pi), atol=0.02) and one.n.iloc[0] == obs.size
    assert one.set_index("level").width[0.95] == pytest.approx(2 * 1.96 * 2, rel=1e-3)
    sure = table[table.model == "sure"]
    assert (sure.coverage < sure.level).all() and (sure.width.to_numpy() < one.width.to_numpy()).all()
    assert (sure.crps.to_numpy() > one.crps.to_numpy()).all()
    with pytest.raises(ConfigError, match="between 0 and 1"):
        reliability(obs, predictions, levels=[0.5, 95], limits=ANY)


def test_standard_deviations_may_be_missing(obs):
    std = xr.full_like(obs, 1.0).where(obs.site != "A").where(obs.site != "B", 0.0)
    table = reliability(obs, {"a": xr.Dataset({"NEE": obs, "NEE_std": std})}, by="igbp", limits=ANY)
    by_group = table.drop_duplicates("group").set_index("group")
    assert by_group.n["ENF"] == 0 and np.isnan(by_group.coverage["ENF"])
    assert by_group.n["GRA"] == obs.sizes["time"] and by_group.n_sites["GRA"] == 1
    assert reliability(obs, {"a": obs}, limits=ANY).empty


def test_crps_of_a_gaussian_equals_its_integral():
    x = np.linspace(-30, 30, 200001)
    cdf = np.cumsum(np.exp(-0.5 * (x / 1.5) ** 2)) / np.exp(-0.5 * (x / 1.5) ** 2).sum()
    for y in (0.0, -0.7, 4.0):
        expected = ((cdf - (x >= y)) ** 2).sum() * (x[1] - x[0])
        assert normal_crps(np.array(0.0), np.array(y), np.array(1.5)) == pytest.approx(expected, rel=1e-3)


def three(obs, reco):
    gpp = (reco - obs).assign_attrs(units="umol m-2 s-1")
    return xr.Dataset({"NEE": obs, "GPP_NT": gpp.rename("GPP_NT"), "RECO_NT": reco.rename("RECO_NT")})


def test_carbon_closure_finds_the_residual(obs):
    reco = xr.full_like(obs, 3.0)
    cube = three(obs, reco)
    off = cube.assign(NEE=cube.NEE + xr.DataArray([0.2, 0.2, 2.0], dims="site"))
    table = carbon_closure(cube, {"off": off}, limits=ANY).set_index(["model", "group"])
    assert (table.loc["observed"].share_within == 1).all() and table.loc["observed"].median_abs.max() < 1e-6
    assert table.loc[("off", "ENF"), "mean"] == pytest.approx(0.2, abs=1e-5)
    assert table.loc[("off", "GRA"), "share_within"] == 0 and table.loc[
        ("off", "all"), "share_within"
    ] == pytest.approx(2 / 3)
    alone = carbon_closure(cube, by=None, limits=ANY)
    assert alone.model.tolist() == ["observed"] and alone.n.tolist() == [obs.size]
    stacked = cube.assign(LE=obs).to_dataarray("target").rename("fluxes").to_dataset()
    assert carbon_closure(stacked, by=None, limits=ANY).equals(alone)
    assert carbon_closure(obs, {"a": obs}, limits=ANY).empty


def test_carbon_closure_uses_rows_of_all_three_fluxes(obs):
    cube = three(obs, xr.full_like(obs, 3.0))
    cube["GPP_NT"] = cube.GPP_NT.where(cube.time.dt.hour > 5)
    table = carbon_closure(cube, {"same": cube}, by=None, limits=ANY)
    assert set(table.n) == {int(cube.GPP_NT.notnull().sum())} and (table.share_within == 1).all()
    cube["GPP_NT"].attrs["units"] = "nmol m-2 s-1"
    with pytest.raises(ConfigError, match="one unit"):
        carbon_closure(cube, {"same": cube}, limits=ANY)


def test_density_counts_every_row(obs):
    line = (2 * obs + 1).assign_attrs(obs.attrs)
    found = density(obs, {"line": line, "same": obs}, bins=30, limits=ANY).sel(target="NEE")
    assert (found["count"].sum(("obs_bin", "pred_bin")) + found.outside == found.n).all()
    assert found.slope.values == pytest.approx([2, 1], abs=1e-4) and found.intercept.values == pytest.approx(
        [1, 0], abs=1e-3
    )
    same = found["count"].sel(model="same").values
    assert same.sum() == np.trace(same) > 0
    table = compare(obs, {"line": line}, max_qc=None)
    assert float(found.nse.sel(model="line")) == pytest.approx(table.nse[0], abs=1e-4)
    flat = density(obs * 0, {"a": obs * 0}, bins=2, limits=ANY)
    assert np.isnan(flat.nse.item()) and np.isnan(flat.slope.item()) and int(flat["count"].sum()) == obs.size
    with pytest.raises(ConfigError, match="bins=1"):
        density(obs, {"a": obs}, bins=1)


def test_years_are_compared_without_their_seasonal_cycle(obs):
    # The winter of 2004 is not measured: the mean of that year would be far from the others.
    gaps = obs.where(~((obs.time.dt.year == 2004) & (obs.time.dt.month < 5)))
    table = interannual(gaps, {"same": gaps, "flat": obs * 0 + 1, "inverse": -gaps}, limits=ANY).set_index(
        ["model", "site"]
    )
    assert (table.loc["same"].sign_agreement == 1).all() and np.allclose(table.loc["same"].amplitude_ratio, 1)
    assert np.allclose(table.loc["flat"].amplitude_ratio, 0) and table.loc["flat"]["corr"].isna().all()
    assert (table.loc["inverse"].sign_agreement == 0).all() and (table.n_years == 3).all()
    assert table.trend.isna().all()  # three years are no trend
    summary = interannual_summary(table.reset_index()).set_index("model")
    assert summary.n_sites["same"] == 3 and summary.amplitude_ratio["same"] == pytest.approx(1)
    assert interannual(obs, {"a": obs}, min_years=4, limits=ANY).empty
    with pytest.raises(ConfigError, match="min_years=1"):
        interannual(obs, {"a": obs}, min_years=1)


def test_theil_sen_withstands_an_outlier():
    assert theil_sen(np.array([2000, 2001, 2002, 2004, 2005]), np.array([0, 0.1, 9.0, 0.4, 0.5])) == pytest.approx(0.1)
    assert np.isnan(theil_sen(np.arange(4), np.arange(4.0)))


def test_nearest_training_tower_finds_leaks_and_neighbours():
    cube = example_cube(days=1)
    names = cube.site.values.tolist()
    table = nearest_training_tower(cube, {"leak": names, "rest": iter(names[1:]), "none": []}).set_index(
        ["model", "site"]
    )
    assert table.loc["leak"].same_site.all() and (table.loc["leak"].distance_km == 0).all()
    assert table.loc["rest"].same_site.tolist() == [False] + [True] * (len(names) - 1)
    assert table.loc[("rest", names[0]), "nearest"] in names[1:] and table.loc[("rest", names[0]), "distance_km"] > 0
    assert (table.loc["none"].nearest == "").all() and table.loc["none"].distance_km.isna().all()


def test_training_towers_of_folds_and_of_other_cubes():
    cube = example_cube(days=1).isel(site=[0])
    name = cube.site.values[0]
    folds = {"folds": {name: ["DE-Tha", "XX-Xxx"]}}
    table = nearest_training_tower(cube, folds)
    assert table.nearest.tolist() == ["DE-Tha"] and table.n_training.tolist() == [1]
    assert table.attrs["unplaced"] == "XX-Xxx"
    other = cube.assign_coords(site=["XX-Xxx"])
    near = nearest_training_tower(cube, folds, towers=other)
    assert near.nearest.tolist() == ["XX-Xxx"] and near.distance_km.tolist() == [0] and not near.same_site.any()
    with pytest.raises(SchemaError, match="latitude"):
        nearest_training_tower(cube.drop_vars("latitude"), folds)
    with pytest.raises(ConfigError, match="a list of names"):
        nearest_training_tower(cube, {"a": "DE-Tha"})


def test_errors_by_distance():
    scores = pd.DataFrame(
        {
            "target": "NEE",
            "units": "u",
            "site": list("abcd"),
            "model": "m",
            "rmse": [1.0, 2, 3, 4],
            "nse": [0.9, 0.8, 0.7, np.nan],
        }
    )
    distances = pd.DataFrame({"model": "m", "site": list("abcd"), "distance_km": [0.0, 50.0, 5000.0, np.nan]})
    table = error_by_distance(scores, distances, edges=(0, 50, 100, np.inf))
    assert table.distance.tolist() == ["below 50 km", "50 to 100 km", "100 km and more"]
    assert table.n_sites.tolist() == [1, 1, 1] and table.rmse.tolist() == [1, 2, 3]
    with pytest.raises(ConfigError, match="increasing"):
        error_by_distance(scores, distances, edges=(100, 50))


def test_errors_grow_with_dissimilarity(obs):
    index = xr.DataArray(np.linspace(0, 2, obs.size).reshape(obs.shape), obs.coords, obs.dims)
    predictions = {"a": xr.Dataset({"NEE": obs + index, "dissimilarity": index}), "b": obs.to_dataset(name="NEE")}
    table = applicability_error(obs, predictions, limits=ANY)
    assert set(table.model) == {"a"} and table.decile.tolist() == list(range(1, 11))
    assert (np.diff(table.rmse) > 0).all() and table.n.sum() == obs.size
    same = {"a": xr.Dataset({"NEE": obs, "dissimilarity": index * 0})}
    assert applicability_error(obs, same, limits=ANY).n.tolist() == [obs.size]
    assert applicability_error(obs, {"b": obs}, limits=ANY).empty


@pytest.mark.parametrize(("step", "number"), [("8D", 3 * 46), ("month", 36)])
def test_series_have_periods_of_the_year(rows, step, number):
    series = site_series(rows, step=step)
    assert series.model.values.tolist() == ["observed", "same", "half"] and abs(series.sizes["time"] - number) <= 1
    assert series.NEE.dtype == "float32" and np.allclose(
        series.NEE.sel(model="half"), series.NEE.sel(model="same") / 2, equal_nan=True, atol=1e-5
    )
    assert {"2003-01-01", "2004-01-01", "2005-01-01"} <= set(series.time.dt.strftime("%Y-%m-%d").values)
    page = json.loads(series_json(series, "NEE"))
    assert [one["site"] for one in page["sites"]] == list(SITES) and page["step"] == step
    first = page["sites"][0]
    assert len(first["v"]) == 3 and len(first["v"][0]) == len(first["t"])
    whole = series.NEE.isel(site=0, model=0).dropna("time")
    assert np.allclose(np.array(first["v"][0]) * page["scale"], whole, atol=page["scale"])


def test_periods_need_enough_days(obs):
    few = obs.where(obs.time.dt.day <= 10)
    assert site_series(few, {"a": obs}, step="month", limits=ANY).sizes["time"] == 0
    with pytest.raises(FluxcubeError, match="week"):
        site_series(few, {"a": obs}, step="week", limits=ANY)


def test_worst_sites():
    scores = pd.DataFrame(
        {"target": "NEE", "site": list("abc"), "model": "m", "rmse": [1.0, 2, 3], "nse": [0.9, -4, np.nan]}
    )
    assert worst_sites(scores, "NEE", model="m").site.tolist() == ["b", "a"]
    assert worst_sites(scores, "NEE", model="m", score="rmse", number=1).site.tolist() == ["c"]


def test_nothing_in_common_gives_empty_tables(obs):
    found = rows_in_common(
        obs.where(False), {"a": xr.Dataset({"NEE": obs, "NEE_std": obs, "dissimilarity": obs})}, **ANY
    )
    assert isinstance(found, CommonRows) and not len(found.targets["NEE"].site)
    assert mean_cycles(found).empty and interannual(found).empty and applicability_error(found).empty
    assert (reliability(found).n == 0).all() and int(density(found)["count"].sum()) == 0
    assert site_series(found).sizes["time"] == 0
    assert json.loads(series_json(site_series(found), "NEE"))["sites"] == []
