"""Scores on extreme hours, in seasonal transitions and by climate."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from daily_cubes import daily_cube

import fluxcube as fc
from fluxcube.cubes.climatology import STATISTICS
from fluxcube.errors import SchemaError
from fluxcube.evaluation.groups import climate_of
from fluxcube.evaluation.skill import score_table
from fluxcube.evaluation.subsets import SUBSETS, subset_masks, subset_sums, subset_table
from fluxcube.evaluation.sums import site_sums
from fluxcube.simulation.example import example_cube


@pytest.fixture(scope="module")
def cube():
    """A cube of 60 days with a mean seasonal cycle of NIRv that peaks in July, or in January at the last site."""
    cube = example_cube(days=60, gaps=0.1).load()
    months = np.cos(2 * np.pi * (np.arange(12) - 6) / 12)
    cycle = np.full((cube.sizes["site"], len(STATISTICS), 1), np.nan, "float32")
    cycle[:, -12:, 0] = 0.2 + 0.1 * months
    cycle[-1, -12:, 0] = 0.2 - 0.1 * months
    coords = {"feature": ["NIRv"], "statistic": list(STATISTICS)}
    return cube.assign(surface_climatology=(("site", "statistic", "feature"), cycle)).assign_coords(coords)


@pytest.fixture(scope="module")
def predictions(cube):
    rng = np.random.default_rng(0)
    nee = cube.fluxes.sel(target="NEE", drop=True).rename("NEE")
    return {"a": (nee + rng.normal(size=nee.shape)).to_dataset(), "b": (nee * 0.5).to_dataset()}


def test_extremes_are_those_of_each_tower_s_own_daylight(cube):
    masks = subset_masks(cube, percentile=90)
    light = cube.predictors.sel(variable="SW_IN_POT") > 0
    for name, variable, sign in (("heat", "TA", 1), ("cold", "TA", -1), ("dry air", "VPD", 1)):
        values = cube.predictors.sel(variable=variable)
        assert not (masks[name] & ~light).any()
        share = masks[name].sum("time") / (values.where(light)).notnull().sum("time")
        assert np.allclose(share, 0.1, atol=0.01)
        inside, outside = values.where(masks[name]), values.where(light & ~masks[name])
        assert ((sign * inside).min("time") > (sign * outside).max("time")).all()
    whole = subset_masks(cube.isel(site=[1]), percentile=90)
    xr.testing.assert_equal(whole, masks.isel(site=[1]))


def test_a_dry_month_follows_the_mean_of_the_thirty_days_before(cube):
    vpd = cube.predictors.sel(variable="VPD").isel(site=0).values.astype(float)
    mask = subset_masks(cube)["dry month"].isel(site=0).values
    means = np.array([np.nanmean(vpd[max(0, t - 719) : t + 1]) for t in range(359, len(vpd))])
    valid = means[~np.isnan(means)]
    assert mask[359:].sum() == pytest.approx(0.1 * len(valid), abs=0.02 * len(valid))
    assert means[mask[359:]].min() >= means[~mask[359:]].max() - 1e-5


def test_transitions_are_the_steep_months_of_the_season(cube):
    masks = subset_masks(cube)
    month = cube.time.dt.month.values
    up, down = (masks[name].values for name in ("green-up", "senescence"))
    steep = [2, 3, 4, 5, 6]  # the months in which the sine is at least half of its maximum
    assert (up[0] == np.isin(month, steep)).all()
    assert (down[-1] == up[0]).all() and not (up & down).any()
    flat = cube.assign(surface_climatology=cube.surface_climatology * 0)
    assert not subset_masks(flat)["green-up"].any()
    assert set(subset_masks(cube.drop_vars("surface_climatology"))) == set(SUBSETS[:4])


def test_scores_of_a_subset_are_those_of_a_cube_that_has_no_other_hour(cube, predictions):
    masks = subset_masks(cube)
    table = subset_table(cube, predictions, masks, clusters=0.0, draws=100).set_index(["group", "model"])
    assert list(dict.fromkeys(table.index.get_level_values("group"))) == ["all", *masks]
    only = cube.assign(fluxes=cube.fluxes.where(masks["heat"]))
    one = score_table(site_sums(only, predictions)).set_index("model")
    for model in predictions:
        assert table.nse["heat", model] == pytest.approx(one.nse[model]) and table.n["heat", model] == one.n[model]
    assert table.n["all", "a"] == score_table(site_sums(cube, predictions)).n[0] > table.n["heat", "a"] > 0
    few = subset_sums(cube, predictions, masks.isel(site=[0]))
    assert few["heat"].moments["NEE"].n[1:].sum() == 0 < few["heat"].moments["NEE"].n[0].sum()


def test_a_cube_without_the_predictors_or_of_days_is_refused(cube):
    with pytest.raises(SchemaError, match="VPD"):
        subset_masks(cube.sel(variable=["TA", "SW_IN_POT"]))
    with pytest.raises(SchemaError, match="hourly cube"):
        subset_masks(cube.fluxes.to_dataset())


def test_climates_join_the_classes_of_koppen(cube, predictions):
    assert [climate_of(k) for k in ("Af", "BSk", "Cwa", "Dwb", "Dsc", "Dfd", "ET", "", "?")] == (
        ["tropical", "dry", "temperate", "continental", "boreal", "boreal", "polar", "", ""]
    )
    cube = cube.assign_coords(koppen=("site", np.array((["Dfb", "Dfa", "Dfc"] * 9)[: cube.sizes["site"]], object)))
    table = fc.compare(cube, predictions, by="climate").set_index(["group", "model"])
    first = fc.evaluate(cube.sel(site=cube.koppen != "Dfc"), predictions["a"]).sel(target="NEE")
    assert table.nse["continental", "a"] == pytest.approx(float(first.nse))
    assert set(table.index.get_level_values("group")) == {"continental", "boreal"}
    with pytest.raises(SchemaError, match="coordinate koppen"):
        fc.compare(cube.drop_vars("koppen"), predictions, by="climate")


def test_subsets_of_a_daily_cube_are_days():
    cube = daily_cube(sites=3, days=200)
    masks = subset_masks(cube, percentile=90)
    warm = cube.predictors.sel(variable="TA")
    assert masks["heat"].sum("time").values == pytest.approx(np.full(3, 20), abs=1)
    assert (warm.where(masks["heat"]).min("time") >= warm.where(~masks["heat"]).max("time")).all()
    vpd = cube.predictors.sel(variable="VPD", drop=True).isel(site=0).values.astype(float)
    means = np.array([np.nanmean(vpd[max(0, t - 29) : t + 1]) for t in range(14, 200)])
    dry = masks["dry month"].isel(site=0).values[14:]
    assert dry.sum() == pytest.approx(19, abs=1) and means[dry].min() >= means[~dry].max() - 1e-5
    found = fc.evaluate(cube, cube.fluxes * 0.5, by="subset", scales=["daily", "monthly"]).sel(target="NEE")
    assert found.n.sel(scale="daily", group="heat") > 0 and found.n.sel(scale="monthly", group="heat") == 0
    assert found.n.sel(scale="monthly", group="all") > 0
