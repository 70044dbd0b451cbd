"""Every result records the stores that it was computed from, and continues on them only."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import xarray as xr
from tower_files import PLACES, write_raw
from training_helpers import TINY

import fluxcube as fc
from fluxcube.cubes.forcing_store import open_forcing_store, write_forcing
from fluxcube.errors import ConfigError, StoreError
from fluxcube.evaluation.hiding import hide_predictors
from fluxcube.experiments import Variant, score_variants, trained
from fluxcube.models.boosting import ROUNDS
from fluxcube.samples.splits import Split
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.stores.origin import origin
from fluxcube.stores.reading import store_attrs
from fluxcube.training import loop, rows
from fluxcube.training.run import DATA

SITES = ("IN-Bbb", "NP-Ccc", "US-Aaa")
SPLIT = Split(SITES[:2], (), SITES[2:])
SHORT = {"epochs": 2, "batch_size": 16, "checkpoint_seconds": 0, "windows_per_epoch": 64, "keep": "last"}


class Killed(BaseException):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A cube of three towers, and the same path after a fourth was appended."""
    folder = tmp_path_factory.mktemp("stores")
    raw = write_raw(folder / "raw", days=5)
    fc.build_carbonsense(raw, folder / "three.zarr", sites=list(SITES))
    fc.build_carbonsense(raw, folder / "four.zarr", sites=list(PLACES))
    return folder


@pytest.fixture
def three(stores):
    return fc.open_carbonsense(stores / "three.zarr")


def ids(stores):
    return [str(store_attrs(stores / name)["store_id"]) for name in ("three.zarr", "four.zarr")]


def learn(cube, out, **options):
    settings = {"model": "mean", "split": SPLIT, "predictors": ("TA",), "target": "NEE", "max_qc": None}
    return fc.fit(cube, out=out, **settings | options)


def test_the_identifier_is_recorded_only_for_what_was_opened(stores, three):
    store, _ = ids(stores)
    as_it_is = {"store_id": store}
    for same in (
        three,
        pickle.loads(pickle.dumps(three)),
        three.copy(),
        fc.open_carbonsense(stores / "three.zarr", sites=["US-Aaa"], time="2010-01-02", variables=["TA"]),
    ):
        assert origin(same) == as_it_is
    values = three.fluxes.values.copy()
    others = {
        "values in RAM": three.assign(fluxes=(three.fluxes.dims, values)),
        "lazy values": three.assign(fluxes=three.fluxes * 2),
        "arithmetic that keeps attributes": three.map(lambda x: x, keep_attrs=True) * 2,
        "a class": three.assign_coords(igbp=("site", ["WET"] * 3)),
        "a place": three.assign_coords(latitude=three.latitude + 1),
        "units": three.assign(fluxes=three.fluxes.assign_attrs(units="gC m-2 d-1")),
        "an attribute": three.assign_attrs(clock="standard"),
        "selected later": three.sel(site=["US-Aaa"]),
        "arrays of another store": three.assign(
            fluxes=fc.open_carbonsense(stores / "four.zarr", sites=list(SITES), time=str(2010)).fluxes
        ),
        "loaded": three.copy().load(),
        "masked": fc.open_carbonsense(stores / "three.zarr", max_qc=1),
        "scaled": fc.open_carbonsense(stores / "three.zarr", normalized=True),
        "hidden": hide_predictors(three, 0.5),
    }
    for name, other in others.items():
        assert origin(other) == {"derived_from": store}, name
    assert "store_id" not in others["masked"].attrs
    assert origin(xr.Dataset()) == {}


def test_a_value_changed_in_place_is_noticed(three, stores):
    three.latitude.values[0] += 1.0
    assert origin(three) == {"derived_from": ids(stores)[0]}


def test_a_run_records_the_store_of_its_cube(stores, three, tmp_path):
    store, _ = ids(stores)
    run = learn(three, tmp_path / "run")
    about = json.loads((run.path / "run.json").read_text())["cube"]
    assert about["store_id"] == store and len(about["data_digest"]) == 32
    assert store[:12] in fc.inspect(run.path)
    other = json.loads((learn(three * 1, tmp_path / "changed").path / "run.json").read_text())["cube"]
    assert other["derived_from"] == store and "store_id" not in other
    predicted = fc.predict(run, three)
    assert predicted.attrs["cube_store_id"] == predicted.attrs["training_cube_store_id"] == store
    scores = fc.evaluate(three, {"line": predicted}, max_qc=None, clusters=None)
    digest = fc.load_model(run).digest
    assert json.loads(scores.attrs["inputs"]) == {"cube": {"store_id": store}, "line": {"model_digest": digest}}


def begin(kind, cube, out, monkeypatch):
    """Train until a state is saved; return the call that resumes."""
    options = {
        "network": {"model": "ecoperceiver", "config": TINY, "training": SHORT, "bands": ()},
        "trees": {"model": "xgboost", "config": {"n_estimators": ROUNDS + 5}},
        "members": {"seeds": 2},
    }[kind]

    def call(cube, **more):
        return learn(cube, out, **options | more)

    def killing(function):
        def wrapped(*given, **named):
            function(*given, **named)
            raise Killed

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_state", killing(loop.save_state))
        patch.setattr(rows, "save_growth", killing(rows.save_growth))
        if kind == "members":
            call(cube, seeds=1)
        else:
            with pytest.raises(Killed):
                call(cube)
    return call


@pytest.mark.parametrize("kind", ["network", "trees", "members"])
def test_no_training_continues_on_another_state_of_its_cube(kind, stores, tmp_path, monkeypatch, short_applicability):
    three, four = ids(stores)
    path = shutil.copytree(stores / "three.zarr", tmp_path / "cube.zarr")
    call = begin(kind, fc.open_carbonsense(path), tmp_path / "run", monkeypatch)
    shutil.rmtree(path)
    shutil.copytree(stores / "four.zarr", path)
    with pytest.raises(ConfigError, match=f"{three[:12]}.*{four[:12]}.*Pass the cube"):
        call(fc.open_carbonsense(path))
    with pytest.raises(ConfigError, match=f"{three[:12]}.*{four[:12]}"):  # also if it was loaded
        call(fc.open_carbonsense(path).load())
    shutil.rmtree(path)
    same = fc.open_carbonsense(shutil.copytree(stores / "three.zarr", tmp_path / "moved.zarr"))
    assert json.loads((call(same).path / ("ensemble.json" if kind == "members" else "run.json")).read_text())


def test_a_state_without_a_store_is_compared_by_values(stores, three, tmp_path, monkeypatch, short_applicability):
    call = begin("trees", three, tmp_path / "run", monkeypatch)
    data = json.loads((tmp_path / "run" / DATA).read_text())
    assert data["store_id"] == ids(stores)[0]
    (tmp_path / "run" / DATA).write_text(json.dumps({"digest": data["digest"]}))  # of an earlier version
    assert call(three).path == tmp_path / "run"


def test_an_experiment_is_not_continued_on_another_cube(stores, three, tmp_path):
    line = Variant(label="line", model="mean", predictors=("TA",), static=())
    options = {"max_qc": None}
    before = score_variants(three, {"f": SPLIT}, [line], tmp_path, **options)
    assert json.loads(before.attrs["inputs"])["cube"] == {"derived_from": ids(stores)[0]}
    again = score_variants(three, {"f": SPLIT}, [line], tmp_path, **options)
    xr.testing.assert_equal(before.places["NEE"], again.places["NEE"])
    other = three.assign_attrs(store_id="0" * 32)  # another store, with the same values where they are compared
    with pytest.raises(ConfigError, match="another cube, or another state"):
        score_variants(other, {"f": SPLIT}, [line], tmp_path, **options)
    with pytest.raises(ConfigError, match="another cube, or another state"):
        trained(other, SPLIT, line, tmp_path)


def test_maps_record_the_stores_of_forcing_and_cube(tmp_path):
    cube = example_cube(sites=12, days=6).assign_attrs(store_id="c" * 32)
    run = fc.fit(cube, model="sw-linear", out=tmp_path / "run")
    grid = example_forcing(days=4).chunk(latitude=3, longitude=4, time=24)
    forcing = open_forcing_store(write_forcing(grid, tmp_path / "forcing.zarr"))
    made = fc.upscale(run, forcing, time_chunk=24, applicability=False)
    assert made.attrs["forcing_store_id"] == store_attrs(tmp_path / "forcing.zarr")["store_id"]
    assert made.attrs["training_cube_derived_from"] == "c" * 32

    def stop(done, total, text):
        if done >= 2:
            raise Killed

    with pytest.raises(Killed):
        fc.write_maps(made, tmp_path / "maps.zarr", scheduler="threads", workers=1, progress=stop)
    other = open_forcing_store(write_forcing(grid.assign(predictors=grid.predictors * 3), tmp_path / "other.zarr"))
    made_of_other = fc.upscale(run, other, time_chunk=24, applicability=False)
    first, second = (one.attrs["forcing_store_id"][:12] for one in (made, made_of_other))
    with pytest.raises(StoreError, match=f"predictors differ; it was store_id {first}, it is store_id {second}"):
        fc.write_maps(made_of_other, tmp_path / "maps.zarr", scheduler="threads", workers=1)
    fc.write_maps(made, tmp_path / "maps.zarr", scheduler="threads", workers=1)
    maps = fc.open_maps(tmp_path / "maps.zarr")
    assert np.isfinite(maps.NEE).any() and "store_id" in origin(maps)
    mean = fc.mean_maps(maps, None, min_coverage=0)
    assert origin(mean) == {"derived_from": maps.attrs["store_id"]}


def test_forcing_records_the_store_of_its_files(planet_files, tmp_path):
    copy = tmp_path / "era5.zarr"
    fc.copy_era5(planet_files / "era5", copy)
    forcing = fc.open_forcing(copy, igbp="GRA")
    store = store_attrs(copy)["store_id"]
    assert forcing.attrs["era5_store_id"] == store
    written = open_forcing_store(write_forcing(forcing.isel(time=slice(0, 48)), tmp_path / "forcing.zarr"))
    assert written.attrs["era5_store_id"] == store and "store_id" in origin(written)
    assert "era5_store_id" not in fc.open_forcing(planet_files / "era5", igbp="GRA").attrs
