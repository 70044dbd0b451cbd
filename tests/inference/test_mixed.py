"""Mixed ensembles: runs of different kinds and features as one model: the weighted mean of their predictions."""

from __future__ import annotations

import dataclasses
import json
import shutil

import dask
import numpy as np
import pytest
import xarray as xr
from inference_fakes import chunked, fake

import fluxcube as fc
from fluxcube.errors import CheckpointError, ConfigError, UnknownNameError
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model, save_mixed
from fluxcube.inference.mixed import MixedPredictor, common_split, mix
from fluxcube.inference.towers import predict
from fluxcube.models import checkpoint, shipped
from fluxcube.samples.features import cube_block
from fluxcube.samples.splits import Split
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.training.fit import fit

FLUXES = ("NEE", "GPP_NT", "RECO")
SHIPPED = "ecoperceiver-towers"


@pytest.fixture(scope="module")
def cube():
    cube = example_cube(sites=12, days=6).copy(deep=True)
    for name in ("fluxes", "fluxes_qc"):
        cube[name].loc[{"target": "GPP_DT"}] = cube[name].sel(target="GPP_NT")
    return cube


@pytest.fixture(scope="module")
def runs(cube, tmp_path_factory):
    """Two runs of different kind, features, targets and towers."""
    folder = tmp_path_factory.mktemp("runs")
    line = fit(cube, model="sw-linear", target=("NEE", "GPP_NT", "GPP_DT"), out=folder / "line")
    split = Split(train=line.split.train[:-1], test=(*line.split.test, line.split.train[-1]))
    cycle = fit(cube, model="mean-cycle", target=("GPP_NT", "NEE"), out=folder / "cycle", split=split, memory_days=(2,))
    return {"line": line.path, "cycle": cycle.path}


@pytest.fixture
def stored(runs, tmp_path):
    return save_mixed(tmp_path / "mixed", list(runs.values()), weights=(3, 1))


def fakes():
    """Members that differ in context, head, memory, bands, predictors and order of targets."""
    one = fake(context=5, memory_days=(1,))
    two = fake(context=8, emits=1, predictors=("TA", "DOY", "VPD"), bands=(), targets=("GPP_NT", "NEE"))
    three = fake(context=9, emits=9, bands=("nir",))
    return [dataclasses.replace(part, digest=name) for part, name in zip((one, two, three), "abc", strict=True)]


def expected(parts, weights, name, **options):
    return sum(w * o[name].values.astype(np.float64) for w, o in zip(weights, parts, strict=True)).astype(np.float32)


@pytest.mark.parametrize("weights", [None, (1, 2, 5)])
def test_towers_are_the_weighted_mean_of_the_members_own_predictions(weights, cube):
    towers, parts = cube.isel(site=slice(3)), fakes()
    mixed = mix(parts, weights)
    alone = [predict(part, towers) for part in parts]
    made = predict(mixed, towers, uncertainty=True)
    assert sum(mixed.weights) == pytest.approx(1)
    for name in ("NEE", "GPP_NT"):
        np.testing.assert_array_equal(made[name].values, expected(alone, mixed.weights, name))
    np.testing.assert_allclose(made.RECO, made.NEE + made.GPP_NT)
    if weights is None:
        each = np.stack([one.NEE.values for one in alone])
        np.testing.assert_allclose(made.NEE_spread, each.std(0, ddof=1), rtol=1e-5, atol=1e-5)
    assert "NEE_std" not in made and made.attrs["model"] == "mixed"
    first = np.isfinite(made.NEE.values[0]).argmax()
    assert first == max(np.isfinite(one.NEE.values[0]).argmax() for one in alone)  # all members have a prediction


def test_grids_are_the_weighted_mean_whatever_the_chunks():
    forcing, parts = example_forcing(shape=(3, 4), days=6), fakes()
    mixed = mix(parts, (1, 2, 5))
    alone = [upscale(part, forcing, time_chunk=144) for part in parts]
    whole = upscale(mixed, forcing, time_chunk=144, uncertainty=True).load()
    for name in ("NEE", "GPP_NT"):
        np.testing.assert_array_equal(whole[name].values, expected(alone, mixed.weights, name))
    for chunks, step in (({"latitude": 2, "longitude": 3}, 24), ({"latitude": 1, "longitude": 4, "time": 50}, 72)):
        pieces = upscale(mixed, chunked(forcing, **chunks), time_chunk=step, uncertainty=True)
        for name in (*FLUXES, "NEE_spread"):
            np.testing.assert_allclose(pieces[name].values, whole[name].values, rtol=1e-5, atol=1e-5)
    later = upscale(mixed, forcing, time=slice(forcing.time.values[50], None)).NEE
    np.testing.assert_allclose(later.values, whole.NEE.values[50:], rtol=1e-5, atol=1e-5)


def test_runs_open_as_one_model_lazily_or_not(runs, cube):
    mixed = load_model([str(runs["line"]), runs["cycle"]])
    assert isinstance(mixed, MixedPredictor) and mixed.spec.targets == ("NEE", "GPP_NT")
    assert mixed.spec.memory_days == (2,) and "0.5 line (sw-linear), 0.5 cycle (mean-cycle)" in repr(mixed)
    towers = cube.sel(site=list(mixed.split.test))
    eager = predict(mixed, towers)
    lazy = predict(list(runs.values()), towers.chunk(site=1))
    assert lazy.NEE.chunks is not None
    xr.testing.assert_identical(lazy.load(), eager)
    assert lazy.attrs["members"].startswith("0.5 line (") and lazy.attrs["ensemble_members"] == 2


def test_a_stored_ensemble_is_the_same_model_and_does_not_need_the_runs(runs, stored, cube, tmp_path):
    moved = shutil.move(stored, tmp_path / "elsewhere")
    loaded, opened = load_model(moved), load_model(list(runs.values()), weights=(0.75, 0.25))
    assert loaded.digest == opened.digest and loaded.weights == opened.weights == (0.75, 0.25)
    assert loaded.names == ("line", "cycle") and loaded.path == moved.resolve()
    xr.testing.assert_equal(predict(loaded, cube), predict(opened, cube))
    lazy = predict(moved, cube.chunk(site=4), uncertainty="spread")
    with dask.config.set(scheduler="threads"):
        np.testing.assert_array_equal(lazy.NEE.values, predict(opened, cube).NEE.values)


def test_it_is_scored_on_towers_that_no_member_was_trained_on(runs, cube):
    mixed = load_model(list(runs.values()))
    splits = [load_model(run).split for run in runs.values()]
    assert set(mixed.split.test) == set(splits[0].test) & set(splits[1].test)
    trained = {site for run in runs.values() for site in load_model(run).metadata["training_sites"]}
    assert set(mixed.metadata["training_sites"]) == trained
    made = predict(mixed, cube)
    assert set(made.site.values[made.in_training.values]) == trained
    assert load_model([runs["line"]]) is load_model(runs["line"])
    same = Split(train=("A",), test=("B",))
    assert common_split([same.to_dict(), same.to_dict()]) == same.to_dict()
    other = Split(train=("B",), test=("A",))
    assert common_split([same.to_dict(), other.to_dict()]) is None and common_split([same.to_dict(), None]) is None


def test_it_is_applicable_where_every_member_is(runs):
    forcing = example_forcing(shape=(3, 4), days=6)
    alone = [upscale(load_model(run), forcing) for run in runs.values()]
    maps = upscale(list(runs.values()), forcing)
    shares = [
        one.dissimilarity.values / np.float32(load_model(r).threshold)
        for one, r in zip(alone, runs.values(), strict=True)
    ]
    np.testing.assert_allclose(maps.dissimilarity, np.max(shares, 0), rtol=1e-5)
    both = alone[0].applicable.values * alone[1].applicable.values
    np.testing.assert_array_equal(maps.applicable, both)
    assert maps.applicable.attrs["threshold"] == 1.0 and np.isfinite(maps.dissimilarity.values).any()
    without = [load_model(runs["line"]), dataclasses.replace(load_model(runs["cycle"]), applicability=None)]
    assert "applicable" not in upscale(without, forcing)


def test_strides_belong_to_the_members_that_have_them():
    mixed = mix(fakes())
    default, eight = mixed.options(), mixed.options(stride=9)
    assert [one.stride for one in default.members] == [1, 1, 1] and default.stride == 1
    assert [one.stride for one in eight.members] == [1, 1, 9] and eight.strides == "1, 1, 9"
    assert [one.min_context for one in mixed.options(min_context=6).members] == [5, 6, 6]
    for wrong in ({"stride": 10}, {"stride": 0}, {"min_context": 10}, {"precision": "bfloat16"}):
        with pytest.raises(ConfigError):
            mixed.options(**wrong)


def test_runs_that_do_not_fit_together_are_refused(runs, cube, tmp_path, caplog):
    line = load_model(runs["line"])
    with pytest.raises(ConfigError, match="there twice"):
        load_model([runs["line"], runs["line"]])
    with pytest.raises(ConfigError, match="common target; found cycle: GPP_NT, NEE; run: GPP_DT"):
        load_model([runs["cycle"], fit(cube, model="sw-linear", target="GPP_DT", out=tmp_path / "run")])
    with pytest.raises(ConfigError, match="one clock"):
        mix([line, dataclasses.replace(line, spec=dataclasses.replace(line.spec, clock="standard"), digest="x")])
    for weights in ((1,), (1, 0), (1, -1), (1, float("nan"))):
        with pytest.raises(ConfigError, match="weight"):
            load_model(list(runs.values()), weights=weights)
    with pytest.raises(ConfigError, match="at least two"):
        load_model([])
    with pytest.raises(ConfigError, match="several runs"):
        load_model(runs["line"], weights=(1,))
    caplog.clear()
    mixed = load_model(list(runs.values()))
    assert "GPP_DT: left out of the mixed ensemble" in caplog.text
    with pytest.raises(ConfigError, match="GPP_DT is estimated by some members"):
        upscale(mixed, example_forcing(shape=(2, 2), days=3), targets=["GPP_DT"])


def test_a_cube_without_any_predictor_of_one_member_is_refused(cube):
    towers = cube.isel(site=slice(2)).sel(variable=["DOY", "TOD", "SW_IN"])
    parts = [fake(predictors=("TOD", "SW_IN")), fake(predictors=("DOY", "TA"))]
    mixed = mix([dataclasses.replace(part, digest=name) for part, name in zip(parts, "ab", strict=True)])
    with pytest.raises(ConfigError, match=r"none of the predictors a member .* was trained on \(TA\)"):
        predict(mixed, towers)


def test_a_folder_is_replaced_only_if_it_is_a_mixed_ensemble(runs, stored, tmp_path):
    with pytest.raises(CheckpointError, match="overwrite"):
        save_mixed(stored, list(runs.values()))
    save_mixed(stored, list(runs.values()), overwrite=True)
    assert load_model(stored).weights == (0.5, 0.5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match="other files"):
        save_mixed(tmp_path / "mine", list(runs.values()), overwrite=True)
    with pytest.raises(CheckpointError, match="another folder"):
        save_mixed(runs["line"].parent, list(runs.values()), overwrite=True)
    with pytest.raises(ConfigError, match="in no folder"):
        save_mixed(tmp_path / "other", fakes())


def test_a_changed_ensemble_is_refused(stored):
    path = stored / checkpoint.ENSEMBLE
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"weights": [0.5, 0.5]}))
    with pytest.raises(CheckpointError, match="changed"):
        load_model(stored)
    path.write_text(json.dumps(about | {"targets": []}))
    with pytest.raises(CheckpointError, match="changed"):
        load_model(stored)
    with pytest.raises(CheckpointError, match=r"mixed ensemble.*line, cycle"):
        checkpoint.load(stored)


def test_a_shipped_model_is_referred_to_by_name(runs, tmp_path):
    pytest.importorskip("torch")
    folder = save_mixed(tmp_path / "mixed", [f"{SHIPPED}/seed-0", SHIPPED, runs["line"]])
    assert {path.name for path in folder.iterdir()} == {"line", checkpoint.ENSEMBLE}
    mixed = load_model(folder)
    assert mixed.parts[0].path == shipped.find(f"{SHIPPED}/seed-0") and mixed.parts[1].path == shipped.find(SHIPPED)
    made = fc.predict(mixed, example_cube(sites=1, days=3), min_context=1, uncertainty=True)
    assert {"NEE", "GPP_NT", "RECO", "NEE_spread"} <= set(made)
    about = json.loads((folder / checkpoint.ENSEMBLE).read_text())
    about["shipped"]["ecoperceiver-towers"] = "../models"
    with pytest.raises(CheckpointError, match="ships with"):
        shipped.find_shipped("../models")


def test_members_of_a_shipped_model_have_a_spread_and_refuse_a_standard_deviation():
    pytest.importorskip("torch")
    cube, members = example_cube(sites=1, days=3), [f"{SHIPPED}/seed-0", f"{SHIPPED}/seed-1"]
    made = predict(members, cube, uncertainty="spread", min_context=1)
    assert "NEE_spread" in made and "NEE_std" not in made
    with pytest.raises(ConfigError, match=r"calibrated a standard deviation of NEE.*fluxcube\.calibrate"):
        predict(members, cube, uncertainty="std")
    with pytest.raises(UnknownNameError, match="measure of uncertainty"):
        predict(members, cube, uncertainty="sd")
    with pytest.raises(ConfigError, match="NEE_std is no flux"):
        upscale(SHIPPED, example_forcing(shape=(2, 2), days=3), targets=["NEE_std"])


def test_members_with_the_same_inputs_share_their_features(cube, monkeypatch):
    one, other = fake(context=5, memory_days=(1,)), fake(context=8, emits=1, bands=("nir",))
    again = dataclasses.replace(one, digest="c", spec=dataclasses.replace(one.spec, target_mean=(3.0, 4.0)))
    parts = [dataclasses.replace(part, digest=d) for part, d in zip((one, again, other), "abc", strict=True)]
    computed, tower = [], cube.isel(site=slice(1))

    def features(spec):
        computed.append(spec)
        return cube_block(tower, spec)

    mixed = mix(parts)
    values = mixed.predict_places(features, mixed.options())
    assert computed == [one.spec, other.spec]
    means = [part.predict_places(features, part.options())[..., 0] for part in parts]
    np.testing.assert_allclose(values[..., 0], np.mean(means, 0), rtol=1e-5, atol=1e-6)
