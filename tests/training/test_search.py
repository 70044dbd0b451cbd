"""Search: draws that only their number and the seed decide, judged on towers that did not train them."""

from __future__ import annotations

import json

import kernels
import numpy as np
import pytest

from fluxcube.errors import CheckpointError, ConfigError, SplitError
from fluxcube.models.boosting import Boosting, BoostingConfig
from fluxcube.resolution import HOURLY
from fluxcube.samples.splits import kfold
from fluxcube.samples.towers import cube_spec, load_towers
from fluxcube.simulation.example import example_cube
from fluxcube.training.plan import sizes_of
from fluxcube.training.rows import table
from fluxcube.training.search import SPACE, SearchOptions, draw_settings, random_search


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=10, days=10)


@pytest.fixture(scope="module")
def sites(cube):
    return [str(site) for site in cube.site.values[:8]]


@pytest.fixture(scope="module")
def spec(cube, sites):
    return cube_spec(cube, sites, targets=("NEE", "GPP_NT"), bands=())


def search(cube, sites, spec, **changes):
    settings = {"trees": 12, "patience": 4, "draws": 5, "folds": 3, "rows": 900, "seed": 2, "workers": 1}
    options = {name: changes.pop(name) for name in list(changes) if name in SearchOptions.__dataclass_fields__}
    return random_search(cube, sites, spec=spec, options=SearchOptions(**settings | options), **changes)


def scores(found):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found.draws]


@pytest.fixture(scope="module")
def whole(cube, sites, spec):
    return search(cube, sites, spec)


def test_draws_lie_in_the_space_and_differ():
    drawn = [draw_settings(i, 1)[1] for i in range(2, 60)]
    for name, (kind, *limits) in SPACE.items():
        values = [settings[name] for settings in drawn]
        assert len(set(values)) > 1, name
        assert (
            set(values) <= set(limits) if kind == "choice" else min(limits) <= min(values) <= max(values) <= max(limits)
        )
        # both halves of the range are visited
        if kind != "choice":
            middle = np.sqrt(limits[0] * limits[1]) if kind == "log" else np.mean(limits)
            assert 0.2 < np.mean(np.array(values) < middle) < 0.8, name
    assert draw_settings(0, 1) == draw_settings(0, 2) and draw_settings(2, 1) != draw_settings(2, 2)
    published = BoostingConfig.published()
    assert all(getattr(published, name) == value for name, value in draw_settings(0, 0)[1].items())


def test_the_best_draw_is_kept(whole):
    best = max(whole.draws, key=lambda row: row["nse"])
    assert whole.best == best and len({row["nse"] for row in whole.draws}) == 5
    assert all(getattr(whole.config, name) == value for name, value in best["settings"].items())
    assert whole.config.n_estimators == round(np.mean(best["trees"])) and whole.config.early_stopping == 0
    assert [row["from"] for row in whole.draws] == ["published", "xbase", "random", "random", "random"]
    json.dumps(whole.to_dict())


def test_an_nse_is_that_of_trees_which_never_saw_the_cluster(cube, sites):
    """Trains each fold again through the model itself and scores all measured hours pooled."""
    spec = cube_spec(cube, sites, bands=())
    found = search(cube, sites, spec, draws=1, rows=None, trees=15, patience=15)
    (row,) = found.draws
    config = BoostingConfig.from_dict(row["settings"] | {"n_estimators": row["trees"][0], "early_stopping": 0})
    scaled = load_towers(cube, sites, spec, HOURLY.limit(1)).scaled().spec
    obs, pred = [], []
    for split in kfold(cube.sel(site=sites), k=3, seed=2):
        model = Boosting(config, sizes_of(spec))
        others = [site for site in sites if site not in split.test]
        model.fit(*table(model, load_towers(cube, others, scaled, HOURLY.limit(1))), seed=2)
        x, y = table(model, load_towers(cube, split.test, scaled, HOURLY.limit(0)))
        obs.append(y[:, 0])
        pred.append(model.predict_rows(x)[:, 0])
    nse = kernels.nse(np.concatenate(obs), np.concatenate(pred))
    np.testing.assert_allclose(row["nse"], nse, atol=1e-5)


def test_the_number_of_threads_changes_nothing(cube, sites, spec, whole):
    assert scores(search(cube, sites, spec, workers=3)) == scores(whole)


def test_a_seed_decides(cube, sites, spec, whole):
    other = search(cube, sites, spec, seed=3, draws=3)
    assert all(a["nse"] != b["nse"] for a, b in zip(other.draws, whole.draws, strict=False))


def test_a_kill_costs_one_draw(cube, sites, spec, whole, tmp_path):
    path = tmp_path / "run" / "search.jsonl"

    def progress(done, total, text):
        if text.startswith("draw") and done == 3:
            raise Killed

    with pytest.raises(Killed):
        search(cube, sites, spec, out=path, progress=progress)
    kept = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert [row["draw"] for row in kept] == [0, 1, 2]
    told = []
    found = search(cube, sites, spec, out=path, progress=lambda done, total, text: told.append(text))
    assert sum(text.startswith("draw") for text in told) == 2
    assert scores(found) == scores(whole) and found.config == whole.config
    assert len(path.read_text().splitlines()) == 6
    more = search(cube, sites, spec, out=path, draws=6)
    assert scores(more)[:5] == scores(whole)


def test_another_search_is_not_gone_on_with(cube, sites, spec, tmp_path):
    path = tmp_path / "search.jsonl"
    search(cube, sites, spec, out=path, draws=1)
    with pytest.raises(ConfigError, match="seed was 2, is 4"):
        search(cube, sites, spec, out=path, seed=4)
    with pytest.raises(ConfigError, match="max_qc was 1, is 0"):
        search(cube, sites, spec, out=path, max_qc=0)
    with pytest.raises(ConfigError, match="other settings: data was"):
        search(cube.assign(predictors=cube.predictors * 1.01), sites, spec, out=path, draws=1)
    lines = path.read_text("utf-8").splitlines()
    old = {key: value for key, value in json.loads(lines[0]).items() if key != "data"}
    path.write_text("\n".join([json.dumps(old), *lines[1:]]) + "\n", "utf-8")
    search(cube, sites, spec, out=path, draws=1)  # as an earlier version wrote it
    path.write_text(path.read_text()[:-20])
    with pytest.raises(CheckpointError, match="not a file of draws"):
        search(cube, sites, spec, out=path)


def test_other_sites_are_never_read(cube, sites, spec, whole):
    spoiled = cube.copy(deep=True)
    spoiled.fluxes[8:] = 1e6
    spoiled.predictors[8:] = np.nan
    assert scores(search(spoiled, sites, spec, draws=2)) == scores(whole)[:2]


def test_only_measured_fluxes_are_scored(cube, sites, spec):
    filled = cube.copy(deep=True)
    at = (np.arange(cube.sizes["time"]) % 3 == 0)[None, :, None]
    filled["fluxes_qc"] = filled.fluxes_qc.where(~at | (filled.fluxes_qc != 0), 1).astype("int8")
    wild = filled.copy(deep=True)
    wild["fluxes"] = wild.fluxes.where(~at, wild.fluxes + 30)
    # rows above the worst flag neither train nor score: wild fills are then the same as others
    same = [search(c, sites, spec, draws=1, max_qc=0, rows=None) for c in (filled, wild)]
    assert scores(same[0])[0]["nse"] == scores(same[1])[0]["nse"]
    # as training rows they matter, though the scored hours are those measured in both
    differ = [search(c, sites, spec, draws=1, max_qc=1, rows=None) for c in (filled, wild)]
    assert differ[0].draws[0]["nse"] > differ[1].draws[0]["nse"]


def test_lags_and_rows_are_the_callers(cube, sites, spec, whole):
    lagged = BoostingConfig(lags=(1, 2), max_rows=50)
    found = search(cube, sites, spec, config=lagged, draws=1)
    assert (found.config.lags, found.config.max_rows) == ((1, 2), 50) and found.draws[0]["nse"] != whole.draws[0]["nse"]
    fewer = search(cube, sites, spec, rows=400, draws=1)
    assert fewer.about["rows"] == 400 and fewer.draws[0]["nse"] != whole.draws[0]["nse"]


@pytest.mark.parametrize(
    ("error", "named", "changes"),
    [
        (ConfigError, "draws", {"draws": 0}),
        (ConfigError, "patience", {"patience": 0}),
        (ConfigError, "n_estimators", {"trees": 0}),
        (ConfigError, "folds", {"folds": 1}),
        (ConfigError, "workers", {"workers": -1}),
        (SplitError, "8 training towers into 9 folds of whole clusters.*without a search", {"folds": 9}),
        (ConfigError, "use fewer folds, or more rows", {"rows": 2}),
    ],
)
def test_what_cannot_be_is_refused(cube, sites, spec, error, named, changes):
    with pytest.raises(error, match=named):
        search(cube, sites, spec, **changes)
