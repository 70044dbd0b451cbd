"""Bars by class show the values of their table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from packages import optional

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.evaluation.sitemeans import site_mean_table
from fluxcube.evaluation.sums import site_sums
from fluxcube.plotting.bars import plot_class_errors
from fluxcube.simulation.example import example_cube

optional("matplotlib")


@pytest.fixture(scope="module")
def means():
    cube = example_cube(sites=9, days=4)
    size = xr.DataArray(np.random.default_rng(0).uniform(0.5, 2, (2, 9)), dims=("model", "site"))
    predictions = {name: cube.fluxes + size[i] for i, name in enumerate(("trees", "network"))}
    sums = site_sums(cube, {k: v.sel(target=["NEE", "GPP_NT"]) for k, v in predictions.items()})
    return pd.concat([site_mean_table(sums, by=by, clusters=0, draws=200) for by in (None, "igbp")])


def test_a_bar_is_as_high_as_the_mean_rmse_of_the_class(means, tmp_path):
    left, right = plot_class_errors(means, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes()[:4] == b"\x89PNG" and left.get_title() == "NEE"
    shown = means[(means.target == "GPP_NT")].set_index(["model", "group"]).rmse
    groups = [text.get_text().split(" (")[0].replace("all sites", "all") for text in right.get_xticklabels()]
    assert groups[0] == "all" and set(groups) == set(means.group)
    for container, model in zip(right.containers, ("trees", "network"), strict=True):
        heights = [bar.get_height() for bar in container]
        np.testing.assert_allclose(heights, [shown[model, group] for group in groups])


def test_one_model_of_one_flux_can_be_drawn_and_other_tables_are_refused(means):
    (ax,) = plot_class_errors(means, targets=["NEE"], models=["network"])
    assert len(ax.containers) == 1
    with pytest.raises(UnknownNameError, match="unknown model"):
        plot_class_errors(means, models=["networks"])
    with pytest.raises(ConfigError, match="found one without"):
        plot_class_errors(means.drop(columns="rmse_low"))
    with pytest.raises(ConfigError, match="no RMSE"):
        plot_class_errors(means.assign(rmse=np.nan))
