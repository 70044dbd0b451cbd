"""The ladder of baselines: one reading of the towers, the same results as one fit each, and every cube."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from daily_cubes import daily_cube

import fluxcube.training.rows
from fluxcube.baselines import LADDER, fit_baselines, predict_baselines
from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.evaluation.skill import compare
from fluxcube.experiments import Variant, predictions_of
from fluxcube.inference.grid import upscale
from fluxcube.inference.towers import predict
from fluxcube.models.checkpoint import digest
from fluxcube.samples.splits import Split
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.training.fit import fit

SPLIT = Split(train=tuple(f"XX-S{i:02d}" for i in range(6)), test=("XX-S06", "XX-S07"))
TARGETS = ("NEE", "GPP_NT")


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=8, days=12)


@pytest.fixture(scope="module")
def runs(cube, tmp_path_factory):
    return fit_baselines(cube, SPLIT, TARGETS, tmp_path_factory.mktemp("ladder"))


def test_every_rung_predicts_and_higher_rungs_are_better(cube, runs):
    assert list(runs) == [rung.label for rung in LADDER]
    predictions = predict_baselines(runs, cube, SPLIT.test)
    table = compare(cube.sel(site=list(SPLIT.test)), predictions).query("target == 'NEE'").set_index("model").nse
    assert table["mean"] < 0.1 < table["line of SW_IN"]
    assert table["27 clusters of weather"] > table["line of SW_IN"]
    for label, ds in predictions.items():
        xr.testing.assert_identical(ds, predict(runs[label], cube.sel(site=list(SPLIT.test))).load())


@pytest.mark.parametrize("name", ["mean-cycle", "met-clusters", "xgboost"])
def test_sharing_changes_no_result(cube, runs, tmp_path, name):
    rung = next(rung for rung in LADDER if rung.model == name)
    alone = fit(
        cube,
        model=name,
        target=TARGETS,
        out=tmp_path / "run",
        predictors=("DOY", "TOD", "TA", "SW_IN", "VPD", "SW_IN_POT"),
        static=("latitude", "igbp"),
        bands=(),
        surface=(),
        split=SPLIT,
        config=dict(rung.config),
    )
    assert digest(alone) == digest(runs[rung.label])


def test_towers_are_read_once_for_all_rungs(cube, tmp_path, monkeypatch):
    read = []
    load = fluxcube.training.rows.load_towers
    monkeypatch.setattr(fluxcube.training.rows, "load_towers", lambda *args: read.append(args[1]) or load(*args))
    fit_baselines(cube, SPLIT, "NEE", tmp_path, models=["mean", "sw-linear", "mean-cycle"])
    assert sorted(read) == sorted([site] for site in SPLIT.train)


def test_finished_runs_are_used_again_and_others_refused(cube, runs, monkeypatch):
    folder = next(iter(runs.values())).path.parent
    again = fit_baselines(cube, SPLIT, TARGETS, folder, models=["sw-linear", "mean"])
    assert [run.summary for run in again.values()] == ["finished before"] * 2
    with pytest.raises(ConfigError, match=r"contains another run: .*target"):
        fit_baselines(cube, SPLIT, "NEE", folder, models=["mean"])
    other = cube.assign(fluxes=cube.fluxes + 1)
    with pytest.raises(ConfigError, match="contains another run: the values of its towers"):
        fit_baselines(other, SPLIT, TARGETS, folder, models=["mean"])


def test_rungs_whose_predictors_are_missing_are_left_out(cube, tmp_path, caplog):
    dry = cube.assign(predictors_qc=cube.predictors_qc.where(cube["variable"] != "VPD", np.int8(-1)))
    runs = fit_baselines(dry, SPLIT, "NEE", tmp_path / "dry", models=None)
    assert set(runs) == {rung.label for rung in LADDER if "VPD" not in rung.needs}
    assert "27 clusters of weather: left out, the training towers have no VPD" in caplog.text
    with pytest.raises(ConfigError, match="met-regression needs VPD"):
        fit_baselines(dry, SPLIT, "NEE", tmp_path / "dry2", models=["met-regression"])
    with pytest.raises(UnknownNameError, match="did you mean 'met-regression'"):
        fit_baselines(cube, SPLIT, "NEE", tmp_path / "x", models=["met-regresion"])
    with pytest.raises(UnknownNameError, match="unknown target of the cube 'NEEE'"):
        fit_baselines(cube, SPLIT, "NEEE", tmp_path / "x")


def test_lazy_cubes_have_the_same_results(cube, runs, tmp_path):
    lazy = cube.chunk(site=1, time=100)
    found = fit_baselines(lazy, SPLIT, TARGETS, tmp_path, models=["met-clusters"])
    assert digest(found["27 clusters of weather"]) == digest(runs["27 clusters of weather"])
    labels = predict_baselines(runs, lazy, SPLIT.test)
    xr.testing.assert_allclose(labels["mean"], predict(runs["mean"], cube.sel(site=list(SPLIT.test))))


def test_daily_cubes_have_the_same_ladder(tmp_path):
    cube = daily_cube(sites=6, days=120)
    names = [str(name) for name in cube["site"].values]
    split = Split(train=tuple(names[:4]), test=tuple(names[4:]))
    runs = fit_baselines(cube, split, ("NEE", "GPP_NT"), tmp_path)
    assert len(runs) == len(LADDER)
    for ds in predict_baselines(runs, cube, split.test).values():
        assert set(ds) >= {"NEE", "GPP_NT"} and int(ds.NEE.notnull().sum()) > 0


def test_baselines_make_maps_and_are_variants_of_experiments(cube, runs, tmp_path):
    forcing = example_forcing(shape=(2, 2), days=4)
    for run in runs.values():
        maps = upscale(run, forcing, time_chunk=24)
        assert np.isfinite(maps.NEE.where(maps.land_fraction > 0, 0)).all()
    variant = Variant(label="clusters", model="met-clusters", predictors=("TA", "SW_IN", "VPD"))
    ds = predictions_of(cube, SPLIT, variant, tmp_path)
    assert list(ds.site.values) == list(SPLIT.test) and np.isfinite(ds.NEE).any()
