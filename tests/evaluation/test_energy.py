"""Energy balance closure: known by construction, of measured hours only, and refused where a term lacks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import fluxcube as fc
from fluxcube.cli import app
from fluxcube.errors import ConfigError
from fluxcube.evaluation.energy import closure, energy_balance
from fluxcube.simulation.example import example_cube


@pytest.fixture(scope="module")
def cube():
    """Three towers whose turbulent fluxes are 80 % of the available energy; the third has no G, the second gaps."""
    ds = example_cube(sites=3, days=20).copy(deep=True)
    rng = np.random.default_rng(0)
    shape = ds.sizes["site"], ds.sizes["time"]
    light = ds.predictors.sel(variable="SW_IN").values
    net, soil = 0.7 * light - 50, 0.1 * light - 10
    energy = net - soil
    latent = 0.5 * energy
    for stack, dim, name, values in (
        ("predictors", "variable", "NETRAD", net),
        ("predictors", "variable", "G", soil),
        ("fluxes", "target", "LE", latent),
        ("fluxes", "target", "H", 0.3 * energy),
    ):
        ds[stack].loc[{dim: name}] = values
        ds[f"{stack}_qc"].loc[{dim: name}] = 0
    ds.predictors.loc[{"variable": "G", "site": "XX-S02"}] = np.nan
    ds.predictors_qc.loc[{"variable": "G", "site": "XX-S02"}] = -1
    filled = rng.random(shape) < 0.3
    filled[[0, 2]] = False
    ds.fluxes.loc[{"target": "LE"}] = np.where(filled, 500.0, latent)
    ds.fluxes_qc.loc[{"target": "LE"}] = np.where(filled, 1, 0)
    return ds


def test_the_closure_is_the_one_that_was_put_in(cube):
    out = energy_balance(cube)
    for name, value in (("ratio", 0.8), ("slope", 0.8), ("r2", 1.0), ("intercept", 0.0)):
        np.testing.assert_allclose(out[name][:2], value, atol=1e-4)
    energy = 0.6 * cube.predictors.sel(variable="SW_IN", site="XX-S00").mean() - 40
    assert float(out.residual[0]) == pytest.approx(0.2 * float(energy), rel=1e-3)
    assert int(out.steps[0]) == 480 and int(out.steps[1]) == int((cube.fluxes_qc.sel(target="LE")[1] == 0).sum())
    assert np.isnan(out.ratio[2]) and out.lacking.values.tolist() == ["", "", "G"] and out.steps[2] == 0
    assert out.igbp.values.tolist() == cube.igbp.values.tolist() and out.attrs["quality"] == "flag <= 0"


def test_filled_hours_count_only_if_accepted(cube):
    assert abs(float(energy_balance(cube, max_qc=1).slope[1]) - 0.8) > 0.01
    assert int(energy_balance(cube, max_qc=None).steps[1]) == 480


def test_without_soil_heat_every_site_with_net_radiation_counts(cube):
    out = energy_balance(cube, soil_heat=False)
    assert np.isfinite(out.ratio).all() and (out.ratio < 0.75).all() and out.attrs["available_energy"] == "NETRAD"


def test_lazy_cubes_and_predictors_give_the_same(cube):
    expected = energy_balance(cube)
    assert energy_balance(cube.chunk(site=1, time=100)).equals(expected)
    older = cube.copy(deep=True)
    older.predictors.loc[{"variable": "H"}] = cube.fluxes.sel(target="H")
    older.predictors_qc.loc[{"variable": "H"}] = 0
    older = older.sel(target=[name for name in cube.target.values if name != "H"])
    np.testing.assert_allclose(energy_balance(older).ratio, expected.ratio)


def test_a_cube_that_lacks_a_term_is_refused(cube):
    without = [name for name in cube["variable"].values if name != "G"]
    with pytest.raises(ConfigError, match=r"no G.*soil_heat=False"):
        energy_balance(cube.sel(variable=without))
    with pytest.raises(ConfigError, match=r"no site has 240 hours.*XX-S00 lacks LE, H, NETRAD, G"):
        energy_balance(example_cube(sites=2, days=2))
    with pytest.raises(ConfigError, match="smaller min_steps"):
        energy_balance(cube.isel(site=[0]), min_steps=1000)
    for option in ({"min_steps": 1}, {"min_quality": 0.5}, {"max_qc": 4}):
        with pytest.raises(ConfigError, match=next(iter(option))):
            energy_balance(cube, **option)


def test_energy_that_does_not_vary_has_no_slope():
    out = closure(np.ones((4, 50)), 30)
    assert np.isnan(out["slope"]) and np.isnan(out["ratio"]), "no energy is available"


def test_daily_towers_close_as_the_literature_has_it(shared_data, tmp_path):
    """FULLSET daily files as published: sites with all four terms close between 0.6 and 1.1."""
    places = "meta/fluxnet_shuttle_snapshot_20260624.nocontacts.csv", "towers/sites.csv"
    raw = [shared_data / "daily", *(shared_data / name for name in places)]
    fc.build_carbonsense(raw, tmp_path / "d.zarr", resolution="daily", variables=["NETRAD", "G", "LE", "H"])
    out = energy_balance(fc.open_carbonsense(tmp_path / "d.zarr"))
    done = CliRunner().invoke(app, ["energy", str(tmp_path / "d.zarr"), "--out", str(tmp_path / "e.csv")])
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(pd.read_csv(tmp_path / "e.csv").ratio, out.ratio, rtol=1e-6)
    assert f"median ratio of {int(out.ratio.count())} towers" in done.stdout and "G" in done.stdout
    ratio = out.ratio.values[np.isfinite(out.ratio.values)]
    assert len(ratio) >= 3 and ratio.min() > 0.6 and ratio.max() < 1.1
