"""Maps of a mixed ensemble from the maps of its members: the same values, without computing a member again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr
from inference_fakes import WindowModel, chunked, fake

from fluxcube.errors import ConfigError
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model
from fluxcube.inference.mixed import mix
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.models import shipped
from fluxcube.simulation.example import example_forcing


def members():
    """Members that differ in context, head, bands, predictors and order of targets."""
    one = fake(context=5, memory_days=(1,))
    two = fake(context=8, emits=1, predictors=("TA", "DOY", "VPD"), bands=(), targets=("GPP_NT", "NEE"))
    three = fake(context=9, emits=9, bands=("nir",))
    return [dataclasses.replace(part, digest=name) for part, name in zip((one, two, three), "abc", strict=True)]


@pytest.fixture(scope="module")
def forcing():
    return chunked(example_forcing(shape=(3, 4), days=6), latitude=2, longitude=3)


@pytest.fixture(scope="module")
def parts(forcing):
    return members(), [upscale(one, forcing, time_chunk=72).load() for one in members()]


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    xr.testing.assert_identical(found.load().reset_coords(drop=True), expected.load().reset_coords(drop=True))


@pytest.mark.parametrize("options", [{}, {"uncertainty": True}, {"targets": ["RECO"]}, {"stride": 1, "min_context": 8}])
def test_they_are_the_maps_of_the_ensemble(forcing, options):
    mixed = mix(members(), (1, 2, 5))
    own = {key: value for key, value in options.items() if key in ("stride", "min_context")}
    maps = [
        upscale(one, forcing, **own | {"min_context": min(8, one.model.context)} if own else {}) for one in members()
    ]
    for step in (24, 72):
        expected = upscale(mixed, forcing, time_chunk=step, **options)
        found = upscale(mixed, forcing, time_chunk=step, member_maps=maps, **options)
        assert {k: v.chunks for k, v in found.items()} == {k: v.chunks for k, v in expected.items()}
        assert_same(found, expected)


def test_a_part_of_the_period_and_no_window_is_computed_again(forcing, parts, monkeypatch):
    mixed, period = mix(parts[0]), slice(forcing.time.values[30], forcing.time.values[100])
    expected = upscale(mixed, forcing, time=period).load()
    monkeypatch.setattr(WindowModel, "predict", lambda *_: pytest.fail("a member is computed again"))
    assert_same(upscale(mixed, forcing, time=period, member_maps=parts[1]), expected)


def test_stored_maps_of_trained_members_with_their_dissimilarity(tmp_path):
    folder = shipped.FOLDER / "ecoperceiver-towers"
    runs = [folder / "seed-0", folder / "seed-1"]
    forcing = example_forcing(shape=(1, 2), days=3)
    options = {"allow_missing": True, "applicability": all(load_model(run).has_training_days for run in runs)}
    options["stride"] = load_model(runs[0]).model.emits
    maps = [
        open_maps(write_maps(upscale(run, forcing, **options), tmp_path / f"{run.name}.zarr", scheduler="threads"))
        for run in runs
    ]
    assert_same(upscale(runs, forcing, member_maps=maps, **options), upscale(runs, forcing, **options))


def test_other_maps_are_refused(forcing, parts):
    models, maps = parts
    mixed = mix(models)
    warmer = forcing.assign(predictors=forcing.predictors + np.float32(1))
    wrong = {
        "are for a mixed ensemble": (models[0], forcing, maps, {}),
        "maps of 3 members, found 2": (mixed, forcing, maps[:2], {}),
        "model_digest = 'a', found 'b'": (mixed, forcing, [maps[1], maps[0], maps[2]], {}),
        "stride_hours = 9, found 1": (mixed, forcing, maps, {"stride": 9}),
        "found those of another predictors": (mixed, warmer, maps, {}),
        "lack NEE": (mixed, forcing, [maps[0].drop_vars("NEE"), *maps[1:]], {}),
        "lack values of time": (mixed, forcing, [maps[0].isel(time=slice(5, None)), *maps[1:]], {}),
        "lack values of longitude": (mixed, forcing, [maps[0].isel(longitude=[0, 1]), *maps[1:]], {}),
    }
    for message, (model, source, those, options) in wrong.items():
        with pytest.raises(ConfigError, match=message):
            upscale(model, source, member_maps=those, **options)
