"""Scores of lazy predictions: each block is computed once, and the scores are those of values in memory."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import fluxcube as fc
from fluxcube.evaluation.scales import scale_table
from fluxcube.evaluation.subsets import subset_masks, subset_table
from fluxcube.simulation.example import example_cube

TARGETS = ("NEE", "GPP_NT", "LE")


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=3, days=60)


@pytest.fixture(scope="module")
def predicted(cube):
    """Fluxes and their errors, in memory."""
    fluxes = {name: cube.fluxes.sel(target=name, drop=True) for name in TARGETS}
    units = dict(zip(cube.target.values, cube.target_units.values, strict=True))
    made = {name: (flux + 1).assign_attrs(units=units[name]) for name, flux in fluxes.items()}
    made |= {f"{name}_std": xr.ones_like(flux).assign_attrs(units=units[name]) for name, flux in fluxes.items()}
    return xr.Dataset(made).drop_vars(["target_units", "target_long_name"], errors="ignore")


@pytest.fixture
def lazy(predicted):
    """The same, computed by a function that counts the sites it is called for, as `fluxcube.predict` computes them."""
    calls = []
    names = list(predicted)

    def model(block):
        calls.append(block.shape)
        return block

    stacked = predicted.to_dataarray("name").chunk(site=1, name=-1, time=-1)
    counted = stacked.copy(data=stacked.data.map_blocks(model, meta=np.empty((0, 0, 0), stacked.dtype)))
    units = {name: predicted[name].attrs for name in names}
    made = xr.Dataset({name: counted.sel(name=name, drop=True).assign_attrs(units[name]) for name in names})
    return made, calls


SCORES = {
    "evaluate": lambda cube, data: fc.evaluate(cube, data).to_dataframe(),
    "compare": lambda cube, data: fc.compare(cube, {"a": data}, by="igbp"),
    "scales": lambda cube, data: scale_table(cube, {"a": data}),
    "subsets": lambda cube, data: subset_table(cube, {"a": data}, subset_masks(cube)),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_model_runs_once_for_each_site(name, cube, predicted, lazy):
    data, calls = lazy
    table = SCORES[name](cube, data)
    assert len(calls) == cube.sizes["site"]
    expected = SCORES[name](cube, predicted)
    numbers = [column for column in table if table[column].dtype.kind == "f"]
    np.testing.assert_allclose(table[numbers], expected[numbers], rtol=1e-6)
    assert numbers and len(table) == len(expected)
