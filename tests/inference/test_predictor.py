"""One path from features to fluxes, against a plain loop over places and hours."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr
from inference_fakes import fake

from fluxcube.errors import CheckpointError, ConfigError
from fluxcube.inference.loading import load_model
from fluxcube.inference.predictor import ModelReference
from fluxcube.models.base import BaseModel, Batch
from fluxcube.samples.features import cube_block
from fluxcube.samples.windows import gather
from fluxcube.simulation.example import example_cube


def by_loop(predictor, block, stride):
    """What the docstring of predict_block promises, one hour at a time."""
    spec, length = predictor.spec, predictor.model.context
    out = np.full((*block.inputs.shape[:2], len(spec.targets)), np.nan, np.float32)
    gap = np.full((len(block.inputs), stride, block.inputs.shape[2]), np.nan, np.float32)
    longer = dataclasses.replace(block, inputs=np.concatenate([block.inputs, gap], 1))
    for place in range(len(block.inputs)):
        for hour in range(block.inputs.shape[1]):
            stop = hour + 1
            while (block.first_hour + stop) % stride:
                stop += 1
            if stop < length or not block.observed[place, hour]:
                continue
            window = gather(longer, np.array([place]), np.array([stop]), length)
            scaled = predictor.model.predict(Batch.of(window))[0, length - 1 - (stop - 1 - hour)]
            out[place, hour] = scaled * spec.target_scale + spec.target_mean
    return out


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("days", [(), (1, 3)])
def test_equals_a_plain_loop(stride, days):
    cube = example_cube(sites=2, days=5).isel(time=slice(7, 100))
    cube.predictors[1, 20:40] = np.nan
    predictor = fake(memory_days=days)
    block = cube_block(cube, predictor.spec)
    np.testing.assert_allclose(
        predictor.predict_block(block, stride=stride), by_loop(predictor, block, stride), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_first_hours_and_unobserved_hours_are_missing(stride):
    cube = example_cube(sites=1, days=3)
    gap = xr.DataArray(np.arange(72) // 10 == 3, dims="time") & cube["variable"].isin(["TA", "SW_IN", "VPD"])
    cube["predictors"] = cube.predictors.where(~gap)
    predictor = fake()
    out = predictor.predict_block(cube_block(cube, predictor.spec), stride=stride)[0, :, 0]
    missing = np.flatnonzero(np.isnan(out))
    epoch = int(cube.time.values[0].astype("datetime64[h]").astype(int))
    first = next(h for h in range(5 - stride, 5) if (epoch + h) % stride == 0)
    assert missing.tolist() == [*range(first), *range(30, 40)]


def test_without_any_observed_hour_the_model_is_not_asked():
    class Silent(BaseModel):
        context, emits, n_targets = 5, 5, 2

        def predict(self, batch):
            raise AssertionError("asked for windows that give nothing")

    cube = example_cube(sites=1, days=2)
    cube["predictors"] = cube.predictors.where(cube["variable"].isin(["DOY", "TOD", "SW_IN_POT"]))
    predictor = dataclasses.replace(fake(), model=Silent())
    assert np.isnan(predictor.predict_block(cube_block(cube, predictor.spec))).all()


def test_the_future_cannot_change_the_past():
    cube = example_cube(sites=1, days=4)
    predictor = fake()
    whole = predictor.predict_block(cube_block(cube, predictor.spec), stride=3)
    for stop in (24, 50, 71):
        part = predictor.predict_block(cube_block(cube.isel(time=slice(0, stop)), predictor.spec), stride=3)
        np.testing.assert_allclose(part, whole[:, :stop], rtol=1e-6)


def test_units_are_those_of_the_targets():
    cube = example_cube(sites=1, days=2)
    predictor = fake()
    scaled = dataclasses.replace(
        predictor, spec=dataclasses.replace(predictor.spec, target_mean=(0.0, 0.0), target_scale=(1.0, 1.0))
    )
    a, b = (p.predict_block(cube_block(cube, p.spec)) for p in (predictor, scaled))
    np.testing.assert_allclose(a, b * [3.0, 4.0] + [-2.0, 5.0], rtol=1e-5)


@pytest.mark.parametrize(("context", "emits", "stride"), [(1, 1, 1), (32, 1, 1), (32, 32, 8), (64, 64, 40), (5, 5, 1)])
def test_default_stride_leaves_a_day_of_history(context, emits, stride):
    assert fake(context=context, emits=emits).stride_or_default(None) == stride


@pytest.mark.parametrize(("emits", "stride"), [(1, 2), (5, 6), (5, 0), (5, -1)])
def test_a_window_cannot_give_more_hours_than_its_head_does(emits, stride):
    with pytest.raises(ConfigError, match=f"1..{emits}"):
        fake(emits=emits).stride_or_default(stride)


def test_a_last_head_gives_every_hour():
    cube = example_cube(sites=1, days=2)
    last, dense = fake(emits=1), fake(emits=5)
    block = cube_block(cube, last.spec)
    np.testing.assert_allclose(last.predict_block(block), dense.predict_block(block, stride=1), rtol=1e-6)


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="nothing-here"):
        load_model(tmp_path / "nothing-here")


def test_no_split_is_an_error_not_a_guess():
    with pytest.raises(CheckpointError, match="split"):
        _ = fake().split


def test_a_reference_is_strings_and_options_of_a_bucket():
    assert [f.type for f in dataclasses.fields(ModelReference)] == ["str"] * 3 + ["Mapping[str, object]", "str"]
