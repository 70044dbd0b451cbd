"""Towers: what is read, what is masked, and what is refused."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.resolution import HOURLY
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.towers import choose_predictors, good_fluxes, load_towers, site_years
from fluxcube.simulation.example import example_cube

SPEC = FeatureSpec(predictors=("TOD", "TA", "SW_IN"), targets=("NEE", "GPP_NT"))


@pytest.fixture(scope="module")
def cube():
    cube = example_cube(sites=4, days=20)
    start = cube.time_start.values.copy()
    start[1] = cube.time.values[100]
    stop = cube.time_stop.values.copy()
    stop[2] = cube.time.values[300]
    return cube.assign_coords(time_start=("site", start), time_stop=("site", stop))


def test_sites_are_cut_to_their_years_and_joined(cube):
    towers = load_towers(cube, ["XX-S01", "XX-S02"], SPEC, HOURLY.limit(None))
    assert towers.series.hours.tolist() == [380, 300]
    np.testing.assert_array_equal(towers.fluxes[:380, 0], cube.fluxes.sel(target="NEE").values[1, 100:])
    np.testing.assert_array_equal(towers.fluxes[380:, 0], cube.fluxes.sel(target="NEE").values[2, :300])


def test_only_flags_up_to_the_limit_are_kept(cube):
    flags = cube.fluxes_qc.sel(target="NEE").values[0]
    for limit, kept in ((0, flags == 0), (1, flags <= 1), (2, flags <= 2), (None, flags > -9)):
        towers = load_towers(cube, ["XX-S00"], SPEC, HOURLY.limit(limit))
        np.testing.assert_array_equal(np.isfinite(towers.fluxes[:, 0]), kept)
    assert 0 < (flags == 2).mean() < 1


def test_lazy_cubes_give_the_same(cube):
    lazy = cube.chunk(site=1, time=100)
    sites = ["XX-S03", "XX-S01"]
    for a, b in zip(
        *(dataclasses.astuple(load_towers(c, sites, SPEC, HOURLY.limit(1))) for c in (cube, lazy)), strict=True
    ):
        np.testing.assert_equal(a, b)


def test_predictors_are_chosen_by_what_is_there(cube):
    sites = cube.site.values
    assert choose_predictors(cube, sites, ("NEE",), HOURLY.limit(1)) == (
        "DOY",
        "TOD",
        "TA",
        "SW_IN",
        "VPD",
        "SW_IN_POT",
    )
    flags = cube.predictors_qc.copy()
    at = cube["variable"].values.tolist().index("TA")
    flags[:, :, at] = 2
    masked = cube.assign(predictors_qc=flags)
    assert "TA" not in choose_predictors(masked, sites, ("NEE",), HOURLY.limit(1))
    assert "TA" in choose_predictors(masked, sites, ("NEE",), HOURLY.limit(2))
    with_le = cube.assign(predictors_qc=cube.predictors_qc * 0)
    assert "LE" in choose_predictors(with_le, sites, ("NEE",), HOURLY.limit(1))
    assert "LE" not in choose_predictors(with_le, sites, ("LE",), HOURLY.limit(1))


def test_wrong_names_and_empty_sites_are_refused(cube):
    with pytest.raises(UnknownNameError, match="FCH4"):
        load_towers(
            cube.sel(target=["NEE"]), ["XX-S00"], FeatureSpec(predictors=("TA",), targets=("FCH4",)), HOURLY.limit(1)
        )
    with pytest.raises(ConfigError, match="XX-S01"):
        site_years(cube.isel(time=slice(0, 50)), "XX-S01")


@pytest.mark.parametrize("value", [1e38, -5000.0, np.inf])
def test_impossible_fluxes_are_refused(cube, value):
    spoiled = cube.copy(deep=True)
    spoiled["fluxes"].loc[{"site": cube.site[0], "time": cube.time[5], "target": "NEE"}] = value
    spoiled["fluxes_qc"].loc[{"site": cube.site[0], "time": cube.time[5], "target": "NEE"}] = 0
    with pytest.raises(ConfigError, match=rf"{cube.site.values[0]}, NEE, .*found {re.escape(f'{value:g}')}"):
        good_fluxes(site_years(spoiled, str(cube.site.values[0])), ["NEE"], HOURLY.limit(0))
