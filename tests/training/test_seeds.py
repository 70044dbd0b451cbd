"""Ensembles: members that are runs, one file that makes them a model, side by side as one after another."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from training_helpers import TARGETS, TINY, eco, small_cube, weights

from fluxcube.errors import CheckpointError, ConfigError
from fluxcube.evaluation.skill import compare
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.models import checkpoint
from fluxcube.models.ensemble import Ensemble
from fluxcube.simulation.example import example_forcing
from fluxcube.training.fit import fit

torch.set_num_threads(1)  # tests run beside each other


@pytest.fixture(scope="module")
def cube():
    return small_cube()


@pytest.fixture(scope="module")
def three(cube, tmp_path_factory):
    return eco(cube, tmp_path_factory.mktemp("seeds") / "run", seeds=3, epochs=2)


def test_a_member_is_the_run_of_its_seed(cube, three, tmp_path):
    files = ["ensemble.json", "run.toml", "seed-4", "seed-5", "seed-6", "split.json"]
    assert sorted(p.name for p in three.path.iterdir()) == files
    alone = eco(cube, tmp_path / "alone", seed=5, split=three.split, epochs=2)
    assert weights(three.path / "seed-5") == weights(alone.path)
    assert len({weights(three.path / f"seed-{n}") for n in (4, 5, 6)}) == 3
    assert all(load_model(three.path / f"seed-{n}").split == three.split for n in (4, 5, 6))
    assert [row["seed"] for row in three.history] == [4, 4, 5, 5, 6, 6]


def test_it_opens_as_one_model_that_gives_mean_and_spread(cube, three):
    model, towers = load_model(three), cube.sel(site=list(three.split.test))
    members = [predict(three.path / f"seed-{n}", towers) for n in (4, 5, 6)]
    both = predict(model, towers, uncertainty=True)
    assert set(both) == {"NEE", "GPP_NT", "RECO", "NEE_std", "NEE_spread", "GPP_NT_std", "GPP_NT_spread"}
    for name in (*TARGETS, "RECO"):
        one = np.stack([member[name].values for member in members])
        np.testing.assert_allclose(both[name].values, one.mean(0), rtol=1e-4, atol=1e-4)
        if name != "RECO":
            np.testing.assert_allclose(both[f"{name}_spread"].values, one.std(0, ddof=1), rtol=1e-3, atol=1e-4)
            factor = three.calibration[name]["factor"]
            np.testing.assert_allclose(both[f"{name}_std"], factor * both[f"{name}_spread"], rtol=1e-4)
    assert set(compare(towers, {"all": both[["NEE"]], "one": members[0]}).model) == {"all", "one"}
    assert model.digest == checkpoint.digest(three) and both.attrs["model_digest"] == model.digest


def test_maps_are_made_of_it(three, tmp_path):
    forcing = example_forcing(shape=(2, 2), days=4)
    maps = upscale(three, forcing.chunk(latitude=1), uncertainty=True, time_chunk=24)
    members = [upscale(three.path / f"seed-{n}", forcing).NEE.values for n in (4, 5, 6)]
    np.testing.assert_allclose(maps.NEE.values, np.mean(members, 0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(maps.NEE_spread.values, np.std(members, 0, ddof=1), rtol=1e-3, atol=1e-4)
    factor = maps.NEE_std.attrs["calibration_factor"]
    np.testing.assert_allclose(maps.NEE_std.values, factor * maps.NEE_spread.values, rtol=1e-4)
    path = write_maps(maps, tmp_path / "maps.zarr", workers=1)
    np.testing.assert_array_equal(open_maps(path).NEE_std.values, maps.NEE_std.values)


def test_a_gaussian_ensemble_adds_the_members_variances_to_their_spread(cube, tmp_path):
    config = TINY.from_dict({**TINY.__dict__, "distribution": "gaussian"})
    run = eco(cube, tmp_path / "run", seeds=[1, 7], epochs=2, config=config)
    towers = cube.sel(site=list(run.split.test))
    members = [predict(tmp_path / f"run/seed-{n}", towers, uncertainty=True) for n in (1, 7)]
    both = predict(run, towers, uncertainty=True)
    own = np.mean([np.square(m.NEE_std.values.astype(float)) for m in members], 0)
    total = np.sqrt(own + np.square(both.NEE_spread.values.astype(float)))
    np.testing.assert_allclose(both.NEE_std.values, run.calibration["NEE"]["factor"] * total, rtol=1e-3)


def test_a_broken_ensemble_goes_on_and_more_seeds_are_added(cube, three, tmp_path):
    folder, trained = tmp_path / "run", []

    def progress(done, total, text):
        if "epoch" in text and text.split(":")[0] not in trained:
            trained.append(text.split(":")[0])

    shutil.copytree(three.path, folder)
    (folder / "ensemble.json").unlink()
    shutil.rmtree(folder / "seed-6")
    with pytest.raises(CheckpointError, match=r"has no run\.json"):
        load_model(folder)
    again = eco(cube, folder, seeds=3, epochs=2, progress=progress)
    assert trained == ["seed 6 (3 of 3)"] and checkpoint.digest(again) == checkpoint.digest(three)
    with pytest.raises(CheckpointError, match="finished ensemble"):
        eco(cube, folder, seeds=3, epochs=2)
    more = eco(cube, folder, seeds=4, epochs=2, progress=progress)
    assert trained[1:] == ["seed 7 (4 of 4)"] and len(load_model(more).model.members) == 4
    with pytest.raises(ConfigError, match=r"training\.epochs was 2, is 1"):
        eco(cube, folder, seeds=5, epochs=1)
    fresh = eco(cube, folder, seeds=[9], epochs=1, overwrite=True)
    assert sorted(p.name for p in fresh.path.iterdir()) == ["ensemble.json", "run.toml", "seed-9", "split.json"]


def test_rows_have_ensembles_too_and_side_by_side_is_as_one_after_another(cube, tmp_path):
    settings = {"model": "xgboost", "config": {"n_estimators": 5}, "memory_days": (1,), "seeds": 2}
    run = fit(cube, out=tmp_path / "run", **settings)
    told = []
    beside = fit(cube, out=tmp_path / "beside", jobs=2, progress=lambda *report: told.append(report), **settings)
    assert {"seed 0 has ended", "seed 1 has ended"} <= {text for _, _, text in told}
    assert any(text.startswith("seed 1: tree") for _, _, text in told), "what the other processes do is shown"
    assert checkpoint.digest(beside) == checkpoint.digest(run) and beside.calibration == run.calibration
    towers = cube.sel(site=list(run.split.test))
    members = [predict(tmp_path / f"run/seed-{n}", towers).NEE.values for n in (0, 1)]
    both = predict(run, towers, uncertainty=True)
    np.testing.assert_allclose(both.NEE.values, np.mean(members, 0), rtol=1e-4, atol=1e-4)
    assert np.nanmax(both.NEE_spread.values) > 0 and run.calibration["NEE"]["hours"] > 100


def test_a_changed_member_is_told(three, tmp_path):
    shutil.copytree(three.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/seed-5")
    shutil.copytree(tmp_path / "run/seed-4", tmp_path / "run/seed-5")
    with pytest.raises(CheckpointError, match="seed-5 has other weights"):
        load_model(tmp_path / "run")
    about = json.loads((tmp_path / "run/ensemble.json").read_text("utf-8"))
    about["calibration"]["NEE"]["factor"] = 9.0
    (tmp_path / "run/ensemble.json").write_text(json.dumps(about), "utf-8")
    with pytest.raises(CheckpointError, match="changed since it was written"):
        checkpoint.load(tmp_path / "run")


def test_what_is_no_ensemble_is_refused(cube, three, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match=r"thesis\.tex"):
            eco(cube, tmp_path, seeds=2, overwrite=overwrite)
    for bad in ({"seeds": 0}, {"seeds": []}, {"seeds": [1, 1]}, {"seeds": [-1]}, {"seeds": 2, "jobs": 0}):
        with pytest.raises(ConfigError, match=r"(seeds|jobs) must be"):
            eco(cube, tmp_path / "run", **bad)
    with pytest.raises(ConfigError, match="one kind"):
        Ensemble([load_model(three).model.members[0], _Other()])


class _Other:
    kind, sizes, context, streams = "other", None, 1, False
