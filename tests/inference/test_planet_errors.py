"""On the simulated planet, with fluxes known everywhere: errors are larger where maps say so, and intervals cover."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model
from fluxcube.samples.splits import Split
from fluxcube.schema import variable_coords
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.simulation.planet import Planet
from fluxcube.solar import potential_radiation
from fluxcube.timestamps import local_clock
from fluxcube.training.config import TrainingConfig
from fluxcube.training.fit import fit

PREDICTORS = ("DOY", "TOD", "TA", "SW_IN", "VPD", "P", "SW_IN_POT")
CLASSES = np.array(["DBF", "GRA", "ENF", "CRO"], object)
DAYS, TOWERS = 24, 24
#: Half widths of intervals, in standard deviations, by the share that they are to hold.
WIDTHS = {0.5: 0.674, 0.8: 1.282, 0.95: 1.96}
PLANET = Planet(seed=11)
TIME = np.arange("2018-06-01", "2018-06-25", dtype="datetime64[h]").astype("datetime64[ns]")


def weather(latitude, longitude):
    """Predictors (place, time) by name."""
    found = PLANET.weather(TIME, latitude, longitude)
    doy, tod = local_clock(TIME, longitude / 15)
    return found | {"DOY": doy, "TOD": tod, "SW_IN_POT": potential_radiation(TIME, latitude, longitude)}


@pytest.fixture(scope="module")
def cube():
    """Towers of middle latitudes, with their measured NEE."""
    rng = np.random.default_rng(0)
    latitude, longitude = rng.uniform(42, 52, TOWERS), np.linspace(-10, 30, TOWERS)
    igbp = np.resize(CLASSES, TOWERS)
    cube = example_cube(sites=TOWERS, days=DAYS, gaps=0.0).drop_vars(["modis", "day", "band"])
    values, truth = weather(latitude, longitude), PLANET.fluxes(TIME, latitude, longitude, igbp)
    for name in PREDICTORS:
        cube.predictors.loc[{"variable": name}] = values[name]
        cube.predictors_qc.loc[{"variable": name}] = 0
    cube.fluxes.loc[{"target": "NEE"}] = truth["NEE"] + rng.normal(0, 0.5, truth["NEE"].shape)
    own = {"latitude": latitude, "longitude": longitude, "igbp": igbp}
    return cube.assign_coords({name: ("site", value) for name, value in own.items()})


@pytest.fixture(scope="module")
def grid():
    """Cells from the desert belt to the north of where towers are, and their true NEE (latitude, longitude, time)."""
    shape = (13, 8)
    latitude, longitude = np.linspace(62, 26, shape[0]), np.linspace(-8, 27, shape[1])
    lat, lon = (a.ravel() for a in np.meshgrid(latitude, longitude, indexing="ij"))
    igbp = np.resize(CLASSES, lat.size)
    values = weather(lat, lon)
    stack = np.stack([values[name] for name in PREDICTORS], -1).astype("float32").reshape(*shape, len(TIME), -1)
    forcing = example_forcing(shape=shape, days=DAYS).drop_vars("modis").drop_dims("variable")
    forcing = forcing.assign(predictors=(("latitude", "longitude", "time", "variable"), stack))
    forcing = forcing.assign_coords(
        latitude=latitude,
        longitude=longitude,
        igbp=(("latitude", "longitude"), igbp.reshape(shape)),
        land_fraction=(("latitude", "longitude"), np.ones(shape)),
        **variable_coords(PREDICTORS),
    )
    truth = PLANET.fluxes(TIME, lat, lon, igbp)["NEE"].reshape(*shape, len(TIME))
    return forcing, xr.DataArray(truth, dims=("latitude", "longitude", "time"), coords={"time": TIME})


def split(cube):
    sites = list(map(str, cube.site.values))
    val = sites[2:-1:3]  # classes follow each other by four: both sides have all
    return Split(train=tuple(s for s in sites[:-1] if s not in val), val=tuple(val), test=tuple(sites[-1:]))


def trained(cube, out, model, **options):
    run = fit(
        cube, model=model, target="NEE", predictors=PREDICTORS, static=("igbp",), split=split(cube), out=out, **options
    )
    return load_model(run)


def rank_correlation(a, b):
    a, b = (pd.Series(x.transpose("latitude", "longitude", ...).values.ravel()).rank() for x in (a, b))
    return np.corrcoef(a, b)[0, 1]


def test_errors_are_larger_where_the_index_is(cube, grid, tmp_path):
    forcing, truth = grid
    model = trained(cube, tmp_path / "run", "xgboost", config={"n_estimators": 60, "max_depth": 5})
    maps = upscale(model, forcing).load()
    error = np.abs(maps.NEE - truth).resample(time="D").mean()
    index, inside = (maps[name].resample(time="D").mean() for name in ("dissimilarity", "applicable"))
    cells = rank_correlation(error.mean("time"), index.mean("time"))
    days = rank_correlation(error, index)
    assert cells > 0.3 and days > 0.1
    assert 0.05 < float(inside.mean()) < 0.95
    assert error.where(inside == 0).mean() > 1.1 * error.where(inside == 1).mean()


def test_intervals_cover_where_the_model_applies(cube, grid, tmp_path):
    pytest.importorskip("torch")
    forcing, truth = grid
    from fluxcube.models.ecoperceiver import EcoPerceiverConfig

    config = EcoPerceiverConfig(
        latent=16,
        frequencies=3,
        embedding=6,
        context=24,
        heads=2,
        blocks=1,
        self_layers=1,
        head="dense",
        dropout=0.0,
        distribution="gaussian",
    )
    training = TrainingConfig(epochs=4, batch_size=32, lr=6e-3, keep="last", val_windows=128)
    model = trained(cube, tmp_path / "run", "ecoperceiver", config=config, training=training)
    maps = upscale(model, forcing, stride=12, uncertainty=True).load()
    z = np.abs(maps.NEE - truth) / maps.NEE_std
    among = z.where((z.latitude > 42) & (z.latitude < 52))  # where calibration is for: new places among the towers
    held = {level: float((among <= width).sum() / among.count()) for level, width in WIDTHS.items()}
    assert all(abs(held[level] - level) < 0.15 for level in WIDTHS)
    outside = z.where(maps.applicable == 0)
    assert (outside <= WIDTHS[0.8]).sum() / outside.count() < held[0.8]
