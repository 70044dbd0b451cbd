"""A user's own predictors in every model: trained at towers, saved, opened elsewhere, and mapped on a grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from daily_cubes import daily_cube, train
from daily_cubes import daily_forcing as daily_grid
from training_helpers import FAST, TINY

from fluxcube.cubes.own import add_predictor
from fluxcube.errors import ConfigError
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.models.boosting import BoostingConfig
from fluxcube.schema import variable_coords
from fluxcube.simulation.example import example_cube
from fluxcube.training.fit import fit
from fluxcube.variables import declare, forget, statics, table

PREDICTORS = ("DOY", "TOD", "TA", "SW_IN", "LAI")
STATIC = ("latitude", "SOC")
CELLS = ("latitude", "longitude")

pytestmark = pytest.mark.usefixtures("short_applicability")


@pytest.fixture(autouse=True)
def _declared():
    declared()
    yield
    forget()


def declared():
    forget()
    declare("LAI", units="m2 m-2", bounds=(0, 10), long_name="leaf area index")
    declare("SOC", units="kg m-2", bounds=(0, 50), kind="static")


def own(cube, seed=0):
    """Return LAI (site, time) and SOC (site) of the sites of a cube."""
    rng = np.random.default_rng(seed)
    first, last = cube.time.values[[0, -1]].astype("datetime64[D]")
    days = pd.date_range(first - 40, last)
    sites = {"site": cube.site.values}
    lai = 3 + 2 * np.sin(np.arange(len(days)) / 9 + rng.uniform(0, 6, (cube.sizes["site"], 1)))
    lai = xr.DataArray(lai, sites | {"time": days}, ("site", "time"), attrs={"units": "m2 m-2"})
    return lai, xr.DataArray(rng.uniform(1, 40, cube.sizes["site"]), sites, ("site",), attrs={"units": "kg m-2"})


def with_own(cube, **changes):
    lai, soc = own(cube)
    lai, soc = changes.get("LAI", lai), changes.get("SOC", soc)
    return add_predictor(add_predictor(cube, "LAI", lai, hold_days=8, delay_days=1), "SOC", soc)


def on_line(cube, array, name):
    """Return a series or number of each site as a map of one row of cells, at the sites' longitudes."""
    order = np.argsort(cube.longitude.values)
    values = array.isel(site=order).rename(site="longitude").assign_coords(longitude=cube.longitude.values[order])
    return values.expand_dims(latitude=[45.0, 46.0]).rename(name).assign_attrs(array.attrs)


def grid_of(cube, names):
    """Return a forcing whose cells, one row of them, are the sites of a cube: without the predictors of the user."""
    order = np.argsort(cube.longitude.values)
    part = cube.isel(site=order)
    row = {n: (CELLS, np.broadcast_to(part[n].values, (1, len(order)))) for n in ("elevation", "igbp", "koppen")}
    values = part.predictors.sel(variable=list(names)).values[None]
    attrs = {"kind": "forcing", "clock": "solar", "title": "line"}
    coords = {"latitude": [45.0], "longitude": part.longitude.values, "time": cube.time.values}
    land = {"land_fraction": (CELLS, np.ones((1, len(order))))}
    return xr.Dataset(
        {"predictors": ((*CELLS, "time", "variable"), values)},
        {**coords, **variable_coords(names), **row, **land},
        attrs,
    )


@pytest.fixture(scope="module")
def plain():
    cube = example_cube(sites=12, days=10)
    return cube.assign_coords(latitude=("site", np.full(12, 45.0)), longitude=("site", -20.0 + 5 * np.arange(12)))


@pytest.fixture(scope="module", params=["xgboost", "ecoperceiver"])
def run(request, plain, short_applicability, tmp_path_factory):
    declared()
    settings = {
        "xgboost": {"config": BoostingConfig(n_estimators=20)},
        "ecoperceiver": {"config": TINY, "training": FAST},
    }[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "run"
    out = fit(
        with_own(plain), model=request.param, out=folder, predictors=PREDICTORS, static=STATIC, bands=(), **settings
    )
    forget()
    return out


def test_a_model_declares_what_it_was_trained_on(run, plain):
    forget()
    model = load_model(run.path)
    assert "LAI" in table() and set(statics()) == {"SOC"}
    assert model.spec.predictors == PREDICTORS and model.spec.numbers == STATIC
    forget()
    declare("LAI", units="m2 m-2", bounds=(0, 8))
    with pytest.raises(ConfigError, match="0 to 8"):
        load_model(run.path)


def test_estimates_depend_on_both(run, plain):
    cube = with_own(plain)
    lai, soc = own(plain)
    first = predict(run.path, cube).NEE
    assert np.isfinite(first).any()
    for name, other in (("LAI", lai * 0 + 9), ("SOC", soc * 0 + 45)):
        changed = predict(
            run.path, with_own(plain, **{name: other.assign_attrs(units="1" if name == "LAI" else "kg m-2")})
        )
        assert not changed.NEE.equals(first), name


def test_another_timing_than_in_training_is_noted(run, plain, caplog):
    predict(run.path, with_own(plain))
    assert "hold_days" not in caplog.text
    predict(run.path, add_predictor(with_own(plain).sel(variable=list(plain["variable"].values)), "LAI", own(plain)[0]))
    assert "trained with hold_days=8 and delay_days=1, these data have 1 and 1" in caplog.text


def test_maps_and_towers_agree_and_a_grid_without_them_is_refused(run, plain):
    cube, names = with_own(plain), PREDICTORS[:-1]
    lai, soc = own(plain)
    forcing = grid_of(plain, names)
    with pytest.raises(ConfigError, match="LAI, SOC"):
        upscale(run.path, forcing)
    forcing = add_predictor(forcing, "LAI", on_line(plain, lai, "LAI"), hold_days=8, delay_days=1)
    with pytest.raises(ConfigError, match="trained on SOC"):
        upscale(run.path, forcing)
    forcing = add_predictor(forcing, "SOC", on_line(plain, soc, "SOC"))
    maps = upscale(run.path, forcing, applicability=False)
    order = np.argsort(plain.longitude.values)
    expected = predict(run.path, cube, applicability=False).NEE.values[order]
    np.testing.assert_allclose(maps.NEE.values[:, 0].T, expected, rtol=2e-4, atol=2e-4)
    assert "LAI" in maps.attrs["predictors"] and maps.attrs["masked_predictors"] == ""
    other = forcing.assign_coords(units=("variable", [*forcing.units.values[:-1], "cm2 m-2"]))
    with pytest.raises(ConfigError, match=r"LAI must be in m2 m-2"):
        upscale(run.path, other)


def test_a_daily_network_uses_them(tmp_path):
    plain = daily_cube(sites=12, days=120)
    plain = plain.assign_coords(longitude=("site", -20.0 + 5 * np.arange(12)))
    cube = with_own(plain)
    drivers = ("TA", "SW_IN", "LAI")
    out = train(cube, tmp_path / "run", predictors=drivers, static=("igbp", "SOC"))
    forget()
    model = load_model(out.path)
    assert model.spec.predictors == drivers and "SOC" in model.spec.numbers and "LAI" in table("daily")
    first = predict(out.path, cube).NEE
    assert np.isfinite(first).any()
    assert not predict(out.path, with_own(plain, SOC=dict.fromkeys(plain.site.values, 45.0))).NEE.equals(first)
    lai, soc = own(plain)
    grid = daily_grid(plain).assign_coords(longitude=plain.longitude.values)
    grid = add_predictor(grid, "LAI", on_line(plain, lai, "LAI"), hold_days=8, delay_days=1)
    grid = add_predictor(grid, "SOC", on_line(plain, soc, "SOC"))
    maps = upscale(out.path, grid, applicability=False)
    np.testing.assert_allclose(
        maps.NEE.values[:, 0].T, predict(out.path, cube, applicability=False).NEE.values, rtol=2e-3, atol=2e-3
    )
