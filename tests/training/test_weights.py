"""Weights of fluxes: the same for networks and trees, mean 1, and each changes what is learned."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from training_helpers import FAST, TINY, small_cube, weights

from fluxcube import fit, load_model, predict
from fluxcube.errors import ConfigError
from fluxcube.models import boosting
from fluxcube.models.boosting import ROUNDS, Boosting, BoostingConfig
from fluxcube.models.rows import WholeRows
from fluxcube.resolution import HOURLY
from fluxcube.samples.splits import per_igbp
from fluxcube.samples.towers import cube_spec, load_towers
from fluxcube.training import rows as training_rows
from fluxcube.training.config import WEIGHTS, TrainingConfig
from fluxcube.training.plan import sizes_of
from fluxcube.training.rows import SiteRows, fit_rows, row_weights
from fluxcube.training.search import SearchOptions, random_search
from fluxcube.training.settings import configure
from fluxcube.training.weights import flux_weights, site_weights

TREES = {"model": "xgboost", "config": {"n_estimators": 12, "max_depth": 3, "early_stopping": 0, "device": "cpu"}}


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def cube():
    """Towers with records of different lengths, and a third of the hours gap-filled."""
    cube = small_cube()
    rng = np.random.default_rng(5)
    hours = np.arange(cube.sizes["time"])
    long = hours < rng.integers(60, len(hours), cube.sizes["site"])[:, None]
    cube["fluxes"] = cube.fluxes.where(long[..., None])
    flags = np.where(rng.random(cube.fluxes.shape) < 0.3, 1, 0).astype("int8")
    cube["fluxes_qc"] = cube.fluxes_qc.where(cube.fluxes_qc < 0, flags).where(cube.fluxes.notnull(), -1).astype("int8")
    cube = cube.assign_coords(koppen=("site", np.array(["Dfb", "BSh", "Dfc", "Cfb"] * 3, object)))
    spread = np.abs(rng.normal(1, 0.5, cube.fluxes.shape)).astype("float32")
    return cube.assign(fluxes_randunc=(cube.fluxes.dims, spread))


@pytest.fixture(scope="module")
def split(cube):
    return dataclasses.replace(per_igbp(cube, seed=1), val=())


@pytest.fixture(scope="module")
def towers(cube, split):
    spec = cube_spec(cube, split.train, targets=("NEE", "GPP_NT"), bands=())
    return load_towers(cube, split.train, spec, HOURLY.limit(1)).scaled()


@pytest.mark.parametrize("names", [*((name,) for name in WEIGHTS), ("randunc",), ("quality", "igbp", "koppen", "site")])
def test_the_weights_of_rows_are_those_of_windows_and_have_mean_one(cube, split, towers, names):
    seen = np.isfinite(towers.fluxes)
    of_hours = flux_weights(cube, towers, names, filled=0.3)
    source = SiteRows(
        cube, split.train, dataclasses.replace(towers.spec, target_mean=(), target_scale=()), HOURLY.limit(1)
    )
    of_rows = row_weights(cube, source.scaled(), names, 0.3)
    np.testing.assert_allclose(of_rows, of_hours[seen.any(1)], rtol=1e-4)
    for i in range(2):
        assert of_hours[seen[:, i], i].mean() == pytest.approx(1, rel=1e-4)
        assert np.ptp(of_hours[seen[:, i], i]) > 0.05, "this cube has towers that differ in everything"
    assert row_weights(cube, source, (), 0.3) is None


def test_gap_filled_hours_count_less_than_measured_ones(cube, towers):
    flags = np.concatenate([cube.fluxes_qc.sel(site=site, target=["NEE", "GPP_NT"]).values for site in towers.sites])
    seen = np.isfinite(towers.fluxes)
    found = flux_weights(cube, towers, ("quality",), filled=0.3)
    filled, measured = np.unique(found[seen & (flags == 1)]), np.unique(found[seen & (flags == 0)])
    np.testing.assert_allclose(filled / measured, 0.3, rtol=1e-5)
    published = cube.assign_coords(network=("site", np.full(cube.sizes["site"], "CarbonSense v1", object)))
    assert (flux_weights(published, towers, ("quality",), filled=0.3)[seen] == 1).all(), "flag 1 is the best there"


def test_long_records_count_as_much_as_short_ones_or_as_the_root_of_their_length():
    site, seen = np.repeat([0, 1], [16, 4]), np.full((20, 1), True)
    for power, ratio in ((1.0, 1.0), (0.5, 2.0)):
        found = site_weights(site, seen, power)[:, 0]
        assert found[:16].sum() / found[16:].sum() == pytest.approx(ratio) and found.mean() == pytest.approx(1)


@pytest.mark.parametrize("name", [*WEIGHTS, "weight_by_randunc"])
def test_each_weight_changes_the_trees(cube, split, name, tmp_path):
    named = {"weight_by_randunc": True} if name == "weight_by_randunc" else {"weigh": (name,)}
    runs = [
        fit(cube, out=tmp_path / str(i), split=split, training=TrainingConfig(**change), **TREES)
        for i, change in enumerate(({}, named))
    ]
    plain, weighted = (load_model(run).model.weights() for run in runs)
    assert plain != weighted
    assert load_model(runs[1]).metadata["request"]["training"]["weigh"] == (list(named.get("weigh", ())) or None)


def test_networks_on_hours_take_the_weights_too(cube, split, tmp_path):
    few = dataclasses.replace(FAST, epochs=1, windows_per_epoch=32, keep="last")
    options = {"model": "ecoperceiver", "config": TINY, "split": split, "seed": 4}
    changes = ({}, {"weigh": ("sqrt-site",)}, {"weigh": ("quality",)}, {"weigh": ("quality",), "filled_weight": 0.7})
    runs = [
        fit(cube, out=tmp_path / str(i), training=dataclasses.replace(few, **change), **options)
        for i, change in enumerate(changes)
    ]
    assert len({weights(run.path) for run in runs}) == 4
    assert "filled_weight" not in load_model(runs[0]).metadata["request"]["training"], "as earlier versions wrote it"


def test_hourly_networks_report_the_carbon_balance_and_can_be_trained_to_close_it(cube, split, tmp_path):
    few = dataclasses.replace(FAST, epochs=3, windows_per_epoch=64, keep="last")
    options = {"model": "ecoperceiver", "config": TINY, "split": split, "target": ("NEE", "GPP_NT", "RECO_NT")}
    runs = {
        alpha: fit(cube, out=tmp_path / str(alpha), training=dataclasses.replace(few, balance=alpha), **options)
        for alpha in (None, 0.0, 50.0)
    }
    assert weights(runs[None].path) == weights(runs[0.0].path), "hourly models have no balance by default"
    imbalance = {alpha: [row["imbalance"] for row in run.history] for alpha, run in runs.items()}
    assert imbalance[50.0][-1] < 0.8 * imbalance[0.0][-1] and np.isfinite(imbalance[0.0]).all()
    request = load_model(runs[50.0]).metadata["request"]
    assert request["balance"] == {"alpha": 50.0, "relative_to": "variance of NEE"}
    assert "balance" not in load_model(runs[0.0]).metadata["request"]


def test_a_weight_is_a_number_of_copies():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 3)).astype("float32"), rng.normal(size=(400, 1)).astype("float32")
    y[::7] = np.nan
    copies = rng.integers(0, 3, 400)
    config = BoostingConfig(n_estimators=10, subsample=1.0, colsample_bytree=1.0, early_stopping=0, device="cpu")
    weighted, copied = (Boosting(config, boosting.Sizes(inputs=3)) for _ in range(2))
    weighted.learn(WholeRows(x, y, copies[:, None].astype("float32")))
    copied.learn(WholeRows(np.repeat(x, copies, 0), np.repeat(y, copies, 0)))
    np.testing.assert_allclose(weighted.predict_rows(x), copied.predict_rows(x), atol=0.05)
    with pytest.raises(ConfigError, match="weight 0"):
        Boosting(config, boosting.Sizes(inputs=3)).learn(WholeRows(x, y, np.zeros((400, 1))))


def test_a_killed_run_with_weights_ends_as_an_uninterrupted_one(monkeypatch, cube, split, towers, tmp_path):
    spec = dataclasses.replace(towers.spec, target_mean=(), target_scale=())
    source = SiteRows(cube, split.train, spec, HOURLY.limit(1)).scaled()
    weight = row_weights(cube, source, ("quality", "site", "igbp"), 0.2)
    config = BoostingConfig(n_estimators=ROUNDS + 5, max_depth=3, max_rows=900, early_stopping=0, device="cpu")
    whole, killed, resumed = (Boosting(config, sizes_of(spec)) for _ in range(3))
    settings = {"seed": 1, "state": tmp_path / ".rows.state", "request": {"seed": 1}, "weight": weight}
    fit_rows(whole, source, None, **settings)
    write = training_rows.write_atomically

    def kill(path, content):
        write(path, content)
        raise KilledError

    monkeypatch.setattr(training_rows, "write_atomically", kill)
    with pytest.raises(KilledError):
        fit_rows(killed, source, None, **settings)
    monkeypatch.undo()
    fit_rows(resumed, source, None, **settings)
    assert resumed.weights() == whole.weights()


def search(cube, split, towers, **changes):
    spec = dataclasses.replace(towers.spec, target_mean=(), target_scale=(), targets=("NEE",))
    sizes = {"draws": 4, "folds": 3, "rows": 500, "trees": 12, "patience": 4, "workers": 1}
    options = SearchOptions(**sizes | {k: changes.pop(k) for k in ("final_rows", "finalists", "draws") if k in changes})
    return random_search(cube, split.train, spec=spec, options=options, **changes)


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_a_search_learns_with_weights_and_records_them(cube, split, towers, tmp_path):
    plain = search(cube, split, towers, draws=2)
    weighted = search(cube, split, towers, draws=2, weigh=("site", "quality"), out=tmp_path / "search.jsonl")
    assert [a["nse"] for a in plain.draws] != [b["nse"] for b in weighted.draws]
    assert "weigh" not in plain.about and weighted.about["weigh"] == ["quality", "site", 0.2]
    with pytest.raises(ConfigError, match="weigh was"):
        search(cube, split, towers, draws=2, weigh=("site",), out=tmp_path / "search.jsonl")


def test_the_best_draws_are_scored_again_on_more_rows_and_resumed(cube, split, towers, tmp_path):
    path = tmp_path / "search.jsonl"
    plain = search(cube, split, towers)
    options = {"final_rows": 1500, "finalists": 2, "out": path}
    texts = []

    def progress(done, total, text):
        texts.append(text)
        if text.startswith("finalist"):
            raise KilledError

    with pytest.raises(KilledError):
        search(cube, split, towers, progress=progress, **options)
    texts.clear()
    found = search(cube, split, towers, progress=lambda *a: texts.append(a[2]), **options)
    assert not any(text.startswith("draw") for text in texts), "no draw is scored twice"
    assert sum(text.startswith("finalist") for text in texts) == 1
    assert without_seconds(found.draws) == without_seconds(plain.draws)
    order = [row["draw"] for row in sorted(plain.draws, key=lambda row: -row["nse"])][:2]
    assert [row["draw"] for row in found.finals] == order and {row["rows"] for row in found.finals} == {1500}
    assert found.best == max(found.finals, key=lambda row: row["nse"])
    assert found.config.n_estimators == found.best["trees"][0] and found.config.early_stopping == 0
    assert without_seconds(search(cube, split, towers, **options).finals) == without_seconds(found.finals)
    assert not search(cube, split, towers, final_rows=500).finals, "no more rows than the draws had"


def test_trees_are_searched_without_validation_towers(cube, split, tmp_path):
    config = {"search_rows": 300, "max_rows": 800, "device": "cpu"}
    run = fit(cube, model="xgboost", out=tmp_path, split=split, config=config, search=1, bag=0.6, seeds=2)
    model = load_model(run)
    about = load_model(tmp_path / "seed-0").metadata
    assert about["search"]["rows"] == 800 and model.model.members[0].config.early_stopping == 0
    assert model.model.members[0].config.n_estimators == about["search"]["trees"][0]
    assert np.isfinite(predict(model, cube).NEE).any()


def test_settings_that_would_have_no_effect_are_refused():
    for change, match in (
        ({"weigh": ("site", "sqrt-site")}, "found both"),
        ({"filled_weight": 0.5}, "add quality to weigh"),
        ({"weigh": ("quality",), "filled_weight": 1.5}, "0 to 1"),
    ):
        with pytest.raises(ConfigError, match=match):
            TrainingConfig(**change)
    assert configure("xgboost", None, ["training.weigh=site,igbp"])[1].weigh == ("site", "igbp")
    with pytest.raises(ConfigError, match=r"training.lr: gradient descent does not train xgboost"):
        configure("xgboost", None, ["training.weigh=site", "training.lr=0.1"])
    with pytest.raises(ConfigError, match=r"training.weigh: gradient descent does not train sw-linear"):
        configure("sw-linear", None, ["training.weigh=site"])
