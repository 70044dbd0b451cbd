"""A model of hours refuses days, and a model of days refuses hours, by name and before any work."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from inference_fakes import fake

from fluxcube.errors import ConfigError
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.models import registry
from fluxcube.schema import validate_cube, validate_forcing
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.training.fit import fit


def daily(ds):
    """A Dataset with the arrays and the axis of days, of the same length."""
    days = ds.time.values[0] + np.arange(ds.sizes["time"]) * np.timedelta64(1, "D")
    parts = {
        f"{stack}_quality": (ds[stack].dims, np.ones(ds[stack].shape, np.float32))
        for stack in ("predictors", "fluxes")
        if stack in ds
    }
    return ds.assign_coords(time=days).assign(parts).assign_attrs(resolution="daily")


def of_days():
    model = fake()
    predictors = tuple(name for name in model.spec.predictors if name != "TOD")
    spec = dataclasses.replace(model.spec, predictors=predictors, bands=(), resolution="daily")
    return dataclasses.replace(model, spec=spec)


def test_days_are_refused_by_a_model_of_hours():
    with pytest.raises(ConfigError, match=r"works on hours.*contains days.*resolution='hourly'"):
        predict(fake(), validate_cube(daily(example_cube(sites=2, days=3))))
    with pytest.raises(ConfigError, match="works on hours"):
        upscale(fake(), validate_forcing(daily(example_forcing(days=2))))


def test_hours_are_refused_by_a_model_of_days():
    with pytest.raises(ConfigError, match=r"works on days.*contains hours.*resolution='daily'"):
        predict(of_days(), example_cube(sites=2, days=3))
    with pytest.raises(ConfigError, match="works on days"):
        upscale(of_days(), example_forcing(days=2))


@pytest.mark.parametrize("model", registry.names())
def test_no_model_is_trained_on_what_it_cannot_take(model, tmp_path):
    cubes = {"hourly": example_cube(sites=12, days=3), "daily": daily(example_cube(sites=12, days=3))}
    refused = cubes.keys() - set(registry.find(model).resolutions)
    for resolution in refused:
        with pytest.raises(ConfigError, match=f"the model {model} works on"):
            fit(cubes[resolution], model=model, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
    assert refused or model in ("xgboost", "mean", "sw-linear", "mean-cycle", "met-regression", "met-clusters")


def test_a_run_remembers_what_it_was_trained_on(tmp_path):
    cube = example_cube(sites=12, days=6).assign_attrs(resolution="hourly")
    run = fit(cube, model="sw-linear", out=tmp_path / "run")
    assert load_model(run).resolution == "hourly" and load_model(run).metadata["cube"]["resolution"] == "hourly"
    assert np.isfinite(predict(run, cube).NEE).any()
