"""Fit of trees: searched, broken off, as an ensemble, with lags: all through the path of every other model."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from fluxcube.errors import CheckpointError, ConfigError
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.models import checkpoint
from fluxcube.models.boosting import ROUNDS, BoostingConfig
from fluxcube.samples.features import FeatureSpec
from fluxcube.simulation.example import example_cube
from fluxcube.training import rows as training_rows
from fluxcube.training import search as training_search
from fluxcube.training.fit import fit


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=12, days=8)


def boost(cube, out, **changes):
    settings = {"config": BoostingConfig(n_estimators=ROUNDS + 9), "target": ("NEE", "GPP_NT"), "seed": 2}
    return fit(cube, model="xgboost", out=out, **settings | changes)


def weights(run):
    return checkpoint.load(run)[0].weights()


def test_a_killed_run_goes_on(monkeypatch, cube, tmp_path):
    whole = boost(cube, tmp_path / "whole")
    assert sorted(p.name for p in whole.path.iterdir()) == [
        "applicability.safetensors",
        "log.csv",
        "model.0.ubj",
        "model.1.ubj",
        "run.json",
        "run.toml",
        "split.json",
    ]
    save, saved = training_rows.save_growth, []

    def killer(*given):
        save(*given)
        saved.append(given)
        if len(saved) == 3:
            raise Killed

    monkeypatch.setattr(training_rows, "save_growth", killer)
    with pytest.raises(Killed):
        boost(cube, tmp_path / "broken")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="resume=True"):
        boost(cube, tmp_path / "broken", resume=False)
    with pytest.raises(ConfigError, match="max_qc was 1, is 0"):
        boost(cube, tmp_path / "broken", max_qc=0)
    resumed = boost(cube, tmp_path / "broken")
    assert weights(resumed) == weights(whole) and resumed.history == whole.history
    assert sorted(p.name for p in resumed.path.iterdir()) == sorted(p.name for p in whole.path.iterdir())


def test_lags_go_the_way_of_every_model(cube, tmp_path):
    lags = (1, 3, 6)
    run = boost(cube, tmp_path / "run", config={"n_estimators": 20, "lags": list(lags)}, memory_days=(2,))
    model = load_model(run)
    assert model.model.config.lags == lags and model.model.context == 7
    some = cube.sel(site=list(run.split.test))
    whole = predict(model, some)["NEE"]
    late = predict(model, some.isel(time=slice(100, None)))["NEE"]
    # a window that begins before the hours given has no estimate; the others do not depend on where these begin
    both = np.isfinite(late.values)
    assert both[:, 6 + 48 :].all() and not both[:, :6].any()
    np.testing.assert_allclose(
        late.values[:, 6 + 48 :], whole.sel(time=late.time).values[:, 6 + 48 :], rtol=1e-5, atol=1e-5
    )
    alone = load_model(boost(cube, tmp_path / "alone", config={"n_estimators": 20}, split=run.split))
    assert np.nanmax(np.abs(predict(alone, some)["NEE"].values - whole.values)) > 0.01


def test_pixels_are_averaged_unfilled(cube, tmp_path):
    _, about = checkpoint.load(boost(cube, tmp_path / "run", config={"n_estimators": 3}))
    assert FeatureSpec.from_dict(about["features"]).fill_chips is False
    _, about = checkpoint.load(fit(cube, model="sw-linear", out=tmp_path / "line"))
    assert FeatureSpec.from_dict(about["features"]).fill_chips is True


@pytest.fixture
def quick(monkeypatch):
    """A search of few trees."""
    search = training_search.random_search
    monkeypatch.setattr(
        training_search,
        "random_search",
        lambda *a, options, **k: search(
            *a, options=dataclasses.replace(options, trees=8, patience=3, folds=2, rows=600), **k
        ),
    )


def test_search_settles_what_is_trained_and_is_kept(quick, cube, tmp_path):
    run = boost(cube, tmp_path / "run", search=3, config={"lags": [2]})
    model, about = checkpoint.load(run)
    rows = [json.loads(line) for line in (run.path / "search.jsonl").read_text().splitlines()[1:]]
    finals = [row for row in rows if row.get("final")]
    best = max(finals, key=lambda row: row["nse"])  # scored again on more rows, as many as trees are trained on
    assert len(rows) == 3 + len(finals) and about["search"] == best
    assert all(getattr(model.config, name) == value for name, value in best["settings"].items())
    assert model.config.lags == (2,) and model.config.n_estimators == round(np.mean(best["trees"]))
    head = json.loads((run.path / "search.jsonl").read_text().splitlines()[0])
    assert {site for fold in head["folds"] for site in fold} == set(run.split.train)


def test_a_killed_search_goes_on(quick, cube, tmp_path):
    whole = boost(cube, tmp_path / "whole", search=3)

    def killer(done, total, text):
        if text.startswith("draw"):
            raise Killed

    with pytest.raises(Killed):
        boost(cube, tmp_path / "broken", search=3, progress=killer)
    told = []
    resumed = boost(cube, tmp_path / "broken", search=3, progress=lambda done, total, text: told.append(text))
    assert sum(text.startswith("draw") for text in told) < 3 and weights(resumed) == weights(whole)


def test_an_ensemble_searches_once(quick, cube, tmp_path):
    run = boost(cube, tmp_path / "all", search=2, seeds=2, target="NEE")
    assert (run.path / "search.jsonl").is_file() and not list(run.path.glob("seed-*/search.jsonl"))
    first, second = (checkpoint.load(run.path / f"seed-{s}")[0] for s in (2, 3))
    assert first.config == second.config and first.weights() != second.weights()
    some = cube.sel(site=list(run.split.test))
    members = [predict(load_model(run.path / f"seed-{s}"), some)["NEE"].values for s in (2, 3)]
    np.testing.assert_allclose(predict(load_model(run), some)["NEE"].values, np.mean(members, 0), rtol=1e-4, atol=1e-4)
    more = boost(cube, tmp_path / "all", search=2, seeds=3, target="NEE")
    assert checkpoint.load(more.path / "seed-4")[0].config == first.config


@pytest.mark.parametrize(("model", "search"), [("sw-linear", 5), ("xgboost", 0)])
def test_a_search_of_nothing_is_refused(cube, tmp_path, model, search):
    with pytest.raises(ConfigError, match="search"):
        fit(cube, model=model, out=tmp_path / "run", search=search)
    assert not (tmp_path / "run").exists()
